"""Tables and figures of a study, from its Parquet files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from benchmarks.study.results import Results
from benchmarks.study.statistics import AVERAGE, Gain, Tables, gains
from benchmarks.study.trainings import FOR_RATE, FOR_SCORE
from ctan.drawing import FAINT, INK, style, svg
from ctan.evaluation.summary import scores
from ctan.files import write_text
from ctan.report.style import architecture_colour, format_count, format_metric, format_percent
from ctan.tasks import Segmentation, Task, task_from_json

PAGE = "README.md"
_NEVER_FOUND = 0.05  # mean Dice below which a structure did not start
Row = dict[str, Any]


@dataclass
class Scored:
    """The trainings of one run on one data set, by seed, and their per-case rows of one role."""

    rows: dict[int, Row]
    cases: Tables

    @property
    def any(self) -> Row:
        """What is known of the first."""
        return next(iter(self.rows.values()))


def write_pages(results: Results, reference: str) -> Path:
    """Write `README.md` and the figures beside the results.

    Args:
        results: of the study.
        reference: run that improvements are relative to.
    """
    trainings = results.trainings()
    parts = [f"# {results.folder.name}\n", _preface(trainings)]
    for data in dict.fromkeys(row["data"] for row in trainings):
        of_data = [row for row in trainings if row["data"] == data]
        scored = [row for row in of_data if row["purpose"] == FOR_SCORE]
        tasks = tuple(task_from_json(task) for task in json.loads(of_data[0]["tasks"]))
        cases = results.cases([row["key"] for row in scored])
        for role in pc.unique(cases["role"]).to_pylist() if scored else ():
            runs = _by_run(scored, cases.filter(pc.field("role") == role))
            parts.append(_section(results.folder, data, role, runs, tasks, reference))
        parts += [_rates(of_data), _gradients(results, data, scored, tasks)]
    page = results.folder / PAGE
    write_text(page, "\n".join(part for part in parts if part))
    return page


def _preface(trainings: Sequence[Row]) -> str:
    hours = sum(row["train_seconds"] + row["evaluate_seconds"] for row in trainings) / 3600
    loads = [row[name] for row in trainings for name in ("load_before", "load_after")]
    codes = {(row["arch"], row["code"]) for row in trainings}
    mixed = len(codes) > len({arch for arch, _ in codes})
    note = " Trainings of several versions of the code stand side by side." if mixed else ""
    return (
        f"Written by `python -m benchmarks.study`. {len(trainings)} trainings, {hours:.1f} h of wall time, "
        f"{sum(row['cpu_seconds'] for row in trainings) / 3600:.1f} h of processor time, "
        f"{', '.join(sorted({str(row['threads']) for row in trainings}))} thread(s), load average {min(loads):.1f} to "
        f"{max(loads):.1f} (two cores).{note}\n"
    )


def _by_run(scored: Sequence[Row], cases: pa.Table) -> dict[str, Scored]:
    runs: dict[str, Scored] = {}
    for row in scored:
        found = runs.setdefault(row["run"], Scored({}, {}))
        found.rows[row["seed"]] = row
        found.cases[row["seed"]] = cases.filter(pc.field("key") == row["key"])  # type: ignore[index]
    return runs


def _section(
    folder: Path, data: str, role: str, runs: Mapping[str, Scored], tasks: tuple[Task, ...], reference: str
) -> str:
    found = (
        {name: gains(tasks, run.cases, runs[reference].cases) for name, run in runs.items()}
        if (reference in runs)
        else {name: {} for name in runs}
    )
    lines = [f"## {data}, {role} cases\n", _main_table(runs, found, tasks, reference), _structures(runs, tasks)]
    others = {name: own for name, own in found.items() if name != reference and own}
    if others:
        name = f"improvement-{data}-{role}.svg"
        (folder / name).write_bytes(svg(_improvement_chart(others, runs, tasks, reference)))
        lines.append(f"![Improvement over {reference}]({name})\n")
    return "\n".join(line for line in lines if line)


def _main_table(
    runs: Mapping[str, Scored], found: Mapping[str, Mapping[str, Gain]], tasks: tuple[Task, ...], reference: str
) -> str:
    names = [*(task.name for task in tasks), AVERAGE]
    heads = ["run", "seeds", "rate", "MACs", "parameters", "s a step"]
    heads += [task.primary_metric.heading for task in tasks] + [f"{name} over {reference}" for name in names]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, run in runs.items():
        row = run.any
        cells = [f"**{name}**" if name == reference else name, f"{len(run.rows)}", f"{row['learning_rate']:g}"]
        cells += [format_count(row["macs"]), format_count(row["parameters"])]
        cells.append(f"{np.median([one['step_seconds'] for one in run.rows.values()]):.2f}")
        of_seeds = [scores(table, tasks) for table in run.cases.values()]
        for task in tasks:
            metric = task.primary_metric
            values = [own[task.name][metric.name] for own in of_seeds]
            spread = f" ({format_metric(metric, min(values))} to {format_metric(metric, max(values))})"
            cells.append(format_metric(metric, float(np.mean(values))) + (spread if len(values) > 1 else ""))
        own = found[name]
        cells += ["reference" if name == reference else _gain(own.get(part)) for part in names]
        lines.append(_line(cells))
    return "\n".join(lines) + (
        "\n\nMean over seeds (least to most); improvements with 95 % intervals over patients and seeds, paired by seed."
        " A bold improvement has an interval without 0.\n"
    )


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return "–"
    if math.isnan(gain.low):
        return f"{format_percent(gain.value)} (one seed)"
    text = f"{format_percent(gain.value)} ({gain.low:+.1f} to {gain.high:+.1f})".replace("-", "−")
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text


def _structures(runs: Mapping[str, Scored], tasks: tuple[Task, ...]) -> str:
    """Return the Dice of every structure, and in how many seeds it never started."""
    parts = []
    for task in tasks:
        if not isinstance(task, Segmentation) or len(task.structures) < 2:
            continue
        lines = [_line(["Dice", *task.structures, "never found"]), _line(["---"] * (len(task.structures) + 2))]
        for name, run in runs.items():
            dice = np.array([[_dice(table, task, s) for s in task.structures] for table in run.cases.values()])
            lost = int((dice < _NEVER_FOUND).sum())
            lines.append(_line([name, *(f"{value:.3f}" for value in dice.mean(axis=0)), f"{lost} of {dice.size}"]))
        note = f"Mean over seeds; never found: a structure of a seed with a mean Dice below {_NEVER_FOUND:g}."
        parts.append("\n".join(lines) + f"\n\n{note}\n")
    return "\n".join(parts)


def _dice(table: pa.Table, task: Task, structure: str) -> float:
    own = table.filter((pc.field("task") == task.name) & (pc.field("structure") == structure))
    return float(np.mean(own["value"].to_numpy())) if own.num_rows else math.nan


def _rates(of_data: Sequence[Row]) -> str:
    tried = [row for row in of_data if row["purpose"] == FOR_RATE]
    if not tried:
        return ""
    rates = sorted({row["learning_rate"] for row in tried})
    errors = {(row["run"], row["learning_rate"]): row["tuning_error"] for row in tried}
    lines = [_line(["tuning error at", *(f"{rate:g}" for rate in rates)]), _line(["---"] * (len(rates) + 1))]
    for name in dict.fromkeys(row["run"] for row in tried):
        own = {rate: errors[name, rate] for rate in rates if (name, rate) in errors}
        best = min(own.values())
        cells = [f"{own[r]:.4f}" if r in own else "–" for r in rates]
        lines.append(_line([name, *(f"**{c}**" if c == f"{best:.4f}" else c for c in cells)]))
    return "\n".join(lines) + "\n\nLearning rates tried with a seed of their own.\n"


def _gradients(results: Results, data: str, scored: Sequence[Row], tasks: tuple[Task, ...]) -> str:
    """Draw the norms of the tasks' gradients on shared weights by epoch, of runs that share any."""
    if not scored:
        return ""
    curves = results.curves([row["key"] for row in scored])
    run_of = {row["key"]: row["run"] for row in scored}
    norms: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in curves.filter(pc.starts_with(curves["name"], "gradient_norm/shared/")).to_pylist():
        by_task = norms.setdefault(run_of[row["key"]], {})
        by_task.setdefault(row["name"].rpartition("/")[2], {}).setdefault(row["epoch"], []).append(row["value"])
    norms = {run: by_task for run, by_task in norms.items() if len(by_task) == len(tasks)}
    if not norms:
        return ""
    with style():
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        for run, by_task in norms.items():
            first, second = (by_task[task.name] for task in tasks[:2])
            epochs = sorted(set(first) & set(second))
            ratio = [np.median(second[e]) / np.median(first[e]) for e in epochs]
            axes.plot(epochs, ratio, marker="o", markersize=3, label=run)
        axes.axhline(1, color=FAINT)
        axes.set(yscale="log", xlabel="epoch", ylabel=f"{tasks[1].name} : {tasks[0].name}")
        axes.set_title("Gradient norms on shared weights, first step of each epoch")
        axes.legend(ncols=2, fontsize=7)
    name = f"gradients-{data}.svg"
    (results.folder / name).write_bytes(svg(figure))
    return f"![Gradient norms]({name})\n"


def _improvement_chart(
    found: Mapping[str, Mapping[str, Gain]], runs: Mapping[str, Scored], tasks: tuple[Task, ...], reference: str
) -> Figure:
    parts = [*(task.name for task in tasks), AVERAGE]
    names = list(found)
    archs = list(dict.fromkeys(run.any["arch"] for run in runs.values()))
    with style():
        figure = Figure(figsize=(10, 1.1 + 0.3 * len(names)), layout="constrained")
        for axes, part in zip(figure.subplots(1, len(parts), sharey=True), parts, strict=True):
            axes.axvline(0, color=INK, linewidth=1)
            for y, name in enumerate(names):
                gain, colour = found[name][part], architecture_colour(runs[name].any["arch"], archs)
                if not math.isnan(gain.low):
                    axes.plot([gain.low, gain.high], [y, y], color=colour, linewidth=2.4, alpha=0.5)
                axes.plot(gain.seeds, [y] * len(gain.seeds), "o", color=colour, markersize=2.5, alpha=0.7)
                axes.plot(gain.value, y, "D", color=colour, markersize=5)
            axes.set(title=part, xlabel=f"% over {reference}")
            axes.grid(axis="y", visible=False)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
    return figure


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
