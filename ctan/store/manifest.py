"""The manifest: one row a case with everything later steps may ask about it; and the quarantine table beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctan.datasets.base import POSSIBLE_DOSE_MASK
from ctan.errors import DataError
from ctan.files import atomic_path
from ctan.store.geometry import occupied_extent

if TYPE_CHECKING:
    from ctan.datasets.base import Case, Dataset

MANIFEST_FILE, QUARANTINE_FILE = "manifest.parquet", "quarantine.parquet"
NO_FOLD = -1  # of every case outside the training split

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("dataset", "case_id", "split", "step", "reason")])


def SCHEMA(dataset: Dataset) -> pa.Schema:
    """Return the columns of a manifest of `dataset`, in order.

    `voxels_<structure>` and `dose_mean_gy_<target>` are null where the structure was not contoured, `label_<name>` and
    facts where they are not known. `shape`, `extent` (voxels of the box that
    holds what the working grid should show: tissue and possible dose, or the whole picture) and `spacing_mm` are per
    axis, in the axis order of the data set.
    """
    image = dataset.image.name
    columns = [
        ("dataset", pa.string()),
        ("case_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),
        ("fold", pa.int32()),
        ("sha256", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("spacing_mm", pa.list_(pa.float64())),
        ("extent", pa.list_(pa.int32())),
        (f"{image}_min", pa.int32()),
        (f"{image}_max", pa.int32()),
    ]
    if dataset.has_dose:
        columns += [
            ("num_mask_voxels", pa.int64()),
            ("dose_max_gy", pa.float64()),
            ("dose_mean_gy", pa.float64()),
            ("num_dose_voxels_outside_mask", pa.int64()),
        ]
    columns += [("missing", pa.list_(pa.string()))]
    columns += [(f"voxels_{name}", pa.int64()) for name in dataset.structures]
    columns += [(f"dose_mean_gy_{name}", pa.float64()) for name in dataset.targets]
    columns += [(f"label_{name}", pa.string()) for name in dataset.labels]
    columns += [(name, pa.string() if kind == "string" else pa.float64()) for name, kind in dataset.facts.items()]
    return pa.schema(columns)


def case_row(case: Case, dataset: Dataset, fold: int) -> dict[str, Any]:
    """Measure one case.

    Args:
        case: at native resolution.
        dataset: the data set it belongs to.
        fold: its fold, or `NO_FOLD` outside the training split.

    Returns:
        A manifest row: every column of `SCHEMA(dataset)`. Doses in Gy; `dose_mean_gy` is over the possible-dose mask.
    """
    name, image = dataset.image.name, case.images[dataset.image.name]
    row = {
        "dataset": dataset.name,
        "case_id": case.case_id,
        "group_id": case.group_id,
        "split": case.split,
        "fold": fold,
        "sha256": case.sha256,
        "shape": list(case.shape),
        "spacing_mm": [float(edge) for edge in case.spacing_mm],
        "extent": list(
            case.shape if dataset.whole_image else occupied_extent(image, case.masks.get(POSSIBLE_DOSE_MASK))
        ),
        f"{name}_min": int(image.min()),
        f"{name}_max": int(image.max()),
        **(_dose_columns(case) if dataset.has_dose else {}),
        "missing": [structure for structure in dataset.structures if structure not in case.masks],
    }
    masks = {structure: case.masks.get(structure) for structure in dataset.structures}
    row |= {f"voxels_{s}": None if mask is None else int(np.count_nonzero(mask)) for s, mask in masks.items()}
    for target in dataset.targets:
        mask = masks[target]
        row[f"dose_mean_gy_{target}"] = None if mask is None else _mean(case.doses["dose"][mask])
    row |= {f"label_{label}": case.labels.get(label) for label in dataset.labels}
    return row | {fact: case.facts.get(fact) for fact in dataset.facts}


def _dose_columns(case: Case) -> dict[str, Any]:
    dose, possible = case.doses["dose"], case.masks[POSSIBLE_DOSE_MASK]
    return {
        "num_mask_voxels": int(np.count_nonzero(possible)),
        "dose_max_gy": float(dose.max()),
        "dose_mean_gy": _mean(dose[possible]),
        "num_dose_voxels_outside_mask": int(np.count_nonzero(dose) - np.count_nonzero(dose[possible])),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None


def write_manifest(rows: pa.Table | list[dict[str, Any]], path: Path, schema: pa.Schema | None = None) -> None:
    """Write a manifest or quarantine table as Parquet, atomically.

    Args:
        rows: a table, or a list of rows (may be empty) together with `schema`.
        path: the Parquet file.
        schema: `SCHEMA(dataset)` or `QUARANTINE_SCHEMA`; needed for a list of rows.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as beside:
        pq.write_table(table, beside)


def read_manifest(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a manifest or quarantine table.

    Args:
        path: the Parquet file.
        schema: columns the table must have with these types; not checked when None.

    Raises:
        DataError: when the file is missing, is not Parquet, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except OSError as error:
        reason = "does not exist" if not path.exists() else f"cannot be read ({error})"
        raise DataError(
            f"{path}: {reason}; expected a table that an earlier step wrote, run that step again"
        ) from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet table ({error}); run the step that writes it again") from error
    if schema is not None and not table.schema.equals(schema):
        wrong = [f"{field.name}: {field.type}" for field in schema if field not in list(table.schema)]
        raise DataError(f"{path}: not a table of this version; missing or of another type: {', '.join(wrong)}")
    return table
