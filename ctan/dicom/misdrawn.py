"""Contours that nobody drew: points out of place or out of order, and a near copy that would cut a hole.

What is measured is none, or half of what is asked for, in the contours of two planning systems (651 of them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ctan.dicom.raster import Points, area_of, signed_area

_TWO_WAYS = 0.1  # share of its area that a contour may run around the other way, or again; real ones 0.003
_LONG = 2.0  # times the way around the box
_FEW_CROSSINGS = 5
_SPIKE_DEGREES = 30.0
_SPIKE_STEPS = 3.0  # times the usual distance between points; real ones at such an angle 1.7 at most
_SPIKE_MM = 5.0


def signs_of(
    planes: Mapping[float, Sequence[Points]], spacing_mm: tuple[float, float]
) -> list[tuple[float, list[str]]]:
    """Return the places of contours that look as if nobody had drawn them, and what speaks for that.

    Args:
        planes: place -> (N, 2) points (column, row).
        spacing_mm: of columns and rows.
    """
    order = sorted(planes)
    scale = np.array(spacing_mm)
    found = []
    for index, place in enumerate(order):
        for contour in planes[place]:
            points = _distinct(contour * scale)
            if len(points) < 3:
                continue
            beside = [planes[other] for other in order[max(0, index - 1) : index] + order[index + 1 : index + 2]]
            signs = _order(points) + _spike(points, [[p * scale for p in other] for other in beside])
            if signs:
                found.append((place, signs))
    return found


def _order(points: Points) -> list[str]:
    """Say whether a contour crosses itself, and whether its points are in no order at all."""
    if _plain(points):
        return []
    area = area_of(points)
    share = abs(signed_area(points)) / area if area > 0 else 1.0
    if abs(share - 1) <= _TWO_WAYS or not (times := _crossings(points)):  # a keyhole may run around twice
        return []
    signs = [f"it crosses itself, what it runs around is {share:.0%} of what it encloses"]
    if times > _FEW_CROSSINGS:
        signs.append(f"its edges cross {times} times, its points are in no order")
    return signs


def _plain(points: Points) -> bool:
    """Return whether a contour turns once, and is not much longer than the box around it: nearly all are."""
    along = np.roll(points, -1, axis=0) - points
    after = np.roll(along, -1, axis=0)
    turned = np.arctan2(along[:, 0] * after[:, 1] - along[:, 1] * after[:, 0], (along * after).sum(axis=1))
    once = abs(abs(float(turned.sum())) / (2 * np.pi) - 1) < 0.5
    return once and float(np.hypot(*along.T).sum()) < _LONG * 2 * float(np.ptp(points, axis=0).sum())


def _crossings(points: Points) -> int:
    """Return how many pairs of edges cross; edges that only touch do not."""
    end = np.roll(points, -1, axis=0)

    def side(start: Points, along: Points, of: Points) -> npt.NDArray[np.float64]:
        return np.sign(along[..., 0] * (of - start)[..., 1] - along[..., 1] * (of - start)[..., 0])

    found = 0
    for first, last in zip(points, end, strict=True):
        apart = side(first, last - first, points) * side(first, last - first, end) < 0
        found += int(
            np.count_nonzero(apart & (side(points, end - points, first) * side(points, end - points, last) < 0))
        )
    return found // 2


def _spike(points: Points, beside: Sequence[Sequence[Points]]) -> list[str]:
    """Say whether one point sticks out between two that are near each other, and away from the slices beside."""
    before, after = np.roll(points, 1, axis=0) - points, np.roll(points, -1, axis=0) - points
    edges = np.hypot(*after.T)
    shorter = np.minimum(np.hypot(*before.T), edges)
    least = max(_SPIKE_STEPS * float(np.median(edges)), _SPIKE_MM)
    cosine = (before * after).sum(axis=1)
    sharp = cosine > np.cos(np.deg2rad(_SPIKE_DEGREES)) * np.hypot(*before.T) * edges
    tips = np.flatnonzero(sharp & (shorter > least))
    if not tips.size:
        return []
    tip = int(tips[np.argmax(shorter[tips])])
    reach = float(shorter[tip])
    signs = [f"one point lies {reach:.0f} mm from those before and after it"]
    if beside and min(_distance(points[tip], other) for other in beside) > least:
        signs.append("no outline in the slices beside is near it")
    return signs


def _distance(point: Points, contours: Sequence[Points]) -> float:
    """Return how far a point lies from the nearest edge of some contours."""
    start = np.concatenate(contours)
    along = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours]) - start
    length = (along * along).sum(axis=1)
    part = ((point - start) * along).sum(axis=1) / np.where(length > 0, length, 1)
    nearest = start + np.clip(part, 0, 1)[:, None] * along
    return float(np.hypot(*(point - nearest).T).min())


def _distinct(points: Points) -> Points:
    """Return a contour without the points that repeat the one before."""
    return points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
