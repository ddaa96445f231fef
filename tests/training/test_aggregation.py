"""Weighting of task gradients: torchjd's methods, on what tasks share and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torchjd import autojac
from torchjd.aggregation import PCGrad, Sum

from ctan.errors import ConfigError
from ctan.training import aggregation
from ctan.training.aggregation import METHODS, GradientWeighting
from ctan.training.balance import task_gradients
from tests.helpers.networks import build, image, shake
from tests.helpers.ranks import ALONE, Scenario, gradients

CONFLICT = {"a": [torch.tensor([2.0, -1.0]), torch.tensor([5.0])], "b": [torch.tensor([-4.0, 0.0]), None]}


@pytest.mark.parametrize("method", METHODS)
def test_no_method_touches_what_one_task_alone_reaches(method: str) -> None:
    combined = GradientWeighting(["a", "b"], method).combine(CONFLICT, ALONE)
    assert combined[1] is not None
    assert combined[1].tolist() == [5]


@pytest.mark.parametrize("method", ["upgrad", "pcgrad", "mgda"])
def test_the_step_goes_against_no_task_where_tasks_pull_apart(method: str) -> None:
    a, b = CONFLICT["a"][0], CONFLICT["b"][0]
    assert a @ b < 0
    assert (a + b) @ a < 0  # the sum of the losses would do so
    (combined, _) = GradientWeighting(["a", "b"], method).combine(CONFLICT, ALONE)
    assert combined is not None
    assert combined @ a > -1e-6
    assert combined @ b > -1e-6


def test_upgrad_is_the_projection_of_each_gradient_onto_what_harms_no_task() -> None:
    (combined, _) = GradientWeighting(["a", "b"], "upgrad").combine(CONFLICT, ALONE)
    # by hand: a without its part along b is (0, -1), b without its part along a (-0.8, -1.6); their mean
    torch.testing.assert_close(combined, torch.tensor([-0.4, -1.3]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_task_of_which_nothing_is_known_has_no_part(method: str) -> None:
    of_a = [torch.tensor([2.0, -1.0]), torch.tensor([5.0])]
    weighting = GradientWeighting(["a", "b"], method)
    combined = weighting.combine({"a": of_a, "b": [torch.zeros(2), None]}, ALONE)
    assert combined[0] is not None
    torch.testing.assert_close(combined[0] / combined[0].norm(), of_a[0] / of_a[0].norm())
    assert weighting.weights()["b"] == 0


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("method", "of_torchjd"), [("pcgrad", PCGrad()), ("sum", Sum())])
def test_gradients_are_those_of_torchjd(
    method: str, of_torchjd: torch.nn.Module, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        aggregation, "METHODS", METHODS | {"sum": lambda: lambda products: torch.ones_like(products[0])}
    )
    step = Scenario("hps", weighting="equal", dims=dims, num_cases=2).step(ALONE)
    step.weighting = GradientWeighting(["contouring", "dose"], method)
    batch = Scenario(dims=dims, num_cases=2).batch([0, 1])
    losses = step.forward(batch)
    shared = list(step.network.encoder.parameters())  # type: ignore[operator, union-attr]
    autojac.backward([losses["contouring"], losses["dose"]], inputs=shared, retain_graph=True, parallel_chunk_size=1)
    autojac.jac_to_grad(shared, aggregator=of_torchjd)
    expected = [parameter.grad.clone() for parameter in shared]
    step.backward(losses)
    for parameter, wanted in zip(shared, expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-9, atol=1e-12)


def test_nothing_shared_is_nothing_weighed() -> None:
    weighed, plain = (gradients(Scenario("stl", weighting=name), ALONE) for name in ("upgrad", "equal"))
    for name, value in plain.items():
        torch.testing.assert_close(weighed[name], value, rtol=1e-12, atol=1e-12)


def test_weights_are_the_means_of_an_epoch_and_kept_in_its_state() -> None:
    weighting = GradientWeighting(["a", "b"], "pcgrad")
    assert weighting.weights() == {"a": 1, "b": 1}
    weighting.combine(CONFLICT, ALONE)
    weighting.combine({"a": CONFLICT["a"], "b": CONFLICT["a"]}, ALONE)  # no conflict: 1 and 1
    restored = GradientWeighting(["a", "b"], "pcgrad")
    restored.load_state_dict(weighting.state_dict())
    # by hand: w_a = 1 - <a, b> / <a, a> = 1 + 8 / 5, w_b = 1 + 8 / 16
    assert restored.weights() == weighting.weights() == pytest.approx({"a": (2.6 + 1) / 2, "b": (1.5 + 1) / 2})
    weighting.end_epoch({})
    assert weighting.weights() == restored.weights()


def test_under_mixed_precision_products_are_taken_outside_of_it() -> None:
    network = build("ctan", dims=3)
    shake(network)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image())
    losses = {name: output.float().square().mean() for name, output in outputs.items()}
    parameters = list(network.parameters())
    found = task_gradients(losses, parameters, ALONE)
    combined = GradientWeighting(list(losses), "upgrad").combine(found, ALONE)
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in combined)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("cvxpy")

    monkeypatch.setattr(aggregation, "METHODS", METHODS | {"cagrad": missing})
    with pytest.raises(ConfigError, match=r"training.task_weighting=cagrad needs .*pip install 'ctan\[cagrad\]'"):
        GradientWeighting(["a", "b"], "cagrad")
