"""The comparison as a table for the terminal and for Markdown."""

from __future__ import annotations

from typing import Any

from ctan.evaluation.cases import EVALUATION
from ctan.tasks import DICE_MEAN, DOSE_SCORE, DVH_SCORE, MetricSpec

COLUMNS: tuple[tuple[str, MetricSpec], ...] = (("dose", DOSE_SCORE), ("dose", DVH_SCORE), ("contouring", DICE_MEAN))


def comparison_rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows: baselines, then architectures, on the evaluation cases."""
    columns = _columns(content)
    confidence = f"{100 * content['confidence']:.0f}%"
    headers = ["model", *(f"{spec.label}{f' ({spec.unit})' if spec.unit else ''}" for _, spec in columns)]
    headers += [f"vs {content['reference_arch'].upper()} ({confidence} interval)", "parameters", "GMAC", "s/step"]
    rows = []
    for baseline in content["baselines"]:
        scores = baseline["scores"][EVALUATION]
        cells = [_number(scores.get(task, {}).get(spec.name)) for task, spec in columns]
        rows.append([baseline["label"], *cells, "", "", "", ""])
    for entry in content["architectures"]:
        scores = entry["scores"][EVALUATION]
        cells = [_number(scores.get(task, {}).get(spec.name, {}).get("value")) for task, spec in columns]
        gain = entry["relative_improvement"].get(EVALUATION, {}).get("average")
        model = next(model for model in content["models"] if model["arch"] == entry["arch"])
        cost = [f"{model['num_parameters'] / 1e6:.2f} M", f"{model['macs_per_case'] / 1e9:.1f}"]
        rows.append([entry["arch"].upper(), *cells, _gain(gain), *cost, f"{model['step_seconds']:.2f}"])
    return headers, rows


def comparison_table(content: dict[str, Any]) -> str:
    """Return the comparison as aligned text, best model and floor below."""
    headers, rows = comparison_rows(content)
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: list[str]) -> str:
        first, *others = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip # noqa: E501
        return "  ".join([first, *others]).rstrip()

    best, floor = content["best"], content["grid_floor"]
    floors = [f"{spec.label} {_number(floor[task][spec.name])} {spec.unit}".rstrip()
              for task, spec in _columns(content) if spec.name in floor.get(task, {})]  # fmt: skip
    notes = [
        f"{content['num_evaluation_cases']} evaluation cases; the best is chosen on "
        f"{content['num_tuning_cases']} tuning cases: {best['reason']}",
        f"floor of the working grid: {', '.join(floors)}",
    ]
    if content["excludes_training_variance"]:
        notes.append("intervals exclude training variance (fewer than three seeds)")
    return "\n".join([line(headers), *map(line, rows), "", *notes])


def _columns(content: dict[str, Any]) -> list[tuple[str, MetricSpec]]:
    """Return the tasks and metrics that a model has, the known ones first."""
    tasks = content["architectures"][0]["scores"][EVALUATION]
    return [(task, spec) for task, spec in COLUMNS if spec.name in tasks.get(task, {})]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _gain(gain: dict[str, Any] | None) -> str:
    if gain is None or gain["value"] is None:
        return ""
    return f"{gain['value']:+.1f}% ({gain['low']:+.1f} to {gain['high']:+.1f})"
