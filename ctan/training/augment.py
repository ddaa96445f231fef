"""Augmentation of a case on the working grid: flip, rotate, translate, in this order.

All randomness comes from the generator that is passed in, so that it is a function of (seed, epoch, case).
Axes of a volume are (posterior, left, inferior), written `D, H, W`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ctan.config import TrainingConfig
from ctan.store import StoredCase
from ctan.tasks import Segmentation, Task

Array = npt.NDArray[Any]
_LEFT_RIGHT = 1
_BEAM_ANGLE_DEGREES = 40  # nine equispaced beams
_FAR_MM = 127  # what target_distance says of a voxel that moved in from outside


def augment(
    case: StoredCase,
    tasks: Sequence[Task],
    structures: tuple[str, ...],
    config: TrainingConfig,
    rng: np.random.Generator,
) -> StoredCase:
    """Return the case, randomly flipped, rotated and translated as the settings allow.

    Args:
        case: on the working grid, three axes.
        tasks: name the paired structures that a flip swaps.
        structures: names of `case.masks`, in order.
        config: probabilities and largest shift.
        rng: the only source of randomness.
    """
    if rng.random() < config.flip_probability:
        case = flip_left_right(case, mirrored_order(tasks, structures))
    if rng.random() < config.rotate_probability:
        case = rotate_about_z(case, _BEAM_ANGLE_DEGREES * int(rng.integers(1, 360 // _BEAM_ANGLE_DEGREES)))
    if config.translate_voxels:
        case = translate(case, _random_shift(case, config.translate_voxels, rng))
    return case


def mirrored_order(tasks: Sequence[Task], structures: tuple[str, ...]) -> list[int]:
    """Return which structure is seen at each position of `structures` once left and right are swapped."""
    pairs = [pair for task in tasks if isinstance(task, Segmentation) for pair in task.mirrored_pairs]
    return list(Segmentation("all", structures, tuple(pairs)).mirrored_order)


def flip_left_right(case: StoredCase, order: Sequence[int]) -> StoredCase:
    """Return the case mirrored, paired structures swapped in masks and known-flags."""
    flipped = _map_arrays(case, lambda array, _: np.flip(array, array.ndim - 3 + _LEFT_RIGHT))
    return replace(flipped, masks=flipped.masks[list(order)], known=case.known[list(order)])


def rotate_about_z(case: StoredCase, degrees: float) -> StoredCase:
    """Return the case rotated in the axial plane about the grid's centre, linear for CT and dose, nearest for the rest.

    The two in-plane spacings are equal (OpenKBP), so a rotation in voxels is one in millimetres.
    """
    size_d, size_h = case.dose.shape[0], case.dose.shape[1]
    angle = np.deg2rad(degrees)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    # affine_grid works in coordinates normalised by each axis' size; x is H, y is D
    theta = torch.tensor([[cos, -sin * size_d / size_h, 0], [sin * size_h / size_d, cos, 0]], dtype=torch.float32)
    grid = functional.affine_grid(theta[None], [1, 1, size_d, size_h], align_corners=False)

    def rotated(array: Array, outside: float) -> Array:
        linear = array.dtype.kind == "f" or array.dtype.itemsize > 1
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0), np.float32)) - outside
        planes = planes.reshape(1, -1, size_d, size_h)
        moved = functional.grid_sample(planes, grid, "bilinear" if linear else "nearest", align_corners=False)
        result = np.moveaxis(moved.numpy().reshape(array.shape[-1], *array.shape[:-1]), 0, -1) + outside
        return (np.rint(result) if array.dtype.kind in "iu" else result).astype(array.dtype)

    return _map_arrays(case, rotated)


def translate(case: StoredCase, shift: tuple[int, int, int]) -> StoredCase:
    """Return the case moved by whole voxels per axis; what moves in is air without dose."""

    def moved(array: Array, outside: float) -> Array:
        result = np.full_like(array, outside)
        source = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, array.shape[-3:], strict=True))
        target = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, array.shape[-3:], strict=True))
        result[(Ellipsis, *target)] = array[(Ellipsis, *source)]  # type: ignore[index, arg-type]
        return result

    return _map_arrays(case, moved)


def _random_shift(case: StoredCase, largest: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw a shift that keeps the possible-dose mask and every contoured structure inside the grid."""
    occupied = case.dose_mask | case.masks[case.known].any(0)
    shift = []
    for axis, size in enumerate(occupied.shape):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(occupied.any(others))
        low, high = (-int(where[0]), size - 1 - int(where[-1])) if len(where) else (-largest, largest)
        shift.append(int(rng.integers(max(low, -largest), min(high, largest) + 1)))
    return shift[0], shift[1], shift[2]


def _map_arrays(case: StoredCase, change: Callable[[Array, float], Array]) -> StoredCase:
    """Apply `change(array, value outside the grid)` to every array of the case."""
    return replace(
        case,
        image={name: change(image, 0) for name, image in case.image.items()},
        masks=change(case.masks, 0),
        dose=change(case.dose, 0),
        dose_mask=change(case.dose_mask, 0),
        target_distance=change(case.target_distance, _FAR_MM),
    )
