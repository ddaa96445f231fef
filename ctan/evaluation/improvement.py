"""Relative improvement of one group of models over another on the same cases, with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctan.config import EvaluationConfig
from ctan.errors import DataError
from ctan.evaluation.summary import label_strata, patients_of
from ctan.metrics import improvement, interval, mean_over_trainings, resampling_weights
from ctan.metrics.resampling import Floats
from ctan.tasks import MetricSpec, Task

if TYPE_CHECKING:
    import pyarrow as pa

_NEAR_ZERO = 0.05  # of a metric's scale: a ratio to less says nothing
Intervals = dict[str, dict[str, float]]


def patient_weights(tables: Sequence[pa.Table], patients: dict[str, int], num_bootstrap: int) -> Floats:
    """Return how often each patient is drawn, (1 + num_bootstrap, patients), see `resampling_weights`.

    With image-level tasks, patients are drawn within those of the same labels.

    Args:
        tables: per-case rows of the models that are resampled.
        patients: group id -> column.
        num_bootstrap: number of resamples.
    """
    return resampling_weights(len(patients), num_bootstrap, label_strata(tables, patients))


def resampled_metric(
    tables: Sequence[pa.Table], task: Task, metric: MetricSpec, patients: dict[str, int], weights: Floats
) -> Floats | None:
    """Return the metric of every resample, the mean over models; None when a model lacks it.

    Three seeds and more are resampled too, see `ctan.metrics.mean_over_trainings`.

    Args:
        tables: per-case rows of each model (folds and seeds of one architecture), one role.
        task: which task.
        metric: which of its metrics.
        patients: group id -> column of `weights`.
        weights: (resamples, patients), see `patient_weights`.
    """
    values = []
    for table in tables:
        sums = task.patient_metric(table, metric, patients)
        if sums is None:
            return None
        values.append(sums.of(weights))
    seeds = [table["seed"][0].as_py() for table in tables]
    return mean_over_trainings(np.stack(values), seeds)


def relative_improvement(
    tasks: Sequence[Task], new: Sequence[pa.Table], reference: Sequence[pa.Table], config: EvaluationConfig
) -> Intervals:
    """Return by how many percent the new models are better than the reference ones.

    For each task that both have, `(-1)^l (M - M_ref) / M_ref * 100` of its primary metric (l = 1 where lower is
    better), a ratio of means; `"average"` is the mean over tasks. Intervals are percentiles over resamples of the
    patients, the same for both and for all tasks, stratified by label where there are image-level tasks.

    Args:
        tasks: whose primary metrics are compared.
        new: per-case rows of each new model, one role.
        reference: per-case rows of each reference model, the same role.
        config: number of resamples and coverage.

    Returns:
        Task name, and `"average"` -> `{"value", "low", "high"}`; empty without a common task. NaN where the reference
        is near zero, so that a ratio to it would say nothing.

    Raises:
        DataError: when they were not scored on the same cases.
    """
    cases = [_case_ids(tables) for tables in (new, reference)]
    if cases[0] != cases[1]:
        names = [" and ".join(sorted({table["arch"][0].as_py() for table in tables})) for tables in (new, reference)]
        raise DataError(
            f"{names[0]} and {names[1]} were not scored on the same cases ({len(cases[0] - cases[1])} only {names[0]}, "
            f"{len(cases[1] - cases[0])} only {names[1]}); train both on the same folds and evaluate on one store"
        )
    patients = all_patients([*new, *reference])
    weights = patient_weights([*new, *reference], patients, config.num_bootstrap)
    gains = {}
    for task in tasks:
        metric = task.primary_metric
        ours, theirs = (resampled_metric(tables, task, metric, patients, weights) for tables in (new, reference))
        if ours is not None and theirs is not None:
            near_zero = not theirs[0] >= _NEAR_ZERO * (1.0 if metric.higher_is_better else metric.scale)
            gain = improvement(ours, theirs, metric.higher_is_better)
            gains[task.name] = np.full_like(gain, np.nan) if near_zero else gain
    if not gains:
        return {}
    gains["average"] = np.mean(list(gains.values()), axis=0)
    return {name: interval(gain, config.confidence) for name, gain in gains.items()}


def _case_ids(tables: Sequence[pa.Table]) -> set[str]:
    return {case_id for table in tables for case_id in table["case_id"].to_pylist()}


def all_patients(tables: Sequence[pa.Table]) -> dict[str, int]:
    """Return the patients of several tables in a stable order: group id -> position."""
    import pyarrow as pa

    return patients_of(pa.concat_tables(tables))
