"""Overlap and surface distance of contours."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def dice(reference: Mask, predicted: Mask) -> float:
    """Return `2 |A and B| / (|A| + |B|)`; 0 for an empty prediction of a contoured structure, NaN when both are empty.

    Args:
        reference: (...) bool.
        predicted: (...) bool.
    """
    total = np.count_nonzero(reference) + np.count_nonzero(predicted)
    return 2 * np.count_nonzero(reference & predicted) / total if total else math.nan


def hd95_mm(reference: Mask, predicted: Mask, spacing_mm: tuple[float, ...]) -> float:
    """Return the 95th percentile of the distances between the two surfaces, both directions pooled, in mm.

    Args:
        reference: (D, H, W) bool.
        predicted: (D, H, W) bool.
        spacing_mm: voxel edges.

    Returns:
        NaN when one of them is empty.
    """
    from scipy import ndimage

    if not reference.any() or not predicted.any():
        return math.nan
    (box,) = ndimage.find_objects((reference | predicted).astype(np.uint8))
    a, b = np.pad(reference[box], 1), np.pad(predicted[box], 1)
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    distances = [
        ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own] for own, other in (surfaces, surfaces[::-1])
    ]
    return float(np.percentile(np.concatenate(distances), 95))
