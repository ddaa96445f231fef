"""Trainings of one architecture as one model, whose answers are averaged before anything is thresholded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import DataError
from ctan.files import sha256_of_file
from ctan.inference.load import read_weights, save_network
from ctan.records import WEIGHTS_FILE, Member, ModelRecord, SeenGroups
from ctan.records.names import ENSEMBLE

if TYPE_CHECKING:
    from torch import Tensor


def describe_ensemble(model_dirs: Sequence[Path]) -> ModelRecord:
    """Return the description of trainings together, without a run of their own.

    Args:
        model_dirs: trained models: one architecture, the same settings, data and store, other folds or seeds.

    Raises:
        DataError: for fewer than two, the same one twice, or models that do not belong together.
    """
    records = [ModelRecord.load(folder) for folder in model_dirs]
    if len(records) < 2:
        raise DataError(f"an ensemble takes at least two trainings (folds or seeds), found {len(records)}")
    first = records[0]
    for folder, record in zip(model_dirs, records, strict=True):
        for name in ("arch", "variant", "store_key", "spec", "inputs", "tasks", "grid", "network", "test_time_flip"):
            if getattr(record, name) != getattr(first, name):
                raise DataError(f"{folder}: has another {name} than {model_dirs[0]}; they are no ensemble")
        if record.members:
            raise DataError(f"{folder}: is an ensemble itself; give its members")
    if len({(record.fold, record.seed) for record in records}) < len(records):
        raise DataError(f"{', '.join(map(str, model_dirs))}: hold a fold and seed twice; they are no ensemble")
    members = tuple(
        Member(
            fold=record.fold,
            seed=record.seed,
            run_id=record.run_id,
            weights_sha256=sha256_of_file(record.check_file(folder, WEIGHTS_FILE)),
            micro_batches=record.micro_batches,
            calibration=record.calibration,
        )
        for folder, record in zip(model_dirs, records, strict=True)
    )
    together = f"{ENSEMBLE} {len(members)}"
    return first.model_copy(
        update={
            "variant": f"{first.variant}, {together}" if first.variant else together,
            "members": members,
            "num_parameters": sum(record.num_parameters for record in records),
            "macs_per_case": sum(record.macs_per_case for record in records),
            "seen": _seen(records),
            "run_id": "",
            "run_url": "",
            "files": {},
        }
    )


def save_ensemble(target: Path, model_dirs: Sequence[Path], record: ModelRecord) -> None:
    """Write trainings as one model.

    Args:
        target: folder to write to.
        model_dirs: the members in the order of `record.members`.
        record: see `describe_ensemble`.
    """
    weights: dict[str, Tensor] = {}
    for number, folder in enumerate(model_dirs):
        path = ModelRecord.load(folder).check_file(folder, WEIGHTS_FILE)
        weights |= {f"{number}.{name}": value for name, value in read_weights(path).items()}
    save_network(target, weights, record)


def _seen(records: Sequence[ModelRecord]) -> SeenGroups | None:
    """Return the groups that any member has seen; None where it is not known of one."""
    seen = [record.seen for record in records if record.seen is not None]
    if len(seen) < len(records) or len({one.salt for one in seen}) > 1:
        return None
    return SeenGroups(salt=seen[0].salt, hashes=tuple(sorted({hash_ for one in seen for hash_ in one.hashes})))
