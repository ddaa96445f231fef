"""Looks for signs that the CT, the contours or the dose of a patient lie elsewhere; `ctan.dicom.fit` measures them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.cases.volumes import to_case_axes
from ctan.dicom.dose import exchanged
from ctan.dicom.fit import Spacing, air_signs, body_signs, dosed_body, is_square, judged_fit, square_signs, target_signs
from ctan.dicom.settings import DicomConfig

if TYPE_CHECKING:
    import SimpleITK

Mask = npt.NDArray[np.bool_]

_COARSE = 2


def coarse(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every second row and column of a volume (posterior, left, inferior), for what need not be exact."""
    return volume[::_COARSE, ::_COARSE]


def remarks_on_places(
    image: SimpleITK.Image,
    spacing_mm: Spacing,
    seen: Mask,
    structures: Mapping[str, Mask],
    drawn: Mask | None,
    planned: tuple[npt.NDArray[np.float32], Mask, npt.NDArray[np.float32] | None] | None,
    config: DicomConfig,
) -> tuple[str, ...]:
    """Return a remark where there is a sign that CT, contours or dose lie elsewhere.

    Args:
        image: the CT.
        spacing_mm: of masks.
        seen: coarse (posterior, left, inferior), what is no air in the CT.
        structures: the same axes, not coarse; without the body.
        drawn: the body contour.
        planned: the dose in Gy, where it is known, and the dose as it is with its PixelSpacing exchanged, or None.
        config: which structures are targets, and what becomes of contradictions.

    Raises:
        DataError: when two signs agree.
    """
    wide = (spacing_mm[0] * _COARSE, spacing_mm[1] * _COARSE, spacing_mm[2])
    signs, outline, where = [], drawn, None
    if drawn is not None:
        signs += body_signs("the body contour", coarse(drawn), seen, wide)
    if structures:
        signs += air_signs(np.logical_or.reduce([coarse(mask) for mask in structures.values()]), seen)
    if planned is not None:
        dose, known, other = planned
        if (dosed := dosed_body(coarse(dose), coarse(known), seen)) is not None:
            signs += body_signs("the region with dose", dosed, seen, wide)
            if drawn is None:
                outline, where = dose > 0, known
        if targets := [structures[name] for name in config.targets if name in structures]:
            signs += target_signs(np.logical_or.reduce(targets), dose, known, spacing_mm, other)
    if not is_square(image.GetSpacing()[:2]):
        signs += square_signs(image.GetSpacing()[:2], *_readings(image, outline, where, seen))
    return judged_fit(signs, refuse=config.contradictions == "refuse")


def _readings(image: SimpleITK.Image, outline: Mask | None, where: Mask | None, seen: Mask) -> list[Any]:
    """Return the body's outline as it is read, and as it were with the CT's spacing exchanged; each with the CT's."""
    if outline is None:
        return []
    within = np.ones(outline.shape, bool) if where is None else where
    return [
        (coarse(one), seen & coarse(inside))
        for one, inside in ((outline, within), (_exchanged(outline, image), _exchanged(within, image)))
    ]


def _exchanged(mask: Mask, image: SimpleITK.Image) -> Mask:
    """Return a mask that lies in mm as it would lie on the voxels of an image whose spacing is exchanged."""
    import SimpleITK as sitk

    oriented = sitk.DICOMOrient(image, "LPI")
    volume = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(mask, (2, 0, 1))).astype(np.uint8))
    volume.CopyInformation(oriented)
    other = sitk.DICOMOrient(exchanged(image), "LPI")
    return to_case_axes(sitk.Resample(volume, other, sitk.Transform(), sitk.sitkNearestNeighbor, 0))[0].astype(bool)
