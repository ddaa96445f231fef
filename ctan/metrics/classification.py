"""Figures of merit of diagnoses: balanced accuracy, area under the ROC curve, calibration.

None is a ratio of sums over patients. Each is computed anew for every resample, in blocks that fit a processor's
cache.

Shapes: `N` cases, `K` classes, `P` patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.metrics.resampling import Floats

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
PROBABILITY = "probability"  # rows of the per-case table: one a case and class
_BLOCK = 64  # resamples at once: 2,000 cases take 1 MB


class BalancedAccuracy:
    """Mean over classes of the recall (ISIC 2018, task 3); classes without a case in a resample are left out.

    Attributes:
        least_deviation: standard error of the difference of two models that agree in every case: half a case each way
            and a case each is added to a class (Agresti and Min, 2005). Cases that agree do not prove equality.
        own_deviation: smallest standard error of the accuracy itself: cases that are all right do not prove that it
            is 1.
    """

    def __init__(self, probabilities: Floats, labels: Indices, patients: Indices, num_patients: int) -> None:
        """Count cases, and those the most probable class is right about, by patient and class.

        Args:
            probabilities: (N, K); of equal ones the first counts as predicted.
            labels: (N,) true class.
            patients: (N,) position of each case's patient.
            num_patients: P.
        """
        right = probabilities.argmax(axis=1) == labels
        self._count, self._right = np.zeros((2, num_patients, probabilities.shape[1]))
        of_class = np.bincount(labels, minlength=probabilities.shape[1])
        known = of_class[of_class > 0]
        self.least_deviation = float(np.sqrt(np.sum(1 / (known + 2.0) ** 2)) / max(len(known), 1))
        self.own_deviation = float(np.sqrt(np.sum(_all_right(known) ** 2)) / max(len(known), 1))
        np.add.at(self._count, (patients, labels), 1)
        np.add.at(self._right, (patients, labels), right)

    def of(self, weights: Floats) -> Floats:
        """Return the balanced accuracy of each resample, (resamples,), see `PatientMetric`."""
        with np.errstate(invalid="ignore"):
            return mean_of_defined((weights @ self._right) / (weights @ self._count))


class Brier:
    """Mean over cases of half the squared distance between probabilities and truth, 0 to 1 (Brier, 1950).

    A proper score: it rises with over-confidence also where no case changes its rank.
    """

    def __init__(self, probabilities: Floats, labels: Indices, patients: Indices, num_patients: int) -> None:
        """Add up each patient's.

        Args:
            probabilities: (N, K).
            labels: (N,) true class.
            patients: (N,) position of each case's patient.
            num_patients: P.
        """
        distance = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1) / 2
        self._total, self._count = (np.bincount(patients, of_case, num_patients) for of_case in (distance, None))

    def of(self, weights: Floats) -> Floats:
        """Return the score of each resample, (resamples,), see `PatientMetric`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self._total) / (weights @ self._count)


class AUC:
    """Area under the ROC curve: how often a positive case scores higher than a negative one, ties counting half.

    Undefined for a resample that lacks either.

    Attributes:
        own_deviation: smallest standard error of the area, above 0 where no case is out of place, which does not prove
            that it is 1: of so many cases as the rarer kind has.
    """

    def __init__(self, scores: Floats, positive: Flags, patients: Indices) -> None:
        """Rank the cases.

        Args:
            scores: (N,) higher for positive cases.
            positive: (N,) bool.
            patients: (N,) position of each case's patient.
        """
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self._patients = patients[order]
        self._positive = np.flatnonzero(positive[order])
        # of every positive case: how many cases score lower, how many score lower or the same
        self._lower = np.searchsorted(ranked, ranked[self._positive], side="left")
        self._not_higher = np.searchsorted(ranked, ranked[self._positive], side="right")
        rarer = min(int(positive.sum()), len(positive) - int(positive.sum()))
        perfect = rarer and (
            scores[positive].min() > scores[~positive].max() or scores[positive].max() < scores[~positive].min()
        )
        self.own_deviation = float(_all_right(np.array(rarer))) if perfect else 0.0

    def of(self, weights: Floats) -> Floats:
        """Return the area of each resample, (resamples,), see `PatientMetric`."""
        return _in_blocks(self.of_block, weights)

    def of_block(self, weights: Floats) -> Floats:
        """Return the area of each resample of a block, (block,), from weights by patient, (P, block).

        Mann and Whitney's statistic: mid-ranks of the positive cases, less what the positive cases alone contribute.
        """
        case_weights = weights[self._patients]
        ranks = np.zeros((len(case_weights) + 1, weights.shape[1]))
        np.cumsum(case_weights, axis=0, out=ranks[1:])
        of_positive = case_weights[self._positive]
        midranks = (ranks[self._lower] + ranks[self._not_higher]) / 2
        num_positive, num_cases = of_positive.sum(axis=0), ranks[-1]
        won = (of_positive * midranks).sum(axis=0) - num_positive**2 / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return won / (num_positive * (num_cases - num_positive))


class MacroAUC:
    """Mean over classes of the area under the curve of that class against all others.

    A class that a resample lacks is left out of its mean.

    Attributes:
        own_deviation: as of each area.
    """

    def __init__(self, probabilities: Floats, labels: Indices, patients: Indices) -> None:
        """Rank the cases by the probability of each class.

        Args:
            probabilities: (N, K).
            labels: (N,) true class.
            patients: (N,) position of each case's patient.
        """
        self._classes = [AUC(column, labels == k, patients) for k, column in enumerate(probabilities.T)]
        known = max(len(np.unique(labels)), 1)
        self.own_deviation = math.sqrt(sum(area.own_deviation**2 for area in self._classes)) / known

    def of(self, weights: Floats) -> Floats:
        """Return the mean area of each resample, (resamples,), see `PatientMetric`."""
        return _in_blocks(
            lambda block: mean_of_defined(np.stack([auc.of_block(block) for auc in self._classes], axis=1)), weights
        )


def _all_right(count: npt.NDArray[np.intp]) -> Floats:
    """Return the standard error of a share of so many cases that is 0 or 1, by Wilson's interval (1927) with z = 2.

    Its end is at `1 - z^2 / (n + z^2)`, z of these away from 1.
    """
    return 2 / (count + 4.0)


def mean_of_defined(values: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1)


def _in_blocks(metric: Callable[[Floats], Floats], weights: Floats) -> Floats:
    starts = range(0, len(weights), _BLOCK)
    return np.concatenate([metric(np.ascontiguousarray(weights[start : start + _BLOCK].T)) for start in starts])


def roc_curve(scores: Floats, positive: Flags) -> tuple[Floats, Floats]:
    """Return false and true positive rates at every threshold, from (0, 0) to (1, 1); NaN where a rate is undefined.

    Args:
        scores: (N,) higher for positive cases; cases of equal score pass a threshold together.
        positive: (N,) bool.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    with np.errstate(invalid="ignore"):
        false_rate, true_rate = (np.append(0.0, np.cumsum(flags)[last]) / flags.sum() for flags in (~hits, hits))
    return false_rate, true_rate


def true_positive_rate_at(grid: Floats, scores: Floats, positive: Flags) -> Floats:
    """Return the highest true positive rate at each false positive rate of a grid, so that curves can be averaged.

    Args:
        grid: false positive rates, ascending.
        scores: (N,) higher for positive cases.
        positive: (N,) bool, with cases of both kinds.
    """
    false_rate, true_rate = roc_curve(scores, positive)
    last = np.append(false_rate[1:] != false_rate[:-1], True)  # of a vertical stretch the upper end
    return np.interp(grid, false_rate[last], true_rate[last])


def confusion_matrix(labels: Indices, predicted: Indices, num_classes: int) -> npt.NDArray[np.int64]:
    """Return how many cases of each true class (rows) were taken for each class (columns), (K, K)."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def reliability(predicted: Floats, happened: Flags, num_bins: int) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Return mean prediction, observed frequency and number of cases in bins of about equally many cases.

    Cases of equal prediction stay in one bin, so that there can be fewer bins.

    Args:
        predicted: (N,) probabilities, at least one.
        happened: (N,) bool.
        num_bins: at most so many.
    """
    ranks = np.searchsorted(np.sort(predicted), predicted, side="left")
    where = ranks * num_bins // len(predicted)
    count = np.bincount(where)
    filled = count > 0
    mean, observed = (np.bincount(where, values)[filled] / count[filled] for values in (predicted, happened))
    return mean, observed, count[filled]


def calibration_error(predicted: Floats, happened: Flags, num_bins: int) -> float:
    """Return the expected calibration error: the mean over cases of their bin's |prediction - frequency|."""
    mean, observed, count = reliability(predicted, happened, num_bins)
    return float((np.abs(mean - observed) * count).sum() / count.sum())


def probability_rows(classes: Sequence[str], label: str | None, probabilities: Sequence[float]) -> list[dict[str, Any]]:
    """Return a case's rows of the per-case table, one a class; none when its label is not known.

    Args:
        classes: K names.
        label: true class.
        probabilities: K predicted ones.
    """
    if label is None:
        return []
    return [
        {
            "metric": PROBABILITY,
            "structure": name,
            "value": float(value),
            "count": 1,
            "predicted": float(value),
            "planned": float(name == label),
        }
        for name, value in zip(classes, probabilities, strict=True)
    ]
