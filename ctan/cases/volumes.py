"""CT volumes from SimpleITK images, in the axis order and the value range that every data set shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK

Box = tuple[slice, slice, slice]

HU_OFFSET = 1024  # stored CT values are HU + 1024
MAX_CT = 4095
_SAMPLE = 500_000  # voxels that CT numbers are judged by
_SOFT_HU = (-250.0, 350.0)
_LEAST_SOFT = 0.05  # share of what is no air
_AIR_HU = -200.0
_MOST_CLIPPED = 0.02  # share of what is no air; metal stays below
_LINE = 64  # bytes that a processor reads at once
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

    axes, _ = case_axes(image.GetDirection())
    down, across, along = (float(image.GetSpacing()[axis]) for axis in axes)
    return laid_out(in_case_axes(sitk.GetArrayViewFromImage(image), image.GetDirection())), (down, across, along)


def case_axes(direction: Sequence[float]) -> tuple[list[int], list[bool]]:
    """Return which axis of an image each axis of a case is, or is closest to, and whether it runs the other way.

    Args:
        direction: the image's nine direction cosines, row by row, as SimpleITK has them.
    """
    along = np.array(direction).reshape(3, 3)[[1, 0, 2]] * np.array([[1], [1], [-1]])  # posterior, left, inferior
    left, axes = np.abs(along), [0, 0, 0]
    for _ in range(3):  # the closest pair first, as DICOMOrient does
        line, axis = (int(place) for place in np.unravel_index(int(left.argmax()), left.shape))
        axes[line] = axis
        left[line], left[:, axis] = -1, -1
    return axes, [bool(line[axis] < 0) for line, axis in zip(along, axes, strict=True)]


def in_case_axes(array: npt.NDArray[Any], direction: Sequence[float]) -> npt.NDArray[Any]:
    """Return a view of the (z, y, x) array of an image with axes (posterior, left, inferior); see `case_axes`."""
    axes, turned = case_axes(direction)
    view = array.transpose([2 - axis for axis in axes])
    return view[tuple(slice(None, None, -1 if back else 1) for back in turned)]


def image_box(box: Box, shape: Sequence[int], direction: Sequence[float]) -> Box:
    """Return the box of an image's (z, y, x) array that a box (posterior, left, inferior) of a case is.

    Args:
        box: slices with a start and an end each.
        shape: of the case.
        direction: see `case_axes`.
    """
    found = [slice(0)] * 3
    for part, size, axis, back in zip(box, shape, *case_axes(direction), strict=True):
        found[2 - axis] = slice(size - part.stop, size - part.start) if back else part
    return found[0], found[1], found[2]


def box_of(mask: npt.NDArray[Any]) -> Box:
    """Return the box around a 3D mask of ones in zeros; an empty one around nothing."""
    inside = mask.view(bool) if mask.dtype == np.uint8 else mask
    box = [slice(0, size) for size in mask.shape]
    for axis in np.argsort(np.abs(mask.strides))[::-1]:  # whole planes first
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside[tuple(box)].any(axis=others))
        if not places.size:
            return slice(0), slice(0), slice(0)
        box[axis] = slice(int(places[0]), int(places[-1]) + 1)
    return box[0], box[1], box[2]


def laid_out(view: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy of a 3D view whose last axis is the closest in memory.

    Planes are exchanged one by one in a small buffer: steps from slice to slice of a volume are often a power of two,
    which a processor's cache holds few of.
    """
    result = np.empty(view.shape, view.dtype)
    _, rows, columns = view.shape
    if not result.size or np.argmin(np.abs(view.strides)) != 1:
        result[:] = view
        return result
    buffer = np.empty((columns, rows + _LINE // view.itemsize), view.dtype)[:, :rows]
    for plane, source in zip(result, view, strict=True):
        buffer[:] = source.T
        plane[:] = buffer.T
    return result


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
