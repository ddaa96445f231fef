"""CT volumes from SimpleITK images, in the axis order and the value range that every data set shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import SimpleITK

HU_OFFSET = 1024  # stored CT values are HU + 1024
MAX_CT = 4095
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


def stored_ct(hounsfield: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return HU as stored: HU + 1024, rounded, clipped to 0..4095."""
    return np.clip(np.rint(hounsfield.astype(np.float32)) + HU_OFFSET, 0, MAX_CT).astype(np.uint16)
