"""Scores of groups of models, and relative improvement of one over another on the same cases, with intervals.

Every interval is that of `ctan.metrics.jackknife`, as the gate's bounds are: over patients, and over seeds where there
are three or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ctan.errors import DataError
from ctan.evaluation.summary import label_strata, patients_of
from ctan.metrics import MIN_SEEDS, Estimate, PatientMetric, improvement, jackknife
from ctan.metrics.resampling import Floats
from ctan.tasks import MetricSpec, Task

if TYPE_CHECKING:
    import pyarrow as pa

_NEAR_ZERO = 0.05  # of a metric's scale: a ratio to less says nothing
Intervals = dict[str, dict[str, float | int]]


@dataclass(frozen=True)
class _Group:
    """A metric of the trainings of one architecture.

    Attributes:
        metrics: one a training.
        seeds: of each.
    """

    metrics: tuple[PatientMetric, ...]
    seeds: tuple[int, ...]

    def mean(self, weights: Floats, without: Collection[int] = ()) -> Floats:
        """Return the mean over trainings for each row of weights, (resamples,), without those of some seeds."""
        kept = [metric for metric, seed in zip(self.metrics, self.seeds, strict=True) if seed not in without]
        return np.mean([metric.of(weights) for metric in kept], axis=0)

    def least(self, name: str) -> float:
        """Return the smallest standard error that the mean has, of what the metrics call it."""
        return max(getattr(metric, name, 0.0) for metric in self.metrics)


def _group(tables: Sequence[pa.Table], task: Task, metric: MetricSpec, patients: dict[str, int]) -> _Group | None:
    metrics = [task.patient_metric(table, metric, patients) for table in tables]
    if not metrics or any(found is None for found in metrics):
        return None
    seeds = tuple(table["seed"][0].as_py() for table in tables)
    return _Group(tuple(found for found in metrics if found is not None), seeds)


def score(tables: Sequence[pa.Table], task: Task, metric: MetricSpec) -> Estimate | None:
    """Estimate a metric of an architecture, the mean over its models; None when a model lacks it.

    Args:
        tables: per-case rows of each model (folds and seeds of one architecture), one role.
        task: which task.
        metric: which of its metrics.
    """
    tables = _of_task(tables, task)
    patients = all_patients(tables)
    found = _group(tables, task, metric, patients) if patients else None
    if found is None:
        return None
    return _estimate(found.mean, [found], patients, tables, found.least("own_deviation"))


def relative_improvement(
    tasks: Sequence[Task], new: Sequence[pa.Table], reference: Sequence[pa.Table], confidence: float
) -> Intervals:
    """Return by how many percent the new models are better than the reference ones.

    For each task that both have, `(-1)^l (M - M_ref) / M_ref * 100` of its primary metric (l = 1 where lower is
    better), a ratio of means; `"average"` is the mean over tasks. Intervals are paired by patient, and by seed where
    both have the same.

    Args:
        tasks: whose primary metrics are compared.
        new: per-case rows of each new model, one role.
        reference: per-case rows of each reference model, the same role.
        confidence: coverage of the intervals.

    Returns:
        Task name, and `"average"` -> `{"value", "low", "high", "patients"}`; empty without a common task. NaN where the
        reference is near zero, so that a ratio to it would say nothing.

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
    everyone = all_patients([*new, *reference])
    found = {task.name: _gain(task, new, reference, all_patients(_of_task([*new, *reference], task))) for task in tasks}
    gains = {name: gain.estimate.interval(confidence) for name, gain in found.items() if gain}
    if not gains:
        return {}
    together = [_gain(task, new, reference, everyone) for task in tasks if task.name in gains]
    gains["average"] = _average([gain for gain in together if gain], everyone).interval(confidence)
    return gains


@dataclass(frozen=True)
class _Gain:
    """The relative improvement of one task in percent.

    Attributes:
        of: (resamples, patients) weights, seeds left out of the new and of the reference models -> (resamples,).
        groups: the new and the reference models.
        tables: their rows.
        least: smallest standard error.
        estimate: over the patients of the task.
    """

    of: Callable[[Floats, Collection[int], Collection[int]], Floats]
    groups: tuple[_Group, _Group]
    tables: Sequence[pa.Table]
    least: float
    estimate: Estimate


def _gain(task: Task, new: Sequence[pa.Table], reference: Sequence[pa.Table], patients: dict[str, int]) -> _Gain | None:
    metric = task.primary_metric
    ours, theirs = (_group(tables, task, metric, patients) for tables in (new, reference)) if patients else (None, None)
    if ours is None or theirs is None:
        return None
    base = float(theirs.mean(np.ones((1, len(patients))))[0])
    near_zero = not base >= _NEAR_ZERO * (1.0 if metric.higher_is_better else metric.scale)

    def percent(weights: Floats, of_ours: Collection[int] = (), of_theirs: Collection[int] = ()) -> Floats:
        gain = improvement(ours.mean(weights, of_ours), theirs.mean(weights, of_theirs), metric.higher_is_better)
        return np.full_like(gain, np.nan) if near_zero else gain

    least = 0.0 if near_zero else 100 * ours.least("least_deviation") / base
    tables = _of_task([*new, *reference], task)
    estimate = _estimate(percent, [ours, theirs], patients, tables, least)
    return _Gain(percent, (ours, theirs), tables, least, estimate)


def _average(gains: Sequence[_Gain], patients: dict[str, int]) -> Estimate:
    def mean(weights: Floats, of_ours: Collection[int] = (), of_theirs: Collection[int] = ()) -> Floats:
        return np.mean([gain.of(weights, of_ours, of_theirs) for gain in gains], axis=0)

    least = math.sqrt(sum(gain.least**2 for gain in gains)) / len(gains)
    tables = [table for gain in gains for table in gain.tables]
    return _estimate(mean, gains[0].groups, patients, tables, least)


def _estimate(
    statistic: Callable[..., Floats],
    groups: Sequence[_Group],
    patients: dict[str, int],
    tables: Sequence[pa.Table],
    least: float,
) -> Estimate:
    """Estimate a statistic of patients and trainings.

    Args:
        statistic: weights, and of each group the seeds that are left out -> (resamples,).
        groups: the trainings that it is made of.
        patients: group id -> column of the weights.
        tables: rows, for the labels.
        least: smallest standard error.
    """
    found = jackknife(statistic, len(patients), label_strata(tables, patients), least)
    everyone = np.ones((1, len(patients)))
    seeds = [sorted(set(group.seeds)) for group in groups]
    same = len({tuple(own) for own in seeds}) == 1  # then a seed is left out of all groups at once
    places = [range(len(groups))] if same else [(place,) for place in range(len(groups))]

    def left_out(place: Collection[int], seed: int) -> list[tuple[int, ...]]:
        return [(seed,) if i in place else () for i in range(len(groups))]

    without = [
        np.array([float(statistic(everyone, *left_out(place, seed))[0]) for seed in seeds[place[0]]])
        for place in places
        if len(seeds[place[0]]) >= MIN_SEEDS
    ]
    return found.with_trainings(without) if without else found


def _of_task(tables: Sequence[pa.Table], task: Task) -> list[pa.Table]:
    return [table.filter(pc.field("task") == task.name) for table in tables]


def _case_ids(tables: Sequence[pa.Table]) -> set[str]:
    return {case_id for table in tables for case_id in table["case_id"].to_pylist()}


def all_patients(tables: Sequence[pa.Table]) -> dict[str, int]:
    """Return the patients of several tables in a stable order: group id -> position."""
    import pyarrow as pa

    return patients_of(pa.concat_tables(tables))
