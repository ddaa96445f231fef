"""`history.parquet`: a row an epoch and task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctan.files import atomic_path

SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("task", pa.string()),
        ("loss", pa.float64()),
        ("weight", pa.float64()),
        ("learning_rate", pa.float64()),
    ]
)


def write_history(target: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows, atomically."""
    with atomic_path(target) as path:
        pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path)
