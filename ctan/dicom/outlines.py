"""Contours of masks, for phantoms and tests."""

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
            contour = np.full((len(rows), 3), origin_mm[0] + spacing_mm[0] * z)
            contour[:, 0] = origin_mm[2] + spacing_mm[2] * columns
            contour[:, 1] = origin_mm[1] + spacing_mm[1] * rows
            contours.append(contour)
    return contours


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
