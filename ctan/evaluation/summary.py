"""From per-case rows to metrics, and what models are ranked by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctan.metrics import PROBABILITY
from ctan.tasks import Task


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


def label_strata(tables: Sequence[pa.Table], patients: Mapping[str, int]) -> list[tuple[tuple[str, str], ...]] | None:
    """Return each patient's labels, `(task, class)` of all image-level tasks; None when the tables have none.

    What the bootstrap is stratified by, for a resample without a positive case has no AUC.

    Args:
        tables: per-case rows of any models and roles; labels are the truth and the same in all.
        patients: group id -> position.
    """
    labels: dict[str, set[tuple[str, str]]] = {}
    for table in tables:
        true = table.filter((pc.field("metric") == PROBABILITY) & (pc.field("planned") == 1))
        columns = (true[name].to_pylist() for name in ("group_id", "task", "structure"))
        for group, task, label in zip(*columns, strict=True):
            labels.setdefault(group, set()).add((task, label))
    if not labels:
        return None
    return [tuple(sorted(labels.get(group, ()))) for group in sorted(patients, key=patients.__getitem__)]


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
            sums = task.patient_metric(cases, metric, patients)
            if sums is not None:
                found.setdefault(task.name, {})[metric.name] = float(sums.of(everyone)[0])
    return found
