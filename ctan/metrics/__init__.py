"""Figures of merit: pure functions on arrays, no torch."""

from ctan.metrics.dose import DvhValue, dose_score, dvh_curve, dvh_values, score_dose
from ctan.metrics.resampling import (
    MIN_SEEDS,
    MetricSums,
    improvement,
    interval,
    mean_over_trainings,
    resampling_weights,
)
from ctan.metrics.segmentation import dice, hd95_mm

__all__ = [
    "MIN_SEEDS",
    "DvhValue",
    "MetricSums",
    "dice",
    "dose_score",
    "dvh_curve",
    "dvh_values",
    "hd95_mm",
    "improvement",
    "interval",
    "mean_over_trainings",
    "resampling_weights",
    "score_dose",
]
