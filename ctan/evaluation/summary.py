"""From per-case rows to metrics: which rows make a metric, and its sums by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctan.metrics import MetricSums
from ctan.tasks import DICE_MEAN, DOSE_SCORE, DVH_SCORE, HD95, MetricSpec, Task

# metric -> (rows of the per-case table, whether a case counts once however many rows it has)
_ROWS_OF = {
    DICE_MEAN.name: ("dice", True),
    HD95.name: ("hd95_mm", True),
    DOSE_SCORE.name: ("dose_score", True),
    DVH_SCORE.name: ("dvh", False),
}


def selection_error(found: Mapping[str, Mapping[str, float]], tasks: Sequence[Task]) -> float:
    """Return what models are ranked by on the tuning cases, smaller is better.

    The mean over tasks of `1 - metric` where higher is better and `metric / scale` where lower is (the dose score over
    7.9 Gy): unlike a ratio to another model's score it stays sensible while that score is near zero.

    Args:
        found: `{task: {metric: value}}`.
        tasks: whose primary metrics count.

    Returns:
        Infinity when the metric of a task is missing: such a model is not chosen while there is another.
    """
    errors = []
    for task in tasks:
        metric, value = task.primary_metric, found.get(task.name, {}).get(task.primary_metric.name, np.nan)
        errors.append(1 - value if metric.higher_is_better else value / metric.scale)
    error = float(np.mean(errors))
    return error if math.isfinite(error) else math.inf


def describe_selection_error(tasks: Sequence[Task]) -> str:
    """Return the terms of `selection_error` in words."""
    terms = []
    for task in tasks:
        metric = task.primary_metric
        scale = f" / {metric.scale:g} {metric.unit}" if metric.scale != 1 else ""
        terms.append(f"1 - {metric.label}" if metric.higher_is_better else f"{metric.label}{scale}")
    return " and ".join(terms)


def metric_sums(cases: pa.Table, task: Task, metric: MetricSpec, patients: Mapping[str, int]) -> MetricSums | None:
    """Return a metric's sums by patient, None when the table has no row of it.

    Args:
        cases: rows of one model and role.
        task: which task.
        metric: which of its metrics.
        patients: group id -> position.
    """
    name, once_a_case = _ROWS_OF[metric.name]
    rows = cases.filter((pc.field("task") == task.name) & (pc.field("metric") == name))
    if name == "hd95_mm":  # undefined for an empty prediction, which Dice punishes
        rows = rows.filter(pc.invert(pc.is_nan(rows["value"])))
    if not rows.num_rows:
        return None
    total, count = np.zeros(len(patients)), np.zeros(len(patients))
    if once_a_case:
        rows = rows.group_by(["case_id", "group_id"]).aggregate([("value", "mean")]).rename_columns(
            ["case_id", "group_id", "value"]
        )  # fmt: skip
    where = [patients[group] for group in rows["group_id"].to_pylist()]
    np.add.at(total, where, rows["value"].to_numpy())
    np.add.at(count, where, 1)
    return MetricSums(total, count)


def patients_of(cases: pa.Table) -> dict[str, int]:
    """Return the patients of a table in a stable order: group id -> position."""
    return {group: i for i, group in enumerate(sorted(pc.unique(cases["group_id"]).to_pylist()))}


def scores(cases: pa.Table, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """Return `{task: {metric: value}}` of one model and role."""
    patients = patients_of(cases)
    everyone = np.ones((1, len(patients)))
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        for metric in task.metrics:
            sums = metric_sums(cases, task, metric, patients)
            if sums is not None:
                found.setdefault(task.name, {})[metric.name] = float(sums.of(everyone)[0])
    return found
