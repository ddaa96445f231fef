"""The working grid: where it lies on a case's native grid, and the way there and back.

Coordinates count native voxels from the outer corner of the grid: voxel `i` reaches from `i` to `i + 1`, its centre is
`i + 0.5`. Interpolation in these coordinates is what torch calls `align_corners=False`. Every map is a product of one
small matrix an axis, so it is exact, fast and the same for any number of axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_FAR_MM = 127
_TOUCHES = 1e-6  # share of a working voxel; less is rounding
_DIMS_OF_VOLUME = 3  # pictures are shown whole: only volumes are searched for a body


@dataclass(frozen=True)
class Geometry:
    """Where a working grid lies on a native grid.

    Attributes:
        native_shape: voxels per axis of the native grid.
        native_spacing_mm: voxel edges of the native grid.
        shape: voxels per axis of the working grid.
        spacing_mm: voxel edges of the working grid.
        corner: outer corner of the working grid in native voxels; negative where the working grid sticks out.
    """

    native_shape: tuple[int, ...]
    native_spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    corner: tuple[float, ...]

    @property
    def is_resampled(self) -> bool:
        """Whether working voxels differ from native ones; otherwise the working grid is a crop, padded."""
        return self.spacing_mm != self.native_spacing_mm

    @property
    def ratio(self) -> tuple[float, ...]:
        """Edge of a working voxel in native voxels, per axis."""
        return tuple(w / n for w, n in zip(self.spacing_mm, self.native_spacing_mm, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the geometry as lists of numbers."""
        return {name: list(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        """Rebuild what `to_json` returned."""
        return cls(**{name: tuple(numbers) for name, numbers in value.items()})


def place(
    body: Bools,
    possible: Bools,
    native_spacing_mm: tuple[float, ...],
    grid_shape: tuple[int, ...],
    grid_spacing_mm: tuple[float, ...] | None,
) -> Geometry:
    """Place the working grid: centred on the body united with the possible-dose mask, moved inside the native grid.

    It never looks at contours, which are what is to be predicted. The possible-dose mask is inside whenever it fits.

    Args:
        body: (D, H, W) the patient.
        possible: (D, H, W) the possible-dose mask.
        native_spacing_mm: voxel edges of the native grid.
        grid_shape: voxels of the working grid.
        grid_spacing_mm: voxel edges of the working grid; None for the native ones.
    """
    spacing_mm = grid_spacing_mm or native_spacing_mm
    corner = []
    patient = _bounding_box(body | possible)
    mask = _bounding_box(possible) if possible.any() else patient
    for axis, (first, last) in enumerate(patient):
        size = grid_shape[axis] * spacing_mm[axis] / native_spacing_mm[axis]
        start = (first + last - size) / 2
        start = _between(start, 0, body.shape[axis] - size)
        start = _between(start, mask[axis][0], mask[axis][1] - size)
        corner.append(float(np.floor(start)) if spacing_mm == native_spacing_mm else start)
    return Geometry(body.shape, native_spacing_mm, grid_shape, spacing_mm, tuple(corner))


def fit(native_shape: tuple[int, ...], native_spacing_mm: tuple[float, ...], grid_shape: tuple[int, ...]) -> Geometry:
    """Place the working grid over the whole image: every axis is resized.

    Args:
        native_shape: voxels per axis of the native grid.
        native_spacing_mm: voxel edges of the native grid.
        grid_shape: voxels of the working grid.
    """
    extents = (n * edge for n, edge in zip(native_shape, native_spacing_mm, strict=True))
    spacing_mm = tuple(extent / n for extent, n in zip(extents, grid_shape, strict=True))
    return Geometry(native_shape, native_spacing_mm, grid_shape, spacing_mm, (0.0,) * len(grid_shape))


def _between(value: float, one: float, other: float) -> float:
    return float(np.clip(value, min(one, other), max(one, other)))


def _bounding_box(mask: Bools) -> list[tuple[int, int]]:
    """Return (first, last + 1) per axis; the whole grid when the mask is empty."""
    if not mask.any():
        return [(0, size) for size in mask.shape]
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append((int(occupied[0]), int(occupied[-1]) + 1))
    return box


def _above(image: npt.NDArray[Any], threshold: float | None) -> Bools:
    """Return which voxels are above a threshold, of several channels in any; without a threshold all."""
    above: Bools = np.ones(image.shape, bool) if threshold is None else image > threshold
    return np.asarray(above.any(axis=0)) if above.ndim > _DIMS_OF_VOLUME else above


def occupied_extent(image: npt.NDArray[Any], threshold: float | None, possible: Bools | None = None) -> tuple[int, ...]:
    """Return the size in voxels of the box around everything above a threshold and the possible-dose mask.

    Args: see `occupied_box`.
    """
    return tuple(last - first for first, last in occupied_box(image, threshold, possible))


def occupied_box(
    image: npt.NDArray[Any], threshold: float | None, possible: Bools | None = None
) -> list[tuple[int, int]]:
    """Return the first voxel, and the last + 1, per axis of the box around what is above a threshold or possible.

    Args:
        image: (..., *axes) raw values, with or without a channel axis.
        threshold: raw value above which a voxel belongs to the patient; None: the whole image counts.
        possible: the possible-dose mask, (*axes), or None.
    """
    occupied = _above(image, threshold)
    return _bounding_box(occupied if possible is None else occupied | possible)


def to_working(array: npt.NDArray[Any], geometry: Geometry, pad_value: float = 0.0) -> npt.NDArray[Any]:
    """Bring an array from the native to the working grid.

    Args:
        array: (..., *native_shape).
        geometry: of the case.
        pad_value: value outside the native grid.

    Returns:
        (..., *shape): the same dtype, cropped and padded, when nothing is resampled; else float32, interpolated
        linearly and averaged over each working voxel.
    """
    ratio = geometry.ratio
    if not geometry.is_resampled:
        return _paste(array, geometry.shape, tuple(int(c) for c in geometry.corner), pad_value)
    matrices = [
        _axis_matrix(num_out, num_in, corner, step)
        for num_out, num_in, corner, step in zip(
            geometry.shape, geometry.native_shape, geometry.corner, ratio, strict=True
        )
    ]
    return _apply(matrices, array, pad_value)


def to_native(array: npt.NDArray[Any], geometry: Geometry, pad_value: float) -> npt.NDArray[Any]:
    """Undo `to_working`: bring an array from the working to the native grid.

    Args:
        array: (..., *shape).
        geometry: of the case.
        pad_value: value of native voxels whose centre lies outside the working grid.

    Returns:
        (..., *native_shape): the same dtype when nothing was resampled; else float32, interpolated linearly
        (`align_corners=False`; averaged where native voxels are the larger ones).
    """
    if not geometry.is_resampled:
        return _paste(array, geometry.native_shape, tuple(-int(c) for c in geometry.corner), pad_value)
    matrices = [
        _axis_matrix(num_out, num_in, -corner / step, 1 / step)
        for num_out, num_in, corner, step in zip(
            geometry.native_shape, geometry.shape, geometry.corner, geometry.ratio, strict=True
        )
    ]
    return _apply(matrices, array, pad_value)


def _paste(
    array: npt.NDArray[Any], shape: tuple[int, ...], corner: tuple[int, ...], pad_value: float
) -> npt.NDArray[Any]:
    """Cut the box of `shape` at `corner` out of `array`'s last axes, with `pad_value` where it sticks out."""
    leading = array.shape[: array.ndim - len(shape)]
    result = np.full((*leading, *shape), pad_value, array.dtype)
    source, target = [slice(None)] * len(leading), [slice(None)] * len(leading)
    for start, size, available in zip(corner, shape, array.shape[len(leading) :], strict=True):
        first, last = max(start, 0), min(start + size, available)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - start, max(first, last) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


@lru_cache(maxsize=64)  # pictures of one size share theirs
def _axis_matrix(num_out: int, num_in: int, corner: float, step: float) -> Floats:
    """Return the (num_out, num_in) weights that resample one axis.

    Output voxel `o` covers `corner + step * [o, o + 1]` in input voxels. It is the mean of `ceil(step)` evenly spaced
    samples of the linear interpolant, level past the outermost centres: plain interpolation where it is the smaller
    voxel, the mean of the voxels it covers where `step` is whole, and exact for anything linear in mm always
    (weights by overlap are not: they shift edges by a fraction of a voxel). A sample outside the input weighs nothing.
    """
    num_samples = math.ceil(step - 1e-6)
    positions = corner + step * (np.arange(num_out * num_samples) + 0.5) / num_samples
    inside = (positions >= 0) & (positions <= num_in)
    centres = np.clip(positions, 0.5, num_in - 0.5)
    weights = np.maximum(1 - np.abs(centres[:, None] - (np.arange(num_in) + 0.5)), 0) * inside[:, None]
    matrix = weights.reshape(num_out, num_samples, num_in).mean(axis=1).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _apply(matrices: list[Floats], array: npt.NDArray[Any], pad_value: float) -> Floats:
    """Multiply the last axes with their matrices; what the weights leave open is `pad_value`."""
    result: Floats = array.astype(np.float32, copy=False)
    for axis, matrix in enumerate(reversed(matrices), start=1):
        # contiguous: numpy multiplies strided arrays without BLAS, a hundred times slower
        last = np.ascontiguousarray(np.moveaxis(result, -axis, -1))
        rows = last.reshape(-1, last.shape[-1]) @ matrix.T
        result = np.moveaxis(rows.reshape(*last.shape[:-1], len(matrix)), -1, -axis)
    if pad_value:
        covered: Floats = np.ones((), np.float32)
        for matrix in matrices:
            covered = (covered[..., None] * matrix.sum(axis=1)).astype(np.float32)
        result += np.float32(pad_value) * (1 - np.minimum(covered, 1)).astype(np.float32)
    return np.ascontiguousarray(result)


def masks_to_working(masks: Bools, geometry: Geometry) -> Bools:
    """Bring masks to the working grid: voxels at least half covered.

    A structure thinner than half a working voxel keeps the voxels it covers most, so none vanishes: an organ that is
    contoured but empty would teach the network that it is absent.

    Args:
        masks: (S, *native_shape).

    Returns:
        (S, *shape) bool.
    """
    if not geometry.is_resampled:
        return to_working(masks, geometry)
    kept = []
    for mask in masks:
        share = to_working(mask, geometry)
        kept.append((share >= min(0.5, share.max())) & (share > 0))
    return np.stack(kept) if kept else np.zeros((0, *geometry.shape), bool)


def touching(mask: Bools, geometry: Geometry) -> Bools:
    """Return the working voxels (*shape) that touch a mask (*native_shape)."""
    return np.asarray(to_working(mask, geometry) > _TOUCHES)


def dose_to_working(dose: Floats, known: Bools, geometry: Geometry) -> tuple[Floats, Bools]:
    """Bring the dose to the working grid without the dark rim that plain averaging leaves.

    Dose ends at the edge of the possible-dose mask, and where it is not known. A working voxel on that edge gets the
    mean of the part inside, and those one voxel further out the value nearest to them: both are what interpolation
    back to the native voxels of the rim needs.

    Args:
        dose: (*native_shape) float32, Gy.
        known: (*native_shape) where dose is possible and known.
        geometry: of the case.

    Returns:
        dose: (*shape) float32, Gy.
        known: (*shape) bool, voxels that touch the known dose: all that scored voxels depend on.
    """
    if not geometry.is_resampled:
        return to_working(np.where(known, dose, 0), geometry), touching(known, geometry)
    share = to_working(known, geometry)
    touched = share > _TOUCHES
    if not touched.any():
        return np.zeros(geometry.shape, np.float32), touched
    mean = to_working(np.where(known, dose, 0), geometry) / np.where(touched, share, 1)
    from scipy import ndimage

    rim = ndimage.binary_dilation(touched, np.ones((3,) * touched.ndim))
    nearest = ndimage.distance_transform_edt(
        ~touched, sampling=geometry.spacing_mm, return_distances=False, return_indices=True
    )
    return np.where(rim, mean[tuple(nearest)], 0).astype(np.float32), touched


def body_mask(image: npt.NDArray[Any], threshold: float | None) -> Bools:
    """Return the patient: the largest connected part of an image above a threshold.

    Args:
        image: (D, H, W) raw values, or (C, D, H, W).
        threshold: raw value above which a voxel belongs to the patient; None: the whole image counts.
    """
    from scipy import ndimage

    above = _above(image, threshold)
    if threshold is None:
        return above
    parts, num_parts = ndimage.label(above)
    if num_parts == 0:
        return np.zeros(above.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def signed_distance_mm(mask: Bools, spacing_mm: tuple[float, ...]) -> npt.NDArray[np.int8]:
    """Return the signed Euclidean distance to a mask.

    Outside: distance in mm from a voxel's centre to the nearest centre inside. Inside: minus the distance to the
    nearest centre outside. Rounded, clipped to -127..127; 127 everywhere for an empty mask.
    """
    if not mask.any():
        return np.full(mask.shape, _FAR_MM, np.int8)
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    around = tuple(
        slice(max(first - 1, 0), min(last + 1, size))
        for (first, last), size in zip(_bounding_box(mask), mask.shape, strict=True)
    )
    if not mask.all():
        distance[around] -= ndimage.distance_transform_edt(mask[around], sampling=spacing_mm)
    return np.rint(np.clip(distance, -_FAR_MM, _FAR_MM)).astype(np.int8)
