"""The processes that do one step together: who is who, and what they tell each other.

A step is one process unless `ctan.launch` or `torchrun` started several. Every process makes the same calls in the same
order; with one process they cost nothing.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from ctan.config import NumProcesses
from ctan.errors import ConfigError

Item = TypeVar("Item")
_PATIENCE = timedelta(hours=2)  # while one process fetches a store or logs a model; one that died is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among those of the step.

    Attributes:
        device: that this process computes on.
        rank: of this process, from 0.
        size: number of processes.
        local_rank: rank on this machine.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """Join the processes that `torchrun` started; alone where it did not."""
        if not are_started():
            return cls(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        from accelerate import PartialState

        if torch.cuda.is_available() and not torch.distributed.is_initialized():
            # gloo beside NCCL: what is agreed between processes alone does not wait for their devices
            torch.distributed.init_process_group("cuda:nccl,cpu:gloo", timeout=_PATIENCE)
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        atexit.register(_leave)
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(device, state.process_index, state.num_processes, state.local_process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process talks to console, tracking server and bucket."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return what is this process' to do: every `size`-th item."""
        return items[self.rank :: self.size]

    def joined(self, results: Sequence[Item], num_items: int) -> list[Item]:
        """Return the results of all processes for their shares, in the order of the items; the same everywhere."""
        if self.size == 1:
            return list(results)
        everyone = self.gather(results)
        return [everyone[i % self.size][i // self.size] for i in range(num_items)]

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place; all get the same bits. One in host memory waits for no device."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, *are_so: bool) -> list[bool]:
        """Return of each thing whether it is so in any process; the same everywhere. No device is waited for."""
        return list(are_so) if self.size == 1 else [n > 0 for n in self.add(torch.tensor(are_so).float()).tolist()]

    def gather(self, value: Item) -> list[Item]:
        """Return the value of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def from_main(self, value: Item) -> Item:
        """Return the first process' value."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def one_a_machine_first(self) -> Iterator[None]:
        """Let one process of every machine do something before the others, such as fetching what all of them read."""
        if self.size > 1 and self.local_rank:
            torch.distributed.barrier()
        yield
        if self.size > 1 and not self.local_rank:
            torch.distributed.barrier()

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            torch.distributed.barrier()


def _leave() -> None:
    """Close connections before the interpreter ends, which aborts now and then where they are open."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def are_started() -> bool:
    """Whether this process is one of several that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_main_process() -> bool:
    """Whether this process is the first, or alone; known without torch's processes having met."""
    return not are_started() or os.environ["RANK"] == "0"


def num_processes(wanted: NumProcesses, most: int, setting: str, reason: str) -> int:
    """Return how many processes a step starts on this machine.

    Args:
        wanted: `"auto"`: one for every visible GPU, one on a CPU; never more than `most`.
        most: that have something to do.
        setting: name of the setting, for the error.
        reason: what `most` is.

    Raises:
        ConfigError: when more are wanted than have something to do, or than there are GPUs.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return max(1, min(num_gpus, most))
    if wanted > most:
        raise ConfigError(f"{setting}: {wanted} processes for {reason} {most}; use at most {most}, or auto")
    if num_gpus and wanted > num_gpus:
        raise ConfigError(f"{setting}: {wanted} processes for {num_gpus} visible GPUs; use at most {num_gpus}, or auto")
    return wanted
