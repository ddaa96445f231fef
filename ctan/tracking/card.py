"""The model card: what a registered version is for, what it was made from, how good it is and where that ends.

Markdown on the page of the version (Mitchell et al., "Model Cards for Model Reporting", 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctan.records import EVALUATION, ComparisonRecord, Interval, ModelRecord
from ctan.tasks import MetricSpec, Task

_PURPOSE = (
    "**Research use only.** It is no medical device: a person who is qualified for it looks at every answer before "
    "anything follows from it."
)


def model_card(
    entry: Mapping[str, Any], record: ModelRecord, comparison: ComparisonRecord, lineage: Mapping[str, str]
) -> str:
    """Return the card of a version.

    Args:
        entry: of the ledger, the decision about it.
        record: of the model.
        comparison: that it was chosen in.
        lineage: where it comes from, see `ctan.tracking.lineage`.
    """
    parts = [
        _section("Decision", [_decided(entry), *_criteria(entry)]),
        _section("What it is for", [_tasks(record), _PURPOSE]),
        _section("What it learned from", _learned_from(record, comparison, lineage)),
        _section("How good it is", _scores(record, comparison)),
        *([_section("In groups of the evaluation cases", _subgroups(comparison))] if comparison.subgroups else []),
        _section("Where it ends", _limits(record, comparison, lineage)),
        _section("How to ask it", _calls(entry)),
    ]
    return "\n\n".join(parts)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"### {title}", "", *lines])


def _decided(entry: Mapping[str, Any]) -> str:
    return f"**{entry['decision']}** {entry['time']}: {entry['reason']}"


def _criteria(entry: Mapping[str, Any]) -> list[str]:
    if not entry.get("criteria"):
        return []
    lines = ["", "| criterion | number | threshold | passed | |", "|---|---|---|---|---|"]
    verdicts = {True: "yes", False: "**no**", None: "not judged"}
    for row in entry["criteria"]:
        number, threshold = ("" if row[name] is None else f"{row[name]:.4g}" for name in ("number", "threshold"))
        lines.append(f"| {row['criterion']} | {number} | {threshold} | {verdicts[row['passed']]} | {row['note']} |")
    return lines


def _tasks(record: ModelRecord) -> str:
    described = []
    for task in record.tasks:
        parts = [*task.outlined, *getattr(task, "classes", ())]
        described.append(f"{task.name} ({task.kind}{': ' + ', '.join(parts) if parts else ''})")
    kind = "volumes" if record.spec.spatial_dims == 3 else "pictures"
    return f"It answers, for {kind} of modality {record.spec.image.modality}: {'; '.join(described)}."


def _learned_from(record: ModelRecord, comparison: ComparisonRecord, lineage: Mapping[str, str]) -> list[str]:
    training = "" if record.members else f", fold {record.fold}, seed {record.seed}"
    seen = "" if record.seen is None else f" of {len(record.seen.hashes)} groups (patients, lesions)"
    facts = {
        "data set": f"{record.dataset}{seen}",
        "licence and source": record.spec.licence,
        "data version": lineage.get("data_version", "not recorded"),
        "architecture": f"{record.name}{training}, {record.epochs} epochs",
        "trainings": ", ".join(f"fold {m.fold}, seed {m.seed}, run {m.run_id}" for m in record.members),
        "parameters": f"{record.num_parameters:,}",
        "working grid": str(record.grid),
        "settings, code": f"{record.config_hash[:12]}, {record.code_hash[:12]}",
        "MLflow run": record.run_id,
        "chosen because": comparison.best.reason,
    }
    return [f"- {name}: {value}" for name, value in facts.items() if value]


def _scores(record: ModelRecord, comparison: ComparisonRecord) -> list[str]:
    lines = [f"On {comparison.num_evaluation_cases} evaluation cases, which had no say in any choice:", ""]
    lines += [f"| score | value | {100 * comparison.confidence:g} % interval |", "|---|---|---|"]
    intervals = next((entry.scores for entry in comparison.architectures if entry.arch == record.name), {})
    for task in comparison.tasks or record.tasks:
        for metric in task.metrics:
            value = comparison.best_model.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
            if value is not None:
                of_architecture = intervals.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
                lines.append(_score(task, metric, value, of_architecture))
    for baseline in comparison.baselines:
        found = [
            f"{task.name} {metric.label} {_number(metric, value)}"
            for task in comparison.tasks or record.tasks
            for metric in task.metrics[:1]
            if (value := baseline.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)) is not None
        ]
        lines += [f"\nWithout a network, {baseline.label}: {', '.join(found)}."] if found else []
    return lines


def _subgroups(comparison: ComparisonRecord) -> list[str]:
    metrics = [(task, task.primary_metric) for task in comparison.tasks]
    lines = ["| group | patients |" + "".join(f" {task.name}: {metric.label} |" for task, metric in metrics)]
    lines.append("|---|---|" + "---|" * len(metrics))
    for group in comparison.subgroups:
        cells = []
        for task, metric in metrics:
            found = group.scores.get(task.name, {}).get(metric.name)
            cells.append("" if found is None or found.value is None else _with_interval(metric, found))
        lines.append(f"| {group.name} | {group.patients} | {' | '.join(cells)} |")
    return [f"Of {comparison.best.arch}, the mean over its trainings; small groups have no interval.", "", *lines]


def _with_interval(metric: MetricSpec, found: Interval) -> str:
    value = _number(metric, found.value or 0.0)
    if found.low is None or found.high is None:
        return value
    return f"{value} ({_number(metric, found.low)} to {_number(metric, found.high)})"


def _score(task: Task, metric: MetricSpec, value: float, interval: Interval | None) -> str:
    low, high = (interval.low, interval.high) if interval else (None, None)
    spread = "" if low is None or high is None else f"{_number(metric, low)} to {_number(metric, high)}"
    better = "higher" if metric.higher_is_better else "lower"
    return f"| {task.name}: {metric.label}, {better} is better | {_number(metric, value)} | {spread} |"


def _number(metric: MetricSpec, value: float) -> str:
    return f"{value:.2f} {metric.unit}" if metric.unit else f"{value:.3f}"


def _limits(record: ModelRecord, comparison: ComparisonRecord, lineage: Mapping[str, str]) -> list[str]:
    lines = ["- Other scanners, protocols, sites and populations than those it learned from were not looked at."]
    if lineage.get("synthetic") == "true":
        lines.append("- It learned from synthetic data: nothing it says is about patients.")
    if comparison.num_evaluation_cases < 10:
        lines.append(f"- {comparison.num_evaluation_cases} evaluation cases say nothing about other patients.")
    if comparison.excludes_training_variance:
        lines.append("- Intervals are over patients alone: how much another training would differ is not in them.")
    if record.spec.structures:
        lines.append("- A structure that was not contoured in the training data was neither learned nor scored there.")
    return lines


def _calls(entry: Mapping[str, Any]) -> list[str]:
    model = f"models:/{entry['model_name']}/{entry['version']}"
    return ["```", f"ctan predict {model} INPUT --out DIR", f"ctan lineage {model}", "```"]
