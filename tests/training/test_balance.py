"""How the tasks' gradients stand to each other, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ctan.networks import convolutions
from ctan.training.balance import gradient_figures, task_gradients
from tests.helpers.networks import build, image, shake
from tests.helpers.ranks import ALONE


def test_cosines_and_norms_are_those_of_the_weights_that_tasks_share_and_of_their_own() -> None:
    shared, own, alone = (torch.nn.Parameter(torch.tensor(value)) for value in ([1.0, 2.0], [3.0], [1.0]))
    losses = {
        "a": shared[0] * 3 + shared[1] * 4 + own.sum() * 100,  # gradient (3, 4) on the shared weights
        "b": shared[0] * 4 - shared[1] * 3 + shared[1] * 6,  # (4, 3)
        "c": -shared[0] * 3 - shared[1] * 4,
        "d": alone.sum(),
    }
    assert gradient_figures(task_gradients(losses, [shared, own, alone], ALONE)) == {
        "gradient_cosine/a/b": pytest.approx(24 / 25),
        "gradient_cosine/a/c": pytest.approx(-1),
        "gradient_cosine/b/c": pytest.approx(-24 / 25),
        "gradient_norm/shared/a": 5,
        "gradient_norm/own/a": 100,
        "gradient_norm/shared/b": 5,
        "gradient_norm/shared/c": 5,
        "gradient_norm/own/d": 1,
    }
    sum(losses.values()).backward()  # the graph is still there
    assert shared.grad is not None


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("arch", ["mtan", "ctan"])
def test_the_tasks_gradients_add_up_to_that_of_their_sum(arch: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_is_plain_volume", lambda _: False)  # as in bf16, and on other processors
    network = build(arch, dims=dims).double()
    shake(network)
    losses = {name: output.square().mean() for name, output in network(image(dims).double()).items()}
    parameters = list(network.parameters())
    of_tasks = task_gradients(losses, parameters, ALONE)
    whole = torch.autograd.grad(sum(losses.values()), parameters)
    for expected, *parts in zip(whole, *of_tasks.values(), strict=True):
        torch.testing.assert_close(sum(part for part in parts if part is not None), expected, rtol=1e-9, atol=1e-12)
