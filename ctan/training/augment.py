"""Augmentation of a case on the working grid: flip, rotate and resize, translate, colour, in this order.

All randomness comes from the generator that is passed in, so that it is a function of (seed, epoch, case). Which
changes leave a case plausible is the data set's to say (`Augmentation`), how often is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ctan.cases import Augmentation, DataSpec, StoredCase
from ctan.config import TrainingConfig

Array = npt.NDArray[Any]
_FAR_MM = 127  # what target_distance says of a voxel that moved in from outside
_MAX_COLOUR_SHIFT = 0.1  # of the range of values: brightness, and colour balance a channel
_MAX_CONTRAST = 0.2


def augment(case: StoredCase, spec: DataSpec, config: TrainingConfig, rng: np.random.Generator) -> StoredCase:
    """Return the case, randomly changed as the settings allow.

    Args:
        case: on the working grid.
        spec: says which changes are plausible, and which structures a flip swaps.
        config: probabilities and largest shift.
        rng: the only source of randomness.
    """
    allowed = spec.augmentation
    for axis in allowed.flip_axes:
        if rng.random() < config.flip_probability:
            pairs = mirrored_order(spec) if axis == allowed.left_right_axis else None
            case = flip(case, axis, pairs)
    if allowed.rotate_plane is not None and rng.random() < config.rotate_probability:
        scale = 1 + allowed.max_scale * rng.uniform(-1, 1) if allowed.max_scale else 1.0
        case = rotate(case, allowed.rotate_plane, _random_angle(allowed, rng), scale)
    if config.translate_voxels:
        case = translate(case, _random_shift(case, config.translate_voxels, rng))
    if allowed.colour and rng.random() < config.colour_probability:
        case = recolour(case, rng)
    return case


def _random_angle(allowed: Augmentation, rng: np.random.Generator) -> float:
    if not allowed.rotate_step_degrees:
        return float(rng.uniform(-allowed.max_rotate_degrees, allowed.max_rotate_degrees))
    return allowed.rotate_step_degrees * int(rng.integers(1, round(360 / allowed.rotate_step_degrees)))


def mirrored_order(spec: DataSpec) -> list[int]:
    """Return which structure is seen at each position of `spec.structures` once left and right are swapped."""
    swap = dict(spec.mirrored_pairs) | {right: left for left, right in spec.mirrored_pairs}
    return [spec.structures.index(swap.get(name, name)) for name in spec.structures]


def flip(case: StoredCase, axis: int, order: Sequence[int] | None = None) -> StoredCase:
    """Return the case mirrored along a spatial axis; `order` says which structure is seen at each place afterwards."""
    dims = len(case.spacing_mm)
    flipped = _map_arrays(case, lambda array, _: np.flip(array, array.ndim - dims + axis))
    if order is None:
        return flipped
    return replace(flipped, masks=flipped.masks[list(order)], known=case.known[list(order)])


def rotate(case: StoredCase, plane: tuple[int, int], degrees: float, scale: float = 1.0) -> StoredCase:
    """Return the case rotated and resized in a plane about the grid's centre.

    Intensities and dose are interpolated linearly, all else takes the nearest voxel. Voxels are taken to be square in
    the plane, so that a rotation in voxels is one in millimetres.

    Args:
        case: on the working grid.
        plane: two spatial axes.
        degrees: angle, from the first axis of the plane towards the second.
        scale: larger than 1 enlarges.
    """
    dims = len(case.spacing_mm)
    grid_shape = next(iter(case.image.values())).shape[-dims:]
    size_d, size_h = (grid_shape[axis] for axis in plane)
    angle = np.deg2rad(degrees)
    cos, sin = float(np.cos(angle)) / scale, float(np.sin(angle)) / scale
    # affine_grid works in coordinates normalised by each axis' size; x is the second axis of the plane, y the first
    theta = torch.tensor([[cos, -sin * size_d / size_h, 0], [sin * size_h / size_d, cos, 0]], dtype=torch.float32)
    grid = functional.affine_grid(theta[None], [1, 1, size_d, size_h], align_corners=False)
    nearest, inside = _nearest(grid[0].numpy())

    def rotated(array: Array, outside: float) -> Array:
        axes = tuple(array.ndim - dims + axis for axis in plane)
        moved = np.moveaxis(array, axes, (-2, -1))
        if array.dtype.kind != "f" and array.dtype.itemsize == 1 and array.dtype != np.uint8:
            taken = np.take(moved.reshape(-1, size_d * size_h), nearest, axis=1)
            taken[:, ~inside] = outside
            return np.moveaxis(taken.reshape(moved.shape), (-2, -1), axes)
        planes = torch.from_numpy(np.ascontiguousarray(moved, np.float32)) - outside
        sampled = functional.grid_sample(planes.reshape(1, -1, size_d, size_h), grid, "bilinear", align_corners=False)
        result = np.moveaxis(sampled.numpy().reshape(moved.shape), (-2, -1), axes) + outside
        return (np.rint(result) if array.dtype.kind in "iu" else result).astype(array.dtype)

    return _map_arrays(case, rotated)


def _nearest(grid: Array) -> tuple[Array, Array]:
    """Return which voxel of a plane lies nearest to each place, by its number, and whether there is one.

    The same places as those of `torch.nn.functional.grid_sample`, float32 rounding and ties to even included. It takes
    one plane after the other and float32 alone; most of a case are masks, which a gather moves in a tenth of the time.

    Args:
        grid: (rows, columns, 2), column and row of each place between -1 and 1, the outer edges of the plane.
    """
    sizes = np.array(grid.shape[1::-1], np.float32)
    column, row = np.moveaxis(np.rint((grid + 1) * (sizes / 2) - np.float32(0.5)), -1, 0)
    inside = (column >= 0) & (column < sizes[0]) & (row >= 0) & (row < sizes[1])
    return np.where(inside, row * sizes[0] + column, 0).astype(np.intp).ravel(), inside.ravel()


def recolour(case: StoredCase, rng: np.random.Generator) -> StoredCase:
    """Return the case with another brightness, contrast and colour balance."""

    def changed(image: Array) -> Array:
        top = np.iinfo(image.dtype).max
        channels = (len(image),) + (1,) * (image.ndim - 1)
        contrast = 1 + _MAX_CONTRAST * rng.uniform(-1, 1)
        shift = _MAX_COLOUR_SHIFT * top * (rng.uniform(-1, 1) + rng.uniform(-1, 1, channels)) / 2
        mean = image.mean(dtype=np.float64)
        return np.rint(np.clip((image - mean) * contrast + mean + shift, 0, top)).astype(image.dtype)

    return replace(case, image={name: changed(image) for name, image in case.image.items()})


def translate(case: StoredCase, shift: tuple[int, ...]) -> StoredCase:
    """Return the case moved by whole voxels per axis; what moves in is air without dose."""

    def moved(array: Array, outside: float) -> Array:
        result, sizes = np.full_like(array, outside), array.shape[-len(shift) :]
        source = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, sizes, strict=True))
        target = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, sizes, strict=True))
        result[(Ellipsis, *target)] = array[(Ellipsis, *source)]  # type: ignore[index, arg-type]
        return result

    return _map_arrays(case, moved)


def _random_shift(case: StoredCase, largest: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw a shift that keeps the known dose and every contoured structure inside the grid."""
    grid_shape = next(iter(case.image.values())).shape[-len(case.spacing_mm) :]
    occupied: Array = np.zeros(grid_shape, bool)
    for part in (*case.masks[case.known], *([case.dose_known] if case.dose_known.size else [])):
        occupied = occupied | part
    shift = []
    for axis, size in enumerate(occupied.shape):
        others = tuple(a for a in range(occupied.ndim) if a != axis)
        where = np.flatnonzero(occupied.any(axis=others))
        low, high = (-int(where[0]), size - 1 - int(where[-1])) if len(where) else (-largest, largest)
        shift.append(int(rng.integers(max(low, -largest), min(high, largest) + 1)))
    return tuple(shift)


def _map_arrays(case: StoredCase, change: Callable[[Array, float], Array]) -> StoredCase:
    """Apply `change(array, value outside the grid)` to every array of the case that is not empty."""

    def changed(array: Array, outside: float) -> Array:
        return change(array, outside) if array.size else array

    return replace(
        case,
        image={name: change(image, 0) for name, image in case.image.items()},
        masks=changed(case.masks, 0),
        dose=changed(case.dose, 0),
        possible_dose=changed(case.possible_dose, 0),
        dose_known=changed(case.dose_known, 0),
        target_distance=changed(case.target_distance, _FAR_MM),
    )
