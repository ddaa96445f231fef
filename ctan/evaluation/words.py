"""A comparison in a few plain lines: what a step's log says of it, where nobody looks at a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctan.tasks import METRICS


def in_words(comparison: Mapping[str, Any], role: str = "evaluation") -> str:
    """Return a line an architecture, and one on the choice.

    Args:
        comparison: content of `comparison.json`.
        role: cases whose scores are told.
    """
    best = comparison["best"]
    lines = [f"scores on {comparison.get(f'num_{role}_cases', '?')} {role} cases"]
    for row in comparison["architectures"]:
        name = f"{row['arch']} (best)" if row["arch"] == best["arch"] else row["arch"]
        scores = [
            f"{task} {METRICS[metric].label} {_number(value, METRICS[metric].unit)}"
            for task, metrics in row["scores"].get(role, {}).items()
            for metric, value in metrics.items()
        ]
        average = _value(row["relative_improvement"].get(role, {}).get("average"))
        against = f"; {average:+.1f} % against {comparison.get('reference_arch', 'stl')}" if average is not None else ""
        lines.append(f"{name}: {', '.join(scores)}{against}")
    return "\n".join([*lines, "best: {arch}, fold {fold}, seed {seed} ({reason})".format_map(best)])


def _value(found: Any) -> float | None:
    """Return a number, or the middle of a mapping of value, low and high."""
    return found.get("value") if isinstance(found, Mapping) else found


def _number(found: Any, unit: str) -> str:
    value = _value(found)
    if value is None:
        return "unknown"
    return f"{value:.2f} {unit}" if unit else f"{value:.3f}"
