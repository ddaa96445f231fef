"""Metrics of resampled patients, bootstrap intervals, and relative improvement.

Most metrics are a sum over patients divided by another (mean Dice, dose score, pooled DVH score), so that the metric
of a resample is two products with the resample's counts. Those of diagnoses are not: `ctan.metrics.classification`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIN_SEEDS = 3  # with fewer, resampling the seeds says nothing about the variance of training
_PATIENT_STREAM, _SEED_STREAM = 0, 1  # seeds are drawn independently of patients
_DRAWN_AT_ONCE = 1000  # resamples


class PatientMetric(Protocol):
    """A metric that can be computed for any resample of the patients."""

    def of(self, weights: Floats) -> Floats:
        """Return the metric of each resample, (resamples,); NaN where it is undefined.

        Args:
            weights: (resamples, patients) how often each patient was drawn.
        """


@dataclass(frozen=True)
class MetricSums:
    """A metric as `sum(total) / sum(count)`.

    Attributes:
        total: (patients,) sum of the metric's terms of each patient.
        count: (patients,) number of its terms; 0 for a patient that has none.
    """

    total: Floats
    count: Floats

    def of(self, weights: Floats) -> Floats:
        """Return the metric of each resample, (resamples,); NaN without terms.

        Args:
            weights: (resamples, patients) how often each patient was drawn.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ self.total) / (weights @ self.count)


def resampling_weights(num_patients: int, num_bootstrap: int, strata: Sequence[Hashable] | None = None) -> Floats:
    """Return how often each patient is drawn, (1 + num_bootstrap, patients); row 0 is everyone once.

    The same arguments give the same draws, so that models compared with them are paired.

    Args:
        num_patients: how many there are.
        num_bootstrap: number of resamples.
        strata: (patients,) what is drawn within, such as the patient's label: every resample has as many patients of
            each stratum as there are. One stratum, or None, is the plain bootstrap.
    """
    if strata is None:
        return _weights((0,) * num_patients, num_bootstrap, _PATIENT_STREAM)
    code_of = {stratum: code for code, stratum in enumerate(dict.fromkeys(strata))}
    return _weights(tuple(code_of[stratum] for stratum in strata), num_bootstrap, _PATIENT_STREAM)


def mean_over_trainings(values: Floats, seeds: Sequence[int]) -> Floats:
    """Return the mean over the trainings of an architecture in every resample, (resamples,).

    From three seeds on these are resampled too, so that intervals include the variance of training. A seed is drawn
    with all its folds; architectures with the same seeds get the same draws.

    Args:
        values: (trainings, 1 + num_bootstrap) metric of each training in each resample of the patients; row 0 is
            everyone once.
        seeds: (trainings,) seed of each training.
    """
    different = sorted(set(seeds))
    if len(different) < MIN_SEEDS:
        return values.mean(axis=0)
    drawn = _weights((0,) * len(different), values.shape[1] - 1, _SEED_STREAM)
    weights = drawn[:, [different.index(seed) for seed in seeds]].T
    used = np.where(weights > 0, values, 0.0)  # a training that was not drawn may be NaN
    return (weights * used).sum(axis=0) / weights.sum(axis=0)


def improvement(new: Floats, reference: Floats, higher_is_better: bool) -> Floats:
    """Return `(-1)^l (M - M_ref) / M_ref * 100`, l = 1 where lower is better; 0 where both are equal.

    Args:
        new: metric of the model, of each resample.
        reference: metric it is compared with, of the same resamples.
        higher_is_better: which way is better.
    """
    difference = new - reference if higher_is_better else reference - new
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / reference * 100)


def interval(resampled: Floats, confidence: float) -> dict[str, float]:
    """Return value (row 0, everyone) and percentile interval (the other rows), as `{"value", "low", "high"}`.

    Args:
        resampled: (1 + resamples,) as `resampling_weights` orders them.
        confidence: coverage, such as 0.95.
    """
    tail = 50 * (1 - confidence)
    finite = resampled[1:][~np.isnan(resampled[1:])]
    low, high = np.percentile(finite, [tail, 100 - tail], method="nearest") if len(finite) else (np.nan, np.nan)
    return {"value": float(resampled[0]), "low": float(low), "high": float(high)}


def _weights(strata: tuple[int, ...], num_bootstrap: int, stream: int) -> Floats:
    return _draws(strata, num_bootstrap, stream).astype(np.float64)


@lru_cache(maxsize=4)  # tuning and evaluation cases take turns, architecture by architecture
def _draws(strata: tuple[int, ...], num_bootstrap: int, stream: int) -> npt.NDArray[np.unsignedinteger]:
    """Return how often each is drawn with replacement within its stratum 0, 1, ...; row 0 is each once.

    As small integers and in parts: 10,000 resamples of 2,000 patients are 40 MB instead of 160.
    """
    rng = np.random.default_rng(stream)
    drawn = np.ones((1 + num_bootstrap, len(strata)), np.min_scalar_type(len(strata)))
    for stratum in range(max(strata, default=-1) + 1):
        members = np.flatnonzero(np.asarray(strata) == stratum)
        shares = np.full(len(members), 1 / len(members))
        for start in range(1, 1 + num_bootstrap, _DRAWN_AT_ONCE):
            part = drawn[start : start + _DRAWN_AT_ONCE]
            part[:, members] = rng.multinomial(len(members), shares, len(part))
    drawn.flags.writeable = False
    return drawn
