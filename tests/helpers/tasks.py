"""Small cases made by hand, for the tests of the kinds of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctan.cases import Case, DataSpec, ImageSpec, StoredCase
from ctan.evaluation.cases import EVALUATION, SCHEMA
from ctan.tasks import Row, Task

PHOTO = ImageSpec(name="grey", modality="other", dtype="uint8", low=0, high=255)


def photo_spec(*tasks: Task, **changes: Any) -> DataSpec:
    """Return the description of grey pictures with these tasks."""
    return DataSpec(dataset="photos", spatial_dims=2, image=PHOTO, tasks=tasks, **changes)


def stored_case(
    case_id: str = "a",
    masks: np.ndarray | None = None,
    known: tuple[bool, ...] = (),
    labels: Mapping[str, str] | None = None,
    numbers: Mapping[str, float] | None = None,
) -> StoredCase:
    """Return a picture on the working grid; a structure is known unless `known` says otherwise."""
    masks = np.zeros((0, 4, 6), bool) if masks is None else masks
    empty = np.zeros(0, bool)
    return StoredCase(
        case_id=case_id,
        group_id=case_id,
        split="train",
        fold=0,
        image={"grey": np.zeros(masks.shape[1:], np.uint8)},
        masks=masks,
        known=np.array(known or (True,) * len(masks), bool),
        dose=empty.astype(np.float32),
        possible_dose=empty,
        dose_known=empty,
        target_distance=empty.astype(np.int8),
        spacing_mm=(1.0, 1.0),
        labels=labels or {},
        numbers=numbers or {},
    )


def reference_case(
    case_id: str = "a",
    masks: Mapping[str, np.ndarray] | None = None,
    labels: Mapping[str, str] | None = None,
    numbers: Mapping[str, float] | None = None,
    shape: tuple[int, int] = (4, 6),
) -> Case:
    """Return a picture at native resolution."""
    return Case(
        case_id=case_id,
        group_id=case_id,
        split="validation",
        spacing_mm=(1.0, 1.0),
        images={"grey": np.zeros(shape, np.uint8)},
        masks=masks or {},
        doses={},
        sha256="0" * 64,
        labels=labels or {},
        numbers=numbers or {},
    )


def table_of(task: Task, rows_by_case: Mapping[str, list[Row]], arch: str = "stl") -> Any:
    """Return the per-case table of one model; every case is a patient of its own."""
    import pyarrow as pa

    base = {"arch": arch, "fold": 0, "seed": 0, "role": EVALUATION, "task": task.name}
    rows = [
        base | {"case_id": case_id, "group_id": case_id} | row for case_id, rows in rows_by_case.items() for row in rows
    ]
    return pa.Table.from_pylist(rows, SCHEMA)
