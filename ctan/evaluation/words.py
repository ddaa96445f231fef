"""A comparison in a few plain lines: what a step's log says of it, where nobody looks at a table."""

from __future__ import annotations

from ctan.records import EVALUATION, ComparisonRecord
from ctan.tasks import METRICS


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
            f"{task} {METRICS[metric].label} {_number(scored.value, METRICS[metric].unit)}"
            for task, metrics in entry.scores.get(role, {}).items()
            for metric, scored in metrics.items()
        ]
        average = entry.relative_improvement.get(role, {}).get("average")
        gained = average is not None and average.value is not None
        against = f"; {average.value:+.1f} % against {comparison.reference_arch}" if average and gained else ""
        lines.append(f"{name}: {', '.join(scores)}{against}")
    return "\n".join([*lines, f"best: {best.arch}, fold {best.fold}, seed {best.seed} ({best.reason})"])


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2f} {unit}" if unit else f"{value:.3f}"
