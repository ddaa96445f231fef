"""How true the probabilities are, and what tasks take from each other, as the trainings measured both."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ctan.drawing import DOSE_COLOURS, style
from ctan.html import Markup, element, join, table
from ctan.records import MeanExchange
from ctan.report.data import ReportData
from ctan.report.sections import picture
from ctan.report.style import architecture_label

_CALIBRATION = (
    "Logits are divided by a temperature, fitted on the tuning cases. Log loss and expected calibration error before "
    "and after are of the same cases, which chose the epoch too: new ones will do somewhat worse."
)
_EXCHANGE = (
    "How much a task takes from another, stage by stage: the norm of what it receives over the norm of its own view, "
    "mean over tuning cases. Entropy of the attention in the bottleneck: 0 where it looks at one place, 1 everywhere."
)

_ATTENTION = (
    "Where a task looks in the other's features: mean over places, heads and tuning cases, on the grid of the "
    "bottleneck; volumes are seen from the front. Even colour: it looks everywhere alike."
)


def calibration(data: ReportData) -> Markup:
    """Return a row a model and label; empty where nothing was calibrated."""
    rows = [
        [
            f"{architecture_label(one.arch)}, fold {one.record.fold}, seed {one.record.seed}",
            label,
            f"{found.temperature:.2f}",
            *(f"{before:.3f} → {after:.3f}" for before, after in (found.log_loss, found.calibration_error)),
            str(found.num_cases),
        ]
        for one in data.models
        for label, found in one.record.calibration.items()
    ]
    if not rows:
        return Markup("")
    columns = ["model", "label", "temperature", "log loss", "calibration error", "cases"]
    return join(table(columns, rows), element("p", _CALIBRATION, class_="soft"))


def exchange(data: ReportData) -> Markup:
    """Return a table a model that exchanges anything; empty where none does."""
    parts: list[Markup] = []
    for one in data.models:
        found = one.record.exchange
        if found is None:
            continue
        pairs = list(dict.fromkeys([*(pair for stage in found.stages for pair in stage), *found.entropy]))
        rows = [
            [pair.replace("<-", " from "), *(_number(stage, pair) for stage in (*found.stages, found.entropy))]
            for pair in pairs
        ]
        columns = ["task", *(f"stage {number}" for number, _ in enumerate(found.stages, 1)), "entropy"]
        named = f"{architecture_label(one.arch)}, fold {one.record.fold}, seed {one.record.seed}"
        parts += [element("p", f"{named}, {found.num_cases} tuning cases"), table(columns, rows)]
        parts += [
            picture(attention_chart(found), f"Where the tasks of {named} look in each other's features", _ATTENTION)
        ]
    return join(*parts, element("p", _EXCHANGE, class_="soft")) if parts else Markup("")


def attention_chart(found: MeanExchange) -> Figure | None:
    """Draw where each task looks in each other's features, the mean over tuning cases; None without attention."""
    if not found.attention:
        return None
    columns = min(4, len(found.attention))
    rows = -(-len(found.attention) // columns)
    with style():
        figure = Figure(figsize=(2.4 * columns + 0.8, 2.3 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        largest = max(max(map(max, shown)) for shown in found.attention.values())
        for axes, (pair, shown) in zip(panels, found.attention.items(), strict=False):
            drawn = axes.imshow(shown, cmap=DOSE_COLOURS, vmin=0, vmax=largest)
            axes.set_title(pair.replace("<-", " from "), fontsize=8)
            axes.set_axis_off()
        for axes in panels[len(found.attention) :]:
            axes.set_visible(False)
        figure.colorbar(drawn, ax=panels, label="share of attention", shrink=0.8)
    return figure


def _number(values: Mapping[str, float], pair: str) -> str:
    return f"{values[pair]:.3f}" if pair in values else ""
