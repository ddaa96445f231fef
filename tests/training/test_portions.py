"""A step's cases a few at a time have the gradients of all at once; the size only shrinks, and is written down."""

from __future__ import annotations

import pytest
import torch

from ctan.errors import ConfigError, DataError
from ctan.training.checkpoint import Position
from ctan.training.portions import Portions, check_network
from tests.helpers.ranks import ALONE, Scenario, gradients, in_float32, relative_difference
from tests.training.test_ranks import MIXED, SCENARIOS, is_gradient

FITTING = [name for name in SCENARIOS if "batch norm" not in name]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", FITTING)
def test_portions_have_the_gradients_of_the_whole_batch(name: str, size: int) -> None:
    whole = {k: v for k, v in gradients(SCENARIOS[name], ALONE).items() if not k.startswith("figure")}
    found = gradients(SCENARIOS[name], ALONE, portion=size)
    assert found.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(found[key].double(), value.double(), rtol=1e-10, atol=1e-10)


def test_in_float32_they_agree_to_1e_6() -> None:
    scenario = in_float32(Scenario("ctan", MIXED, "uncertainty", unknown="uneven", changes={"norm": "group"}))
    assert relative_difference(gradients(scenario, ALONE, 1), gradients(scenario, ALONE), is_gradient) < 1e-6


def test_batch_norm_is_refused_because_its_statistics_would_be_others() -> None:
    network = SCENARIOS["batch norm"].step(ALONE).network
    with pytest.raises(ConfigError, match=r"batch norm looks at all cases .* network.norm=instance"):
        check_network(network, "training.micro_batch")


def test_a_loss_that_is_not_finite_names_the_cases() -> None:
    batch = Scenario().batch([0, 1, 2, 3])
    batch["image"][2] = float("nan")
    step = Scenario().step(ALONE)
    step.in_portions(batch, 2)
    with pytest.raises(DataError, match="the loss became nan at case case-0, case-1, case-2, case-3"):
        step.read()


def test_the_size_is_halved_as_often_as_memory_was_not_enough_and_never_grows_again() -> None:
    portions = Portions()
    portions.begin(Position(), share=5, wanted=0, halvings=0)
    assert portions.changes == []
    portions.begin(Position(1, 2), share=5, wanted=0, halvings=1)
    portions.begin(Position(1, 3), share=5, wanted=0, halvings=2)
    assert portions.changes == [(1, 2, 3), (1, 3, 2)]
    assert [portions.size(Position(*at)) for at in ((0, 9), (1, 2), (1, 3), (7, 0))] == [0, 3, 2, 2]
    later = Portions(portions.changes)  # of another pod, which has seen no crash
    later.begin(Position(2, 0), share=5, wanted=0, halvings=0)
    assert later.changes == portions.changes
    with pytest.raises(DataError, match="memory is not enough for one case at a time"):
        portions.begin(Position(3, 0), share=5, wanted=0, halvings=4)


def test_a_size_that_is_asked_for_counts_from_the_start() -> None:
    portions = Portions()
    portions.begin(Position(), share=4, wanted=2, halvings=0)
    assert portions.changes == [(0, 0, 2)]
    whole = Portions()
    whole.begin(Position(), share=2, wanted=8, halvings=0)
    assert whole.changes == [], "all of a share at a time is no portion"
