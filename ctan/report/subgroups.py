"""How the chosen architecture does in groups of the evaluation cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, join, table
from ctan.records import Interval
from ctan.report.style import DASH, architecture_label, format_metric, format_metric_interval

if TYPE_CHECKING:
    from ctan.report.data import ReportData
    from ctan.tasks import MetricSpec

_NOTHING = Interval()


def subgroups_section(data: ReportData) -> Markup:
    """Return the first score of every task in each group, beside that of all; nothing without groups."""
    groups = data.content.subgroups
    if not groups:
        return Markup("")
    columns = [(task, task.primary_metric) for task in data.tasks]
    everyone = [data.scored(data.best_arch, EVALUATION, task, metric) for task, metric in columns]
    rows = [["all", str(data.content.num_evaluation_cases), *map(_cell, (m for _, m in columns), everyone)]]
    for group in groups:
        scored = [group.scores.get(task.name, {}).get(metric.name, _NOTHING) for task, metric in columns]
        rows.append([group.name, str(group.patients), *map(_cell, (m for _, m in columns), scored)])
    best = architecture_label(data.best_arch)
    text = (
        f"{best} on groups of the evaluation cases. Groups that are too small for a verdict have no interval. Groups "
        "differ in how hard their cases are: a lower score alone does not say that the network is unfair to one."
    )
    titles = ["group", "patients", *(f"{task.name}: {metric.heading}" for task, metric in columns)]
    return join(element("p", text, class_="soft"), table(titles, rows))


def _cell(metric: MetricSpec, scored: Interval) -> Markup:
    interval = format_metric_interval(metric, scored)
    value = format_metric(metric, scored.value) if scored.value is not None else DASH
    return element("span", value, *([element("small", interval)] if interval else []))
