"""Contours of one plane become covered shares of voxels.

Areas are computed along many lines a row, exactly along each. A contour alone follows the even-odd rule, so that the
two sides of a keyhole's channel cancel. Of several, one inside another cuts a hole (and one inside that is an island),
and contours that partly overlap are read as their union.
Source: DICOM PS3.3 C.8.8.6, ROI contour module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctan.cases.covered import PER_EDGE

Points = npt.NDArray[np.float64]

_LINES_PER_ROW = 9  # odd, so that one runs through the centres of voxels: ties are decided there
_HALF = 0.499  # of a voxel; coordinates are rounded, often to 0.01 mm
# Contours are moved by this much (columns, rows; of a voxel) before half of a voxel is asked for. An edge through
# centres then takes the voxels on one of its sides only, in x as in y; unequal, so that slanted edges do so, too.
_TIE = np.array([0.02, 0.0124])
_ROUNDING = 0.05  # of a voxel, by which contours that touch, or lie in each other, may overlap or stick out
_SAME = 0.1  # of a voxel; contours nearer to each other than this are two copies of one
_MOST = 0.25  # share of a small contour's area that rounding may make
_LEAST_AREA = 1e-6  # share of the box around a contour
_RIM = 0.9  # share of a contour that a hole may take before it looks like a copy; of a thick wall's lumen it is less
_BOX = 16  # voxels that a contour is enlarged to when it is compared with others


@dataclass(frozen=True)
class Plane:
    """What the contours of one plane make.

    Attributes:
        contours: those that count.
        weights: what a place inside each adds; the structure is where the sum is positive.
        num_copies: contours that were there already.
        num_overlapping: contours that partly overlap another one.
        num_rims: holes that leave little more than a rim of the contour around them.
    """

    contours: tuple[Points, ...]
    weights: tuple[int, ...]
    num_copies: int = 0
    num_overlapping: int = 0
    num_rims: int = 0


def plane_of(contours: Sequence[Points], exclusive: bool = False) -> Plane:
    """Return which contours fill and which cut holes; each has an area.

    Args:
        contours: (N, 2) points (column, row) each.
        exclusive: what is inside an even number of contours is outside (`CLOSEDPLANAR_XOR`).
    """
    if len(contours) == 1:
        return Plane(tuple(contours), (1,))
    areas = [area_of(points) for points in contours]
    order = sorted(range(len(contours)), key=lambda index: -areas[index])
    kept: list[int] = []
    inside: dict[int, list[int]] = {}  # contour -> those around it
    overlapping: set[int] = set()
    for index in order:
        around, partly, copy = [], [], False
        for other in kept:
            relation = _relation(contours[index], contours[other], areas[index], areas[other])
            copy |= relation == "copy"
            around += [other] if relation == "inside" else []
            partly += [index, other] if relation == "partly" else []
        if not copy:
            kept.append(index)
            inside[index] = around
            overlapping.update(partly)
    weights: dict[int, int] = {}
    depth: dict[int, int] = {}
    for index in kept:  # from the largest to the smallest
        depth[index] = 1 + max((depth[other] for other in inside[index]), default=-1)
        filled = int(depth[index] % 2 == 0)
        weights[index] = filled - sum(weights[other] for other in inside[index])
    rims = sum(areas[index] > _RIM * min(areas[other] for other in inside[index]) for index in kept if depth[index] % 2)
    listed = sorted(kept)
    return Plane(
        tuple(contours[index] for index in listed),
        tuple(0 if exclusive else weights[index] for index in listed),
        len(contours) - len(listed),
        0 if exclusive else len(overlapping),
        rims,
    )


@dataclass(frozen=True)
class Covered:
    """How much of the pixels in a box is covered; those outside are not.

    Attributes:
        box: rows and columns.
        share: (row, column) of the box.
    """

    box: tuple[slice, slice]
    share: npt.NDArray[np.float64]

    @property
    def half(self) -> npt.NDArray[np.bool_]:
        """(row, column) of the box: at least half covered."""
        return self.share >= _HALF


def covered_half(plane: Plane, shape: tuple[int, int]) -> Covered:
    """Return how much of the pixels is covered, such that `half` of it are those of the structure.

    An edge through the centres of pixels leaves exactly a half on both of its sides: of the two the pixel on the right
    or below is taken.
    """
    return covered_in_box([points - _TIE for points in plane.contours], shape, plane.weights)


def coverage(
    contours: Sequence[Points], shape: tuple[int, int], weights: Sequence[int] = ()
) -> npt.NDArray[np.float64]:
    """Return the share of each pixel (row, column) inside closed contours, see `covered_in_box`."""
    covered = covered_in_box(contours, shape, weights)
    whole = np.zeros(shape)
    whole[covered.box] = covered.share
    return whole


def covered_in_box(contours: Sequence[Points], shape: tuple[int, int], weights: Sequence[int] = ()) -> Covered:
    """Return the share of each pixel inside closed contours, in the box around them.

    Args:
        contours: (N, 2) points (column, row) each; whole numbers are the centres of pixels.
        shape: rows and columns.
        weights: see `Plane`; none, or all 0: what is inside an odd number of contours.
    """
    rows, columns = shape
    line, at, sign = _steps(contours, rows, _LINES_PER_ROW, weights)
    if not line.size:
        return Covered((slice(0, 0), slice(0, 0)), np.zeros((0, 0)))
    at = np.clip(at + 0.5, 0, columns)  # 0 is the left edge of the first pixel
    pixel = np.floor(at).astype(np.int64)
    # From a crossing on everything to the right is inside (or no longer): a step, of which the pixel it falls in gets
    # the part to the right of the crossing. Summing along the row turns steps into covered lengths.
    part = pixel + 1 - at
    row = line // _LINES_PER_ROW
    top, left, bottom, right = int(row.min()), int(pixel.min()), int(row.max()) + 1, int(pixel.max()) + 1
    height, width = bottom - top, right - left + 1
    flat = (row - top) * width + pixel - left
    steps = np.bincount(flat, sign * part, height * width)
    steps += np.bincount(flat + 1, sign * (1 - part), height * width)
    share = np.cumsum(steps.reshape(height, width), axis=1)[:, : min(right, columns) - left] / _LINES_PER_ROW
    return Covered((slice(top, bottom), slice(left, min(right, columns))), share)


def points_inside(plane: Plane, shape: tuple[int, int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Return the pixels (flat indices) with some of their 8 x 8 points inside, or all, and which: (N, 8) uint8.

    Bit 7 - b of byte a is the point in row a and column b, as in `ctan.cases.covered`.
    """
    everything = np.concatenate(plane.contours)
    corner = np.floor(everything.min(axis=0) + 0.5).clip(0, None).astype(int)  # of the pixels around: column, row
    end = (np.floor(everything.max(axis=0) + 0.5).astype(int) + 1).clip(None, (shape[1], shape[0]))
    width, height = (int(n) for n in np.maximum(end - corner, 0))
    if not width or not height:
        return np.zeros(0, np.int64), np.zeros((0, PER_EDGE), np.uint8)
    line, at, sign = _steps([points - corner for points in plane.contours], height, PER_EDGE, plane.weights)
    first = np.ceil((at + 0.5) * PER_EDGE - 0.5).clip(0, width * PER_EDGE).astype(np.int64)
    across = width * PER_EDGE + 1
    steps = np.bincount(line * across + first, sign, height * PER_EDGE * across).reshape(-1, across)
    inside = (np.cumsum(steps, axis=1) > 0.5)[:, :-1].reshape(height, PER_EDGE, width, PER_EDGE)
    packed = np.packbits(inside.swapaxes(1, 2), axis=-1)[..., 0]  # (row, column, row of points)
    row, column = np.nonzero(packed.any(axis=-1))
    return (row + corner[1]) * shape[1] + column + corner[0], packed[row, column]


def _steps(
    contours: Sequence[Points], rows: int, per_row: int, weights: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return where lines enter the structure (1) and leave it (-1): the line's number, the column, and which.

    Args:
        contours: (N, 2) points (column, row) each.
        rows: of pixels.
        per_row: lines through each.
        weights: see `coverage`.
    """
    owner, line, at = _crossings(contours, rows, per_row)
    weighted = any(weights) and len(contours) > 1
    order = np.lexsort((at, owner, line)) if weighted else np.lexsort((at, line))
    owner, line, at = owner[order], line[order], at[order]
    # A line crosses a closed contour an even number of times, and leaves at every second crossing.
    sign = 1 - 2 * (np.arange(line.size) % 2)
    if weighted:
        order = np.lexsort((at, line))
        line, at = line[order], at[order]
        total = np.cumsum((sign * np.array(weights, np.int64)[owner])[order])  # a line ends outside all contours
        sign = np.diff(total > 0, prepend=False).astype(np.int64) * np.where(total > 0, 1, -1)
    return line, at, sign


def _crossings(
    contours: Sequence[Points], rows: int, per_row: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return where horizontal lines cross the edges: the contour's and the line's number, and the column."""
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(points, -1, axis=0) for points in contours])
    owner = np.repeat(np.arange(len(contours)), [len(points) for points in contours])
    up = start[:, 1] > end[:, 1]
    start[up], end[up] = end[up], start[up].copy()
    # Line n lies at row (n + 0.5) / lines per row - 0.5; an edge owns the lines from its start to just before its end.
    low = np.ceil((start[:, 1] + 0.5) * per_row - 0.5).clip(0, rows * per_row).astype(np.int64)
    high = np.ceil((end[:, 1] + 0.5) * per_row - 0.5).clip(0, rows * per_row).astype(np.int64)
    counts = high - low
    edge = np.repeat(np.arange(counts.size), counts)
    line = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
    y = (line + 0.5) / per_row - 0.5
    x1, y1, x2, y2 = start[edge, 0], start[edge, 1], end[edge, 0], end[edge, 1]
    return owner[edge], line, x1 + (y - y1) * (x2 - x1) / (y2 - y1)


def _relation(small: Points, large: Points, small_area: float, large_area: float) -> str:
    """Return how a contour lies to one that is not smaller: `"apart"`, `"inside"`, `"copy"` or `"partly"` in it."""
    if (small.max(axis=0) < large.min(axis=0)).any() or (large.max(axis=0) < small.min(axis=0)).any():
        return "apart"
    length = float(np.hypot(*(np.roll(small, -1, axis=0) - small).T).sum())
    shared = _shared(small, large)
    slack = min(_ROUNDING * length / small_area, _MOST)
    if shared <= slack:
        return "apart"
    if shared < 1 - slack:
        return "partly"
    return "copy" if large_area - small_area <= min(_SAME * length, _MOST * large_area) else "inside"


def _shared(small: Points, large: Points) -> float:
    """Return the share of the one contour's area that lies inside the other."""
    corner, scale = _box(small)
    own, other = ((points - corner) / scale - 0.5 for points in (small, large))
    own_area, other_area, either = (coverage(c, (_BOX, _BOX)).sum() for c in ([own], [other], [own, other]))
    return float((own_area + other_area - either) / 2 / own_area)


def area_of(points: Points) -> float:
    """Return the area of a closed contour, (N, 2); what it runs around twice is outside."""
    corner, scale = _box(points)
    return float(coverage([(points - corner) / scale - 0.5], (_BOX, _BOX)).sum() * scale.prod())


def signed_area(points: Points) -> float:
    """Return the area of a closed contour, (N, 2) or more, less where it is run around the other way."""
    x, y = points[:, 0] - points[0, 0], points[:, 1] - points[0, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _box(points: Points) -> tuple[Points, Points]:
    """Return the corner of the box around a contour, and a `_BOX`th of its edges."""
    low = points.min(axis=0)
    return low, (points.max(axis=0) - low) / _BOX


def has_area(points: Points) -> bool:
    """Return whether a closed contour encloses anything: it is neither a point nor a line, nor run through twice."""
    box = np.ptp(points, axis=0)
    if len(points) < 3 or not np.all(box > 0):
        return False
    # One of the lines that `area_of` adds up mostly says it all; none takes anything away.
    line = _BOX * _LINES_PER_ROW // 2
    inside = _inside_along(points, float(points[:, 1].min() + (line + 0.5) / (_BOX * _LINES_PER_ROW) * box[1]))
    if inside / (_BOX * _LINES_PER_ROW) > 10 * _LEAST_AREA * box[0]:
        return True
    return area_of(points) > _LEAST_AREA * float(box.prod())


def _inside_along(points: Points, y: float) -> float:
    """Return the length of a horizontal line inside a contour."""
    ends = np.roll(points, -1, axis=0)
    crossed = (points[:, 1] <= y) != (ends[:, 1] <= y)
    (x1, y1), (x2, y2) = points[crossed].T, ends[crossed].T
    at = np.sort(x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return float((at[1::2] - at[::2]).sum())
