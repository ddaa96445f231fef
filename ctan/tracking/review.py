"""What people look at in MLflow before a model may replace another: tables, pictures and pages at their runs.

A training's run has its per-case table and pictures of the worst, the median and the best case. The run above, which
stands for the pipeline run, has the report, the architectures side by side, the decision, and the pages on the data.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.records import EVALUATION, ComparisonRecord
from ctan.tasks import MetricSpec, Task
from ctan.tracking.parents import PARENT_TAG
from ctan.tracking.runs import NO_SERVER, find_logged_model, is_lost, log_metrics
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient

NOTE_TAG = "mlflow.note.content"
REPORT, CASES_TABLE, ARCHITECTURES_TABLE, DECISION = "report.html", "cases.json", "architectures.json", "decision.json"
Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]


def score_key(role: str, task: str, metric: MetricSpec) -> str:
    """Return how a score is called everywhere, such as `"evaluation/dose/dose_score_gy"`."""
    unit = metric.unit.lower().replace(" ", "_")
    suffix = f"_{unit}" if unit and not metric.name.endswith(f"_{unit}") else ""
    return f"{role}/{task}/{metric.name}{suffix}"


def keyed(scores: Scores, tasks: Sequence[Task]) -> dict[str, float]:
    """Return `{role: {task: {metric: value}}}` flat, by `score_key`; what is undefined is left out."""
    metrics = {(task.name, metric.name): metric for task in tasks for metric in task.metrics}
    return {
        score_key(role, task, metrics[task, name]): float(value)
        for role, by_task in scores.items()
        for task, by_metric in by_task.items()
        for name, value in by_metric.items()
        if value is not None and (task, name) in metrics
    }


def log_results(run_id: str, metrics: Mapping[str, float], files: Iterable[Path] = ()) -> None:
    """Add evaluation results to a run that has ended, and to the model it logged.

    Args:
        run_id: of the training.
        metrics: such as `{"evaluation/dose/dose_score_gy": 3.9}`; those that are not a number are left out.
        files: recorded as artifacts under `results`.

    Raises:
        TrackingError: when the run does not exist or the server or database cannot be used.
    """
    with _client(run_id, "adding results") as client:
        if client is None:
            return
        model_id = find_logged_model(client, client.get_run(run_id))
        log_metrics(client, run_id, {name: value for name, value in metrics.items() if math.isfinite(value)}, model_id)
        for file in files:
            client.log_artifact(run_id, str(file), "results")


def log_page(run_id: str, page: str, path: str) -> None:
    """Keep an HTML page with a run, where it opens in the browser.

    Args:
        run_id: of the training.
        page: HTML.
        path: of the artifact.
    """
    with _client(run_id, f"adding {path}") as client:
        if client is not None:
            client.log_text(run_id, page, path)


def log_cases(run_id: str, cases: pa.Table, tasks: Sequence[Task], pictures: Mapping[str, bytes]) -> None:
    """Add a table of the evaluation cases, worst first, and pictures of some to a training's run.

    Args:
        run_id: of the training.
        cases: its per-case rows.
        tasks: what it predicts.
        pictures: name -> PNG.
    """
    columns = case_table(cases, tasks)
    with _client(run_id, "adding cases") as client:
        if client is None:
            return
        client.log_table(run_id, columns, CASES_TABLE)
        for name, png in pictures.items():
            _log_bytes(client, run_id, png, f"cases/{name}.png")


def case_table(cases: pa.Table, tasks: Sequence[Task]) -> dict[str, list[Any]]:
    """Return the evaluation cases, worst first, as columns: case, error, and each score that single cases have."""
    from ctan.evaluation.shown import case_errors

    errors = case_errors(cases, tasks)
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in cases.to_pylist():
        if row["role"] == EVALUATION and row["value"] is not None:
            values.setdefault((row["task"], row["metric"]), {}).setdefault(row["case_id"], []).append(row["value"])
    columns: dict[str, list[Any]] = {"case": list(errors), "error": list(errors.values())}
    for task in tasks:
        found = values.get((task.name, task.case_rows), {})
        if task.case_rows and found:
            means = [sum(found[case]) / len(found[case]) if case in found else None for case in errors]
            columns[score_key(EVALUATION, task.name, task.primary_metric)] = means
    return columns


def log_comparison(comparison: ComparisonRecord, report: str) -> None:
    """Add the report and the architectures side by side to the run above the trainings; nothing where there is none."""
    run_id = comparison.best_model.run_id
    with _above(run_id, "adding the comparison") as (client, parent):
        if client is None or parent is None:
            return
        client.log_text(parent, report, REPORT)
        client.log_table(parent, architecture_table(comparison), ARCHITECTURES_TABLE)
        best = comparison.best
        client.set_tag(parent, "chosen", best.title)
        client.set_tag(parent, "chosen_run_id", run_id)
        log_metrics(client, parent, keyed(comparison.best_model.scores, comparison.tasks))


def architecture_table(comparison: ComparisonRecord) -> dict[str, list[Any]]:
    """Return architectures, and baselines without a network, as columns: scores, improvement, cost."""
    columns: dict[str, list[Any]] = {"architecture": [entry.arch for entry in comparison.architectures]}
    baselines = list(comparison.baselines)
    for task in comparison.tasks:
        for metric in task.metrics:
            found = [
                entry.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
                for entry in comparison.architectures
            ]
            key = score_key(EVALUATION, task.name, metric)
            columns[key] = [scored.value if scored else None for scored in found]
            columns[key] += [
                entry.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name) for entry in baselines
            ]
    gains = [entry.relative_improvement.get(EVALUATION, {}).get("average") for entry in comparison.architectures]
    costs = {
        entry.arch: next(model for model in comparison.models if model.arch == entry.arch)
        for entry in comparison.architectures
    }
    nothing: list[Any] = [None] * len(baselines)
    columns[f"improvement_over_{comparison.reference_arch}_percent"] = [g.value if g else None for g in gains] + nothing
    for name in ("num_parameters", "macs_per_case"):
        columns[name] = [getattr(costs[arch], name) for arch in columns["architecture"]] + nothing
    columns["architecture"] = columns["architecture"] + [entry.label for entry in baselines]
    return columns


def log_decision(run_id: str, decision: Mapping[str, Any], report: str) -> None:
    """Add what was decided, and the report that says so, to the run above a training; nothing where there is none."""
    with _above(run_id, "adding the decision") as (client, parent):
        if client is None or parent is None:
            return
        if report:
            client.log_text(parent, report, REPORT)
        client.log_text(parent, json.dumps(decision, indent=2, default=str), DECISION)
        verdict = "promoted" if decision["promoted"] else "waits" if decision.get("waits") else "not promoted"
        client.set_tag(parent, "decision", verdict)
        client.set_tag(parent, NOTE_TAG, f"**{verdict}**: {decision['reason']}\n\n{decision.get('where', '')}".strip())


def log_pages(run_id: str, pages: Mapping[str, str]) -> None:
    """Add HTML pages, path -> page, to the run above a training; nothing where there is none."""
    with _above(run_id, "adding pages") as (client, parent):
        if client is not None and parent is not None:
            for path, page in pages.items():
                client.log_text(parent, page, path)


@contextmanager
def _client(run_id: str, doing: str) -> Iterator[MlflowClient | None]:
    """Yield a client, None where the run's database ended with its container; that is said, and no error."""
    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"{doing} to run {run_id}"):
        if is_lost(client, run_id):
            _tell_lost(run_id)
            yield None
        else:
            yield client


@cache
def _tell_lost(run_id: str) -> None:
    """Say it once a process, however much there is to add."""
    print(f"warning: results are not added to run {run_id}: {NO_SERVER}", file=sys.stderr, flush=True)


@contextmanager
def _above(run_id: str, doing: str) -> Iterator[tuple[MlflowClient | None, str | None]]:
    """Yield a client and the run above a training, which is None where it stands alone."""
    with _client(run_id, doing) as client:
        yield client, client.get_run(run_id).data.tags.get(PARENT_TAG) if client is not None else None


def _log_bytes(client: MlflowClient, run_id: str, content: bytes, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(path).name)
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), str(Path(path).parent))
