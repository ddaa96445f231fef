"""HAM10000's metadata table: read once, strictly, and asked what it says about an image.

Faults of a row are told when its image is asked for; faults of the table as a whole are a `DataError`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ctan.config import ReadingConfig
from ctan.errors import DataError
from ctan.reading import plain_number, read_bytes

TABLE_FILE = "HAM10000_metadata.csv"
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SOURCE = "Harvard Dataverse, doi:10.7910/DVN/DBW86T"
OFFICIAL_NUMBERS = range(24306, 34321)  # of the images ISIC_0024306 to ISIC_0034320, without a gap
_UNKNOWN = ("", "unknown")
_MAX_FILE_BYTES = 2**26
_SUFFIXES = (".jpg", ".jpeg", ".png")

# Words that copies in circulation have in place of the codes; the first that occurs decides.
_WORDS = {
    "actinic": "akiec",
    "bowen": "akiec",
    "basal cell": "bcc",
    "keratosis": "bkl",
    "dermatofibroma": "df",
    "melanoma": "mel",
    "nevi": "nv",
    "nevus": "nv",
    "vascular": "vasc",
    "angioma": "vasc",
}


@dataclass(frozen=True)
class Row:
    """One line of the table, as text; `fault` says in words why it cannot be used, empty when it can."""

    line: int
    values: Mapping[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Facts:
    """What the table says about an image.

    Attributes:
        lesion_id: images of one lesion share it.
        diagnosis: one of `CLASSES`.
        facts: age in years, sex, localization, dx_type; what is not known has no entry.
        text: the seven columns as they stand in the table.
    """

    lesion_id: str
    diagnosis: str
    facts: Mapping[str, str | float]
    text: str


@dataclass(frozen=True)
class Table:
    """All rows.

    Attributes:
        rows: image id, as written, -> its rows; more than one is a fault.
        diagnoses: lesion id -> code -> an image that has it; more than one code is a fault.
        nameless: lines without an image id.
        has_byte_order_mark: spreadsheet programs write one; the official table has none.
    """

    rows: Mapping[str, tuple[Row, ...]]
    diagnoses: Mapping[str, Mapping[str, str]]
    nameless: tuple[int, ...]
    has_byte_order_mark: bool

    @property
    def num_rows(self) -> int:
        """Rows that name an image."""
        return sum(len(rows) for rows in self.rows.values())

    def lesion_of(self, image_id: str) -> str:
        """Return the lesion of an image, or the image's own id when the table does not say."""
        rows = self.rows.get(image_id, ())
        return (rows[0].values["lesion_id"] if rows else "") or image_id

    def diagnosis_of(self, image_id: str) -> str | None:
        """Return the diagnosis of an image as it stands in the table; None when that is none, or has no row."""
        rows = self.rows.get(image_id, ())
        return rows[0].values["dx"] if rows and rows[0].values["dx"] in CLASSES else None

    def facts_of(self, image_id: str) -> Facts:
        """Return what the table says about an image.

        Raises:
            DataError: with what is wrong with its row or its lesion.
        """
        row = self._only_row(image_id)
        values, where = row.values, f"{TABLE_FILE}, line {row.line}"
        if row.fault:
            raise DataError(f"{where}: {row.fault}")
        if values["dx"] not in CLASSES:
            raise DataError(f"{where}: {_wrong_diagnosis(values['dx'])}")
        if not values["lesion_id"]:
            raise DataError(f"{where}: no lesion_id; without it images of one lesion could be in two splits")
        diagnoses = self.diagnoses[values["lesion_id"]]
        if len(diagnoses) > 1:
            found = ", ".join(f"{code} ({image})" for code, image in sorted(diagnoses.items()))
            raise DataError(
                f"{where}: lesion {values['lesion_id']} has {len(diagnoses)} diagnoses, {found}; expected one"
            )
        facts: dict[str, str | float] = {
            name: values[name] for name in ("sex", "localization", "dx_type") if values[name] not in _UNKNOWN
        }
        if values["age"]:
            facts["age"] = _age(values["age"], where)
        return Facts(values["lesion_id"], values["dx"], facts, ",".join(values[name] for name in COLUMNS))

    def _only_row(self, image_id: str) -> Row:
        rows = self.rows.get(image_id, ())
        if len(rows) > 1:
            lines = " and ".join(str(row.line) for row in rows)
            raise DataError(f"{TABLE_FILE}: lines {lines} are both about {image_id}; expected one row an image")
        if rows:
            return rows[0]
        for name in (f"{image_id}{end}" for suffix in _SUFFIXES for end in (suffix, suffix.upper())):
            if name in self.rows:
                line = self.rows[name][0].line
                raise DataError(f"{TABLE_FILE}, line {line}: image_id is {name!r}, expected {image_id!r}")
        raise DataError(
            f"{TABLE_FILE}: no row for {image_id} among {self.num_rows:,}; rows were lost, or the image is not of "
            f"HAM10000 (the official table has {len(OFFICIAL_NUMBERS):,} rows: {SOURCE})"
        )


def read_table(root: Path, limits: ReadingConfig | None = None) -> Table:
    """Read the metadata table of a folder; parsed once a process as long as the file does not change.

    Args:
        root: the folder.
        limits: bounds that the settings give; None for the default ones.

    Raises:
        DataError: when it is missing, not comma-separated text, lacks a column, or was rewritten throughout.
    """
    path = root / TABLE_FILE
    try:
        status = path.stat()
    except OSError:  # said when it is opened
        return _read(path, (), limits or ReadingConfig())
    known = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _read(path, known, limits or ReadingConfig())


@lru_cache(maxsize=4)
def _read(path: Path, status: tuple[int, ...], limits: ReadingConfig) -> Table:  # noqa: ARG001
    """Parse a table; `status` is there to notice another one under the same path, also one of equal length and age."""
    try:
        content = read_bytes(path, limits, _MAX_FILE_BYTES)
        text = content.decode("utf-8-sig")
    except DataError as error:
        raise DataError(
            f"{TABLE_FILE}: {error}; it belongs beside the folders of images and is part of {SOURCE}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{TABLE_FILE}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    table = _parse(text, content.startswith(b"\xef\xbb\xbf"))
    _refuse_rewritten(table)
    return table


def _parse(text: str, has_byte_order_mark: bool) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, list[Row]] = {}
    diagnoses: dict[str, dict[str, str]] = {}
    nameless = []
    try:
        header = next(reader, [])
        _check_header(header)
        for cells in filter(None, reader):
            values = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=False))
            image_id, code = values["image_id"], values["dx"]
            fault = "" if len(cells) == len(header) else f"expected {len(header)} columns, found {len(cells)}"
            if not image_id:
                nameless.append(reader.line_num)
                continue
            rows.setdefault(image_id, []).append(Row(reader.line_num, values, fault))
            if code in CLASSES and not fault:
                diagnoses.setdefault(values["lesion_id"], {}).setdefault(code, image_id)
    except csv.Error as error:
        raise DataError(f"{TABLE_FILE}, line {reader.line_num}: not comma-separated text ({error})") from error
    if not rows:
        raise DataError(f"{TABLE_FILE}: no row below the header; the official table is part of {SOURCE}")
    by_image = {image_id: tuple(of_image) for image_id, of_image in rows.items()}
    return Table(by_image, diagnoses, tuple(nameless), has_byte_order_mark)


def _check_header(header: list[str]) -> None:
    """Refuse a header without the official columns; further ones are allowed, newer releases have some."""
    expected = f"expected the header {','.join(COLUMNS)}"
    if len(header) == 1:
        for delimiter, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if delimiter in header[0]:
                raise DataError(
                    f"{TABLE_FILE}: columns are separated by {name}, expected commas; save it as CSV with "
                    f"commas, or download it in its original format from {SOURCE}"
                )
    if not header:
        raise DataError(f"{TABLE_FILE}: the file is empty, {expected}")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DataError(f"{TABLE_FILE}: no column {', '.join(missing)}; {expected}, found {','.join(header)[:120]!r}")
    twice = [name for name in COLUMNS if header.count(name) > 1]
    if twice:
        raise DataError(f"{TABLE_FILE}: column {', '.join(twice)} is there twice; {expected}")


def _refuse_rewritten(table: Table) -> None:
    """Refuse a table that was changed throughout, in one message instead of one for every image."""
    rows = [row for of_image in table.rows.values() for row in of_image]
    advice = f"this copy was rewritten; take the table of {SOURCE}"
    with_suffix = [row.values["image_id"] for row in rows if _without_suffix(row.values["image_id"])]
    if 2 * len(with_suffix) > len(rows):
        expected = _without_suffix(with_suffix[0])
        raise DataError(
            f"{TABLE_FILE}: image_id ends like a file name in {len(with_suffix):,} of {len(rows):,} rows, "
            f"such as {with_suffix[0]!r}, expected {expected!r}; {advice}"
        )
    words = [row.values["dx"] for row in rows if not row.fault and row.values["dx"] not in CLASSES]
    if 2 * len(words) > len(rows):
        raise DataError(
            f"{TABLE_FILE}: column dx holds something else than the codes {', '.join(CLASSES)} in "
            f"{len(words):,} of {len(rows):,} rows: {_wrong_diagnosis(words[0])}; {advice}"
        )


def _without_suffix(image_id: str) -> str:
    """Return the id without the ending of a picture's file name; empty when it has none."""
    return next((image_id[: -len(end)] for end in _SUFFIXES if image_id.lower().endswith(end)), "")


def _wrong_diagnosis(found: str) -> str:
    plain = found.strip().lower()
    code = plain if plain in CLASSES else next((code for word, code in _WORDS.items() if word in plain), "")
    if code:
        return f"dx is {found!r}, expected the code {code!r}"
    return f"dx is {found!r}, expected one of {', '.join(CLASSES)}"


def _age(text: str, where: str) -> float:
    age = plain_number(text)
    if not math.isfinite(age):
        raise DataError(f"{where}: age is {text!r}, expected a number of years, or nothing where it is not known")
    return age
