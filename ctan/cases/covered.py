"""What a contour says between whole voxels: which of 8 x 8 points a voxel lie in a structure, and the dose there.

A mask is right to half a voxel, and a dose may change by grays over that. Volumes and doses of a planning system are of
the contour itself, so that dose-volume numbers are taken at points, with the dose interpolated between voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ctan.cases.case import Case

PER_EDGE = 8  # points along each edge of a voxel in a slice
_MOST_POINTS = 8_000_000  # 32 MB a dose; of larger structures an eighth of the points tells as much
_OFFSETS = (np.arange(PER_EDGE) + 0.5) / PER_EDGE - 0.5  # of the points from the centre, in voxels
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Covered:
    """Where a structure's outline runs through voxels of a case.

    All other voxels are covered wholly or not at all, as the structure's mask says.

    Attributes:
        voxels: (N,) flat indices of these voxels, ascending.
        points: (N, 8) uint8, their points inside: bit 7 - b of byte a is point (a, b) along the axes of a slice, in
            their order.
        axis: of the case, across its slices.
    """

    voxels: npt.NDArray[np.int64]
    points: npt.NDArray[np.uint8]
    axis: int

    @property
    def inside(self) -> Mask:
        """(N, 8, 8) bool."""
        return np.unpackbits(self.points, axis=1).reshape(-1, PER_EDGE, PER_EDGE).astype(bool)


@dataclass(frozen=True)
class Inside:
    """The doses in a structure, evenly spread over its volume.

    Attributes:
        doses: (M,) Gy for each dose that was asked for, at the same places, where the dose is known.
        known_share: of the structure's volume.
        share: of a voxel that each stands for.
    """

    doses: tuple[Floats, ...]
    known_share: float
    share: float


def doses_inside(case: Case, mask: Mask, covered: Covered | None, doses: Sequence[Floats], known: Mask) -> Inside:
    """Return the doses in a structure: at its points where there is a contour, else of whole voxels.

    Between voxels the dose is interpolated linearly in a slice, between those inside the body whose dose is known; it
    is that of the slice across slices.

    Args:
        case: whose grid it is; where dose is possible.
        mask: (D, H, W) of the structure.
        covered: its outline, if there is one.
        doses: (D, H, W) Gy each.
        known: (D, H, W) where the dose is known.
    """
    from ctan.cases.case import POSSIBLE_DOSE_MASK

    if covered is None:
        seen, size = mask & known, int(np.count_nonzero(mask))
        return Inside(tuple(dose[seen] for dose in doses), int(np.count_nonzero(seen)) / max(size, 1), 1.0)
    valid = case.masks[POSSIBLE_DOSE_MASK] & known
    return _at_points(mask, covered, doses, known, valid)


def _at_points(mask: Mask, covered: Covered, doses: Sequence[Floats], known: Mask, valid: Mask) -> Inside:
    """Go through the slices that hold points: only a slice's own are in memory at once."""
    listed = np.unravel_index(covered.voxels, mask.shape)
    order = (covered.axis, *(axis for axis in range(3) if axis != covered.axis))
    index, row, column = (listed[axis] for axis in order)
    planes, sheets, seen, trusted = (np.transpose(a, order) for a in (mask, _stacked(mask, covered), known, valid))
    volumes = [np.transpose(dose, order) for dose in doses]
    inside, kept, per_voxel = covered.inside, _kept(int(np.count_nonzero(sheets))), PER_EDGE**2
    if kept is not None:
        inside, per_voxel = inside & kept, int(np.count_nonzero(kept))
    found: list[list[Floats]] = [[] for _ in doses]
    total = 0
    for place in np.flatnonzero(sheets.any(axis=(1, 2))):
        rows, columns = (_extent(sheets[place].any(axis=other)) for other in (1, 0))
        box = (place, rows, columns)
        fine = np.repeat(np.repeat(planes[box], PER_EDGE, axis=0), PER_EDGE, axis=1)
        fine = fine.reshape(rows.stop - rows.start, PER_EDGE, columns.stop - columns.start, PER_EDGE)
        here = index == place
        if kept is not None:
            fine &= kept[:, None, :]
        fine[row[here] - rows.start, :, column[here] - columns.start, :] = inside[here]
        total += int(np.count_nonzero(fine))
        fine &= seen[box][:, None, :, None]
        for values, volume in zip(found, volumes, strict=True):
            values.append(_interpolated(volume[place], trusted[place], rows, columns)[fine])
    together = tuple(np.concatenate(values) if values else np.zeros(0, np.float32) for values in found)
    count = len(together[0]) if together else 0
    return Inside(together, count / max(total, 1), 1 / per_voxel)


def _kept(num_voxels: int) -> Mask | None:
    """Return which points of every voxel are looked at, (8, 8); None for all.

    Of large structures it is a lattice with one point in each row and column, whose middle is that of the voxel.
    """
    if num_voxels * PER_EDGE**2 <= _MOST_POINTS:
        return None
    rows, columns = np.indices((PER_EDGE, PER_EDGE))
    lattice: Mask = (3 * rows + columns) % PER_EDGE == 0
    return lattice


def _stacked(mask: Mask, covered: Covered) -> Mask:
    """Return which voxels hold points, or are covered wholly."""
    either = mask.copy()
    either.reshape(-1)[covered.voxels] = True
    return either


def _extent(occupied: Mask) -> slice:
    places = np.flatnonzero(occupied)
    return slice(int(places[0]), int(places[-1]) + 1)


def _interpolated(dose: Floats, valid: Mask, rows: slice, columns: slice) -> Floats:
    """Return the dose at the points of the voxels in a box of a slice, (h, 8, w, 8).

    Voxels that are not valid take no part; where the point's own is not, its value stands.
    """
    values, weights = (_with_border(array, rows, columns) for array in (dose, valid.astype(np.float32)))
    own = values[1:-1, 1:-1]
    if weights.all():
        return _spread(values)
    shares = _spread(weights)
    ours = _spread(values * weights) / np.maximum(shares, np.float32(1e-6))
    return np.where(weights[1:-1, None, 1:-1, None] > 0, ours, own[:, None, :, None]).astype(np.float32)


def _with_border(array: npt.NDArray[np.generic], rows: slice, columns: slice) -> Floats:
    """Return a box of a slice with one voxel more on each side; beyond the image the outermost ones again."""
    (height, width) = array.shape
    down = np.clip(np.arange(rows.start - 1, rows.stop + 1), 0, height - 1)
    across = np.clip(np.arange(columns.start - 1, columns.stop + 1), 0, width - 1)
    return np.asarray(array[np.ix_(down, across)], np.float32)


def _spread(values: Floats) -> Floats:
    """Interpolate (h + 2, w + 2) linearly at the points of all but the border: (h, 8, w, 8)."""
    along = _between(values)  # (h, 8, w + 2)
    return np.moveaxis(_between(np.moveaxis(along, 2, 0)), (0, 1), (2, 3))


def _between(values: Floats) -> Floats:
    """Interpolate along the first axis: (n + 2, ...) becomes (n, 8, ...)."""
    parts = []
    for offset in _OFFSETS.astype(np.float32):
        other = values[:-2] if offset < 0 else values[2:]
        parts.append((1 - abs(offset)) * values[1:-1] + abs(offset) * other)
    return np.stack(parts, axis=1)
