"""CT volumes from SimpleITK images, in the axis order and the value range that every data set shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK

HU_OFFSET = 1024  # stored CT values are HU + 1024
MAX_CT = 4095
_SAMPLE = 500_000  # voxels that CT numbers are judged by
_SOFT_HU = (-250.0, 350.0)
_LEAST_SOFT = 0.05  # share of what is no air
_AIR_HU = -200.0
_MOST_CLIPPED = 0.02  # share of what is no air; metal stays below
_OBLIQUE = 1e-3  # largest deviation of a direction cosine from 0 or 1


def is_axis_aligned(image: SimpleITK.Image) -> bool:
    """Return whether the axes of a 3D image are those of the patient, in any order and direction."""
    cosines = np.abs(np.array(image.GetDirection()))
    return bool(np.all((cosines < _OBLIQUE) | (cosines > 1 - _OBLIQUE)))


def to_case_axes(image: SimpleITK.Image) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    """Return an axis-aligned 3D image with axes (posterior, left, inferior) and the voxel edges in that order, in mm.

    Index 0 of each axis is the most anterior, right and superior voxel, wherever the patient lay.

    Args:
        image: 3D; see `is_axis_aligned`.
    """
    import SimpleITK as sitk

    oriented = sitk.DICOMOrient(image, "LPI")  # x grows to the left, y to posterior, z to inferior
    array = np.transpose(sitk.GetArrayFromImage(oriented), (1, 2, 0))  # (z, y, x) -> (y, x, z)
    x, y, z = oriented.GetSpacing()
    return np.ascontiguousarray(array), (y, x, z)


def from_case_axes(array: npt.NDArray[Any], direction: Sequence[float]) -> npt.NDArray[Any]:
    """Undo `to_case_axes`: return a volume (posterior, left, inferior) as the (z, y, x) array of an image.

    Args:
        array: on the grid of a case.
        direction: the image's nine direction cosines, row by row, as SimpleITK has them.
    """
    import SimpleITK as sitk

    plain = array.astype(np.uint8) if array.dtype == bool else array
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(plain, (2, 0, 1))))
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    nearest = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines([float(value) for value in direction])
    found: npt.NDArray[Any] = sitk.GetArrayFromImage(sitk.DICOMOrient(image, nearest))
    return found.astype(bool) if array.dtype == bool else found


def stored_ct(hounsfield: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return HU as stored: HU + 1024, rounded, clipped to 0..4095."""
    return np.clip(np.rint(hounsfield.astype(np.float32)) + HU_OFFSET, 0, MAX_CT).astype(np.uint16)


def signs_of_wrong_ct_numbers(hounsfield: npt.NDArray[Any]) -> list[str]:
    """Return what in a CT speaks against its values being HU, a clause each; usually nothing.

    Ask before clipping (`stored_ct`): afterwards everything looks plausible. Air, soft tissue and what is brighter are
    told apart by the image's own contrast, so that shifted and scaled values show.

    Args:
        hounsfield: HU, (posterior, left, inferior); any scale of the axes.
    """
    step = max(1, round((hounsfield.size / _SAMPLE) ** (1 / 3)))
    sample = hounsfield[(slice(None, None, step),) * hounsfield.ndim].astype(np.float64)
    first, low, high = np.percentile(sample, (1, 5, 95))
    bright = sample[sample > (low + high) / 2]
    if bright.size == 0:
        return [f"all values are {high:.0f} HU"]
    signs = []
    if not _SOFT_HU[0] < (middle := float(np.median(bright))) < _SOFT_HU[1]:
        signs.append(f"the median of what is no air is {middle:.0f} HU, expected soft tissue")
    soft = float(np.mean((bright > _SOFT_HU[0]) & (bright < _SOFT_HU[1])))
    if soft < _LEAST_SOFT:
        signs.append(f"{soft:.1%} of what is no air has the HU of soft tissue")
    border = np.concatenate([np.ravel(hounsfield[index]) for index in (0, -1)])
    if (edge := float(np.median(border))) > _SOFT_HU[1]:
        signs.append(f"the image's border has a median of {edge:.0f} HU, expected air")
    if first > _AIR_HU:
        signs.append(f"nothing is as dark as air, 99% of the image lies above {first:.0f} HU")
    clipped = float(np.mean(bright > MAX_CT - HU_OFFSET))
    if clipped > _MOST_CLIPPED:
        signs.append(f"{clipped:.1%} of what is no air lies above {MAX_CT - HU_OFFSET} HU")
    return signs


def judged_ct_numbers(signs: Sequence[str]) -> tuple[str, ...]:
    """Return a remark for a single sign of wrong CT numbers.

    Raises:
        DataError: when two signs agree.
    """
    if len(signs) > 1:
        raise DataError(
            f"CT: the values are not HU: {'; '.join(signs)}; check slope, intercept, sign and padding value, and "
            f"export it again"
        )
    return tuple(f"CT: {sign}; check that its values are HU" for sign in signs)
