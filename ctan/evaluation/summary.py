"""From per-case rows to metrics: which rows make a metric, and its sums by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ctan.errors import DataError
from ctan.metrics import AUC as AreaUnderCurve
from ctan.metrics import PROBABILITY, BalancedAccuracy, MacroAUC, MetricSums, PatientMetric
from ctan.tasks import (
    AUC,
    BALANCED_ACCURACY,
    DICE_MEAN,
    DOSE_SCORE,
    DVH_SCORE,
    HD95,
    JACCARD65,
    MACRO_AUC,
    Classification,
    MetricSpec,
    Task,
)

# metric -> (rows of the per-case table, whether a case counts once however many rows it has)
_ROWS_OF = {
    DICE_MEAN.name: ("dice", True),
    HD95.name: ("hd95_mm", True),
    JACCARD65.name: ("jaccard65", True),
    DOSE_SCORE.name: ("dose_score", True),
    DVH_SCORE.name: ("dvh", False),
}


@dataclass(frozen=True)
class Diagnoses:
    """One model's predictions of an image-level task.

    Attributes:
        case_ids: (N,) in the order of the table.
        group_ids: (N,) patient or lesion of each.
        probabilities: (N, K) by class.
        labels: (N,) position of the true class.
    """

    case_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.intp]


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


def metric_sums(cases: pa.Table, task: Task, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
    """Return a metric as what it is for any resample of the patients, None when the table has no row of it.

    Args:
        cases: rows of one model and role.
        task: which task.
        metric: which of its metrics.
        patients: group id -> position.

    Raises:
        DataError: when a case lacks the probability of a class.
    """
    if isinstance(task, Classification):
        found = diagnoses(cases, task)
        return None if found is None else _label_metric(found, metric, patients)
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


def _label_metric(found: Diagnoses, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric:
    where = np.array([patients[group] for group in found.group_ids], np.intp)
    if metric.name == BALANCED_ACCURACY.name:
        return BalancedAccuracy(found.probabilities, found.labels, where, len(patients))
    if metric.name == MACRO_AUC.name:
        return MacroAUC(found.probabilities, found.labels, where)
    if metric.name == AUC.name:
        return AreaUnderCurve(found.probabilities[:, 1], found.labels == 1, where)
    raise ValueError(f"{metric.name} is not a metric of image-level tasks")


def diagnoses(cases: pa.Table, task: Classification) -> Diagnoses | None:
    """Return the predictions of an image-level task, None when the table has none.

    Args:
        cases: rows of one model and role; for every case of known label a row a class, `planned` 1 for the true one.
        task: names the classes.

    Raises:
        DataError: when a case does not have one probability of each class and one true class.
    """
    rows = cases.filter((pc.field("task") == task.name) & (pc.field("metric") == PROBABILITY))
    if not rows.num_rows:
        return None
    group_of = dict(zip(rows["case_id"].to_pylist(), rows["group_id"].to_pylist(), strict=True))
    position = {case_id: i for i, case_id in enumerate(group_of)}
    column = {name: k for k, name in enumerate(task.classes)}
    where = np.array([position[case_id] for case_id in rows["case_id"].to_pylist()])
    classes = np.array([column.get(name, len(column)) for name in rows["structure"].to_pylist()])
    # one column more than classes: names that the task does not know, so that they are found below
    probabilities, true, count = np.zeros((3, len(position), len(column) + 1))
    np.add.at(probabilities, (where, classes), rows["value"].to_numpy())
    np.add.at(true, (where, classes), rows["planned"].to_numpy() == 1)
    np.add.at(count, (where, classes), 1)
    whole = (count[:, :-1] == 1).all(axis=1) & (count[:, -1] == 0) & (true.sum(axis=1) == 1)
    whole &= ~np.isnan(probabilities).any(axis=1)
    if not whole.all():
        raise DataError(
            f"case {list(position)[int(np.argmin(whole))]}: expected one probability of each class of {task.name!r} "
            f"({', '.join(task.classes)}) and one true class in the per-case table; evaluate the model again"
        )
    return Diagnoses(tuple(position), tuple(group_of.values()), probabilities[:, :-1], true.argmax(axis=1))


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
            sums = metric_sums(cases, task, metric, patients)
            if sums is not None:
                found.setdefault(task.name, {})[metric.name] = float(sums.of(everyone)[0])
    return found
