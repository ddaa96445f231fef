"""Whether a new case can come from where a sample came from: conformal p-values, exact for exchangeable cases.

Shafer and Vovk, "A Tutorial on Conformal Prediction", JMLR 9 (2008). With `n` cases of the sample no p-value lies below
`1 / (n + 1)`. Where that is above the level that is asked for, a case must be the most unusual of all and also beyond a
normal distribution's prediction interval: what is not normal then gives at most `1 / (n + 1)` of false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
FEWEST = 8  # cases: with less nothing is said


@dataclass(frozen=True)
class Novelty:
    """How unusual a case is among others.

    Attributes:
        p: probability of a case at least as unusual, if it came from where the others came from.
        deviations: (F,) of each feature from the others' mean, in their standard deviations; nan where it is not known.
        critical: largest deviation that is still usual at the level that was asked for.
    """

    p: float
    deviations: Floats
    critical: float


def most_unusual(sample: Floats, case: Floats, floors: Floats, level: float) -> Novelty | None:
    """Judge a case by its most deviating feature.

    Every case, the new one too, is compared with the mean and deviation of all together, so that its rank is as likely
    to be any as any other: over all features at once, which needs no further correction.

    Args:
        sample: (n, F), nan where a feature of a case is not known.
        case: (F,).
        floors: (F,) smallest standard deviation that counts; a case less than one away in all features is usual.
        level: false alarms that are accepted.

    Returns:
        None where the sample is too small.
    """
    if len(sample) < FEWEST:
        return None
    scores = np.nanmax(np.abs(_standardised(np.vstack([sample, case]), floors)), axis=1, initial=0.0)
    mean, spread = _moments(sample)
    deviations = (case - mean) / np.maximum(spread, floors)
    p, critical = _upper_tail(scores[:-1], float(scores[-1]), level)
    if not np.nanmax(np.abs(deviations), initial=0.0) > 1:
        p = 1.0  # constants differ by rounding
    elif len(sample) + 1 < 1 / level:
        # A rank cannot be as rare as that: each feature by its own prediction interval, corrected for their number.
        p = _rarer(p, _by_prediction_intervals(deviations, len(sample)), len(sample))
    return Novelty(p, deviations, critical)


def unusually_large(sample: Floats, value: float, level: float) -> tuple[float, float] | None:
    """Return the p-value of a positive value at least as large, and the largest that is usual at the level.

    Args:
        sample: (n,) positive values of cases that took no part in anything that made them.
        value: of the new case.
        level: false alarms that are accepted.

    Returns:
        None where the sample is too small.
    """
    from scipy.stats import t

    if len(sample) < FEWEST:
        return None
    p, critical = _upper_tail(np.asarray(sample), value, level)
    if len(sample) + 1 >= 1 / level:
        return p, critical
    logs, n = np.log(np.maximum(sample, 1e-12)), len(sample)
    scale = max(float(logs.std(ddof=1)), 1e-6) * np.sqrt(1 + 1 / n)
    interval = float(np.exp(logs.mean() + scale * t.isf(level, n - 1)))
    return _rarer(p, float(t.sf((np.log(max(value, 1e-12)) - logs.mean()) / scale, n - 1)), n), max(critical, interval)


def _upper_tail(sample: Floats, value: float, level: float) -> tuple[float, float]:
    n = len(sample)
    p = (1 + int(np.count_nonzero(sample >= value))) / (n + 1)
    rank = min(int(np.ceil((1 - level) * (n + 1))), n)
    return p, float(np.sort(sample)[rank - 1])


def _rarer(by_rank: float, by_interval: float, n: int) -> float:
    """Return the p-value of an interval for a case that is the most unusual; else the rank's, where that is larger."""
    return by_interval if by_rank <= 1 / (n + 1) else max(by_rank, by_interval)


def _standardised(cases: Floats, floors: Floats) -> Floats:
    mean, spread = _moments(cases)
    return (cases - mean) / np.maximum(spread, floors)


def _moments(cases: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (n - 1) of each feature; of one that no case has, nan and 0."""
    known = ~np.isnan(cases)
    count = known.sum(axis=0)
    filled = np.where(known, cases, 0.0)
    mean = np.where(count > 0, filled.sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (cases - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.sqrt(squares / np.maximum(count - 1, 1))


def _by_prediction_intervals(deviations: Floats, n: int) -> float:
    from scipy.stats import t

    known = deviations[~np.isnan(deviations)]
    if not len(known):
        return 1.0
    each = 2 * t.sf(np.abs(known) / np.sqrt(1 + 1 / n), n - 1)
    return float(min(1.0, len(known) * each.min()))
