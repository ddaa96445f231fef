"""Synthetic patients for the data set `folder`: small NIfTI volumes, label maps, a table and their `dataset.yaml`.

Two lobes in a body, one on each side; the label says whether the left lobe is the larger one, the number is the volume
of both. Every fourth patient has no label map, every fifth no label and every sixth no number: they are not known.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.datasets.folder.load import DESCRIPTION_FILE
from ctan.datasets.shapes import ellipsoid
from ctan.errors import ConfigError, DataError

_SHAPE, _EDGES_MM = (28, 24, 20), (4.0, 4.0, 6.0)  # along (x, y, z)
_DESCRIPTION = """\
# Synthetic patients; written by `ctan data phantom --dataset folder`.
name: lobes
image:
  files: ["images/{case}.nii"]
  modality: mr
  dtype: int16
label_map:
  file: labels/{case}.nii
  values: {LobeLeft: 1, LobeRight: 2}
table:
  file: patients.csv
  case: case
  group: patient
labels:
  larger: {column: larger, classes: [right, left]}
numbers:
  volume: {column: volume_ml, unit: ml}
facts: {age: number}
licence: synthetic
"""


@dataclass(frozen=True)
class _Patient:
    """One patient; arrays are (z, y, x) and z grows to superior. Without `labels` there is no label map."""

    case_id: str
    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8] | None
    row: tuple[str, ...]
    labels_origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def write_folder_phantoms(
    output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
) -> None:
    """Write synthetic patients.

    Args:
        output_dir: receives `dataset.yaml`, `images/`, `labels/` and `patients.csv`.
        num_train: patients, together with `num_validation`: there is no official split.
        num_validation: see `num_train`.
        seed: the same seed gives the same bytes; a patient's depend on the seed and its number only.
        defects: names of `DEFECTS`; the first spoils the last patient, the second the one before, and so on.

    Raises:
        ConfigError: when a defect is unknown, or there are more than patients.
        DataError: when the patients' folder exists already.
    """
    num_patients = num_train + num_validation
    if unknown := [name for name in defects if name not in DEFECTS]:
        raise ConfigError(f"defects: unknown {', '.join(unknown)}; allowed: {', '.join(DEFECTS)}")
    if len(defects) > num_patients:
        raise ConfigError(f"defects: {len(defects)} defects need as many patients, found {num_patients}")
    try:
        (output_dir / "images").mkdir(parents=True)
    except FileExistsError as error:
        raise DataError(
            f"{output_dir / 'images'}: exists already; phantoms are written to a new folder only"
        ) from error
    (output_dir / "labels").mkdir()
    defect_of = {num_patients - place: name for place, name in enumerate(defects)}
    lines = ["case,patient,larger,volume_ml,age"]
    for number in range(1, num_patients + 1):
        patient = _make(number, np.random.default_rng([seed, number]))
        if number in defect_of:
            patient = DEFECTS[defect_of[number]](patient)
        (output_dir / "images" / f"{patient.case_id}.nii").write_bytes(_nifti(patient.image, (0.0, 0.0, 0.0)))
        if patient.labels is not None:
            content = _nifti(patient.labels, patient.labels_origin_mm)
            (output_dir / "labels" / f"{patient.case_id}.nii").write_bytes(content)
        lines.append(",".join(patient.row))
    (output_dir / "patients.csv").write_bytes(("\n".join(lines) + "\n").encode())
    (output_dir / DESCRIPTION_FILE).write_bytes(_DESCRIPTION.encode())


def _make(number: int, rng: np.random.Generator) -> _Patient:
    axes = [
        ((axis - (size - 1) / 2) * edge).astype(np.float64)
        for axis, size, edge in zip(
            np.ogrid[tuple(map(slice, _SHAPE[::-1]))], _SHAPE[::-1], _EDGES_MM[::-1], strict=True
        )
    ]
    left_is_larger = number % 2 == 0
    large, small = rng.uniform(0.9, 1.1), rng.uniform(0.55, 0.75)
    sizes = (large, small) if left_is_larger else (small, large)
    body = ellipsoid(axes, (0, 0, 0), (58, 44, 52))
    labels = np.zeros(_SHAPE[::-1], np.uint8)
    for value, (side, size) in enumerate(
        zip((-1, 1), sizes, strict=True), start=1
    ):  # x grows to the right of the patient
        centre = (rng.uniform(-6, 6), rng.uniform(-5, 5), side * 24)
        labels[ellipsoid(axes, centre, [radius * size for radius in (26, 20, 19)])] = value
    contrast = rng.uniform(0.7, 1.4)
    values = 300 * body + 500 * (labels > 0)
    noise = rng.integers(-40, 41, labels.shape)
    image = np.where(body | (labels > 0), np.rint(contrast * values) + noise, 0).astype(np.int16)
    voxel_ml = math.prod(_EDGES_MM) / 1000
    row = (
        f"p{number:03d}",
        f"patient-{number}",
        "" if number % 5 == 0 else ("left" if left_is_larger else "right"),
        "" if number % 6 == 0 else f"{np.count_nonzero(labels) * voxel_ml:.1f}",
        str(40 + int(rng.integers(40))),
    )
    return _Patient(f"p{number:03d}", image, None if number % 4 == 0 else labels, row)


def _nifti(array: npt.NDArray[np.int16 | np.uint8], origin_mm: Sequence[float]) -> bytes:
    """Return a NIfTI-1 file, axes along (right, anterior, superior), with a qform alone."""
    header = bytearray(352)
    kind, bits = {np.dtype(np.int16): (4, 16), np.dtype(np.uint8): (2, 8)}[array.dtype]
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, kind, bits)
    struct.pack_into("<8f", header, 76, 1, *_EDGES_MM, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2  # mm
    struct.pack_into("<2h", header, 252, 1, 0)
    struct.pack_into("<3f", header, 268, *origin_mm)
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder("<")).tobytes()


def _relabelled(patient: _Patient) -> _Patient:
    labels = np.zeros(_SHAPE[::-1], np.uint8) if patient.labels is None else patient.labels.copy()
    labels[0, 0, 0] = 7
    return replace(patient, labels=labels)


def _moved(patient: _Patient) -> _Patient:
    labels = np.zeros(_SHAPE[::-1], np.uint8) if patient.labels is None else patient.labels
    return replace(patient, labels=labels, labels_origin_mm=(10.0, 0.0, 0.0))


# What is done to a patient.
DEFECTS: Mapping[str, Callable[[_Patient], _Patient]] = {
    "shifted-mask": _moved,
    "unknown-value": _relabelled,
    "unknown-class": lambda patient: replace(patient, row=(*patient.row[:2], "both", *patient.row[3:])),
    "no-row": lambda patient: replace(patient, row=("", *patient.row[1:])),
}
