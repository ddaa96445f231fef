"""Patches of a case on the working grid, a share of them with a structure in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import StoredCase

Place = tuple[slice, ...]


def choose_patch(case: StoredCase, shape: Sequence[int], foreground_share: float, rng: np.random.Generator) -> Place:
    """Choose the place of a patch; one larger than the grid is the grid.

    Args:
        case: on the working grid.
        shape: of the patch.
        foreground_share: of the patches that have a voxel of a structure in their middle, as far as the grid's edges
            allow it: one of those contoured in this case, each as often as another, so that small ones are seen too.
            The others lie anywhere, as do all of a case without a structure.
        rng: the only source of randomness.
    """
    grid = next(iter(case.image.values())).shape[-len(shape) :]
    size = [min(sizes) for sizes in zip(shape, grid, strict=True)]
    most = [whole - part for whole, part in zip(grid, size, strict=True)]
    corner = [int(rng.integers(last + 1)) for last in most]
    if rng.random() < foreground_share:
        contoured = [mask for mask, known in zip(case.masks, case.known, strict=True) if known and mask.any()]
        if contoured:
            inside = np.flatnonzero(contoured[rng.integers(len(contoured))])
            voxel = np.unravel_index(inside[rng.integers(len(inside))], grid)
            corner = [min(max(int(v) - s // 2, 0), m) for v, s, m in zip(voxel, size, most, strict=True)]
    return tuple(slice(start, start + part) for start, part in zip(corner, size, strict=True))


def cut_out(case: StoredCase, place: Place) -> StoredCase:
    """Return a part of a case."""

    def cut(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array[(..., *place)] if array.size else array  # type: ignore[arg-type]

    return replace(
        case,
        image={name: cut(image) for name, image in case.image.items()},
        masks=cut(case.masks),
        dose=cut(case.dose),
        possible_dose=cut(case.possible_dose),
        dose_known=cut(case.dose_known),
        target_distance=cut(case.target_distance),
    )
