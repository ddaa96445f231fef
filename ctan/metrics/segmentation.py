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


def thresholded_jaccard(reference: Mask, predicted: Mask, threshold: float = 0.65) -> float:
    """Return `|A and B| / |A or B|`, 0 where that is below the threshold; NaN when both are empty.

    As ISIC 2018 ranks lesion boundaries (task 1): below the threshold a contour is a failure, however near it comes.

    Args:
        reference: (...) bool.
        predicted: (...) bool.
        threshold: smallest overlap that counts.
    """
    union = np.count_nonzero(reference | predicted)
    if not union:
        return math.nan
    jaccard = np.count_nonzero(reference & predicted) / union
    return jaccard if jaccard >= threshold else 0.0


def hd95_mm(reference: Mask, predicted: Mask, spacing_mm: tuple[float, ...]) -> float:
    """Return the 95th percentile of the distances between the two surfaces, both directions pooled, in mm.

    Args:
        reference: (D, H, W) bool.
        predicted: (D, H, W) bool.
        spacing_mm: voxel edges.

    Returns:
        NaN when one of them is empty.
    """
    return surface_scores(reference, predicted, spacing_mm, tolerance_mm=0.0)[0]


def surface_scores(
    reference: Mask, predicted: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> tuple[float, float]:
    """Return HD95 in mm and the surface Dice, from the same distances.

    The surface Dice is the share of both surfaces that lies within the tolerance of the other one (Nikolov et al.,
    "Clinically applicable segmentation of head and neck anatomy for radiotherapy", 2021). A surface is the voxels of a
    mask that touch its outside; each counts the same, as in MONAI's `compute_surface_dice` without subvoxels.

    Args:
        reference: (D, H, W) bool.
        predicted: (D, H, W) bool.
        spacing_mm: voxel edges.
        tolerance_mm: distance that is accepted.

    Returns:
        NaN and 0 when one of them is empty, NaN twice when both are.
    """
    from scipy import ndimage

    if not reference.any() or not predicted.any():
        return math.nan, (0.0 if reference.any() or predicted.any() else math.nan)
    (box,) = ndimage.find_objects((reference | predicted).astype(np.uint8))
    a, b = np.pad(reference[box], 1), np.pad(predicted[box], 1)
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    distances = np.concatenate(
        [ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own] for own, other in (surfaces, surfaces[::-1])]
    )
    return float(np.percentile(distances, 95)), float(np.mean(distances <= tolerance_mm))
