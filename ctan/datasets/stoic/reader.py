"""STOIC: chest CT of suspected COVID-19 with the diagnosis and the severity a month later.

Raw layout: `data/mha/<PatientID>.mha` and `metadata/reference.csv` with the columns `PatientID,probCOVID,probSevere`,
0 or 1. Age (in decades, `"045Y"`) and sex (`"M"`, `"F"`) are header fields of the `.mha`.
Severe means intubation or death within a month of a COVID-19 infection. The official ranking is the AUC of severity
among the patients who have COVID-19, so the label `severity` is known only for them; nothing is learned from, or scored
on, the others.
Source: M.-P. Revel et al., "Study of Thoracic CT in COVID-19: The STOIC Project", Radiology 301 (2021).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ctan import versions
from ctan.cases import Augmentation, Case, DataSpec, ImageSpec, RawCase
from ctan.cases.volumes import is_axis_aligned, judged_ct_numbers, signs_of_wrong_ct_numbers, stored_ct, to_case_axes
from ctan.config import ReadingConfig, ValidationConfig
from ctan.datasets.base import Dataset, Expectation, between
from ctan.datasets.listing import files_in, files_of_kind, ids_of
from ctan.datasets.metaimage import Volume, read_mha
from ctan.datasets.outputs import TABLE_FILE, Record, csv_of
from ctan.datasets.stoic.format import COLUMNS, IMAGES, REFERENCE
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_digests, write_text
from ctan.reading import is_plain_id, printable, read_bytes
from ctan.tasks import Classification

COVID, SEVERITY = ("negative", "positive"), ("mild", "severe")

# A lung window, -1024 to 300 HU as stored (nothing below air is kept), seen by the networks as -1 to 1.
_LUNG = ImageSpec(
    name="ct",
    modality="ct",
    dtype="uint16",
    low=0,
    high=1324,
    mean=(662,),
    std=(662,),
    unit="HU + 1024",
    body_threshold=1024 - 300,
)
_SIDE = 128  # rows and columns, about, of the voxels of a slice that CT numbers are judged by
_MAX_HU = 65536  # what 16 bits can hold, whatever the intercept
_AIR, _TISSUE = 200, 1000  # HU + 1024: lungs and the air around hold smaller values, every patient larger ones
_MAX_AGE = 120.0
_YEARS_PER = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM's age string
_SEXES = {"M": "male", "F": "female", "O": "other"}
_ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas rewrites 1 as 1.0 beside a missing value

_MAX_TABLE_BYTES = 2**26
_LONGEST_ID = 18  # digits that are sorted as a number


class _Row(NamedTuple):
    """A line of the table; `fault` says why it cannot be used."""

    line: int
    values: Mapping[str, str]
    fault: str


class STOIC(Dataset):
    """The reader and the tasks of STOIC; see `ctan.datasets.base.Dataset`."""

    name = "stoic"
    version = 1
    uses: ClassVar[Mapping[str, int]] = {"metaimage": versions.METAIMAGE}
    to_train = ("scan", "row")
    to_predict = ("scan",)
    tables = (REFERENCE,)
    signs = (f"{IMAGES}/*.mha",)
    spec = DataSpec(
        dataset="stoic",
        spatial_dims=3,
        image=_LUNG,
        # see the module about whose severity is known
        tasks=(Classification("covid", classes=COVID), Classification("severity", classes=SEVERITY)),
        labels={"covid": COVID, "severity": SEVERITY},
        facts={"age": "float64", "sex": "string"},
        strata=("label_covid", "label_severity"),
        keeps_native=False,
        augmentation=Augmentation(rotate_plane=(0, 1), max_rotate_degrees=10, max_scale=0.1),  # the heart stays left
        licence="STOIC, M.-P. Revel et al., Radiology 301 (2021); CC BY-NC 4.0",
    )
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "*": {"validation": {"min_spacing_mm": 0.3}},
        "smoke": {
            "preprocess": {"grid_shape": [48, 64, 48], "grid_spacing_mm": [6.0, 6.0, 6.0]},
            "network": {"num_stages": 3},
            "training": {"batch_size": 2, "rotate_probability": 0.3},
        },
        "cpu": {"training": {"batch_size": 2, "learning_rate": 1.0e-3, "rotate_probability": 0.3}},
        "gpu": {"training": {"epochs": 100, "translate_voxels": 0}},
    }

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the scans of a folder by number; there is no official split.

        Raises:
            DataError: when there is no scan, or `metadata/reference.csv` cannot be read or lacks a column.
        """
        if self.purpose == "predict":
            return _anywhere(raw_dir)
        paths = _scans(raw_dir)
        if not paths:
            found = "the folder is empty" if raw_dir.is_dir() and not any(raw_dir.iterdir()) else "found none"
            raise DataError(f"{raw_dir}: no STOIC scans, expected {IMAGES}/<PatientID>.mha; {found}")
        try:
            table = _read_reference(raw_dir, self.config.reading)
        except DataError as error:
            raise DataError(f"{raw_dir}: {error}") from error
        patients = [printable(path.stem) for path in paths]
        return [
            RawCase(patient, patient, "", path, strata=_strata(patient, table))
            for patient, path in zip(patients, paths, strict=True)
        ]

    def files(self, raw_dir: Path) -> list[os.DirEntry[str]]:
        """List the scans."""
        return files_in(raw_dir / IMAGES, ".mha")

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say which rows name no patient, and how many patients of the table have no scan here."""
        there, table = {path.stem for path in _scans(raw_dir)}, _read_reference(raw_dir, self.config.reading)
        found = []
        if nameless := [str(row.line) for row in table.get("", ())]:
            lines = ", ".join(nameless[:5]) + (", ..." if len(nameless) > 5 else "")
            found.append(f"rows of reference.csv without a PatientID: {len(nameless):,} (line {lines})")
        missing = [patient for patient in table if patient and patient not in there]
        if not missing:
            return found
        patients, have, are = ("patient", "has", "is") if len(missing) == 1 else ("patients", "have", "are")
        first = ", ".join(sorted(missing, key=_by_number)[:5])
        first += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return [
            *found,
            f"{len(missing)} {patients} of reference.csv {have} no scan in {IMAGES} and {are} left out: {first}.",
        ]

    def read(self, raw: RawCase) -> Case:
        """Read one scan: CT (clipped to 0..4095), labels, age and sex.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        labels, row = self._row_of(raw) if "row" in self.needed else ({}, "")
        sample: list[npt.NDArray[np.float32]] = []  # of every slice as it was before clipping
        try:
            volume = read_mha(raw.path, partial(_stored_slice, sample=sample), np.uint16, self.config.reading)
            facts = _facts(volume.header.fields)
            ct, spacing_mm = _oriented(volume)
            remarks = judged_ct_numbers(signs_of_wrong_ct_numbers(np.stack(sample, axis=1)))
        except DataError as error:
            raise CaseError(raw.case_id, f"{raw.path.name}: {error}") from error
        except OSError as error:
            raise CaseError(raw.case_id, f"{raw.path.name}: cannot be read ({error.strerror})") from error
        digests = {raw.path.name: volume.sha256, REFERENCE: hashlib.sha256(row.encode()).hexdigest()}
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=spacing_mm,
            images={"ct": ct},
            masks={},
            doses={},
            sha256=sha256_of_digests(digests),
            labels=labels,
            facts=facts,
            remarks=remarks,
        )

    def _row_of(self, raw: RawCase) -> tuple[dict[str, str], str]:
        """Return the labels of a scan, and the row that they come from."""
        if not is_plain_id(raw.case_id):
            raise CaseError(raw.case_id, f"{printable(raw.path.name)}: expected the name <PatientID>.mha, in digits")
        try:
            rows = _read_reference(raw.path.parents[2], self.config.reading).get(raw.case_id, [])
            return _labels(raw.case_id, rows)
        except DataError as error:
            raise CaseError(raw.case_id, f"reference.csv: {str(error).removeprefix(f'{REFERENCE}: ')}") from error

    def gather(self, records: Sequence[Record], folder: Path) -> None:
        """Write `predictions.csv` with the columns of the challenge, probabilities in place of 0 and 1."""
        rows = []
        for record in records:
            covid, severe = (record["probabilities"].get(name, {}) for name in ("covid", "severity"))
            values = (covid.get(COVID[1], ""), severe.get(SEVERITY[1], ""))
            rows.append(dict(zip(COLUMNS, (record["case_id"], *values), strict=True)))
        write_text(folder / TABLE_FILE, csv_of(rows))

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return that scans show air and tissue at a plausible spacing, and that ages and labels make sense."""
        edges = (limits.min_spacing_mm, limits.max_spacing_mm)
        return [
            Expectation(
                "covid-known",
                "It is known whether the patient has COVID-19",
                "",
                "ExpectColumnValuesToNotBeNull",
                {"column": "label_covid"},
            ),
            Expectation(
                "severe-is-positive",
                "Severity is known of patients with COVID-19 only",
                "",
                "ExpectColumnValuesToBeNull",
                {
                    "column": "label_severity",
                    "row_condition": 'label_covid == "negative"',
                    "condition_parser": "pandas",
                },
            ),
            between("age", "age", 0, _MAX_AGE, "years", f"The age, where known, is 0 to {_MAX_AGE:g} years"),
            Expectation(
                "sex",
                f"The sex, where known, is one of {', '.join(_SEXES.values())}",
                "",
                "ExpectColumnValuesToBeInSet",
                {"column": "sex", "value_set": list(_SEXES.values())},
            ),
            between("ct-air", "ct_min", 0, _AIR, "HU + 1024", "The CT shows air"),
            between("ct-tissue", "ct_max", _TISSUE, None, "HU + 1024", "The CT shows tissue"),
            between("smallest-spacing", "spacing_min_mm", *edges, "mm", f"Voxel edges are at least {edges[0]:g} mm"),
            between("largest-spacing", "spacing_max_mm", *edges, "mm", f"Voxel edges are at most {edges[1]:g} mm"),
        ]

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients, see `ctan.datasets.stoic.phantom`."""
        from ctan.datasets.stoic.phantom import write_stoic_phantoms

        write_stoic_phantoms(output_dir, num_train, num_validation, seed, defects)


def _anywhere(source: Path) -> list[RawCase]:
    """List the scans to predict, at any depth, or the one that was given."""
    paths = files_of_kind(source, (".mha",))
    if not paths:
        raise DataError(f"{source}: no scans to predict, expected .mha files, or folders with some; found none")
    ids = ids_of(paths, source.parent if source.is_file() else source, (".mha",))
    return [RawCase(case_id, case_id, "", path) for case_id, path in zip(ids, paths, strict=True)]


def _scans(raw_dir: Path) -> list[Path]:
    """Return the scans by number; files whose name starts with a dot are unfinished downloads or the like."""
    paths = (path for path in (raw_dir / IMAGES).glob("*") if path.suffix.lower() == ".mha")
    return sorted((path for path in paths if not path.name.startswith(".")), key=lambda path: _by_number(path.stem))


def _by_number(patient: str) -> tuple[int, str]:
    return (int(patient) if is_plain_id(patient) and len(patient) <= _LONGEST_ID else -1, patient)


def _read_reference(root: Path, limits: ReadingConfig) -> dict[str, list[_Row]]:
    """Return the table's rows by patient; those that name none are under the empty text.

    Raises:
        DataError: when it cannot be read, or lacks a column or has it twice.
    """
    try:
        text = read_bytes(root / REFERENCE, limits, _MAX_TABLE_BYTES).decode("utf-8-sig")
    except DataError as error:
        raise DataError(f"{REFERENCE}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{REFERENCE}: not a text file (byte {error.start} is not UTF-8)") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, list[_Row]] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header)
        for cells in filter(None, reader):
            texts = dict.fromkeys(COLUMNS, "") | dict(zip(header, map(str.strip, cells), strict=False))
            fault = "" if len(cells) == len(header) else f"expected {len(header)} columns, found {len(cells)}"
            rows.setdefault(texts["PatientID"], []).append(_Row(reader.line_num, texts, fault))
    except csv.Error as error:
        raise DataError(f"{REFERENCE}: line {reader.line_num}: not comma-separated text ({error})") from error
    return rows


def _check_header(header: Sequence[str]) -> None:
    """Refuse a header without one of the columns, or with one twice: then it is not known which one counts."""
    if lacking := [name for name in COLUMNS if name not in header]:
        found = ",".join(header)[:120] or "none"
        raise DataError(f"{REFERENCE}: no column {', '.join(lacking)}; expected {','.join(COLUMNS)}, found {found}")
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise DataError(f"{REFERENCE}: column {', '.join(twice)} is there twice; expected {','.join(COLUMNS)}")


def _strata(patient: str, table: Mapping[str, Sequence[_Row]]) -> tuple[str | None, ...]:
    """Return the labels of a patient as far as the table has them."""
    try:
        labels, _ = _labels(patient, table.get(patient, ()))
    except DataError:
        labels = {}
    return labels.get("covid"), labels.get("severity")


def _labels(patient: str, rows: Sequence[_Row]) -> tuple[dict[str, str], str]:
    """Return the labels of a patient, and the row they come from."""
    if not rows:
        raise DataError(f"no row for PatientID {patient}")
    if len(rows) > 1:
        lines = ", ".join(str(row.line) for row in rows)
        raise DataError(f"{len(rows)} rows for PatientID {patient} (lines {lines}), expected one")
    row = rows[0]
    if row.fault:
        raise DataError(f"line {row.line}: {row.fault}")
    for name in COLUMNS[1:]:
        if row.values[name] not in _ZERO_OR_ONE:
            raise DataError(f"line {row.line}: expected {name} to be 0 or 1, found {row.values[name]!r}")
    covid, severe = (_ZERO_OR_ONE[row.values[name]] for name in COLUMNS[1:])
    if severe and not covid:
        raise DataError(f"line {row.line}: probSevere is 1 but probCOVID is 0; severe cases have COVID-19")
    labels = {"covid": COVID[covid]}
    if covid:
        labels["severity"] = SEVERITY[severe]
    return labels, ",".join(row.values[name] for name in COLUMNS)


def _stored_slice(values: npt.NDArray[Any], sample: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.uint16]:
    """Return a slice in HU as stored, see `stored_ct`; what lies beyond 0..4095 is clipped.

    Args:
        values: (row, column).
        sample: receives some of its voxels, unclipped.
    """
    if values.dtype.kind == "f" and (unknown := int(np.count_nonzero(~np.isfinite(values)))):
        raise DataError(f"{unknown} voxels are NaN or infinite, expected HU")
    if values.dtype.itemsize > 2:
        low, high = float(values.min()), float(values.max())
        if low < -_MAX_HU or high > _MAX_HU:
            raise DataError(f"expected HU, found values from {low:g} to {high:g}")
    step = 1 + min(values.shape) // _SIDE
    sample.append(values[::step, ::step].astype(np.float32))
    return stored_ct(values)


def _oriented(volume: Volume) -> tuple[npt.NDArray[np.uint16], tuple[float, float, float]]:
    """Return the CT in the axis order of every volume, and its spacing in mm."""
    if not is_axis_aligned(volume.image):
        raise DataError(
            "header: oblique slices, TransformMatrix is "
            f"{volume.header.fields['TransformMatrix']!r}; expected the patient's axes; resample the scan first"
        )
    return to_case_axes(volume.image)


def _facts(fields: Mapping[str, str]) -> dict[str, str | float]:
    """Return age in years and sex, as far as the header has them."""
    facts: dict[str, str | float] = {}
    if age := fields.get("PatientAge", ""):
        found = re.fullmatch(r"([0-9]{1,3})([YMWD]?)", age)
        if not found:
            raise DataError(f"header: expected PatientAge such as 045Y, found {age!r}")
        facts["age"] = int(found[1]) * _YEARS_PER[found[2] or "Y"]
    if sex := fields.get("PatientSex", ""):
        if sex not in _SEXES:
            raise DataError(f"header: expected PatientSex to be one of {', '.join(_SEXES)}, found {sex!r}")
        facts["sex"] = _SEXES[sex]
    return facts
