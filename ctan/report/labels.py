"""Image-level tasks in the report: ROC and reliability curves, confusion matrix, recall of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ctan.drawing import FAINT, INK, structure_colours, style
from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, table
from ctan.metrics import (
    AUC,
    calibration_error,
    confusion_matrix,
    mean_of_defined,
    reliability,
    roc_curve,
    true_positive_rate_at,
)
from ctan.report.style import (
    DASH,
    architecture_colour,
    architecture_label,
    architecture_marker,
    format_metric,
)
from ctan.tasks import AUC as AUC_SPEC
from ctan.tasks import MACRO_AUC, Classification, Diagnoses, diagnoses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

    from ctan.report.data import Evaluated, ReportData

Floats = npt.NDArray[np.float64]
_GRID = np.linspace(0, 1, 401)  # false positive rates that curves are averaged at
_MAX_BINS, _CASES_A_BIN = 10, 12
_LINES = ("-", (0, (4, 1.4)), (0, (1.2, 1.2)))  # classes take turns, so that none depends on colour alone
_LEGEND: dict[str, Any] = {
    "fontsize": 7.5,
    "title_fontsize": 7.5,
    "labelspacing": 0.25,
    "frameon": True,
    "framealpha": 0.85,
    "edgecolor": "none",
    "alignment": "left",
}


@dataclass(frozen=True)
class _Arch:
    """What the trainings of an architecture predicted, and how it is drawn."""

    name: str
    found: list[Diagnoses]
    colour: str
    marker: str

    @property
    def label(self) -> str:
        return architecture_label(self.name)


def roc_chart(data: ReportData, task: Classification) -> Figure | None:
    """Draw ROC and reliability curves of every architecture on the evaluation cases; None without predictions.

    With more than two classes the ROC curve is the mean over classes, each against all others, and those of the single
    classes stand beside it for the chosen model. Curves of several trainings are averaged at equal false positive
    rates.
    """
    archs = _archs(data, task)
    if not archs:
        return None
    best = _diagnoses(data.best, task) if len(task.classes) > 2 else None
    with style():
        figure = Figure(figsize=(10, 3.75 if best else 4.6), layout="constrained")
        panels = figure.subplots(1, 3 if best else 2)
        _roc_panel(panels[0], data, task, archs)
        if best:
            _class_panel(panels[1], task, best, architecture_label(data.best_arch))
        _reliability_panel(panels[-1], task, archs)
    return figure


def confusion_chart(data: ReportData, task: Classification) -> Figure | None:
    """Draw the confusion matrix of the chosen model, and beside each true class its recall by architecture."""
    best, archs = _diagnoses(data.best, task), _archs(data, task)
    if best is None:
        return None
    counts = confusion_matrix(best.labels, best.probabilities.argmax(axis=1), len(task.classes))
    with style():
        figure = Figure(figsize=(10, 1.5 + 0.52 * max(len(task.classes), 3)), layout="constrained")
        matrix, recalls = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
        _matrix_panel(matrix, task, counts, architecture_label(data.best_arch))
        _recall_panel(recalls, task, archs)
        handles = [Line2D([], [], color=a.colour, marker=a.marker, markersize=5, label=a.label) for a in archs]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


def recall_table(data: ReportData, task: Classification) -> Markup:
    """Return the recall of every class by architecture, the mean over trainings, and its number of cases.

    The best of each row is bold, and all that are printed the same.
    """
    archs = _archs(data, task)
    if not archs:
        return Markup("")
    counts, recalls = _num_cases(archs, task), np.stack([_recall(arch, task) for arch in archs], axis=1)
    rows: list[list[object]] = [
        [name, str(count), *_emphasised(values)]
        for name, count, values in zip(task.classes, counts, recalls, strict=True)
        if count
    ]
    rows.append(["mean (balanced accuracy)", str(sum(counts)), *_emphasised(mean_of_defined(recalls.T))])
    titles = [f"{task.name}: true class", "cases", *(arch.label for arch in archs)]
    return table(
        titles,
        rows,
        "Recall: share of the evaluation cases of a class whose most probable class is the true one. Higher is better.",
    )


def _emphasised(values: Floats) -> list[object]:
    texts = [DASH if np.isnan(value) else f"{value:.3f}" for value in values]
    best = DASH if np.isnan(values).all() or len(values) < 2 else texts[int(np.nanargmax(values))]
    return [element("strong", text) if text == best != DASH else text for text in texts]


def _archs(data: ReportData, task: Classification) -> list[_Arch]:
    """Return the architectures that predict the task, in the comparison's order."""
    archs = []
    for name in data.archs:
        found = [known for model in data.of(name) if (known := _diagnoses(model, task)) is not None]
        if found:
            colour, marker = architecture_colour(name, data.archs), architecture_marker(name, data.archs)
            archs.append(_Arch(name, found, colour, marker))
    return archs


def _diagnoses(model: Evaluated, task: Classification) -> Diagnoses | None:
    return diagnoses(model.cases.filter(pc.field("role") == EVALUATION), task)


def _roc_panel(axes: Axes, data: ReportData, task: Classification, archs: Sequence[_Arch]) -> None:
    several = len(task.classes) > 2
    metric = MACRO_AUC if several else AUC_SPEC
    for arch in archs:
        if not several and len(arch.found) == 1:  # nothing to average: every step of the curve
            rates = roc_curve(arch.found[0].probabilities[:, 1], arch.found[0].labels == 1)
        else:
            curves = [_mean_curve(found, range(len(task.classes)) if several else [1]) for found in arch.found]
            rates = _GRID, mean_of_defined(np.stack(curves, axis=-1))
        area = format_metric(metric, data.scored(arch.name, EVALUATION, task, metric).value)
        axes.plot(*_from_origin(*rates), color=arch.colour, label=f"{arch.label} {area}")
        every = max(len(rates[0]) // 9, 1)
        axes.plot(
            rates[0][every // 2 :: every],
            rates[1][every // 2 :: every],
            linestyle="",
            marker=arch.marker,
            color=arch.colour,
            markersize=4,
        )
    title = f"{task.name}: mean over classes" if several else f"{task.name}: {task.classes[1]}"
    legend = _finish_roc(axes, title, metric.label)
    for handle, arch in zip(legend.get_lines(), archs, strict=True):
        handle.set(marker=arch.marker, markersize=4)


def _class_panel(axes: Axes, task: Classification, found: Diagnoses, label: str) -> None:
    colours = structure_colours(task.classes, {})
    everyone, patients = np.ones((1, len(found.labels))), np.arange(len(found.labels))
    for k, name in enumerate(task.classes):
        scores, positive = found.probabilities[:, k], found.labels == k
        if positive.any() and not positive.all():
            area = AUC(scores, positive, patients).of(everyone)[0]
            axes.plot(
                *roc_curve(scores, positive),
                color=colours[name],
                linestyle=_LINES[k % len(_LINES)],
                linewidth=1.3,
                label=f"{name} {area:.3f}",
            )
    _finish_roc(axes, f"{label}: class against the rest", "AUC")


def _finish_roc(axes: Axes, title: str, legend: str) -> Legend:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, zorder=0)
    axes.set(title=title, xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xlabel="1 − specificity", ylabel="sensitivity")
    axes.set_aspect("equal")
    return axes.legend(loc="lower right", title=legend, handlelength=2.2, **_LEGEND)


def _mean_curve(found: Diagnoses, classes: Sequence[int]) -> Floats:
    """Return the mean over classes of the sensitivity at `_GRID`; classes without a case do not count."""
    curves = []
    for k in classes:
        positive = found.labels == k
        if positive.any() and not positive.all():
            curves.append(true_positive_rate_at(_GRID, found.probabilities[:, k], positive))
    return np.mean(curves, axis=0) if curves else np.full(len(_GRID), np.nan)


def _from_origin(false_rate: Floats, true_rate: Floats) -> tuple[Floats, Floats]:
    return np.append(0.0, false_rate), np.append(0.0, true_rate)


def _reliability_panel(axes: Axes, task: Classification, archs: Sequence[_Arch]) -> None:
    """Draw how often what was predicted with a probability is so; of several classes the most probable one."""
    lowest = 1.0
    for arch in archs:
        predicted, happened = _predictions(arch, task)
        num_bins = int(np.clip(len(arch.found[0].labels) // _CASES_A_BIN, 1, _MAX_BINS))
        mean, observed, _ = reliability(predicted, happened, num_bins)
        error = calibration_error(predicted, happened, num_bins)
        axes.plot(
            mean,
            observed,
            color=arch.colour,
            marker=arch.marker,
            markersize=4,
            linewidth=1.3,
            label=f"{arch.label} {error:.3f}",
        )
        lowest = min(lowest, mean.min(), observed.min())
    start = -0.015 if lowest < 0.4 else np.floor(10 * lowest) / 10 - 0.015
    several = len(task.classes) > 2
    what = "of the most probable class" if several else f"of {task.classes[1]}"
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, zorder=0)
    axes.set(title="reliability", xlim=(start, 1.015), ylim=(start, 1.015), xlabel=f"probability {what}")
    axes.set_ylabel("how often it is the true class" if several else "how often it is so")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", title="calibration error", **_LEGEND)


def _predictions(arch: _Arch, task: Classification) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return probabilities and whether it was so, of all trainings together."""
    if len(task.classes) == 2:
        pairs = [(found.probabilities[:, 1], found.labels == 1) for found in arch.found]
    else:
        pairs = [(f.probabilities.max(axis=1), f.probabilities.argmax(axis=1) == f.labels) for f in arch.found]
    return np.concatenate([p for p, _ in pairs]), np.concatenate([h for _, h in pairs])


def _matrix_panel(axes: Axes, task: Classification, counts: npt.NDArray[np.int64], label: str) -> None:
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        share, count = shares[row, column], counts[row, column]
        if count or row == column:
            text: dict[str, Any] = {"ha": "center", "color": "white" if share > 0.6 else INK}
            axes.text(
                column,
                row - 0.03,
                _format_share(share),
                va="bottom",
                fontsize=9,
                fontweight="bold" if row == column else "normal",
                **text,
            )
            axes.text(column, row + 0.03, f"{count}", va="top", fontsize=7, **text)
    places, num_cases = range(len(task.classes)), counts.sum(axis=1)
    axes.set_xticks(places, task.classes)
    axes.set_yticks(places, [f"{name}  ({n})" for name, n in zip(task.classes, num_cases, strict=True)])
    axes.set(title=f"{task.name}, {label}: share of the true class, cases", xlabel="predicted class")
    axes.set_ylabel("true class (cases)")
    _separate(axes, len(task.classes))
    for boundary in places[1:]:
        axes.axvline(boundary - 0.5, color="white", linewidth=1.5)


def _format_share(share: float) -> str:
    if np.isnan(share):
        return DASH
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _recall_panel(axes: Axes, task: Classification, archs: Sequence[_Arch]) -> None:
    offsets = [0.0] if len(archs) == 1 else np.linspace(-0.27, 0.27, len(archs))
    for arch, offset in zip(archs, offsets, strict=True):
        places = np.arange(len(task.classes)) + offset
        axes.plot(_recall(arch, task), places, linestyle="", color=arch.colour, marker=arch.marker, markersize=5.5)
    axes.set(title="recall of each class by architecture", xlim=(-0.03, 1.03), xlabel="recall, right is better")
    _separate(axes, len(task.classes), FAINT)
    axes.grid(axis="x", visible=True)


def _separate(axes: Axes, count: int, colour: str = "white") -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for boundary in range(1, count):
        axes.axhline(boundary - 0.5, color=colour, linewidth=1.5 if colour == "white" else 0.8)


def _recall(arch: _Arch, task: Classification) -> Floats:
    """Return the recall of every class, (K,), the mean over trainings; NaN without a case."""
    recalls = []
    for found in arch.found:
        counts = confusion_matrix(found.labels, found.probabilities.argmax(axis=1), len(task.classes))
        with np.errstate(invalid="ignore"):
            recalls.append(counts.diagonal() / counts.sum(axis=1))
    return mean_of_defined(np.stack(recalls, axis=-1))


def _num_cases(archs: Sequence[_Arch], task: Classification) -> list[int]:
    """Return the number of evaluation cases of every class; all trainings have the same."""
    counts: Any = np.bincount(archs[0].found[0].labels, minlength=len(task.classes))
    return [int(count) for count in counts]
