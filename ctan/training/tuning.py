"""The error on the tuning cases, by which epochs and settings are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader

from ctan.precision import Precision, autocast
from ctan.ranks import Ranks
from ctan.tasks import Task
from ctan.training.data import Batch, to_device
from ctan.training.stopping import Stop


@torch.no_grad()
def tuning_error(
    network: nn.Module,
    cases: DataLoader[Batch],
    num_cases: int,
    tasks: Sequence[Task],
    precision: Precision,
    ranks: Ranks,
    stop: Stop,
) -> float:
    """Return the mean error over cases and tasks, the same in all processes.

    Args:
        network: on the device of this process.
        cases: this process' share, one by one.
        num_cases: of all processes.
        tasks: what is scored.
        precision: of the network.
        ranks: the processes.
        stop: ends this process in between, when it is alone: at an epoch's end there is nothing to save.
    """
    found = []
    for cpu_batch in cases:
        if stop.is_wanted and ranks.size == 1:
            stop.end()
        batch = to_device(cpu_batch, ranks.device)
        with autocast(ranks.device, precision):
            outputs = network(batch["image"])
        found.append([task.error(outputs[task.name], batch["targets"][task.name]) for task in tasks])
    errors = [error for of_case in ranks.joined(found, num_cases) for error in of_case]
    return sum(errors) / len(errors)
