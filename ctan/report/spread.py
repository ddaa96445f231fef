"""How far trainings of one architecture are apart: over seeds, and over folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, join, table
from ctan.report.style import DASH, format_metric, is_number
from ctan.report.tables import architecture_name

if TYPE_CHECKING:
    from ctan.report.data import Evaluated, ReportData
    from ctan.tasks import MetricSpec, Task


def spread_section(data: ReportData) -> Markup:
    """Return the spread of every task's first score on the evaluation cases; nothing where all are trained once."""
    rows = []
    for arch in data.archs:
        trainings = data.of(arch)
        for task in data.tasks if len(trainings) > 1 else ():
            metric = task.primary_metric
            scores = [_score(one, task, metric) for one in trainings]
            if any(score is None for score in scores):
                continue
            found = [score for score in scores if score is not None]
            seeds, folds = [one.facts.seed for one in trainings], [one.facts.fold for one in trainings]
            rows.append(
                [
                    architecture_name(data, arch),
                    f"{task.name}: {metric.heading}",
                    str(len(found)),
                    format_metric(metric, float(np.mean(found))),
                    f"{format_metric(metric, min(found))} to {format_metric(metric, max(found))}",
                    *(_deviation(metric, found, groups) for groups in (folds, seeds)),
                ]
            )
    if not rows:
        return Markup("")
    text = (
        "Trainings of one architecture on the same evaluation cases. Between seeds: the standard deviation of those "
        "that differ in the seed alone; between folds: in the fold alone. A difference between architectures that is "
        "small beside these is not shown by a training each."
    )
    titles = ["architecture", "score", "trainings", "mean", "lowest to highest", "between seeds", "between folds"]
    return join(element("p", text, class_="soft"), table(titles, rows))


def _score(one: Evaluated, task: Task, metric: MetricSpec) -> float | None:
    value = one.facts.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
    return float(value) if value is not None and is_number(value) else None


def _deviation(metric: MetricSpec, scores: Sequence[float], groups: Sequence[int]) -> str:
    """Return the standard deviation within groups, pooled; a dash where no group has two."""
    squares, freedom = 0.0, 0
    for group in set(groups):
        own = np.array([score for score, of in zip(scores, groups, strict=True) if of == group])
        squares += float(((own - own.mean()) ** 2).sum())
        freedom += len(own) - 1
    return format_metric(metric, (squares / freedom) ** 0.5) if freedom else DASH
