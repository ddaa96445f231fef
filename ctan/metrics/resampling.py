"""Metrics of weighted patients, and relative improvement.

Most metrics are a sum over patients divided by another (mean Dice, dose score, pooled DVH score), so that the metric
of a resample (patients left out, or drawn more than once) is two products with their weights. Those of diagnoses are
not: `ctan.metrics.classification`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIN_SEEDS = 3  # fewer say nothing about the variance of training


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
