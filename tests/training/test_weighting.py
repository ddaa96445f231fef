"""Task weighting against the published formulas."""

from __future__ import annotations

import math

import pytest
import torch

from ctan.training.weighting import (
    DynamicWeightAverage,
    EqualWeighting,
    UncertaintyWeighting,
    gradient_cosines,
)

LOSSES = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}


def test_equal_weighting_is_the_sum() -> None:
    weighting = EqualWeighting(["a", "b"])
    assert weighting(LOSSES).item() == 5
    assert weighting.weights() == {"a": 1, "b": 1}


def test_dwa_is_equal_for_two_epochs_then_favours_the_task_that_improves_less() -> None:
    weighting = DynamicWeightAverage(["a", "b"])
    for losses in ({"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 0.9}):
        assert weighting.weights() == {"a": 1, "b": 1}
        weighting.end_epoch(losses)
    wa, wb = math.exp(0.5 / 2), math.exp(0.9 / 2)
    expected = {"a": 2 * wa / (wa + wb), "b": 2 * wb / (wa + wb)}
    assert weighting.weights() == pytest.approx(expected)
    assert weighting(LOSSES).item() == pytest.approx(2 * expected["a"] + 3 * expected["b"])


def test_dwa_continues_from_its_saved_state() -> None:
    weighting, restored = DynamicWeightAverage(["a", "b"]), DynamicWeightAverage(["a", "b"])
    weighting.end_epoch({"a": 4.0, "b": 1.0})
    restored.load_state_dict(weighting.state_dict())
    for w in (weighting, restored):
        w.end_epoch({"a": 2.0, "b": 0.9})
    assert restored.weights() == weighting.weights() != {"a": 1, "b": 1}


def test_uncertainty_follows_its_formula_and_is_learned() -> None:
    weighting = UncertaintyWeighting(["a", "b"])
    assert weighting(LOSSES).item() == 2.5
    assert weighting.weights() == {"a": 0.5, "b": 0.5}
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([1.0, -1.0]))
    total = weighting(LOSSES)
    assert total.item() == pytest.approx(0.5 * (2 * math.exp(-1) + 1 + 3 * math.exp(1) - 1))
    total.backward()
    assert weighting.log_variance.grad is not None
    assert weighting.log_variance.grad.tolist() == pytest.approx([0.5 * (1 - 2 / math.e), 0.5 * (1 - 3 * math.e)])


def test_gradient_cosines_are_those_of_the_weights_that_both_tasks_reach() -> None:
    shared, own, alone = (torch.nn.Parameter(torch.tensor(value)) for value in ([1.0, 2.0], [3.0], [1.0]))
    losses = {
        "a": shared[0] * 3 + shared[1] * 4 + own.sum() * 100,  # gradient (3, 4) on the shared weights
        "b": shared[0] * 4 - shared[1] * 3 + shared[1] * 6,  # (4, 3)
        "c": -shared[0] * 3 - shared[1] * 4,
        "d": alone.sum(),
    }
    cosines = gradient_cosines(losses, [shared, own, alone])
    assert cosines == {
        ("a", "b"): pytest.approx(24 / 25),
        ("a", "c"): pytest.approx(-1),
        ("b", "c"): pytest.approx(-24 / 25),
    }
    sum(losses.values()).backward()  # the graph is still there
    assert shared.grad is not None
