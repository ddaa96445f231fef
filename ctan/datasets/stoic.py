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
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.config import DataConfig, ValidationConfig
from ctan.datasets.base import Augmentation, Case, Expectation, ImageSpec, RawCase, between
from ctan.datasets.contents import files_in
from ctan.datasets.metaimage import Volume, read_mha
from ctan.datasets.volumes import is_axis_aligned, stored_ct, to_case_axes
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_digests
from ctan.tasks import Classification, Task

IMAGES, REFERENCE = "data/mha", "metadata/reference.csv"
COLUMNS = ("PatientID", "probCOVID", "probSevere")
COVID, SEVERITY = ("negative", "positive"), ("mild", "severe")

# A lung window, -1024 to 300 HU as stored (nothing below air is kept), seen by the networks as -1 to 1.
_LUNG = ImageSpec("ct", "uint16", 1, low=0, high=1324, mean=(662,), std=(662,), outside=0, unit="HU + 1024")
_MAX_HU = 65536  # what 16 bits can hold, whatever the intercept
_AIR, _TISSUE = 200, 1000  # HU + 1024: lungs and the air around hold smaller values, every patient larger ones
_MAX_AGE = 120.0
_YEARS_PER = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # DICOM's age string
_SEXES = {"M": "male", "F": "female", "O": "other"}
_ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}  # pandas rewrites 1 as 1.0 beside a missing value

_Row = tuple[int, dict[str, str]]  # line of the table, column -> text


class STOIC:
    """The reader and the tasks of STOIC; implements `ctan.datasets.base.Dataset`."""

    name = "stoic"
    spatial_dims: Literal[2, 3] = 3
    image = _LUNG
    structures: tuple[str, ...] = ()
    targets: Mapping[str, float] = {}
    has_dose = False
    labels: Mapping[str, tuple[str, ...]] = {"covid": COVID, "severity": SEVERITY}
    facts: Mapping[str, Literal["string", "float64"]] = {"age": "float64", "sex": "string"}
    strata: tuple[str, ...] = ("label_covid", "label_severity")
    tables: tuple[str, ...] = (REFERENCE,)
    keeps_native = False
    whole_image = False
    augmentation = Augmentation(
        rotate_plane=(0, 1), max_rotate_degrees=10, max_scale=0.1
    )  # the heart stays on the left
    licence = "STOIC, M.-P. Revel et al., Radiology 301 (2021); CC BY-NC 4.0"

    def __init__(self, config: DataConfig | None = None) -> None:
        self.config = config or DataConfig(dataset="stoic")

    def tasks(self) -> tuple[Task, ...]:
        """Return the diagnosis of COVID-19 and its severity; see the module about whose severity is known."""
        return Classification("covid", classes=COVID), Classification("severity", classes=SEVERITY)

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the scans of a folder by number; there is no official split.

        Raises:
            DataError: when there is no scan, or `metadata/reference.csv` cannot be read or lacks a column.
        """
        paths = _scans(raw_dir)
        if not paths:
            found = "the folder is empty" if raw_dir.is_dir() and not any(raw_dir.iterdir()) else "found none"
            raise DataError(f"{raw_dir}: no STOIC scans, expected {IMAGES}/<PatientID>.mha; {found}")
        try:
            _read_reference(raw_dir / REFERENCE)
        except DataError as error:
            raise DataError(f"{raw_dir}: {error}") from error
        return [RawCase(path.stem, path.stem, "", path) for path in paths]

    def files(self, raw_dir: Path) -> list[os.DirEntry[str]]:
        """List the scans."""
        return files_in(raw_dir / IMAGES, ".mha")

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say how many patients of the table have no scan here, as in a part of the data set."""
        there = {path.stem for path in _scans(raw_dir)}
        missing = [patient for patient in _read_reference(raw_dir / REFERENCE) if patient not in there]
        if not missing:
            return []
        patients, have, are = ("patient", "has", "is") if len(missing) == 1 else ("patients", "have", "are")
        first = ", ".join(sorted(missing, key=_by_number)[:5])
        first += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return [f"{len(missing)} {patients} of reference.csv {have} no scan in {IMAGES} and {are} left out: {first}."]

    def read(self, raw: RawCase) -> Case:
        """Read one scan: CT (clipped to 0..4095), labels, age and sex.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        try:
            rows = _read_reference(raw.path.parents[2] / REFERENCE).get(raw.case_id, [])
            labels, row = _labels(raw.case_id, rows)
        except DataError as error:
            raise CaseError(raw.case_id, f"reference.csv: {str(error).removeprefix(f'{REFERENCE}: ')}") from error
        try:
            volume = read_mha(raw.path, _stored_slice, np.uint16)
            facts = _facts(volume.header.fields)
            ct, spacing_mm = _oriented(volume)
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
        )

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return that scans show air and tissue at a plausible spacing, and that ages and labels make sense."""
        edges = (limits.min_spacing_mm, limits.max_spacing_mm)
        return [
            Expectation("covid-known", "It is known whether the patient has COVID-19", "",
                        "ExpectColumnValuesToNotBeNull", {"column": "label_covid"}),
            Expectation("severe-is-positive", "Severity is known of patients with COVID-19 only", "",
                        "ExpectColumnValuesToBeNull",
                        {"column": "label_severity", "row_condition": 'label_covid == "negative"',
                         "condition_parser": "pandas"}),
            between("age", "age", 0, _MAX_AGE, "years", f"The age, where known, is 0 to {_MAX_AGE:g} years"),
            Expectation("sex", f"The sex, where known, is one of {', '.join(_SEXES.values())}", "",
                        "ExpectColumnValuesToBeInSet", {"column": "sex", "value_set": list(_SEXES.values())}),
            between("ct-air", "ct_min", 0, _AIR, "HU + 1024", "The CT shows air"),
            between("ct-tissue", "ct_max", _TISSUE, None, "HU + 1024", "The CT shows tissue"),
            between("smallest-spacing", "spacing_min_mm", *edges, "mm", f"Voxel edges are at least {edges[0]:g} mm"),
            between("largest-spacing", "spacing_max_mm", *edges, "mm", f"Voxel edges are at most {edges[1]:g} mm"),
        ]  # fmt: skip

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients, see `ctan.datasets.stoic_phantom`."""
        from ctan.datasets.stoic_phantom import write_stoic_phantoms

        write_stoic_phantoms(output_dir, num_train, num_validation, seed, defects)


def _scans(raw_dir: Path) -> list[Path]:
    """Return the scans by number; files whose name starts with a dot are unfinished downloads or the like."""
    paths = (path for path in (raw_dir / IMAGES).glob("*.mha") if not path.name.startswith("."))
    return sorted(paths, key=lambda path: _by_number(path.stem))


def _by_number(patient: str) -> tuple[int, str]:
    return (int(patient) if patient.isdecimal() else -1, patient)


def _read_reference(path: Path) -> dict[str, list[_Row]]:
    """Return the table's rows by patient.

    Raises:
        DataError: when it cannot be read or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{REFERENCE}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{REFERENCE}: not a text file (byte {error.start} is not UTF-8)") from error
    reader = csv.DictReader(text.splitlines())
    names = [name.strip() for name in reader.fieldnames or ()]
    if lacking := [name for name in COLUMNS if name not in names]:
        found = ",".join(names) or "none"
        raise DataError(f"{REFERENCE}: no column {', '.join(lacking)}; expected {','.join(COLUMNS)}, found {found}")
    reader.fieldnames = names
    rows: dict[str, list[_Row]] = {}
    for row in reader:
        texts = {name: (row[name] or "").strip() for name in COLUMNS}
        rows.setdefault(texts["PatientID"], []).append((reader.line_num, texts))
    return rows


def _labels(patient: str, rows: Sequence[_Row]) -> tuple[dict[str, str], str]:
    """Return the labels of a patient, and the row they come from."""
    if not rows:
        raise DataError(f"no row for PatientID {patient}")
    if len(rows) > 1:
        lines = ", ".join(str(line) for line, _ in rows)
        raise DataError(f"{len(rows)} rows for PatientID {patient} (lines {lines}), expected one")
    line, row = rows[0]
    for name in COLUMNS[1:]:
        if row[name] not in _ZERO_OR_ONE:
            raise DataError(f"line {line}: expected {name} to be 0 or 1, found {row[name]!r}")
    covid, severe = (_ZERO_OR_ONE[row[name]] for name in COLUMNS[1:])
    if severe and not covid:
        raise DataError(f"line {line}: probSevere is 1 but probCOVID is 0; severe cases have COVID-19")
    labels = {"covid": COVID[covid]}
    if covid:
        labels["severity"] = SEVERITY[severe]
    return labels, ",".join(row[name] for name in COLUMNS)


def _stored_slice(values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return a slice in HU as stored, see `stored_ct`; what lies beyond 0..4095 is clipped."""
    if values.dtype.kind == "f" and (unknown := int(np.count_nonzero(~np.isfinite(values)))):
        raise DataError(f"{unknown} voxels are NaN or infinite, expected HU")
    if values.dtype.itemsize > 2:
        low, high = float(values.min()), float(values.max())
        if low < -_MAX_HU or high > _MAX_HU:
            raise DataError(f"expected HU, found values from {low:g} to {high:g}")
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
        found = re.fullmatch(r"(\d{1,3})([YMWD]?)", age)
        if not found:
            raise DataError(f"header: expected PatientAge such as 045Y, found {age!r}")
        facts["age"] = int(found[1]) * _YEARS_PER[found[2] or "Y"]
    if sex := fields.get("PatientSex", ""):
        if sex not in _SEXES:
            raise DataError(f"header: expected PatientSex to be one of {', '.join(_SEXES)}, found {sex!r}")
        facts["sex"] = _SEXES[sex]
    return facts
