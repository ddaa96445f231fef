"""Figures of merit of numbers: the coefficient of determination of resampled patients."""

from __future__ import annotations

import numpy as np

from ctan.metrics.classification import Indices
from ctan.metrics.resampling import Floats


class RSquared:
    """`1 - sum (predicted - true)^2 / sum (true - mean)^2`: 1 is perfect, 0 as good as the mean of the cases.

    Undefined for a resample in which all cases have the same number.
    """

    def __init__(self, predicted: Floats, true: Floats, patients: Indices, num_patients: int) -> None:
        """Add up what is needed by patient.

        Args:
            predicted: (N,).
            true: (N,).
            patients: (N,) position of each case's patient.
            num_patients: how many there are.
        """
        centred = true - true.mean()  # about any fixed number; near the mean nothing cancels
        terms = np.stack([np.ones(len(true)), centred, centred**2, (predicted - true) ** 2], axis=1)
        self._sums = np.zeros((num_patients, 4))
        np.add.at(self._sums, patients, terms)

    def of(self, weights: Floats) -> Floats:
        """Return the metric of each resample, (resamples,), see `PatientMetric`."""
        count, first, second, squared_errors = (weights @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = second - first**2 / count
            defined = spread > 1e-12 * second
            return np.where(defined, 1 - squared_errors / np.where(defined, spread, 1), np.nan)
