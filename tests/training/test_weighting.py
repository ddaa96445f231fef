"""Task weighting against the published formulas."""

from __future__ import annotations

import math

import pytest
import torch

from ctan.training.weighting import (
    DynamicWeightAverage,
    EqualWeighting,
    UncertaintyWeighting,
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
