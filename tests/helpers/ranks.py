"""What tests of several processes let each of them do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctan.errors import DataError
from ctan.launch import run_in_processes
from ctan.ranks import Ranks
from ctan.tasks import Classification, DoseRegression, Regression, Segmentation, Task
from ctan.training.aggregation import make_weighting
from ctan.training.balance import gradient_figures, task_gradients
from ctan.training.data import Batch
from ctan.training.parallel import prepare
from ctan.training.step import Step
from tests.helpers.networks import CHANNELS, build, shake

ROOT = Path(__file__).parents[2]
ALONE = Ranks(torch.device("cpu"))
TASKS: Mapping[str, Task] = {
    "contouring": Segmentation("contouring", ("a", "b", "c")),
    "dose": DoseRegression("dose"),
    "diagnosis": Classification("diagnosis", ("x", "y", "z"), (0.5, 1.0, 3.0)),
    "age": Regression("age", centre=50.0, spread=10.0),
}


@dataclass(frozen=True)
class Scenario:
    """A step: what is learnt, by which network, on how many cases.

    Attributes:
        unknown: makes targets of a batch unknown, in place.
    """

    arch: str = "hps"
    tasks: tuple[str, ...] = ("contouring", "dose")
    weighting: str = "equal"
    num_cases: int = 4
    dims: int = 2
    dtype: torch.dtype = torch.float64
    changes: dict[str, Any] = field(default_factory=dict)
    unknown: str = ""

    def step(self, ranks: Ranks) -> Step:
        """Return the step of this process."""
        network = build(self.arch, tuple(TASKS[name] for name in self.tasks), dims=self.dims, **self.changes)
        prepare(network, ranks)
        shake(network)
        weighting = make_weighting(self.weighting, list(self.tasks)).to(self.dtype)
        for losses in ((1.0, 2.0, 4.0, 1.0), (0.9, 1.0, 1.0, 1.0)):
            weighting.end_epoch(dict(zip(self.tasks, losses, strict=False)))
        tasks = [TASKS[name] for name in self.tasks]
        return Step(network.to(self.dtype).train(), weighting, tasks, "fp32", ranks)

    def batch(self, wanted: list[int]) -> Batch:
        """Return some of the cases; of all of them when none is wanted the first, which does not count then."""
        random, size = np.random.default_rng(5), [self.num_cases, 1, *[16] * self.dims]
        pixels = size[2:]

        def some(channels: int, low: float = 0, high: float = 1) -> Tensor:
            return torch.from_numpy(random.uniform(low, high, (self.num_cases, channels, *pixels)))

        known = torch.ones(self.num_cases, dtype=torch.bool)
        targets: dict[str, dict[str, Tensor]] = {
            "contouring": {"masks": some(3) > 0.7, "known": torch.ones(self.num_cases, 3, dtype=torch.bool)},
            "dose": {
                "dose": some(1, 0, 70),
                "mask": some(1) > 0.4,
                "prescription_gy": torch.tensor([70.0, 60, 50, 66]),
            },
            "diagnosis": {"label": torch.tensor([0, 2, 1, 2]), "known": known.clone()},
            "age": {"number": torch.tensor([0.1, -2.0, 3.0, 0.4], dtype=self.dtype), "known": known.clone()},
        }
        if self.unknown == "uneven":  # every second case, those of one process of two, knows little
            targets["contouring"]["known"][::2, 1:] = False
            targets["diagnosis"]["known"][::2] = False
            targets["age"]["known"][0] = False
            targets["dose"]["mask"][1] = False
        elif self.unknown == "all":
            for task in ("contouring", "diagnosis", "age"):
                targets[task]["known"][:] = False
        chosen = wanted or [0]
        of_cases = {t: {k: v[: self.num_cases][chosen] for k, v in targets[t].items()} for t in self.tasks}
        return {
            "case_id": [f"case-{i}" for i in chosen],
            "image": some(CHANNELS, -1, 1)[chosen].to(self.dtype),
            "targets": {
                t: {k: v.to(self.dtype) if k == "dose" else v for k, v in of_cases[t].items()} for t in of_cases
            },
            "key": [100 + i for i in chosen],
            "counts": [bool(wanted)] * len(chosen),
        }


def gradients(scenario: Scenario, ranks: Ranks, portion: int = 0) -> dict[str, Tensor]:
    """Return losses, gradients of network and weighting, and buffers after one step; with `portion` in portions."""
    step = scenario.step(ranks)
    batch = scenario.batch(list(ranks.share(range(scenario.num_cases))))
    figures: Mapping[str, float] = {}
    if portion:
        losses = step.in_portions(batch, portion)
    else:
        losses = step.forward(batch)
        of_tasks = {name: losses[name] for name in scenario.tasks}
        figures = gradient_figures(task_gradients(of_tasks, step.parameters, ranks))
        step.backward(losses)
    named = {**dict(step.network.named_parameters()), **dict(step.weighting.named_parameters())}
    found = {name: torch.zeros(()) if p.grad is None else p.grad for name, p in named.items()}
    found |= {f"buffer {name}": value for name, value in step.network.named_buffers()}
    found |= {f"figure {name}": torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}
    return found | {f"loss {name}": value.detach() for name, value in losses.items()}


def relative_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor], wanted: Callable[[str], bool]) -> float:
    """Return the norm of the difference over the norm, of all tensors whose name is wanted."""
    x, y = (torch.cat([side[n].double().flatten() for n in a if wanted(n)]) for side in (a, b))
    return ((x - y).norm() / y.norm()).item()


def all_gradients(scenarios: dict[str, Scenario]) -> list[dict[str, Any]]:
    """Return the gradients of every scenario, and what is said of a loss that is not finite, by process."""
    ranks = Ranks.here()
    found: dict[str, Any] = {name: gradients(scenario, ranks) for name, scenario in scenarios.items()}
    found["in portions"] = gradients(scenarios["uncertainty, uneven"], ranks, portion=1)
    return ranks.gather(found | {"said": _said_of_a_loss_that_is_not_finite(Scenario(), ranks)})


def _said_of_a_loss_that_is_not_finite(scenario: Scenario, ranks: Ranks) -> str:
    """Give the last case of the second process a loss that is not finite."""
    batch = scenario.batch(list(ranks.share(range(scenario.num_cases))))
    if ranks.rank == 1:
        batch["image"][-1] = float("nan")
    step = scenario.step(ranks)
    step.forward(batch)
    try:
        step.read()
    except DataError as error:
        return str(error)
    return "nothing"


def in_processes(number: int, function: str, *arguments: Any) -> Any:
    """Call `"module:name"` of the tests' helpers in several processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        return run_in_processes(f"tests.helpers.{function}", number, *arguments, again="Try again.")


def in_float32(scenario: Scenario) -> Scenario:
    """Return the same step in float32."""
    return replace(scenario, dtype=torch.float32)
