"""OpenKBP's official dose score and DVH score, and DVH curves.

Source: Babier et al., "OpenKBP: The open-access knowledge-based planning grand challenge and dataset", Medical Physics
2021, and the challenge's evaluation code. Percentiles are numpy's default (linear).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doses = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
_SMALL_VOLUME_MM3 = 100.0  # 0.1 cc
_TARGET_PERCENTILES = {"D_99": 1.0, "D_95": 5.0, "D_1": 99.0}
_NEAR_MINIMUM = ("D_99", "D_95")
_WHOLE = 0.95  # share of a structure with known dose, below which nothing is said of its lowest doses


@dataclass(frozen=True)
class DvhValue:
    """One criterion of one structure, planned and predicted, in Gy."""

    structure: str
    criterion: str
    planned: float
    predicted: float

    @property
    def error(self) -> float:
        """|predicted - planned| in Gy."""
        return abs(self.predicted - self.planned)


@dataclass(frozen=True)
class DoseAtPoints:
    """The doses in one structure at points that stand for equal volumes.

    Attributes:
        planned: (N,) Gy, where it is known.
        predicted: (N,) Gy, at the same places.
        known_share: of the structure.
        volume_mm3: that each stands for.
    """

    planned: Doses
    predicted: Doses
    known_share: float
    volume_mm3: float


def dose_score(planned: Doses, predicted: Doses, possible_dose_mask: Mask, known: Mask | None = None) -> float:
    """Return the sum of |planned - predicted| over all voxels, divided by the voxels of the mask, in Gy.

    Dose predicted outside the mask is punished: the sum does not stop there. Where the planned dose is not known
    nothing is summed and no voxel of the mask counts.

    Args:
        planned: (D, H, W) Gy.
        predicted: (D, H, W) Gy.
        possible_dose_mask: (D, H, W) where dose can be non-zero.
        known: (D, H, W) where the planned dose is known; None: everywhere, as in the challenge.

    Raises:
        ValueError: for an empty mask, shapes that differ, or a dose that is NaN or infinite.
    """
    if known is not None:
        predicted, possible_dose_mask = np.where(known, predicted, planned), possible_dose_mask & known
    if not planned.shape == predicted.shape == possible_dose_mask.shape:
        raise ValueError(f"shapes differ: {planned.shape}, {predicted.shape}, {possible_dose_mask.shape}")
    num_possible = np.count_nonzero(possible_dose_mask)
    if not num_possible:
        raise ValueError("the possible-dose mask is empty")
    total = 0.0
    for ours, theirs in zip(predicted, planned, strict=True):  # slice by slice, in the processor's cache
        if (ours != theirs).any():  # most slices are zero in both
            total += np.abs(theirs.astype(np.float64) - ours).sum()
    score = float(total / num_possible)
    if not math.isfinite(score):
        raise ValueError("the dose holds NaN or infinity")
    return score


def dvh_values(dose_in_structure: Doses, is_target: bool, voxel_volume_mm3: float) -> dict[str, float]:
    """Return the official criteria of one structure.

    Targets: `D_99`, `D_95`, `D_1`, the 1st, 5th and 99th percentile. Organs at risk: `D_0.1_cc`, the percentile
    `100 - 100 n / N` clipped to [0, 100] with `n = max(1, round(100 / voxel volume))` (half to even) of N voxels, and
    `mean`.

    Args:
        dose_in_structure: (N,) Gy, at least one voxel.
        is_target: target or organ at risk.
        voxel_volume_mm3: volume of a voxel.

    Returns:
        Criterion -> Gy.
    """
    if is_target:
        found = _percentiles(dose_in_structure, list(_TARGET_PERCENTILES.values()))
        return dict(zip(_TARGET_PERCENTILES, found, strict=True))
    num_hottest = max(1, round(_SMALL_VOLUME_MM3 / voxel_volume_mm3))
    percentile = min(max(100 - 100 * num_hottest / len(dose_in_structure), 0.0), 100.0)
    (hottest,) = _percentiles(dose_in_structure, [percentile])
    return {"D_0.1_cc": hottest, "mean": float(dose_in_structure.mean(dtype=np.float64))}


def _percentiles(values: Doses, percentiles: list[float]) -> list[float]:
    """Return `numpy.percentile(values, percentiles)` in float64, from one partition and several times faster.

    numpy's default percentile q of N sorted values is their linear interpolation at position `q / 100 (N - 1)`.
    """
    last = len(values) - 1
    positions = [q / 100 * last for q in percentiles]
    below = [int(position) for position in positions]
    above = [min(index + 1, last) for index in below]
    ordered = np.partition(values, sorted({*below, *above}))
    lower, upper = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    return (lower + (upper - lower) * (np.array(positions) - below)).tolist()


def score_dose(
    planned: Doses,
    predicted: Doses,
    possible_dose_mask: Mask,
    structures: Mapping[str, Mask],
    targets: Mapping[str, float],
    spacing_mm: tuple[float, ...],
    known: Mask | None = None,
    points: Mapping[str, DoseAtPoints] = {},
) -> tuple[float, list[DvhValue]]:
    """Return the dose score and every DVH criterion of one patient.

    Args:
        planned: (D, H, W) Gy.
        predicted: (D, H, W) Gy.
        possible_dose_mask: (D, H, W) where dose can be non-zero.
        structures: name -> (D, H, W) mask; missing and empty structures are skipped.
        targets: names of the targets, with their prescription in Gy.
        spacing_mm: voxel edges.
        known: (D, H, W) where the planned dose is known, the only voxels that are looked at; None: everywhere. Of a
            structure with less than 95% of them nothing is said of the lowest doses: these may lie in the rest.
        points: structures whose criteria are those of doses at points instead of whole voxels.

    Raises:
        ValueError: see `dose_score`.
    """
    score = dose_score(planned, predicted, possible_dose_mask, known)
    voxel_mm3 = float(np.prod(spacing_mm))
    flat_planned, flat_predicted = planned.reshape(-1), predicted.reshape(-1)
    values = []
    for name, mask in structures.items():
        if name in points:
            found = points[name]
        else:
            voxels = _voxels_of(mask)  # once a structure, for both doses
            share, voxels = _known_of(voxels, known)
            found = DoseAtPoints(flat_planned[voxels], flat_predicted[voxels], share, voxel_mm3)
        if len(found.planned):
            ours = dvh_values(found.predicted, name in targets, found.volume_mm3)
            theirs = dvh_values(found.planned, name in targets, found.volume_mm3)
            said = [criterion for criterion in ours if found.known_share >= _WHOLE or criterion not in _NEAR_MINIMUM]
            values += [DvhValue(name, criterion, theirs[criterion], ours[criterion]) for criterion in said]
    return score, values


def _known_of(voxels: npt.NDArray[np.intp], known: Mask | None) -> tuple[float, npt.NDArray[np.intp]]:
    """Return the share of voxels whose dose is known, and these."""
    if known is None or not len(voxels):
        return 1.0, voxels
    there = voxels[known.reshape(-1)[voxels]]
    return len(there) / len(voxels), there


def _voxels_of(mask: Mask) -> npt.NDArray[np.intp]:
    """Return the flat indices of a mask; its empty slices on both sides are read only once."""
    slices = mask.reshape(len(mask), -1)
    eightfold = slices.flags.c_contiguous and slices.shape[1] % 8 == 0
    occupied = np.flatnonzero((slices.view(np.uint64) if eightfold else slices).any(axis=1))
    if not len(occupied):
        return occupied
    first, last = occupied[0], occupied[-1]
    return np.flatnonzero(slices[first : last + 1]) + first * slices.shape[1]


def dvh_curve(dose_in_structure: Doses, dose_gy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of the structure's volume that receives at least each of `dose_gy`, (len(dose_gy),).

    Args:
        dose_in_structure: (N,) Gy, at least one voxel.
        dose_gy: (n,) Gy.
    """
    values = np.sort(dose_in_structure, axis=None)
    return 1 - np.searchsorted(values, dose_gy, side="left") / len(values)
