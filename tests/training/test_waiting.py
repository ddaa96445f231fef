"""A step waits for no device: what it needs to know of numbers that are still being computed, it asks when shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ctan.config import TrainingConfig
from ctan.ranks import Ranks
from ctan.training.optim import clip_gradients, make_ema, make_optimizer, make_schedule
from tests.helpers.ranks import ALONE, TASKS, Scenario, in_float32

# On an accelerator the process waits in these until all that it asked for before has been computed.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "repeat_interleave")
SETTINGS = TrainingConfig(learning_rate=1e-3)
MIXED = tuple(TASKS)
SCENARIOS = {
    **{f"{weighting}, uneven": Scenario("ctan", MIXED, weighting, unknown="uneven") for weighting in ("equal", "dwa")},
    "uncertainty, nothing known": Scenario("hps", MIXED, "uncertainty", unknown="all"),
    "volumes": Scenario("mtan", dims=3, unknown="uneven"),
    "dropout, batch norm, coarser levels": Scenario(
        "hps", MIXED, changes={"dropout": 0.5, "norm": "batch", "num_stages": 3, "deep_supervision": 1}
    ),
}


class Watched(TorchDispatchMode):
    """Notes what would make the process wait for a device; the given tensors lie in host memory anyway."""

    def __init__(self, host: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.host, self.found = {tensor.data_ptr() for tensor in host}, list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool for index in args[1] if isinstance(args[1], list)
        )
        if (name in WAITING or by_mask) and args[0].data_ptr() not in self.host:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def watched(*host: Tensor) -> Iterator[list[str]]:
    """Return what is waited for."""
    with Watched(host) as mode:
        yield mode.found


@pytest.mark.parametrize(
    ("name", "portion"),
    [*((name, 0) for name in SCENARIOS), *((name, 1) for name in SCENARIOS if "batch norm" not in name)],
)
def test_a_step_waits_for_nothing_until_its_losses_are_read(name: str, portion: int) -> None:
    scenario = in_float32(SCENARIOS[name])
    step, batch = scenario.step(ALONE), scenario.batch([0, 1])
    optimizer = make_optimizer(step.network, step.weighting, SETTINGS)
    schedule, ema = make_schedule(optimizer, 10, SETTINGS), make_ema(step.network, SETTINGS)
    with watched(ema.n_averaged) as found:
        for _ in range(2):
            losses = step.in_portions(batch, portion) if portion else step.forward(batch)
            if not portion:
                step.backward(losses)
            clip_gradients(step.network.independent_parts(), 1.0)
            optimizer.step()
            schedule.step()
            ema.update_parameters(step.network)
        assert found == []
        read = step.read()
    assert [set(of_step) for of_step in read] == [{"", *scenario.tasks}] * 2
    assert read[1][""] == pytest.approx(float(losses[""].detach()))
    assert step.read() == []


def test_what_would_wait_is_seen() -> None:
    numbers = torch.tensor([1.0, -1.0])
    with watched() as found:
        numbers[numbers > 0]
        numbers.sum().item()
        bool((numbers > 0).any())
        numbers[torch.tensor([0])]
    assert [name.removesuffix(".Tensor") for name in found] == ["index", "_local_scalar_dense", "_local_scalar_dense"]
    with watched(numbers) as found:
        numbers[0].item()
    assert found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    scenario, ranks = in_float32(SCENARIOS["equal, uneven"]), Ranks(torch.device("cuda"))
    step, batch = scenario.step(ranks), scenario.batch([0, 1])
    step.network, step.weighting = step.network.cuda(), step.weighting.cuda()
    batch |= {"image": batch["image"].pin_memory()}
    batch["targets"] = {t: {k: v.pin_memory() for k, v in of_task.items()} for t, of_task in batch["targets"].items()}
    optimizer = make_optimizer(step.network, step.weighting, SETTINGS)
    schedule, ema = make_schedule(optimizer, 10, SETTINGS), make_ema(step.network, SETTINGS)
    for number in range(3):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step makes the optimiser's state
        try:
            step.backward(step.forward(batch))
            clip_gradients(step.network.independent_parts(), 1.0)
            optimizer.step()
            schedule.step()
            ema.update_parameters(step.network)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(step.read()) == 3
