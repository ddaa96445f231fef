"""A comparison in a few plain lines: what a step's log says of it, where nobody looks at a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctan.records import EVALUATION, ComparisonRecord
from ctan.tasks import Task


def in_words(comparison: ComparisonRecord, role: str = EVALUATION) -> str:
    """Return a line an architecture, and one on the choice.

    Args:
        comparison: what was compared.
        role: cases whose scores are told.
    """
    best = comparison.best
    lines = [f"scores on {getattr(comparison, f'num_{role}_cases')} {role} cases"]
    for entry in comparison.architectures:
        name = f"{entry.arch} (best)" if entry.arch == best.arch else entry.arch
        scores = [
            f"{task.name} {metric.label} {_number(scored.value, metric.unit)}"
            for task in comparison.tasks
            for metric in task.metrics
            if (scored := entry.scores.get(role, {}).get(task.name, {}).get(metric.name))
        ]
        average = entry.relative_improvement.get(role, {}).get("average")
        gained = average is not None and average.value is not None
        against = f"; {average.value:+.1f} % against {comparison.reference_arch}" if average and gained else ""
        lines.append(f"{name}: {', '.join(scores)}{against}")
    return "\n".join([*lines, f"best: {best.title} ({best.reason})"])


def scores_in_words(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]], tasks: Sequence[Task]) -> str:
    """Return a line for each role of the cases that were scored.

    Args:
        scores: role -> task -> metric -> value, as `evaluate` returns them.
        tasks: which know labels and units.
    """
    lines = []
    for role, of_role in scores.items():
        found = [
            f"{task.name} {metric.label} {_number(of_task[metric.name], metric.unit)}"
            for task in tasks
            for metric in task.metrics
            if metric.name in (of_task := of_role.get(task.name, {}))
        ]
        lines.append(f"{role} cases: {', '.join(found)}")
    return "\n".join(lines)


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f} {unit}" if unit else f"{value:.3f}"
