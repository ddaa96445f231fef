"""Cases from the store as batches, in an order and with an augmentation that depend on (seed, epoch, case) alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ctan.config import RunConfig
from ctan.inputs import Inputs, network_input
from ctan.store import Store
from ctan.tasks import Task
from ctan.training.augment import augment

Batch = dict[str, Any]


class TrainingCases(Dataset[Batch]):
    """The cases of one side of a fold.

    An item is `{"case_id": str, "image": (C, ...) float32, "targets": {task: {...}}}`, see `ctan.tasks`.

    Args:
        store: where the cases lie.
        case_ids: which of them, in order.
        tasks: what is learnt.
        config: the run's settings.
        seed: of the augmentation; None for none.
    """

    def __init__(
        self, store: Store, case_ids: Sequence[str], tasks: Sequence[Task], config: RunConfig, seed: int | None
    ) -> None:
        self.store, self.case_ids, self.tasks, self.config, self.seed = store, list(case_ids), tasks, config, seed
        self.inputs = Inputs.of(config.data)

    def __len__(self) -> int:
        return len(self.case_ids)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Return the item of `index`, or of `(epoch, index)` for a training set."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        case_id = self.case_ids[index]
        case = self.store.load(case_id)
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, epoch, zlib.crc32(case_id.encode())])
            case = augment(case, self.store.spec, self.config.training, rng)
        targets = {
            task.name: {k: np.asarray(v, order="C") for k, v in task.target(case, self.store.spec.structures).items()}
            for task in self.tasks
        }
        return {"case_id": case_id, "image": network_input(case, self.store.spec, self.inputs), "targets": targets}


class EpochOrder(Sampler[tuple[int, int]]):
    """A new random order every epoch, the same for every architecture; can start in the middle of an epoch."""

    def __init__(self, num_cases: int, seed: int) -> None:
        self.num_cases, self.seed = num_cases, seed
        self.epoch, self.num_skipped = 0, 0

    def start(self, epoch: int, num_skipped: int = 0) -> None:
        """Set the epoch (from 0) and how many of its cases were seen already."""
        self.epoch, self.num_skipped = epoch, num_skipped

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_cases)
        return iter([(self.epoch, int(index)) for index in order[self.num_skipped :]])

    def __len__(self) -> int:
        return self.num_cases - self.num_skipped


def make_loader(cases: TrainingCases, order: EpochOrder | None, config: RunConfig) -> DataLoader[Batch]:
    """Return batches of the cases, in their own order when `order` is None."""
    return DataLoader(
        cases,
        batch_size=config.training.batch_size if order else 1,
        sampler=order,
        num_workers=config.training.num_workers,
        collate_fn=default_collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # so that starting a loader does not draw from the global generator
    )
