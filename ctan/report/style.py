"""How the report names, colours and formats things: architectures and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ctan.tasks import MetricSpec

if TYPE_CHECKING:
    from ctan.records import Interval

DASH = "–"
NBSP = "\u00a0"  # keeps a number and its unit on one line

# Okabe and Ito's palette, which colour-blind readers can tell apart; the reference is grey. Every architecture also has
# a marker of its own, so that no plot depends on colour alone.
_ARCHITECTURE_COLOURS = {"stl": "#5f6b7a", "hps": "#e69f00", "mtan": "#009e73", "ctan": "#0072b2"}
_ARCHITECTURE_MARKERS = {"stl": "o", "hps": "s", "mtan": "^", "ctan": "D"}
_OTHER_COLOURS = ("#d55e00", "#cc79a7", "#56b4e9", "#8c564b")
_OTHER_MARKERS = ("v", "P", "X", "*")


def architecture_label(arch: str) -> str:
    """Return how an architecture is written: `"ctan"` -> `"CTAN"`, `"ctan, ctab=false"` -> `"CTAN, ctab=false"`."""
    name, comma, differs = arch.partition(", ")
    return f"{name.upper()}{comma}{differs}" if name.isalnum() else arch


def architecture_colour(arch: str, archs: Sequence[str]) -> str:
    """Return the colour of an architecture; those without one of their own get theirs by their place in `archs`."""
    return _ARCHITECTURE_COLOURS.get(arch) or _of_others(arch, archs, _OTHER_COLOURS)


def architecture_marker(arch: str, archs: Sequence[str]) -> str:
    """Return the matplotlib marker of an architecture."""
    return _ARCHITECTURE_MARKERS.get(arch) or _of_others(arch, archs, _OTHER_MARKERS)


def _of_others(arch: str, archs: Sequence[str], choices: Sequence[str]) -> str:
    others = [name for name in archs if name not in _ARCHITECTURE_COLOURS]
    return choices[others.index(arch) % len(choices)] if arch in others else choices[0]


def is_number(value: Any) -> bool:
    """Tell whether a value of `comparison.json` is a finite number (what is not was written as null)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_metric(spec: MetricSpec, value: Any) -> str:
    """Return a metric's value as the report prints it: Gy and mm with two decimals, ratios with three."""
    if not is_number(value):
        return DASH
    return f"{value:.2f}" if spec.unit else f"{value:.3f}"


def format_metric_interval(spec: MetricSpec, scored: Interval) -> str:
    """Return `low to high` of a score; empty when there is no interval."""
    low, high = scored.low, scored.high
    return "" if low is None or high is None else f"{format_metric(spec, low)} to {format_metric(spec, high)}"


def format_percent(value: Any) -> str:
    """Return a signed percentage with one decimal and a true minus sign."""
    return f"{value:+.1f}{NBSP}%".replace("-", "−") if is_number(value) else DASH


def format_percent_interval(gain: Interval | None) -> str:
    """Return `low to high` of a relative improvement; empty when there is none."""
    if gain is None or gain.low is None or gain.high is None:
        return ""
    return f"{gain.low:+.1f} to {gain.high:+.1f}".replace("-", "−")


def format_count(value: Any) -> str:
    """Return a count with an SI letter and three figures: `4.21 M`."""
    if not is_number(value):
        return DASH
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{NBSP}{letter}"
    return f"{value:.0f}"


def format_seconds(value: Any) -> str:
    """Return seconds with three figures."""
    return f"{value:.3g}" if is_number(value) else DASH


def criterion_label(criterion: str) -> str:
    """Return a DVH criterion as it is usually written: `D_95` -> `D95`, `D_0.1_cc` -> `D0.1cc`, `mean` -> `Dmean`."""
    return criterion.replace("_", "") if criterion.startswith("D_") else f"D{criterion}"
