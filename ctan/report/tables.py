"""Tables of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, join, table
from ctan.records import MIN_CASES, Interval
from ctan.report.plots import case_values, dice_rows
from ctan.report.style import (
    DASH,
    NBSP,
    architecture_colour,
    architecture_label,
    criterion_label,
    format_count,
    format_metric,
    format_metric_interval,
    format_percent,
    format_percent_interval,
    format_seconds,
    is_number,
)
from ctan.tasks import DICE_MEAN, DOSE_SCORE, MetricSpec, Segmentation, Task

if TYPE_CHECKING:
    import pandas as pd

    from ctan.records import BaselineEntry
    from ctan.report.data import ReportData

_NUM_WORST = 5


@dataclass(frozen=True)
class Cell:
    """A number as it is printed.

    Attributes:
        text: the number.
        rank: what the best of a column is found by, smaller is better; None: never the best.
        note: small print under it, such as its interval.
        bold: whether it may be bold.
    """

    text: str
    rank: float | None = None
    note: str = ""
    bold: bool = True


@dataclass(frozen=True)
class Row:
    """A row of the comparison: its name, cells, and CSS class."""

    name: Markup
    cells: list[Cell]
    css: str = ""


_EMPTY = Cell(DASH)
_COSTS = tuple(f"{name}{NBSP}↓" for name in ("param.", "MAC", "s/step")) + ("epochs",)


def comparison_table(data: ReportData, role: str) -> Markup:
    """Return baselines and architectures with all scores and improvements; the best of each column is bold.

    Beside the evaluation scores stands what they cost. The grid's floor is a row of its own at the end and never the
    best: no network could reach it.

    Args:
        data: what is compared.
        role: `"evaluation"` or `"tuning"`.
    """
    columns = data.columns(role)
    gains = _gain_names(data, role)
    costs = _COSTS if role == EVALUATION else ()
    num_others = len(gains) + len(costs)
    rows = [_baseline_row(data, baseline, role, num_others) for baseline in data.content.baselines]
    rows = [row for row in rows if any(cell is not _EMPTY for cell in row.cells)]
    rows += [_architecture_row(data, arch, role, gains) for arch in data.archs]
    floor = _floor_row(data, num_others) if role == EVALUATION else None
    groups = [("", 1), *_task_groups(data, role)]
    groups += [(f"improvement over {architecture_label(data.reference)}", len(gains))] if gains else []
    groups += [("cost", len(costs))] if costs else []
    titles = ["", *(metric.heading for _, metric in columns), *(f"{name}{NBSP}↑" for name in gains), *costs]
    head = element(
        "thead",
        element("tr", *(element("th", name, colspan=str(width), class_="group") for name, width in groups)),
        element("tr", *(element("th", title) for title in titles)),
    )
    body = [_emphasised(row, rows) for row in rows] + ([_emphasised(floor, [])] if floor else [])
    return element(
        "div", element("table", head, element("tbody", *body), class_="dense", id=f"comparison-{role}"), class_="scroll"
    )


def _task_groups(data: ReportData, role: str) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for task, _ in data.columns(role):
        counts[task.name] = counts.get(task.name, 0) + 1
    return list(counts.items())


def _gain_names(data: ReportData, role: str) -> list[str]:
    names = {name for arch in data.archs for name in data.gains(arch, role)}
    return [name for name in (*(task.name for task in data.tasks), "average") if name in names]


def _emphasised(row: Row, rows: Sequence[Row]) -> Markup:
    """Return a table row; bold where it is the best of its column, or printed the same as the best."""
    cells = [element("td", row.name)]
    for column, cell in enumerate(row.cells):
        ranked = [other.cells[column] for other in rows if other.cells[column].rank is not None]
        best = min(ranked, key=lambda other: other.rank or 0.0).text if len(ranked) > 1 else None
        is_best = cell.bold and cell.rank is not None and cell.text == best
        text = element("strong", cell.text) if is_best else cell.text
        cells.append(element("td", text, *([element("small", cell.note)] if cell.note else [])))
    return element("tr", *cells, **({"class_": row.css} if row.css else {}))


def _architecture_row(data: ReportData, arch: str, role: str, gains: list[str]) -> Row:
    cells = [_score_cell(metric, data.scored(arch, role, task, metric)) for task, metric in data.columns(role)]
    for name in gains:
        gain = data.gains(arch, role).get(name)
        value = gain.value if gain else None
        cells.append(Cell(format_percent(value), None if value is None else -value, format_percent_interval(gain)))
    if arch == data.reference and gains:
        cells[-len(gains) :] = [Cell("reference", 0.0, bold=False)] * len(gains)
    cells += _cost_cells(data, arch) if role == EVALUATION else []
    return Row(architecture_name(data, arch), cells, "chosen" if arch == data.best_arch else "")


def architecture_name(data: ReportData, arch: str) -> Markup:
    """Return an architecture's label with its colour, and whether it is the chosen one."""
    dot = element("span", class_="dot", style=f"background:{architecture_colour(arch, data.archs)}")
    chosen = element("small", "chosen on tuning cases") if arch == data.best_arch and len(data.archs) > 1 else ""
    return element("span", dot, architecture_label(arch), chosen)


def _score_cell(metric: MetricSpec, scored: Interval) -> Cell:
    if scored.value is None:
        return _EMPTY
    rank = -scored.value if metric.higher_is_better else scored.value
    return Cell(format_metric(metric, scored.value), rank, format_metric_interval(metric, scored))


def _cost_cells(data: ReportData, arch: str) -> list[Cell]:
    facts = [model.facts for model in data.of(arch)]

    def mean(name: str) -> float:
        return sum(getattr(fact, name) for fact in facts) / len(facts)

    epochs = sorted({fact.epochs for fact in facts})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else "".join(map(str, epochs)) or DASH
    costs = [mean("num_parameters"), mean("macs_per_case"), mean("step_seconds")]
    formats = [format_count, format_count, format_seconds]
    return [Cell(form(cost), cost) for form, cost in zip(formats, costs, strict=True)] + [Cell(span)]


def _baseline_row(data: ReportData, baseline: BaselineEntry, role: str, num_others: int) -> Row:
    scores = baseline.scores.get(role, {})
    cells = [_score_cell(m, Interval(value=scores.get(task.name, {}).get(m.name))) for task, m in data.columns(role)]
    name = element("span", baseline.label, element("small", "baseline without a network"))
    return Row(name, cells + [_EMPTY] * num_others, "aside")


def _floor_row(data: ReportData, num_others: int) -> Row | None:
    floor, columns = data.content.grid_floor, data.columns(EVALUATION)
    values = [floor.get(task.name, {}).get(metric.name) for task, metric in columns]
    if not any(is_number(value) for value in values):
        return None
    cells = [Cell(format_metric(metric, value)) for (_, metric), value in zip(columns, values, strict=True)]
    name = element("span", "Grid floor", element("small", "the truth by way of the working grid"))
    return Row(name, cells + [_EMPTY] * num_others, "aside")


def against_table(data: ReportData) -> Markup:
    """Return the paired improvement of the chosen architecture over each other one on the evaluation cases."""
    others = [arch for arch in data.archs if arch != data.best_arch and data.best_against(arch)]
    if not others:
        return Markup("")
    names, judged = list(data.best_against(others[0])), data.has_enough_cases
    rows = [
        [architecture_name(data, arch), *(_gain_cell(data.best_against(arch).get(name), judged) for name in names)]
        for arch in others
    ]
    means = "An interval that includes 0 means: these cases do not tell the two apart."
    best = architecture_label(data.best_arch)
    return table(
        [f"{best} against", *names],
        rows,
        f"How much better {best} is than each other architecture on the same evaluation cases (paired "
        f"{data.confidence} intervals). {means if judged else 'So few cases say nothing about other patients.'}",
    )


def _gain_cell(gain: Interval | None, judged: bool) -> Markup:
    interval = format_percent_interval(gain)
    css = {1: "good", -1: "bad"}.get(sign_of(gain), "") if judged else ""
    text = element("span", format_percent(gain.value if gain else None), **({"class_": css} if css else {}))
    return element("span", text, " ", element("span", f"({interval})", class_="soft") if interval else "")


def sign_of(gain: Interval | None) -> int:
    """Return 1 or -1 when the whole interval lies above or below 0, else 0; 0 also with fewer than `MIN_CASES`."""
    if gain is None or gain.low is None or gain.high is None:
        return 0
    if gain.patients is not None and gain.patients < MIN_CASES:
        return 0
    return 1 if gain.low > 0 else -1 if gain.high < 0 else 0


def structures_table(data: ReportData, task: Segmentation) -> Markup:
    """Return the mean Dice of every structure by architecture, with the number of contoured evaluation cases."""
    rows = dice_rows(data, task)
    counts = rows.groupby("structure")["case_id"].nunique()
    shown: list[Row] = []
    for name in (name for name in task.structures if name in counts.index):
        values = [data.entry(arch).structures.get(name) for arch in data.archs]
        cells = [_score_cell(DICE_MEAN, Interval(value=value)) for value in values]
        shown.append(Row(element("span", f"{name}"), [Cell(str(counts[name])), *cells]))
    body = [_emphasised_across(row) for row in shown]
    titles = ["structure", "cases", *(architecture_label(arch) for arch in data.archs)]
    head = element("thead", element("tr", *(element("th", title) for title in titles)))
    return element("div", element("table", head, element("tbody", *body)), class_="scroll")


def _emphasised_across(row: Row) -> Markup:
    """Return a table row with its own best cells bold."""
    ranked = [cell for cell in row.cells if cell.rank is not None]
    best = min(ranked, key=lambda cell: cell.rank or 0.0).text if len(ranked) > 1 else None
    cells = [
        element("strong", cell.text) if cell.rank is not None and cell.text == best else cell.text for cell in row.cells
    ]
    return element("tr", element("td", row.name), *(element("td", cell) for cell in cells))


def criteria_table(data: ReportData) -> Markup:
    """Return the mean error of every DVH criterion by architecture, and the bias of the chosen one, in Gy."""
    rows = data.cases[(data.cases["role"] == EVALUATION) & (data.cases["metric"] == "dvh")]
    if rows.empty:
        return Markup("")
    names = rows["structure"].str.partition(":")
    rows = rows.assign(organ=names[0], criterion=names[2], bias=rows["predicted"] - rows["planned"])
    rows["kind"] = rows["organ"].isin(list(data.targets)).map({True: "targets", False: "organs at risk"})
    rows = rows.sort_values("kind", ascending=False, kind="stable")  # targets first
    body: list[Markup] = []
    for (kind, criterion), group in rows.groupby(["kind", "criterion"], sort=False):
        errors = group.groupby("arch")["value"].mean()
        cells = [_score_cell(DOSE_SCORE, Interval(value=errors.get(arch))) for arch in data.archs]
        bias = group.loc[group["arch"] == data.best_arch, "bias"].mean()
        name = element("span", f"{kind}, {criterion_label(str(criterion))}")
        body.append(_emphasised_across(Row(name, [*cells, Cell(f"{bias:+.2f}".replace("-", "−"))])))
    titles = ["criterion", *(architecture_label(a) for a in data.archs), f"bias {architecture_label(data.best_arch)}"]
    head = element("thead", element("tr", *(element("th", title) for title in titles)))
    caption = element(
        "caption",
        "Mean |predicted − planned| in Gy over the evaluation cases and their structures; "
        "bias is the mean of predicted − planned.",
    )
    return element("div", element("table", caption, head, element("tbody", *body)), class_="scroll")


def worst_table(data: ReportData, task: Task) -> Markup:
    """Return the evaluation cases that the chosen architecture does worst on, with all architectures' scores."""
    values, metric = case_values(data, task), task.primary_metric
    if data.best_arch not in values.columns:
        return Markup("")
    worst = values.sort_values(data.best_arch, ascending=metric.higher_is_better, kind="stable").head(_NUM_WORST)
    rows = [[case_id, *(format_metric(metric, value) for value in row)] for case_id, row in _rows_of(worst)]
    return table(
        ["case", *(architecture_label(arch) for arch in values.columns)],
        rows,
        f"{metric.heading}: the {len(rows)} cases that {architecture_label(data.best_arch)} is worst on",
    )


def _rows_of(values: pd.DataFrame) -> list[tuple[str, list[float]]]:
    return [(str(case_id), row.tolist()) for case_id, row in values.iterrows()]


def trainings_table(data: ReportData) -> Markup:
    """Return every training with its scores, hardware and run."""
    columns = [
        (role, task, metric)
        for role in ("tuning", EVALUATION)
        for task, metric in data.columns(role)
        if metric == task.primary_metric
    ]
    titles = ["architecture", "fold", "seed", *(f"{m.label}, {role}" for role, _, m in columns)]
    titles += ["device", "precision", "run"]
    rows = []
    for index, model in enumerate(data.models):
        facts = model.facts
        scores = [format_metric(m, facts.scores.get(r, {}).get(t.name, {}).get(m.name)) for r, t, m in columns]
        chosen = " (chosen)" if index == data.content.best.model_index else ""
        rows.append(
            [
                architecture_label(model.arch) + chosen,
                facts.fold,
                facts.seed,
                *scores,
                facts.device or DASH,
                facts.precision or DASH,
                element("code", facts.run_id or DASH),
            ]
        )
    return join(table(titles, rows, "Every training"))
