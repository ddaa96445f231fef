"""Cases from the store as batches, in an order and with an augmentation that depend on (seed, epoch, case) alone."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ctan.cases import StoredCase
from ctan.config import RunConfig
from ctan.inputs import Inputs, network_input
from ctan.limits import cores, memory_bytes
from ctan.ranks import Ranks
from ctan.store import Store
from ctan.tasks import Task
from ctan.training.augment import augment
from ctan.training.labels import KeptBack
from ctan.training.patches import Place, choose_patch, cut_out

Batch = dict[str, Any]
_MOST_LOADERS = 8


class Wanted(NamedTuple):
    """A case of an epoch, and whether it counts."""

    epoch: int
    case: int
    counts: bool = True


class TrainingCases(Dataset[Batch]):
    """The cases of one side of a fold.

    An item is `{"case_id": str, "image": (C, ...) float32, "targets": {task: {...}}, "key": int, "counts": bool}`, see
    `ctan.tasks`; `key` is a function of (seed, epoch, case), `counts` False of a case that only fills a place. In a
    batch image and targets are tensors, the others lists.

    Args:
        store: where the cases lie.
        case_ids: which of them, in order.
        tasks: what is learnt.
        config: the run's settings.
        seed: of the augmentation; None for none.
        hidden: cases that a task learns nothing from, by task.

    Attributes:
        held: cases that are in memory already, see `hold`.
    """

    def __init__(
        self,
        store: Store,
        case_ids: Sequence[str],
        tasks: Sequence[Task],
        config: RunConfig,
        seed: int | None,
        hidden: KeptBack | None = None,
    ) -> None:
        self.store, self.case_ids, self.tasks, self.config, self.seed = store, list(case_ids), tasks, config, seed
        self.held: Mapping[str, StoredCase] = {}
        self.hidden = hidden or {}
        self.inputs = Inputs.of(config.data)

    def __len__(self) -> int:
        return len(self.case_ids)

    def __getitem__(self, wanted: int | Wanted) -> Batch:
        """Return the item of an index, or of what a training set's order wants."""
        epoch, index, counts = wanted if isinstance(wanted, Wanted) else Wanted(0, wanted)
        case_id = self.case_ids[index]
        case = self.held.get(case_id) or self.store.load(case_id)
        entropy = [self.seed or 0, epoch, zlib.crc32(case_id.encode())]
        patch: Place = ()
        if self.seed is not None:
            rng = np.random.default_rng(entropy)
            case = augment(case, self.store.spec, self.config.training, rng)
            if shape := self.config.network.patch_shape:
                patch = choose_patch(case, shape, self.config.training.foreground_patches, rng)
        image = network_input(case, self.store.spec, self.inputs)  # of the whole case, which may decide on its scale
        if patch:
            image, case = np.ascontiguousarray(image[(slice(None), *patch)]), cut_out(case, patch)
        targets = {}
        for task in self.tasks:
            target = task.target(case, self.store.spec.structures)
            if case_id in self.hidden.get(task.name, ()):
                target = task.unknown(target)
            targets[task.name] = {k: np.asarray(v, order="C") for k, v in target.items()}
        key = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return {"case_id": case_id, "image": image, "targets": targets, "key": key, "counts": counts}


def hold(store: Store, case_ids: Sequence[str], share: float) -> dict[str, StoredCase]:
    """Return cases by id when all of them fit into memory, else none. Processes that load cases share them.

    Args:
        store: where they lie; their arrays have one shape.
        case_ids: which.
        share: of the memory of this container that they may take, of all processes here together.
    """
    most = share * memory_bytes() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    held: dict[str, StoredCase] = {}
    for case_id in case_ids:
        case = store.load(case_id)
        if len(case_ids) * _bytes_of(case) > most:
            return {}
        held[case_id] = case
    return held


def _bytes_of(case: StoredCase) -> int:
    arrays = [*case.image.values(), *(value for value in vars(case).values() if isinstance(value, np.ndarray))]
    return sum(array.nbytes for array in arrays)


class EpochOrder(Sampler[list[Wanted]]):
    """Batches in a new random order every epoch, the same for every architecture and any number of processes.

    Every step takes the next `batch_size` cases of one permutation, and this process its share of them. A process left
    without one, in a last batch that is smaller, works on a case that does not count, so that all take the same steps.

    Args:
        num_cases: of an epoch.
        batch_size: cases a step, of all processes together.
        seed: of the order.
        ranks: this process among those that share a batch.
    """

    def __init__(self, num_cases: int, batch_size: int, seed: int, ranks: Ranks) -> None:
        self.num_cases, self.batch_size, self.seed, self.ranks = num_cases, batch_size, seed, ranks
        self.epoch, self.num_skipped = 0, 0

    def start(self, epoch: int, num_skipped: int = 0) -> None:
        """Set the epoch (from 0) and how many of its steps were done already."""
        self.epoch, self.num_skipped = epoch, num_skipped

    def __iter__(self) -> Iterator[list[Wanted]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_cases).tolist()
        for start in range(self.num_skipped * self.batch_size, self.num_cases, self.batch_size):
            batch = order[start : start + self.batch_size]
            own = self.ranks.share(batch)
            yield [Wanted(self.epoch, index, bool(own)) for index in own or batch[:1]]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of a whole epoch."""
        return -(-self.num_cases // self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch - self.num_skipped


def num_loaders(wanted: Literal["auto"] | int) -> int:
    """Return how many processes load the cases of this one.

    Args:
        wanted: `"auto"`: a core each, shared with other processes of this machine, but for the one that trains; none
            on a CPU, whose cores the training takes.
    """
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return 0
    return min(_MOST_LOADERS, max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def make_loader(cases: TrainingCases, order: EpochOrder | None, config: RunConfig) -> DataLoader[Batch]:
    """Return batches of the cases; when `order` is None one by one in their own order."""
    return DataLoader(
        cases,
        batch_sampler=order,
        num_workers=num_loaders(config.training.num_workers),
        collate_fn=_collated,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # so that starting a loader does not draw from the global generator
    )


def _collated(items: Sequence[Batch]) -> Batch:
    lists = {name: [item[name] for item in items] for name in ("case_id", "key", "counts")}
    return {**lists, **{name: default_collate([item[name] for item in items]) for name in ("image", "targets")}}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device."""
    targets = {task: {k: v.to(device, non_blocking=True) for k, v in t.items()} for task, t in batch["targets"].items()}
    return {**batch, "image": batch["image"].to(device, non_blocking=True), "targets": targets}
