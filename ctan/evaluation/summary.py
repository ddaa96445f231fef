"""From per-case rows to metrics: which rows make a metric, and its sums by patient."""

from __future__ import annotations

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
