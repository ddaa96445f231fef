"""Figures of merit: pure functions on arrays, no torch."""

from ctan.metrics.classification import (
    AUC,
    PROBABILITY,
    BalancedAccuracy,
    Brier,
    MacroAUC,
    calibration_error,
    confusion_matrix,
    mean_of_defined,
    probability_rows,
    reliability,
    roc_curve,
    true_positive_rate_at,
)
from ctan.metrics.dose import DoseAtPoints, DvhValue, dose_score, dvh_curve, dvh_values, score_dose
from ctan.metrics.paired import Estimate, jackknife
from ctan.metrics.regression import RSquared
from ctan.metrics.resampling import (
    MIN_SEEDS,
    MetricSums,
    PatientMetric,
    improvement,
)
from ctan.metrics.segmentation import dice, hd95_mm, surface_scores, thresholded_jaccard
from ctan.metrics.temperature import Temperature, fit_temperature

__all__ = [
    "AUC",
    "MIN_SEEDS",
    "PROBABILITY",
    "BalancedAccuracy",
    "Brier",
    "DoseAtPoints",
    "DvhValue",
    "Estimate",
    "MacroAUC",
    "MetricSums",
    "PatientMetric",
    "RSquared",
    "Temperature",
    "calibration_error",
    "confusion_matrix",
    "dice",
    "dose_score",
    "dvh_curve",
    "dvh_values",
    "fit_temperature",
    "hd95_mm",
    "improvement",
    "jackknife",
    "mean_of_defined",
    "probability_rows",
    "reliability",
    "roc_curve",
    "score_dose",
    "surface_scores",
    "thresholded_jaccard",
    "true_positive_rate_at",
]
