"""Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 34 (2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctan.metrics.classification import calibration_error

_PRIOR_DEVIATION = 0.5  # of the temperature's logarithm: a few cases that all fit do not make it zero
_WIDEST = 3.0  # of that logarithm
_NUM_BINS = 10


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        temperature: that logits are divided by.
        num_cases: that it was fitted on.
        log_loss: mean negative log probability of the true class, before and after.
        calibration_error: expected, of the likeliest class, before and after.
    """

    temperature: float
    num_cases: int
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]


def fit_temperature(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Temperature | None:
    """Return the temperature of the most likely labels, under a prior that its logarithm is 0 +- 0.5.

    The likeliest class stays the same. Without the prior a handful of cases that are all right would give zero.

    Args:
        logits: (N, K).
        labels: (N,) true classes.

    Returns:
        None without a case, and of a network that says what is no number.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels) or not np.isfinite(logits).all():
        return None

    def cost(log_temperature: float) -> float:
        prior = log_temperature**2 / (2 * _PRIOR_DEVIATION**2)
        return len(labels) * _log_loss(logits / np.exp(log_temperature), labels) + prior

    found = float(np.exp(minimize_scalar(cost, bounds=(-_WIDEST, _WIDEST), method="bounded").x))
    before, after = ((_log_loss(some, labels), _error(some, labels)) for some in (logits, logits / found))
    return Temperature(found, len(labels), (before[0], after[0]), (before[1], after[1]))


def _log_probabilities(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _log_loss(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    return float(-_log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def _error(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    probabilities = np.exp(_log_probabilities(logits))
    return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, _NUM_BINS)
