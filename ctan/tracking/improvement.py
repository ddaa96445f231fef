"""Relative improvement of one model over another on the same cases, from their per-case tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError
from ctan.tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from ctan.config import EvaluationConfig

Floats = npt.NDArray[np.float64]
# Primary metric -> rows of the per-case table whose mean within a case is the case's value.
_ROWS_OF = {"dice_mean": "dice", "dose_score": "dose_score"}


def relative_improvement(
    tasks: Sequence[Task], new: pa.Table, old: pa.Table, config: EvaluationConfig
) -> dict[str, dict[str, float]]:
    """Return by how many percent the new model is better than the old one.

    For each task that both have, `(-1)^l (M_new - M_old) / M_old * 100` of its primary metric, l = 1 where lower is
    better: a ratio of means over the cases. Intervals are percentiles over resamples of the patients, the same
    patients for both models and all tasks.

    Args:
        tasks: whose primary metrics are compared.
        new: per-case table of the new model.
        old: per-case table of the old model.
        config: number of resamples and coverage.

    Returns:
        Task name, and `"average"` over the tasks, -> `{"value", "low", "high"}` in percent; empty without a common
        task. Infinite where the old model scores 0 and the new one does not.

    Raises:
        DataError: when the tables are not about the same cases.
    """
    pairs = {task.name: (task, _case_values(new, task), _case_values(old, task)) for task in tasks}
    pairs = {name: pair for name, pair in pairs.items() if pair[1] and pair[2]}
    if not pairs:
        return {}
    groups = dict(zip(new["case_id"].to_pylist(), new["group_id"].to_pylist(), strict=True))
    patients = sorted(set(groups.values()))
    draws = np.random.default_rng(0).multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), config.num_bootstrap
    )
    everyone = np.ones((1, len(patients)))
    gains: dict[str, tuple[Floats, Floats]] = {}
    for name, (task, ours, theirs) in pairs.items():
        if ours.keys() != theirs.keys():
            raise DataError(f"task {name!r}: the two models were not scored on the same cases; evaluate both again")
        cases = sorted(ours)
        sums = np.zeros((len(patients), 2))
        np.add.at(sums, [patients.index(groups[case]) for case in cases], [[ours[c], theirs[c]] for c in cases])
        sign = 1 if task.primary_metric.higher_is_better else -1
        gains[name] = tuple(sign * _change(weights @ sums) for weights in (everyone, draws))  # type: ignore[assignment]
    gains["average"] = tuple(np.mean([gain[i] for gain in gains.values()], axis=0) for i in (0, 1))
    tail = 50 * (1 - config.confidence)
    return {name: _interval(value, resampled, tail) for name, (value, resampled) in gains.items()}


def _change(totals: Floats) -> Floats:
    """Change from old to new in percent of old. totals: (resamples, 2): new, old; the number of cases cancels out."""
    difference = totals[:, 0] - totals[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / totals[:, 1] * 100)


def _interval(value: Floats, resampled: Floats, tail: float) -> dict[str, float]:
    low, high = np.percentile(resampled, [tail, 100 - tail], method="nearest")  # resamples may be infinite
    return {"value": float(value[0]), "low": float(low), "high": float(high)}


def _case_values(table: pa.Table, task: Task) -> dict[str, float]:
    """Return the task's primary metric of every case."""
    import pyarrow.compute as pc

    rows = table.filter((pc.field("task") == task.name) & (pc.field("metric") == _ROWS_OF[task.primary_metric.name]))
    means: Any = rows.group_by("case_id").aggregate([("value", "mean")])
    return dict(zip(means["case_id"].to_pylist(), means["value_mean"].to_pylist(), strict=True))
