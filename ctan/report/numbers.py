"""Numbers an image in the report: predicted against true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ctan.drawing import FAINT, style
from ctan.evaluation.cases import EVALUATION
from ctan.report.style import architecture_colour, architecture_label, architecture_marker, format_metric

if TYPE_CHECKING:
    from ctan.report.data import ReportData
    from ctan.tasks import Regression

_COLUMNS = 4


def numbers_chart(data: ReportData, task: Regression) -> Figure | None:
    """Draw predicted against true numbers of the evaluation cases, a panel an architecture; None without any."""
    cases = data.cases
    rows = cases[(cases["role"] == EVALUATION) & (cases["task"] == task.name) & (cases["metric"] == task.case_rows)]
    means = rows.groupby(["arch", "case_id"], sort=False)[["predicted", "planned"]].mean()
    archs = [arch for arch in data.archs if arch in means.index.get_level_values("arch")]
    if not archs:
        return None
    low, high = float(means.to_numpy().min()), float(means.to_numpy().max())
    pad = 0.04 * (high - low) or 1.0
    limits, unit = (low - pad, high + pad), f" ({task.unit})" if task.unit else ""
    num_columns = min(_COLUMNS, len(archs))
    num_rows = -(-len(archs) // num_columns)
    with style():
        figure = Figure(figsize=(10, 0.6 + 3.0 * num_rows), layout="constrained")
        panels = list(figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True).flat)
        for axes, arch in zip(panels, archs, strict=False):
            of_arch, found = means.loc[arch], data.scored(arch, EVALUATION, task, task.primary_metric)
            axes.plot(limits, limits, color=FAINT, linewidth=1.2, zorder=0)
            axes.plot(
                of_arch["planned"],
                of_arch["predicted"],
                linestyle="",
                markersize=4.5,
                alpha=0.75,
                marker=architecture_marker(arch, data.archs),
                color=architecture_colour(arch, data.archs),
                markeredgewidth=0,
            )
            score = f"{task.primary_metric.label} {format_metric(task.primary_metric, found.value)}"
            axes.set(title=f"{architecture_label(arch)}, {score}", xlim=limits, ylim=limits, aspect="equal")
            axes.set(xlabel=f"true {task.name}{unit}", ylabel=f"predicted {task.name}{unit}")
            axes.label_outer()
        for axes in panels[len(archs) :]:
            axes.set_visible(False)
    return figure
