"""What `ctan run` prints before and after: settings, comparison, times, where to look."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ctan.config import RunConfig
from ctan.pipelines_client import RunResult
from ctan.records import ComparisonRecord, Interval
from ctan.tasks import MetricSpec

_PIPE_WIDTH = 120  # columns, where there is no terminal to ask

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def show_settings(config: RunConfig, source: str, changes: Sequence[str]) -> None:
    """Print what a run will do, in a few lines.

    Args:
        config: its settings.
        source: of raw files.
        changes: settings that were given otherwise than the profile has them, `FIELD=VALUE`.
    """
    data, training, network = config.data, config.training, config.network
    runs = len(config.architectures) * len(config.folds) * len(config.seeds)
    which = f"fold {_some(config.folds)}, seed {_some(config.seeds)}"
    grid = " x ".join(map(str, config.preprocess.grid_shape or ())) or "as the plan finds it"
    edges = " x ".join(f"{edge:g}" for edge in config.preprocess.grid_spacing_mm or ())
    lines = {
        "data": f"{data.dataset} from {source}" + (f", the networks see {data.inputs}" if data.inputs else ""),
        "trainings": f"{runs}: {', '.join(config.architectures)}; {which}",
        "each": f"epochs {training.epochs}, cases a step {training.batch_size}, learning rate "
        f"{training.learning_rate:g}, {training.task_weighting} task weighting, precision {training.precision}",
        "grid": grid + (f" voxels of {edges} mm" if edges else ""),
        "network": f"{network.num_stages} stages, {network.base_width} to {network.max_width} channels",
        "best model": "is registered when it has passed the gate" if config.promotion.enabled else "is not registered",
        "changed": ", ".join(changes),
    }
    console.print(f"[bold]Settings[/bold] (profile {config.profile}; in full by `ctan config`)")
    for name, text in lines.items():
        if text:
            console.print(f"  {name:<11} {text}", markup=False)


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def show_next(result: RunResult, source: str) -> None:
    """Print the commands to go on with, as they can be typed here."""
    program = "ctan" if shutil.which("ctan") else _short(Path(sys.argv[0]).absolute())
    decision = result.decision or {}
    model = ""
    if decision.get("version") is not None:
        model = f"models:/{decision['model_name']}/{decision['version']}"
    elif result.comparison is not None:
        model = f"runs:/{ComparisonRecord.load(result.comparison.parent).best_model.run_id}"
    commands = {"ui": "runs and models in a browser"}
    if model:
        commands[f"predict {model} NEW_CASES --out predicted"] = "new cases, a page each"
    if source.startswith("phantom") or str(decision.get("model_name", "")).endswith("-phantom"):
        commands["run --source YOUR_FOLDER --dataset NAME --profile cpu"] = "your own data"
    elif model.startswith("models:"):
        commands[f"lineage {model}"] = "where it came from"
    console.print("\n[bold]Next[/bold]")
    width = max(map(len, commands))
    for command, what in commands.items():
        console.print(f"  {program} {command:<{width}}  # {what}", markup=False)


def show_result(result: RunResult) -> None:
    """Print comparison, decision, times and where to look."""
    console.print()
    show_times(result)
    if result.comparison is not None:
        show_comparison(ComparisonRecord.load(result.comparison.parent))
    show_decision(result.decision)
    places = {
        "comparison report": result.report,
        "validation report": result.validation_report,
        "all settings": result.settings,
        "everything of this run": result.run_dir,
    }
    console.print("\n[bold]Where to look[/bold]")
    for name, path in places.items():
        if path is not None:
            console.print(f"  {name}: {_short(path)}")


def show_comparison(comparison: ComparisonRecord, role: str = "evaluation") -> None:
    """Print the architectures side by side.

    Args:
        comparison: what is shown.
        role: cases whose scores are shown.
    """
    metrics = _metrics(comparison, role)
    num_cases = getattr(comparison, f"num_{role}_cases")
    table = Table(title=f"Comparison on {num_cases} {role} cases", title_justify="left", title_style="bold")
    table.add_column("model")
    for task, metric in metrics:
        table.add_column(f"{task}\n{metric.heading}", justify="right")
    table.add_column(f"against\n{comparison.reference_arch}", justify="right")
    table.add_column("parameters", justify="right")
    sizes = {model.arch: model.num_parameters for model in comparison.models}
    best = comparison.best
    for row in comparison.architectures:
        name = f"[bold]{row.arch} (best)[/bold]" if row.arch == best.arch else row.arch
        scores = [_score(row.scores.get(role, {}), task, metric) for task, metric in metrics]
        improvement = _interval(row.relative_improvement.get(role, {}).get("average"), "{:+.1f}", " %")
        table.add_row(name, *scores, improvement, f"{sizes[row.arch]:,}")
    plain = [(baseline.label, baseline.scores.get(role, {})) for baseline in comparison.baselines]
    plain.append(("floor of the working grid", comparison.grid_floor))
    table.add_section()
    for label, scores_of in plain:
        cells = [_score(scores_of, task, metric) for task, metric in metrics]
        if any(cells):
            table.add_row(f"[dim]{label}[/dim]", *cells, "", "")
    console.print()
    console.print(table)
    console.print(f"best on the tuning cases: {best.title}: {best.reason}")


def show_decision(decision: Mapping[str, Any] | None) -> None:
    """Print what became of the best model."""
    console.print("\n[bold]Promotion[/bold]")
    if decision is None:
        console.print("  switched off")
    elif decision["version"] is None:
        console.print(f"  nothing registered: {decision['reason']}")
    else:
        verdict = "[green]promoted to champion[/green]" if decision["promoted"] else "registered, not promoted"
        if decision.get("waits"):
            verdict = "passed the gate, waits for `ctan registry approve`"
        console.print(f"  {decision['model_name']} version {decision['version']}: {verdict}")
        console.print(f"  {decision['reason']}", markup=False)


def show_times(result: RunResult) -> None:
    """Print where the time went."""
    table = Table(title="Time", title_justify="left", title_style="bold")
    for name in ("step", "seconds", "of it start-up"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for step in result.steps:
        table.add_row(step.name, f"{step.seconds:.1f}", f"{step.seconds - step.work_seconds:.1f}")
    startup = result.seconds - sum(step.work_seconds for step in result.steps)  # kfp's and between steps too
    table.add_section()
    table.add_row("all", f"{result.seconds:.1f}", f"{startup:.1f}")
    console.print(table)


def _metrics(comparison: ComparisonRecord, role: str) -> list[tuple[str, MetricSpec]]:
    """Return task and metric of all scores that the first architecture has."""
    scores = comparison.architectures[0].scores.get(role, {})
    return [(task.name, m) for task in comparison.tasks for m in task.metrics if m.name in scores.get(task.name, {})]


def _score(scores: Mapping[str, Any], task: str, metric: MetricSpec) -> str:
    return _interval(scores.get(task, {}).get(metric.name), "{:.2f}" if metric.unit else "{:.3f}")


def _interval(found: Interval | float | None, number: str, unit: str = "") -> str:
    """Format a number, and its interval on a second line."""
    spread = found if isinstance(found, Interval) else Interval(value=found)
    if spread.value is None:
        return ""
    has_interval = spread.low is not None and spread.high is not None
    interval = f"\n{number.format(spread.low)} to {number.format(spread.high)}" if has_interval else ""
    return number.format(spread.value) + unit + interval


def _short(path: Path) -> str:
    """Return a path relative to the working folder when it is inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
