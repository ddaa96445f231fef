"""The table of a folder: a row a case with patient, split, labels, numbers and facts."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION
from ctan.config import ReadingConfig
from ctan.datasets.folder.description import FolderDescription, TableSection
from ctan.errors import DataError
from ctan.reading import plain_number, read_bytes

SPLITS = (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST)
_SEPARATORS = (",", ";", "\t")

Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        name: of the file.
        columns: in order.
        rows: case id -> its rows, each with its line; more than one is a fault of that case.
    """

    name: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[tuple[int, Row], ...]]


@dataclass(frozen=True)
class Known:
    """What the table says of a case; what is not known has no entry. `text` is the row, for the case's hash."""

    labels: Mapping[str, str]
    numbers: Mapping[str, float]
    facts: Mapping[str, str | float]
    text: str


def read_table(root: Path, described: FolderDescription, limits: ReadingConfig) -> Table | None:
    """Return the table of a folder, None where the description names none.

    Raises:
        DataError: when it cannot be read or lacks a column.
    """
    section = described.table
    if section is None:
        return None
    path = root / section.file
    try:
        stamp = path.stat()
        table = _parsed(path, section.case, limits, stamp.st_mtime_ns, stamp.st_size)
    except OSError as error:
        raise DataError(f"{section.file}: cannot be read ({error.strerror})") from error
    named = [section.case, section.group, section.split, *(label.column for label in described.labels.values())]
    named += [*(number.column for number in described.numbers.values()), *described.facts]
    if lacking := [name for name in dict.fromkeys(named) if name and name not in table.columns]:
        raise DataError(
            f"{section.file}: no column {', '.join(lacking)}, which the description names; "
            f"found {', '.join(table.columns) or 'none'}"
        )
    return table


@lru_cache(maxsize=4)
def _parsed(path: Path, case_column: str, limits: ReadingConfig, _mtime_ns: int, _size: int) -> Table:
    """Read a file once a process, again when it changed."""
    try:
        text = read_bytes(path, limits).decode("utf-8-sig")
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not a text file (byte {error.start} is not UTF-8)") from error
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{path.name}: two columns named {', '.join(twice)}")
    reader.fieldnames = list(columns)
    rows: dict[str, tuple[tuple[int, Row], ...]] = {}
    for row in reader:
        cells = {name: (row[name] or "").strip() for name in columns}
        case_id = cells.get(case_column, "")
        rows[case_id] = (*rows.get(case_id, ()), (reader.line_num, cells))
    return Table(path.name, columns, rows)


def row_of(table: Table, case_id: str) -> Row | None:
    """Return the row of a case, None without one.

    Raises:
        DataError: when it has several.
    """
    rows = table.rows.get(case_id, ())
    if len(rows) > 1:
        lines = ", ".join(str(line) for line, _ in rows)
        raise DataError(f"{table.name}: {len(rows)} rows for {case_id} (lines {lines}), expected one")
    return rows[0][1] if rows else None


def place_of(table: Table, section: TableSection, case_id: str) -> tuple[str, str]:
    """Return group and split of a case: its own id and "" where the table has no such column or no row for it.

    A case without a row is told by `known_of`, so that it reaches the quarantine table.

    Raises:
        DataError: when the split is not a word that is known.
    """
    rows = table.rows.get(case_id, ())
    row = rows[0][1] if rows else {}
    group = row.get(section.group, "") if section.group else ""
    split = row.get(section.split, "") if section.split else ""
    if split and split not in SPLITS:
        raise DataError(
            f"{table.name}: line {rows[0][0]}: {section.split} is {split!r}, expected {', '.join(SPLITS)} or nothing"
        )
    return group or case_id, split


def strata_of(table: Table | None, described: FolderDescription, case_id: str) -> tuple[str, ...]:
    """Return what splits are balanced by, as far as the table says it: the cells as they stand."""
    rows = table.rows.get(case_id, ()) if table is not None else ()
    row = rows[0][1] if rows else {}
    names = tuple(described.labels) if described.strata is None else described.strata
    columns = [described.labels[name].column if name in described.labels else name for name in names]
    return tuple(row.get(column, "") for column in columns)


def known_of(table: Table, described: FolderDescription, case_id: str) -> Known:
    """Return labels, numbers and facts of a case.

    Raises:
        DataError: when it has several rows, none although the table says who belongs to whom, or a cell that is not
            what the description says.
    """
    section = described.table
    assert section is not None  # there is a table
    row = row_of(table, case_id)
    if row is None:
        if section.group or section.split:
            needed = " and ".join(filter(None, (section.group, section.split)))
            raise DataError(f"{table.name}: no row for {case_id}, so its {needed} is not known; add it")
        return Known({}, {}, {}, "")
    if section.group and not row[section.group]:
        raise DataError(f"{table.name}: {section.group} of {case_id} is empty; cases of a group must be told")
    unknown = section.unknown
    labels = {
        name: _class(table.name, label.column, row[label.column], label.classes)
        for name, label in described.labels.items()
        if row[label.column] not in unknown
    }
    numbers = {
        name: _number(table.name, number.column, row[number.column])
        for name, number in described.numbers.items()
        if row[number.column] not in unknown
    }
    facts = {
        name: row[name] if kind == "text" else _number(table.name, name, row[name])
        for name, kind in described.facts.items()
        if row[name] not in unknown
    }
    named = [section.group, section.split, *(label.column for label in described.labels.values())]
    named += [*(number.column for number in described.numbers.values()), *described.facts]
    return Known(labels, numbers, facts, ",".join(f"{name}={row[name]}" for name in named if name))


def _class(table: str, column: str, text: str, classes: tuple[str, ...]) -> str:
    if text not in classes:
        raise DataError(f"{table}: {column} is {text!r}, expected one of {', '.join(classes)}")
    return text


def _number(table: str, column: str, text: str) -> float:
    number = plain_number(text)
    if not math.isfinite(number):
        raise DataError(f"{table}: {column} is {text!r}, expected a number")
    return number
