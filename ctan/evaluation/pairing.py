"""Two models on the same things: rows paired by case and structure, and how much better one is on a common scale.

The scale is that of the selection error: `1 - metric` where higher is better, `metric / scale` where lower is. A gain
is a difference of two such errors in percent, not a ratio to another model's score: it stays sensible where that score
is near zero, and is a plain mean over patients for most metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctan.evaluation.summary import label_strata, patients_of
from ctan.metrics import Estimate, PatientMetric, jackknife
from ctan.metrics.resampling import Floats
from ctan.tasks import Task

_Keys = dict[tuple[str, str, str], float]  # (case, metric, structure) -> value


@dataclass(frozen=True)
class Pair:
    """What two models predicted of the same cases and structures, of one task.

    Attributes:
        task: which.
        ours, theirs: their rows, of the same cases and structures.
        only_ours, only_theirs: what the other side lacks, such as `"Brainstem of 3 cases"`.
        lost: structures (labels, targets) that the other side has and ours nowhere.
        not_finite: how many of our rows are no finite number.
    """

    task: Task
    ours: pa.Table
    theirs: pa.Table
    only_ours: tuple[str, ...] = ()
    only_theirs: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    not_finite: int = 0

    @property
    def num_patients(self) -> int:
        """How many different patients (lesions) they share."""
        return len(pc.unique(self.ours["group_id"]))

    def of(self, case_ids: Collection[str]) -> Pair:
        """Return the part that is about these cases."""
        keep = pc.field("case_id").isin(sorted(case_ids))
        return Pair(self.task, self.ours.filter(keep), self.theirs.filter(keep))


def pair(task: Task, ours: pa.Table, theirs: pa.Table) -> Pair:
    """Pair the rows of two models that the primary metric of a task is made of.

    Where a case needs all its rows, as the probabilities of all classes, it stays whole or leaves.

    Args:
        task: which.
        ours, theirs: per-case rows of one role, of all tasks.
    """
    ours, theirs = _rows(task, ours), _rows(task, theirs)
    own, other = _finite(ours), _finite(theirs)
    common = own.keys() & other.keys()
    if task.head == "image":
        broken = {key[0] for key in own.keys() ^ other.keys()}
        common = {key for key in common if key[0] not in broken}
    structures = ({key[2] for key in keys} for keys in (own, other))
    have, wanted = structures
    return Pair(
        task,
        _only(ours, common),
        _only(theirs, common),
        _described(own.keys() - other.keys()),
        _described(other.keys() - own.keys()),
        tuple(sorted(wanted - have)) if have else (),
        ours.num_rows - len(own),
    )


def _rows(task: Task, cases: pa.Table) -> pa.Table:
    keep = pc.field("task") == task.name
    return cases.filter(keep & (pc.field("metric") == task.case_rows) if task.case_rows else keep)


def _keys(rows: pa.Table) -> list[tuple[str, str, str]]:
    columns = (rows[name].to_pylist() for name in ("case_id", "metric", "structure"))
    return [(case, metric, structure or "") for case, metric, structure in zip(*columns, strict=True)]


def _finite(rows: pa.Table) -> _Keys:
    values = rows["value"].to_numpy()
    return {key: value for key, value in zip(_keys(rows), values, strict=True) if np.isfinite(value)}


def _only(rows: pa.Table, wanted: Collection[tuple[str, str, str]]) -> pa.Table:
    return rows.filter(pa.array([key in wanted for key in _keys(rows)], pa.bool_()))


def _described(keys: Collection[tuple[str, str, str]]) -> tuple[str, ...]:
    cases: dict[str, set[str]] = {}
    for case_id, _, structure in keys:
        cases.setdefault(structure, set()).add(case_id)
    return tuple(
        f"{f'{structure} of ' if structure else ''}{len(found)} case{'s' if len(found) > 1 else ''}"
        for structure, found in sorted(cases.items())
    )


@dataclass(frozen=True)
class Gain:
    """How much better one model is in one task, in percent of the task's scale, for any weights of the patients.

    Attributes:
        of: (resamples, patients) weights -> (resamples,) percent.
        least_deviation: smallest standard error that a metric of whole cases has.
    """

    of: Callable[[Floats], Floats]
    least_deviation: float = 0.0


def gain(pair: Pair, patients: Mapping[str, int]) -> Gain | None:
    """Return the gain of the primary metric, None where there is nothing to compare.

    Args:
        pair: of one task.
        patients: group id -> column of the weights.
    """
    metric = pair.task.primary_metric
    ours, theirs = (pair.task.patient_metric(rows, metric, patients) for rows in (pair.ours, pair.theirs))
    return _difference(ours, theirs, metric.higher_is_better, 1.0 if metric.higher_is_better else metric.scale)


def calibration_gain(pair: Pair, patients: Mapping[str, int]) -> Gain | None:
    """Return by how much the probabilities of a diagnosis have improved (Brier score, in percent); None without any."""
    ours, theirs = (pair.task.calibration(rows, patients) for rows in (pair.ours, pair.theirs))
    return _difference(ours, theirs, False, 1.0)


def _difference(
    ours: PatientMetric | None, theirs: PatientMetric | None, higher_is_better: bool, scale: float
) -> Gain | None:
    if ours is None or theirs is None:
        return None
    factor = (100 if higher_is_better else -100) / scale
    least = getattr(ours, "least_deviation", 0.0)
    return Gain(lambda weights: factor * (ours.of(weights) - theirs.of(weights)), abs(factor) * least)


def estimate(gains: Sequence[Gain], pairs: Sequence[Pair], patients: Mapping[str, int]) -> Estimate:
    """Estimate the mean of gains over tasks.

    Args:
        gains: one a task.
        pairs: what they were made from.
        patients: group id -> column of the weights.
    """
    strata: Sequence[Hashable] | None = label_strata([pair.ours for pair in pairs], patients)
    least = float(np.sqrt(np.sum(np.square([gain.least_deviation for gain in gains])))) / len(gains)

    def mean(weights: Floats) -> Floats:
        return np.mean([gain.of(weights) for gain in gains], axis=0)

    return jackknife(mean, len(patients), strata, least)


def estimate_task(pair: Pair, made: Callable[[Pair, Mapping[str, int]], Gain | None] = gain) -> Estimate | None:
    """Estimate the gain of one task over its own patients; None where there is nothing to compare."""
    patients = patients_of(pair.ours)
    found = made(pair, patients) if patients else None
    return None if found is None else estimate([found], [pair], patients)


def estimate_mean(pairs: Sequence[Pair]) -> Estimate | None:
    """Estimate the mean gain over tasks, over the patients of all; None where a task has nothing to compare."""
    if not pairs or any(not pair.ours.num_rows for pair in pairs):
        return None
    patients = patients_of(pa.concat_tables([pair.ours for pair in pairs]))
    gains: list[Any] = [gain(pair, patients) for pair in pairs]
    return None if any(found is None for found in gains) else estimate(gains, pairs, patients)
