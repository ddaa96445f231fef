"""A small patient in DICOM-RT whose every number is known, and ways to change its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from ctan.cases import Case
from ctan.config import DataConfig
from ctan.datasets.prostate.reader import Prostate
from ctan.dicom.writers import (
    CtSeries,
    PatientHeader,
    write_ct_series,
    write_rtdose,
    write_rtplan,
    write_rtstruct,
)
from ctan.errors import CaseError

KEY = "a test's key, not a secret"
HEADER = PatientHeader(key="tests", patient_id="MRN 4711")

# (z, y, x): superior, posterior, left
SHAPE, SPACING, ORIGIN = (8, 30, 36), (3.0, 2.0, 2.0), (-100.0, -30.0, -40.0)
DOSE_SHAPE, DOSE_SPACING, DOSE_ORIGIN = (5, 12, 14), (4.5, 4.0, 4.0), (-98.0, -25.0, -30.0)
CENTRE = (-5.0, -1.0)  # x, y of the prostate
TEST_DATA = Path(os.environ.get("CTAN_TEST_DATA", "."))
needs_test_data = pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA is not set")


def places(shape=SHAPE, spacing=SPACING, origin=ORIGIN) -> list[np.ndarray]:
    """Return z, y, x of the voxels in mm, ready to broadcast."""
    axes = [start + edge * np.arange(size) for size, edge, start in zip(shape, spacing, origin, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def anatomy() -> np.ndarray:
    """Return a body in air, brighter to the left, to posterior and to superior, so that a flip shows."""
    z, y, x = places()
    body = ((x + 5) / 30) ** 2 + ((y + 1) / 25) ** 2 <= 1
    return np.where(body, 40 + 2 * x + 3 * y + 5 * (z + 90), -1000).round().astype(np.int16)


def plan_dose() -> np.ndarray:
    """Return a dose that is linear in place, so that linear interpolation is exact."""
    z, y, x = places(DOSE_SHAPE, DOSE_SPACING, DOSE_ORIGIN)
    return dose_at(z, y, x)


def dose_at(z, y, x):
    """Return the dose in Gy at a place in mm."""
    return 60 + 0.2 * x - 0.1 * y + 0.4 * (z + 90)


def circle(z: float, radius: float = 9.0, centre: Sequence[float] = CENTRE, points: int = 180) -> np.ndarray:
    """Return a round contour (N, 3) in mm, of the area of the circle."""
    angle = np.arange(points) * 2 * np.pi / points
    radius *= np.sqrt(2 * np.pi / points / np.sin(2 * np.pi / points))  # of the polygon with the circle's area
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(points, z)], 1)


def box(z: float, x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """Return a rectangular contour in mm."""
    return np.array([[x[0], y[0], z], [x[1], y[0], z], [x[1], y[1], z], [x[0], y[1], z]])


SLICES_Z = [ORIGIN[0] + SPACING[0] * n for n in range(SHAPE[0])]
CONTOURS = {
    "Prostate": [circle(z, points=48) for z in SLICES_Z[2:6]],
    "Bladder": [box(z, (-19, -9), (-19, -13)) for z in SLICES_Z[5:8]],
    "PTV": [circle(z, 12.0, points=48) for z in SLICES_Z[1:7]],
}


def write_patient(
    folder: Path,
    *,
    header: PatientHeader = HEADER,
    contours: Mapping[str, Sequence[np.ndarray]] = CONTOURS,
    position: str = "HFS",
    ct: Mapping[str, Any] = {},
    dose: Mapping[str, Any] = {},
    prescription_gy: float | None = 60.0,
) -> CtSeries:
    """Write CT, `rs`, `rd` and `rp`; `ct` and `dose` are options of the writers."""
    series = write_ct_series(folder, anatomy(), SPACING, ORIGIN, patient=header, position=position, **ct)
    write_rtstruct(folder / "rs", contours, series)
    options = {"position": position, **dose}
    write_rtdose(
        folder / "rd", options.pop("values", plan_dose()), DOSE_SPACING, DOSE_ORIGIN, patient=header, **options
    )
    write_rtplan(folder / "rp", prescription_gy, patient=header, position=position)
    return series


def slices_of(folder: Path) -> list[Path]:
    """Return the CT files from inferior to superior."""
    paths = [path for path in folder.rglob("*.dcm") if pydicom.dcmread(path).Modality == "CT"]
    return sorted(paths, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def change(path: Path, edit: Callable[[pydicom.Dataset], None]) -> None:
    """Change one file."""
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def dataset_of(**dicom: Any) -> Prostate:
    """Return the data set with other settings of `DicomConfig`."""
    return Prostate(DataConfig.model_validate({"dataset": "prostate", "options": dicom}))


def read(folder: Path, **dicom: Any) -> Case:
    """Read the one patient whose folder this is."""
    dataset = dataset_of(**dicom)
    (raw,) = [raw for raw in dataset.find(folder.parent) if raw.path == folder]
    return dataset.read(raw)


def reason(folder: Path, **dicom: Any) -> str:
    """Return why the patient is refused; the reason names no path and not the patient."""
    with pytest.raises(CaseError) as found:
        read(folder, **dicom)
    assert found.value.case_id.startswith("pat-")
    for secret in (str(folder), folder.name, HEADER.patient_id, HEADER.patient_name, "2.25."):
        assert secret not in str(found.value)
    return found.value.reason


def to_case_axes(array: np.ndarray) -> np.ndarray:
    """Return (superior, posterior, left) as (posterior, left, inferior)."""
    return np.transpose(array[::-1], (1, 2, 0))
