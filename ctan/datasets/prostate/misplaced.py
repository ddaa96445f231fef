"""Ways to let CT, contours or dose of a phantom lie elsewhere, or look as nobody drew them; see `defects`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ctan.datasets.prostate.phantom import Patient, write_patient
from ctan.datasets.prostate.planting import Plant, contours_of, ct_again, edited, slices
from ctan.dicom.outlines import Contour, contours_of_mask

_OUT_OF_PLACE_MM = 60.0
_NEAR = 0.97  # size of a contour's copy


def air_slice(patient: Patient, folder: Path) -> None:
    """Let a slice in the middle hold air."""
    path = slices(folder)[len(patient.hounsfield) // 2]
    edited(path.name, _air)(patient, folder)


def _air(dataset: Dataset, _: Patient) -> None:
    stored = np.full(int(dataset.Rows) * int(dataset.Columns), -1000 - int(dataset.RescaleIntercept), "<u2")
    dataset.PixelData = stored.tobytes()


def bytes_swapped(dataset: Dataset, _: Patient) -> None:
    dataset.PixelData = dataset.pixel_array.byteswap().tobytes()


def middle_contour(
    structure: str, change: Callable[[Contour], list[Contour]]
) -> Callable[[Patient], dict[str, list[Contour]]]:
    """Return the contours of a structure, the one in the middle changed."""

    def changed(patient: Patient) -> dict[str, list[Contour]]:
        contours = list(contours_of(patient, structure))
        middle = len(contours) // 2
        return {patient.roi_names[structure]: contours[:middle] + change(contours[middle]) + contours[middle + 1 :]}

    return changed


def one_point_away(contour: Contour) -> list[Contour]:
    moved = contour.copy()
    moved[len(moved) // 2, :2] += _OUT_OF_PLACE_MM
    return [moved]


def shuffled(contour: Contour) -> list[Contour]:
    return [np.random.default_rng(0).permutation(contour)]


def near_copy(contour: Contour) -> list[Contour]:
    """Return a contour and the same a little smaller."""
    middle = contour.mean(axis=0)
    return [contour, middle + (contour - middle) * (_NEAR, _NEAR, 1)]


def wide_pixels(patient: Patient, folder: Path) -> None:
    """Write every second column of the CT alone: its pixels are twice as wide as they are high."""
    wide = replace(
        patient,
        hounsfield=np.ascontiguousarray(patient.hounsfield[:, :, ::2]),
        spacing_mm=(*patient.spacing_mm[:2], 2 * patient.spacing_mm[2]),
    )
    ct_again()(wide, folder)


def wide_dose(patient: Patient, folder: Path) -> None:
    """Write every second column of the dose alone."""
    wide = replace(
        patient,
        dose_gy=patient.dose_gy[:, :, ::2],
        dose_spacing_mm=(*patient.dose_spacing_mm[:2], 2 * patient.dose_spacing_mm[2]),
    )
    write_patient(wide, folder)


def spacing_exchanged(dataset: Dataset, _: Patient) -> None:
    dataset.PixelSpacing = list(dataset.PixelSpacing)[::-1]


def one_after_the_other(*plants: Plant) -> Plant:
    def plant(patient: Patient, folder: Path) -> None:
        for each in plants:
            each(patient, folder)

    return plant


def body(patient: Patient) -> dict[str, list[Contour]]:
    """Return the contours of the body, whether or not it is contoured."""
    outline = contours_of_mask(patient.masks["Body"], patient.spacing_mm, patient.origin_mm)
    return {patient.roi_names.get("Body", "BODY"): outline}


def moved(mm: tuple[float, float, float]) -> Callable[[Dataset, Patient], None]:
    """Move an image by (x, y, z)."""

    def edit(dataset: Dataset, _: Patient) -> None:
        dataset.ImagePositionPatient = [
            f"{float(at) + by:.4f}" for at, by in zip(dataset.ImagePositionPatient, mm, strict=True)
        ]

    return edit


def dose_reversed(axis: int) -> Plant:
    """Store a dose from the other end of one of its axes (z, y, x); its grid reaches further on one side."""

    def plant(patient: Patient, folder: Path) -> None:
        left_out = patient.dose_gy.shape[axis] // 5
        kept = tuple(slice(left_out if a == axis else 0, None) for a in range(3))
        origin = [
            at + left_out * edge * (a == axis)
            for a, (at, edge) in enumerate(zip(patient.dose_origin_mm, patient.dose_spacing_mm, strict=True))
        ]
        uneven = replace(
            patient, dose_gy=np.flip(patient.dose_gy[kept], axis), dose_origin_mm=(origin[0], origin[1], origin[2])
        )
        write_patient(uneven, folder)

    return plant
