"""What a score or a paired difference is, and how sure: an estimate with bounds that hold for few patients.

The delete-one jackknife gives any metric of resampled patients (`PatientMetric`) a standard error, Student's t with the
degrees of freedom of Satterthwaite a bound. Of a plain mean that is the t interval. Chosen by simulation over 3 to 100
cases, see `benchmarks/coverage.py` and docs/tracking.md: percentile and BCa bootstrap bounds are wrong two to five
times too often below ten cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ctan.metrics.resampling import Floats

_BLOCK = 512  # patients left out at once


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from patients.

    Attributes:
        value: the estimate; NaN where it is undefined.
        deviation: its standard error, in the same unit; NaN where it is undefined, as of a single patient.
        degrees: of freedom.
        num_patients: it rests on.
    """

    value: float
    deviation: float
    degrees: float
    num_patients: int

    @property
    def is_finite(self) -> bool:
        """Whether there is a number with a standard error."""
        return math.isfinite(self.value) and math.isfinite(self.deviation)

    def lower(self, error: float) -> float:
        """Return what the true number lies below with a probability of `error`, such as 0.05; NaN when undefined."""
        from scipy.special import stdtrit

        return self.value + float(stdtrit(self.degrees, error)) * self.deviation if self.is_finite else math.nan

    def interval(
        self, confidence: float, bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> dict[str, float | int]:
        """Return `{"value", "low", "high", "patients"}`; NaN where it is undefined.

        A number between two bounds has its interval on the scale of its log odds (the delta method), where Student's t
        misses the truth as often on either side; others are cut at their bound.

        Args:
            confidence: coverage, such as 0.95.
            bounds: what the number cannot leave.
        """
        low, width = self.lower((1 - confidence) / 2), bounds[1] - bounds[0]
        high = 2 * self.value - low  # Student's t is symmetric
        if not self.is_finite:
            low = high = math.nan
        elif math.isfinite(width) and bounds[0] < self.value < bounds[1]:
            share = (self.value - bounds[0]) / width
            reach = min((self.value - low) / (width * share * (1 - share)), 700)  # e^700 is a float still
            low, high = (bounds[0] + width / (1 + math.exp(sign * reach) * (1 - share) / share) for sign in (1, -1))
        else:
            low, high = max(low, bounds[0]), min(high, bounds[1])
        return {"value": self.value, "low": low, "high": high, "patients": self.num_patients}

    def with_trainings(self, without: Sequence[Floats]) -> Estimate:
        """Return the estimate with the variance of training beside that of the patients.

        Both jackknife variances are added, which counts what is special to a seed and a patient twice: intervals are
        wide rather than narrow.

        Args:
            without: groups of independent trainings, of each (seeds,) the number with one seed left out; two or more.
        """
        parts = [(self.deviation**2, self.degrees)]
        for values in without:
            count = len(values)
            squared = ((count - 1) * (values.mean() - values)) ** 2
            parts.append((float(squared.sum()) / (count * (count - 1)), count - 1.0))
        total, spread = sum(part for part, _ in parts), sum(part**2 / degrees for part, degrees in parts)
        degrees = total**2 / spread if spread > 0 else self.degrees
        return Estimate(self.value, math.sqrt(total), degrees, self.num_patients)


def jackknife(
    statistic: Callable[[Floats], Floats],
    num_patients: int,
    strata: Sequence[Hashable] | None = None,
    least_deviation: float = 0.0,
) -> Estimate:
    """Estimate a statistic and its standard error by leaving out one patient after the other (Efron and Stein, 1981).

    Args:
        statistic: (resamples, patients) weights -> (resamples,), smooth in the weights.
        num_patients: how many there are.
        strata: (patients,) such as the patient's label. They limit the degrees of freedom: the few cases of a rare
            class are what an area under the curve is unsure of (Satterthwaite, 1946).
        least_deviation: smallest standard error of a metric of whole cases, which may happen to agree in all of them.
    """
    value = float(statistic(np.ones((1, num_patients)))[0])
    if num_patients < 2:
        return Estimate(value, math.nan, math.nan, num_patients)
    without = np.concatenate(
        [statistic(1.0 - np.eye(num_patients)[start : start + _BLOCK]) for start in range(0, num_patients, _BLOCK)]
    )
    squared = ((num_patients - 1) * (without.mean() - without)) ** 2
    deviation = math.sqrt(squared.sum() / (num_patients * (num_patients - 1)))
    names = list(strata) if strata is not None else [0] * num_patients
    code = {name: i for i, name in enumerate(dict.fromkeys(names))}
    where = np.array([code[name] for name in names])
    parts, counts = np.bincount(where, squared), np.bincount(where)
    spread = float((parts**2 / np.maximum(counts - 1, 1)).sum())
    degrees = parts.sum() ** 2 / spread if spread > 0 else float(num_patients - 1)
    return Estimate(value, max(deviation, least_deviation), float(degrees), num_patients)
