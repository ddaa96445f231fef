"""A patient in DICOM-RT of a clinic's size: 512 x 512 x 92 voxels, ten structures contoured every 3 mm, a dose, a plan.

Shapes are ellipses, so that every volume is known; contours have a point about every 1.5 mm, as planning systems write
them. The same bytes for the same arguments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.dicom.outlines import ZYX
from ctan.dicom.writers import PatientHeader, write_ct_series, write_rtdose, write_rtplan, write_rtstruct

SPACING_MM = (3.0, 0.9766, 0.9766)  # z, y, x
PRESCRIPTION_GY = 70.0
# ROI name -> centre and half-axes (z, y, x) in mm from the middle of the volume.
ELLIPSOIDS = {
    "Prostate": ((-30, 0, 0), (22, 18, 24)),
    "Bladder": ((18, -20, 0), (28, 30, 38)),
    "Rectum": ((-5, 40, 2), (60, 14, 15)),
    "Femoral Head Left": ((0, 5, 88), (26, 24, 24)),
    "Femoral Head Right": ((0, 5, -88), (26, 24, 24)),
    "PenileBulb": ((-66, 12, 0), (9, 9, 12)),
    "SeminalVesicles": ((-2, 16, 0), (8, 8, 22)),
    "PTV": ((-26, 2, 0), (31, 26, 32)),
    "Sigmoid": ((60, 10, 20), (25, 22, 30)),
}
BODY_MM = (110.0, 180.0)  # half-axes (y, x) of the body, the same in every slice
_HOUNSFIELD = {"Bladder": 5, "Rectum": 30, "Prostate": 40, "Femoral Head Left": 350, "Femoral Head Right": 350}
_DOSE_EDGE_MM = 2.5
_POINT_MM = 1.5


def write_clinical_patient(folder: Path, shape: tuple[int, int, int] = (92, 512, 512)) -> None:
    """Write CT, structure set, dose and plan.

    Args:
        folder: receives the files.
        shape: z, y, x of the CT; another one keeps the anatomy and changes the voxels.
    """
    spacing, origin, axes = _grid(shape)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    patient = PatientHeader(key="benchmark", patient_id="BENCH 1", patient_name="BENCHMARK^PATIENT")
    inside = (y / BODY_MM[0]) ** 2 + (x / BODY_MM[1]) ** 2 <= 1
    hounsfield = np.full(shape, -1000, np.int16)
    hounsfield[np.broadcast_to(inside, shape)] = -60
    for name, value in _HOUNSFIELD.items():
        centre, radii = ELLIPSOIDS[name]
        within = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1
        hounsfield[within] = value
    hounsfield += np.random.default_rng(0).integers(-15, 16, shape, np.int16)
    series = write_ct_series(folder, hounsfield, spacing, origin, patient=patient)
    contours = {name: _contours(name, axes[0]) for name in ELLIPSOIDS}
    contours["BODY"] = [_ellipse((0.0, 0.0), BODY_MM, float(place)) for place in axes[0]]
    write_rtstruct(folder / "RS.dcm", contours, series)
    size = [max(4, int(np.ptp(axis) / _DOSE_EDGE_MM) - 2) for axis in axes]
    start = tuple(float(axis.mean() - _DOSE_EDGE_MM * (count - 1) / 2) for axis, count in zip(axes, size, strict=True))
    grid = [begin + _DOSE_EDGE_MM * np.arange(count) for begin, count in zip(start, size, strict=True)]
    centre, radii = ELLIPSOIDS["PTV"]
    apart = sum(((a - c) / r) ** 2 for a, c, r in zip(np.meshgrid(*grid, indexing="ij"), centre, radii, strict=True))
    dose = PRESCRIPTION_GY / (1 + np.asarray(apart) ** 2 / 8)
    write_rtdose(folder / "RD.dcm", dose, (_DOSE_EDGE_MM,) * 3, start, patient=patient)
    write_rtplan(folder / "RP.dcm", PRESCRIPTION_GY, patient=patient)


def volumes_cc(shape: tuple[int, int, int]) -> tuple[dict[str, float], float]:
    """Return the volume between the contours of each ROI but the body, and that of a voxel, in cc."""
    spacing, _, axes = _grid(shape)
    found = {}
    for name in ELLIPSOIDS:
        areas = []
        for contour in _contours(name, axes[0]):
            x, y, _ = contour.T
            areas.append(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2)
        found[name] = sum(areas) * spacing[0] / 1000
    return found, float(np.prod(spacing)) / 1000


def _grid(shape: tuple[int, int, int]) -> tuple[ZYX, ZYX, list[npt.NDArray[np.float64]]]:
    """Return spacing, origin and the places of the voxels along each axis, in mm."""
    z, y, x = (round(edge * full / size, 4) for edge, full, size in zip(SPACING_MM, (92, 512, 512), shape, strict=True))
    spacing = (z, y, x)
    first = [round(-edge * (size - 1) / 2, 4) for edge, size in zip(spacing, shape, strict=True)]
    axes = [start + edge * np.arange(size) for start, edge, size in zip(first, spacing, shape, strict=True)]
    return spacing, (first[0], first[1], first[2]), axes


def _contours(name: str, places: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Return the outlines of an ellipsoid in the slices that it crosses."""
    (z, y, x), (depth, *in_plane) = ELLIPSOIDS[name]
    shares = 1 - ((places - z) / depth) ** 2
    return [
        _ellipse((y, x), (in_plane[0] * share**0.5, in_plane[1] * share**0.5), float(place))
        for place, share in zip(places, shares, strict=True)
        if share > 0.01
    ]


def _ellipse(centre: tuple[float, float], radii: tuple[float, float], place: float) -> npt.NDArray[np.float64]:
    """Return points (x, y, z) in mm around an ellipse (y, x)."""
    count = max(12, round(2 * np.pi * max(radii) / _POINT_MM))
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack(
        [centre[1] + radii[1] * np.cos(angle), centre[0] + radii[0] * np.sin(angle), np.full(count, place)], axis=1
    ).round(2)
