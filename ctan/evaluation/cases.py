"""`cases.parquet`: every score of every case, one a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ctan.files import atomic_path, read_table
from ctan.records import CASES_FILE, EVALUATION, TUNING
from ctan.tasks import Row

SCHEMA = pa.schema(
    [
        ("arch", pa.string()),
        ("fold", pa.int32()),
        ("seed", pa.int32()),
        ("role", pa.string()),
        ("case_id", pa.string()),
        ("group_id", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("structure", pa.string()),
        ("value", pa.float64()),
        ("count", pa.int64()),
        ("predicted", pa.float64()),
        ("planned", pa.float64()),
    ]
)


def write_cases(rows: Sequence[Row] | pa.Table, path: Path) -> None:
    """Write rows with the columns of `SCHEMA` (missing ones are null), atomically."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), SCHEMA)
    with atomic_path(path) as beside:
        pq.write_table(table, beside)


def read_cases(path: Path) -> pa.Table:
    """Read a per-case table.

    Raises:
        DataError: when the file is missing, damaged or lacks a column.
    """
    return read_table(path, SCHEMA.names, "run evaluate and compare again").select(SCHEMA.names)


__all__ = ["CASES_FILE", "EVALUATION", "SCHEMA", "TUNING", "Row", "read_cases", "write_cases"]
