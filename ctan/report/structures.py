"""Structures and goals: how scores spread over the cases, and what plans were to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctan.evaluation.cases import EVALUATION
from ctan.goals import GOAL, Goal
from ctan.html import Markup, table
from ctan.report.style import DASH, architecture_label

if TYPE_CHECKING:
    import pandas as pd

    from ctan.report.data import ReportData
    from ctan.tasks import Task

_SPREAD = (("dice", "Dice", 3), ("surface_dice", "surface Dice", 3), ("hd95_mm", "HD95", 1))


def spread_table(data: ReportData, task: Task) -> Markup:
    """Return median and quartiles of the chosen model's scores by structure, and how often it found nothing.

    HD95 of a structure that was missed does not exist: those cases are counted, never averaged away.
    """
    rows = _rows(data, task.name)
    measured = [(metric, label, digits) for metric, label, digits in _SPREAD if (rows["metric"] == metric).any()]
    if not measured:
        return Markup("")
    unit = "mm" if data.spec.spatial_dims == 3 else "pixels"
    body = []
    for structure, group in rows[rows["metric"].isin([m for m, _, _ in measured])].groupby("structure", sort=False):
        values = {metric: group.loc[group["metric"] == metric, "value"] for metric, _, _ in measured}
        missed = int((values["dice"] == 0).sum())
        cells = [_quartiles(values[metric].dropna(), digits) for metric, _, digits in measured]
        body.append([structure, len(values["dice"]), *cells, missed or DASH])
    titles = ["structure", "cases", *(f"{label}{f' ({unit})' if m == 'hd95_mm' else ''}" for m, label, _ in measured)]
    best = architecture_label(data.best_arch)
    caption = f"{best} by structure: median (middle half of the cases); in how many cases nothing of it was met."
    return table([*titles, "missed"], body, caption)


def _quartiles(values: pd.Series, digits: int) -> str:
    if values.empty:
        return DASH
    low, median, high = values.quantile([0.25, 0.5, 0.75])
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def goals_table(data: ReportData, task: Task) -> Markup:
    """Return in how many cases the plan and the chosen model's dose meet each clinical goal, and agree about it."""
    rows = _rows(data, task.name)
    rows = rows[rows["metric"] == GOAL]
    if rows.empty:
        return Markup("")
    body = []
    for text, group in rows.groupby("structure", sort=False):
        goal = Goal.parse(str(text))
        planned, predicted = (group[name].map(goal.is_met) for name in ("planned", "predicted"))
        bias = (group["predicted"] - group["planned"]).mean()
        body.append(
            [
                str(text),
                len(group),
                int(planned.sum()),
                int(predicted.sum()),
                int((planned == predicted).sum()),
                f"{group['value'].mean():.2f} {goal.unit}",
                f"{bias:+.2f} {goal.unit}".replace("-", "−"),
            ]
        )
    best = architecture_label(data.best_arch)
    titles = ["clinical goal", "cases", "met as planned", f"met by {best}", "same verdict", "mean error", "bias"]
    caption = (
        f"Clinical goals on the evaluation cases: the plan and the dose of {best}, judged alike. "
        "Error and bias are of the quantity that the goal limits."
    )
    return table(titles, body, caption)


def _rows(data: ReportData, task: str) -> pd.DataFrame:
    """Return the chosen model's evaluation rows of a task."""
    rows = data.best.cases.to_pandas()
    return rows[(rows["role"] == EVALUATION) & (rows["task"] == task)]
