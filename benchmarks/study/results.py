"""What a study has found so far: three Parquet files in one folder, a training added at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctan.errors import DataError
from ctan.files import atomic_path

TRAININGS, CASES, CURVES = "trainings.parquet", "cases.parquet", "curves.parquet"
_CASE_COLUMNS = ("role", "case_id", "group_id", "task", "metric", "structure", "value", "count", "planned", "predicted")
_CURVE_SCHEMA = pa.schema([("epoch", pa.int64()), ("name", pa.string()), ("value", pa.float64()), ("key", pa.string())])


class Results:
    """The results in a folder.

    A training counts from when its row of `trainings.parquet` is written, which is last: what a kill leaves of it in
    the other files is replaced when it is done again.

    Args:
        folder: made when there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def trainings(self) -> list[dict[str, Any]]:
        """Return what is known of every training, in the order they were done."""
        table = self._read(TRAININGS)
        return table.to_pylist() if table is not None else []

    def holds(self, key: str) -> bool:
        """Say whether a training is done."""
        return any(row["key"] == key for row in self.trainings())

    def training(self, key: str) -> dict[str, Any]:
        """Return what is known of a training.

        Raises:
            DataError: when it is not done.
        """
        found = [row for row in self.trainings() if row["key"] == key]
        if not found:
            raise DataError(f"{self.folder}: training {key} is not done")
        return found[0]

    def cases(self, keys: Iterable[str]) -> pa.Table:
        """Return the per-case rows of some trainings."""
        return self._of(CASES, keys)

    def curves(self, keys: Iterable[str]) -> pa.Table:
        """Return the figures of every epoch of some trainings."""
        return self._of(CURVES, keys)

    def add(self, training: Mapping[str, Any], cases: pa.Table, curves: list[dict[str, Any]]) -> None:
        """Keep a training.

        Args:
            training: what is known of it; `"key"` names it.
            cases: per-case rows.
            curves: `{"epoch", "name", "value"}` rows.
        """
        key = training["key"]
        narrow = cases.select(_CASE_COLUMNS)
        narrow = narrow.set_column(narrow.column_names.index("value"), "value", narrow["value"].cast(pa.float32()))
        self._add(CASES, key, narrow.append_column("key", pa.array([key] * narrow.num_rows)))
        self._add(CURVES, key, pa.Table.from_pylist([{**row, "key": key} for row in curves], _CURVE_SCHEMA))
        self._add(TRAININGS, key, pa.Table.from_pylist([dict(training)]))

    def _add(self, name: str, key: str, rows: pa.Table) -> None:
        before = self._read(name)
        if before is not None:
            rows = pa.concat_tables([before.filter(pc.field("key") != key), rows], promote_options="permissive")
        with atomic_path(self.folder / name) as beside:
            pq.write_table(rows, beside, compression="zstd", compression_level=19)

    def _read(self, name: str) -> pa.Table | None:
        path = self.folder / name
        return pq.read_table(path) if path.is_file() else None

    def _of(self, name: str, keys: Iterable[str]) -> pa.Table:
        table = self._read(name)
        if table is None:
            raise DataError(f"{self.folder / name}: nothing is done yet")
        return table.filter(pc.field("key").isin(pa.array(list(keys), pa.string())))
