"""The manifest: one row a case with everything later steps may ask about it; and the quarantine table beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctan.cases import DataSpec
from ctan.errors import DataError
from ctan.files import atomic_path
from ctan.seals import check_file

MANIFEST_FILE, QUARANTINE_FILE = "manifest.parquet", "quarantine.parquet"
NO_FOLD = -1  # of every case outside the training split

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("dataset", "case_id", "split", "step", "reason")])


def SCHEMA(spec: DataSpec) -> pa.Schema:
    """Return the columns of a manifest of this description, in order.

    `sha256` is that of the raw bytes, `image_sha256` and `dose_sha256` those of the values; `looks` are bits that
    images which look alike share (`ctan.intake.content`). `num_covered_voxels` are those that outlines of structures
    run through, read from contours. `voxels_<structure>`, `unknown_dose_share_<structure>` (share of its voxels whose
    dose is not known) and `dose_mean_gy_<target>` (of its part that lies in no target of a higher level) are null where
    the structure was not contoured, `level_gy_<target>` also where its prescribed dose is not known, `label_<name>`,
    `number_<name>` and facts where they are not known. `shape`, `extent` (voxels of the box that holds what the working
    grid should show: tissue and possible dose, or the whole picture) and `spacing_mm` are per axis, in the axis order
    of the data set.
    """
    image, value = spec.image.name, pa.float64() if spec.image.dtype == "float32" else pa.int32()
    columns = [
        ("dataset", pa.string()),
        ("case_id", pa.string()),
        ("group_id", pa.string()),
        ("split", pa.string()),
        ("fold", pa.int32()),
        ("sha256", pa.string()),
        ("image_sha256", pa.string()),
        *([("dose_sha256", pa.string())] if spec.has_dose else []),
        ("looks", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("spacing_mm", pa.list_(pa.float64())),
        ("extent", pa.list_(pa.int32())),
        (f"{image}_min", value),
        (f"{image}_max", value),
    ]
    if spec.has_dose:
        columns += [
            ("num_mask_voxels", pa.int64()),
            ("num_known_dose_voxels", pa.int64()),
            ("dose_max_gy", pa.float64()),
            ("dose_mean_gy", pa.float64()),
            ("num_dose_voxels_outside_mask", pa.int64()),
            ("num_covered_voxels", pa.int64()),
        ]
    columns += [("missing", pa.list_(pa.string()))]
    columns += [(f"voxels_{name}", pa.int64()) for name in spec.structures]
    columns += [(f"unknown_dose_share_{name}", pa.float64()) for name in spec.structures if spec.has_dose]
    for column in ("level_gy", "dose_mean_gy"):
        columns += [(f"{column}_{name}", pa.float64()) for name in spec.targets]
    columns += [(f"label_{name}", pa.string()) for name in spec.labels]
    columns += [(f"number_{name}", pa.float64()) for name in spec.numbers]
    columns += [(name, pa.string() if kind == "string" else pa.float64()) for name, kind in spec.facts.items()]
    return pa.schema(columns)


def write_manifest(rows: pa.Table | list[dict[str, Any]], path: Path, schema: pa.Schema | None = None) -> None:
    """Write a manifest or quarantine table as Parquet, atomically.

    Args:
        rows: a table, or a list of rows (may be empty) together with `schema`.
        path: the Parquet file.
        schema: `SCHEMA(spec)` or `QUARANTINE_SCHEMA`; needed for a list of rows.
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
        DataError: when the file is missing, is not Parquet, lacks a column, or is not what its folder was sealed with.
    """
    if path.exists():
        check_file(path)
    try:
        table = pq.read_table(path, partitioning=None)  # `split=x` in its path is no column of it
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
