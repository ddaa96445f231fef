"""Contours of masks: for phantoms and tests slice by slice in mm, for predictions a polygon a part, without holes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ZYX = tuple[float, float, float]
Contour = npt.NDArray[np.float64]  # (N, 3): x, y, z in mm


def contours_of_mask(mask: npt.NDArray[np.bool_], spacing_mm: ZYX, origin_mm: ZYX) -> list[Contour]:
    """Return the outlines of a mask, slice by slice; holes are contours of their own.

    Args:
        mask: (z, y, x). Its voxels' centres are exactly the centres inside an odd number of the contours.
    """
    from skimage.measure import find_contours

    contours = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        for outline in find_contours(np.pad(mask[z], 1).astype(np.float64), 0.5, fully_connected="low"):
            rows, columns = (_corners(outline[:-1]) - 1).T
            contour = np.full((len(rows), 3), origin_mm[0] + spacing_mm[0] * z, np.float64)
            contour[:, 0] = origin_mm[2] + spacing_mm[2] * columns
            contour[:, 1] = origin_mm[1] + spacing_mm[1] * rows
            contours.append(contour)
    return contours


def polygons_of_slice(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Return the connected parts of a slice (row, column) as closed polygons of (column, row) points.

    A hole is cut by a channel of no width (keyhole), which every reader of CLOSED_PLANAR contours understands; nested
    contours are filled by some. Centres of pixels inside are exactly those of the mask.
    """
    from scipy import ndimage

    parts, _ = ndimage.label(mask)
    polygons = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        corner = np.array([box[1].start, box[0].start, 0.0])
        part = (parts[box] == number)[None]
        outer, *holes = sorted(
            contours_of_mask(part, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), key=lambda points: -np.ptp(points, 0).max()
        )
        polygons.append((_with_channels(outer, holes) + corner)[:, :2])
    return polygons


def _with_channels(outer: Contour, holes: list[Contour]) -> Contour:
    """Return one contour around a part with holes, each reached from what is nearest to it and joined already."""
    from scipy import spatial

    if not holes:
        return outer
    points = np.concatenate(holes)
    owner = np.repeat(np.arange(len(holes)), [len(hole) for hole in holes])
    apart, index = spatial.cKDTree(outer).query(points)
    nearest = outer[index]
    for _ in holes:
        start = int(np.argmin(apart))  # on the hole that comes next
        hole = holes[owner[start]]
        at = int(np.flatnonzero((outer == nearest[start]).all(axis=1))[0])
        around = np.roll(hole, -int(np.flatnonzero((hole == points[start]).all(axis=1))[0]), axis=0)
        outer = np.concatenate([outer[: at + 1], around, around[:1], outer[at:]])
        apart[owner == owner[start]] = np.inf
        left = np.flatnonzero(np.isfinite(apart))
        if len(left):
            closer, index = spatial.cKDTree(hole).query(points[left])
            better = closer < apart[left]
            apart[left[better]], nearest[left[better]] = closer[better], hole[index[better]]
    return outer


def keyhole(outer: Contour, inner: Contour) -> Contour:
    """Return one contour around a ring: along the outer one, through a channel of no width, around the inner one."""
    apart = np.sum((outer[:, None] - inner[None]) ** 2, axis=2)
    at_outer, at_inner = np.unravel_index(np.argmin(apart), apart.shape)
    around, back = np.roll(outer, -at_outer, axis=0), np.roll(inner, -at_inner, axis=0)
    return np.concatenate([around, around[:1], back, back[:1]])


def _corners(outline: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a closed outline without the points in the middle of straight runs."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return outline[np.abs(turns) > 1e-9]
