"""Charts of a comparison. Every function returns a matplotlib figure, for the report and the documentation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no global state, no display
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ctan.drawing import FAINT, INK, style
from ctan.evaluation.cases import EVALUATION, TUNING
from ctan.report.style import (
    architecture_colour,
    architecture_label,
    architecture_marker,
    format_metric,
    format_percent,
    is_number,
)
from ctan.tasks import MetricSpec, Segmentation, Task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ctan.records import Interval
    from ctan.report.data import ReportData

_LOG_FROM_RATIO = 10.0  # a loss that falls by more than this is easier to read on a logarithmic axis


def improvement_chart(data: ReportData) -> Figure | None:
    """Draw the relative improvement over the reference per task and on average, with intervals; None without any.

    Evaluation cases on the left, tuning cases, which the best was chosen on, on the right.
    """
    others = [arch for arch in data.archs if arch != data.reference]
    roles = [role for role in (EVALUATION, TUNING) if any(data.gains(arch, role) for arch in others)]
    if not roles:
        return None
    tasks = [task.name for task in data.tasks if any(task.name in data.gains(arch, roles[0]) for arch in others)]
    rows = ["average", *tasks]
    with style():
        figure = Figure(figsize=(10, 1.2 + 0.26 * len(rows) * (len(others) + 1)), layout="constrained")
        panels = figure.subplots(1, len(roles), sharex=True, sharey=True, squeeze=False)[0]
        for axes, role in zip(panels, roles, strict=True):
            _improvement_panel(axes, data, others, rows, role)
        panels[0].set_yticks(range(len(rows)), [_row_label(data, row) for row in rows])
        panels[0].invert_yaxis()
        _architecture_legend(figure, data, others)
    return figure


def _improvement_panel(axes: Axes, data: ReportData, others: list[str], rows: list[str], role: str) -> None:
    axes.axvline(0, color=_colour(data, data.reference), linewidth=1.4)
    for boundary in range(1, len(rows)):
        axes.axhline(boundary - 0.5, color=FAINT, linewidth=0.8)
    for arch, offset in zip(others, _offsets(len(others), 0.6), strict=True):
        for row, name in enumerate(rows):
            gain = data.gains(arch, role).get(name)
            if gain is not None and gain.value is not None:
                _point(axes, data, arch, gain, row + offset)
    count = getattr(data.content, f"num_{role}_cases")
    axes.set(title=f"{role.capitalize()} cases ({count})", ylim=(-0.5, len(rows) - 0.5))
    axes.set_xlabel(f"improvement over {architecture_label(data.reference)} in %, right is better")
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _point(axes: Axes, data: ReportData, arch: str, gain: Interval, y: float) -> None:
    if gain.low is not None and gain.high is not None:
        axes.plot([gain.low, gain.high], [y, y], color=_colour(data, arch), linewidth=2.4, alpha=0.55)
    value = gain.value or 0.0  # only drawn where there is one
    axes.plot(value, y, marker=_marker(data, arch), color=_colour(data, arch), markersize=5.5)
    axes.annotate(
        format_percent(value),
        (value, y),
        (0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
    )


def _row_label(data: ReportData, name: str) -> str:
    metric = next((task.primary_metric.label for task in data.tasks if task.name == name), "")
    return f"{name}\n({metric})" if metric else "average\nof the tasks"


def structures_chart(data: ReportData, task: Segmentation) -> Figure | None:
    """Draw the mean Dice of every structure by architecture, with the middle half of the cases as a bar."""
    rows = dice_rows(data, task)
    if rows.empty:
        return None
    seen = set(rows["structure"])
    structures = [name for name in task.structures if name in seen]
    with style():
        figure = Figure(figsize=(10, 3.3), layout="constrained")
        axes = figure.subplots()
        for arch, offset in zip(data.archs, _offsets(len(data.archs), 0.62), strict=True):
            quartiles = (
                rows[rows["arch"] == arch].groupby("structure")["value"].quantile(np.array([0.25, 0.75])).unstack()
            )
            quartiles = quartiles.reindex(index=structures, columns=[0.25, 0.75])
            x = np.arange(len(structures)) + offset
            axes.vlines(x, quartiles[0.25], quartiles[0.75], color=_colour(data, arch), linewidth=3.5, alpha=0.35)
            means = data.entry(arch).structures
            axes.plot(
                x,
                [_or_nan(means.get(name)) for name in structures],
                linestyle="",
                markersize=6,
                marker=_marker(data, arch),
                color=_colour(data, arch),
            )
        axes.set_xticks(range(len(structures)), structures)
        for boundary in range(1, len(structures)):
            axes.axvline(boundary - 0.5, color=FAINT, linewidth=0.8)
        axes.set(xlim=(-0.5, len(structures) - 0.5), ylim=(0, 1), ylabel="Dice, up is better")
        axes.grid(axis="x", visible=False)
        _architecture_legend(figure, data, data.archs)
    return figure


def dice_rows(data: ReportData, task: Task) -> pd.DataFrame:
    """Return the Dice rows of the evaluation cases."""
    cases = data.cases
    return cases[(cases["role"] == EVALUATION) & (cases["task"] == task.name) & (cases["metric"] == "dice")]


def loss_chart(data: ReportData) -> Figure | None:
    """Draw total loss, loss of every task and tuning error by epoch, a line a training; None without a history."""
    seen = {name for model in data.models for name in model.history["task"]}
    panels = [name for name in ("", *(task.name for task in data.tasks), "tuning") if name in seen]
    if not panels:
        return None
    titles = {"": "total loss", "tuning": "error on the tuning cases"}
    with style():
        figure = Figure(figsize=(10, 3.1), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _lines(axes, data, name, "loss")
            axes.set(title=titles.get(name, f"loss of {name}"))
            _scale_loss(axes)
        _architecture_legend(figure, data, data.archs)
    return figure


def schedule_chart(data: ReportData) -> Figure | None:
    """Draw learning rate and, where they are not constant, task weights by epoch; None without a history."""
    if all(model.history.empty for model in data.models):
        return None
    weighted = [task.name for task in data.tasks if _weight_varies(data, task)]
    with style():
        figure = Figure(figsize=(10, 2.1), layout="constrained")
        panels = figure.subplots(1, max(3, 1 + len(weighted)), squeeze=False)[0]
        for axes, name in zip(panels, ["", *weighted], strict=False):
            _lines(axes, data, name, "weight" if name else "learning_rate")
            axes.set(title=f"weight of {name}" if name else "learning rate", ylim=(0, None))
            axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        for axes in panels[1 + len(weighted) :]:
            axes.set_visible(False)
    return figure


def _weight_varies(data: ReportData, task: Task) -> bool:
    weights = [model.history.loc[model.history["task"] == task.name, "weight"] for model in data.models]
    return any(len(values) and values.max() - values.min() > 1e-9 for values in weights)


def _lines(axes: Axes, data: ReportData, name: str, column: str) -> None:
    """Draw one column of every training's history; markers where there are few epochs."""
    for model in data.models:
        rows = model.history[model.history["task"] == name]
        axes.plot(
            rows["epoch"],
            rows[column],
            color=_colour(data, model.arch),
            markersize=3.5,
            marker=_marker(data, model.arch) if len(rows) <= 30 else None,
            alpha=0.9 if len(data.of(model.arch)) == 1 else 0.55,
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _scale_loss(axes: Axes) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return
    if values.max() / values.min() > _LOG_FROM_RATIO:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)


def cases_chart(data: ReportData) -> Figure | None:
    """Draw the distribution of every task's primary metric over the evaluation cases; None without per-case rows."""
    panels = [(task, values) for task in data.tasks if not (values := case_values(data, task)).empty]
    if not panels:
        return None
    with style():
        figure = Figure(figsize=(10, 3.3), layout="constrained")
        for axes, (task, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _distribution(axes, data, values, task.primary_metric)
    return figure


def case_values(data: ReportData, task: Task) -> pd.DataFrame:
    """Return a task's primary metric of every evaluation case, (cases, architectures); the mean over trainings.

    Empty where a single case has none.
    """
    cases = data.cases
    rows = cases[(cases["role"] == EVALUATION) & (cases["task"] == task.name) & (cases["metric"] == task.case_rows)]
    by_model = rows.groupby(["case_id", "arch", "fold", "seed"], sort=False)["value"].mean()
    table = by_model.groupby(["case_id", "arch"], sort=False).mean().unstack("arch")
    return table.reindex(columns=[arch for arch in data.archs if arch in table.columns])


def _distribution(axes: Axes, data: ReportData, values: pd.DataFrame, metric: MetricSpec) -> None:
    jitter = np.random.default_rng(0).uniform(-0.16, 0.16, len(values))
    for position, arch in enumerate(values.columns):
        scores, colour = values[arch].to_numpy(float), _colour(data, arch)
        axes.boxplot(
            scores[~np.isnan(scores)],
            positions=[position],
            widths=0.5,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.18, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
        )
        axes.plot(
            position + jitter,
            scores,
            linestyle="",
            marker=_marker(data, arch),
            markersize=3.4,
            color=colour,
            alpha=0.75,
            markeredgewidth=0,
        )
    medians = [format_metric(metric, float(values[arch].median())) for arch in values.columns]
    labels = [f"{architecture_label(a)}\nmedian {m}" for a, m in zip(values.columns, medians, strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    unit = f" ({metric.unit})" if metric.unit else ""
    axes.set(title=f"{metric.label}{unit}, {'up' if metric.higher_is_better else 'down'} is better")
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(axis="x", visible=False)


def _architecture_legend(figure: Figure, data: ReportData, archs: Sequence[str]) -> None:
    handles = [
        Line2D(
            [], [], color=_colour(data, arch), marker=_marker(data, arch), markersize=5, label=architecture_label(arch)
        )
        for arch in archs
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _offsets(count: int, width: float) -> Sequence[float]:
    """Return `count` places around 0 within `width`."""
    return [0.0] if count == 1 else list(np.linspace(-width / 2, width / 2, count))


def _or_nan(value: Any) -> float:
    return float(value) if is_number(value) else float("nan")


def _colour(data: ReportData, arch: str) -> str:
    return architecture_colour(arch, data.archs)


def _marker(data: ReportData, arch: str) -> str:
    return architecture_marker(arch, data.archs)
