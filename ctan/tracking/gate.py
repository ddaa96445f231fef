"""The gate in front of the alias `champion`: is the new model better on the fixed evaluation split?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctan.errors import DataError
from ctan.records import EVALUATION, BaselineEntry
from ctan.tasks import MetricSpec, Task
from ctan.tracking.comparison import Candidate

if TYPE_CHECKING:
    import pyarrow as pa

    from ctan.config import RunConfig


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        promoted: whether the candidate becomes champion.
        reason: why, as a sentence.
        numbers: what the verdict rests on.
    """

    promoted: bool
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


def against_baselines(candidate: Candidate, baselines: Sequence[BaselineEntry]) -> Verdict:
    """Judge the first model: it must beat every simple baseline on the primary metric of every task that has one.

    Args:
        candidate: the chosen model.
        baselines: as in `comparison.json`.

    Raises:
        DataError: when a score of the candidate is missing.
    """
    lines, numbers, lost = [], {}, 0
    for task in candidate.record.tasks:
        metric = task.primary_metric
        for baseline in baselines:
            value = baseline.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
            if value is None:
                continue
            own = _score(candidate, task)
            better = own > value if metric.higher_is_better else own < value
            lost += not better
            numbers[f"{task.name}.{metric.name}"] = own
            numbers[f"{task.name}.{metric.name}.{baseline.arch}"] = value
            verb = "beats" if better else "does not beat"
            lines.append(f"{verb} {baseline.arch} ({_show(own, metric)} against {_show(value, metric)})")
    if not lines:
        return Verdict(False, "there is no champion and no simple baseline to beat: evaluate baselines first", numbers)
    return Verdict(not lost, f"first candidate for champion: {candidate.arch} {', '.join(lines)}", numbers)


def against_champion(
    candidate: Candidate, champion_cases: pa.Table, champion_version: str, config: RunConfig
) -> Verdict:
    """Judge a challenger: its mean relative improvement over the champion on the primary metrics of the tasks.

    Args:
        candidate: the chosen model.
        champion_cases: the champion's per-case table on the same evaluation cases.
        champion_version: its registered version.
        config: `promotion.min_improvement_percent` must be exceeded; `evaluation` says how intervals are made.

    Raises:
        DataError: when the two tables are not about the same cases.
    """
    from ctan.evaluation.improvement import relative_improvement

    gains = relative_improvement(candidate.record.tasks, [candidate.cases], [champion_cases], config.evaluation)
    if not gains:
        reason = f"it shares no task with the champion, version {champion_version}, so that nothing can be compared"
        return Verdict(False, reason)
    average, needed = gains["average"], config.promotion.min_improvement_percent
    promoted = average["value"] > needed
    parts = [f"{name} {gain['value']:+.2f} %" for name, gain in gains.items() if name != "average"]
    reason = (
        f"{candidate.arch} changes the champion's scores (version {champion_version}) by {average['value']:+.2f} % on "
        f"average ({', '.join(parts)}; {config.evaluation.confidence:.0%} interval {average['low']:+.2f} to "
        f"{average['high']:+.2f} %), {'more than' if promoted else 'not more than'} the {needed:g} % needed"
    )
    return Verdict(promoted, reason, {"relative_improvement_percent": gains, "min_improvement_percent": needed})


def _score(candidate: Candidate, task: Task) -> float:
    score = candidate.scores.get(EVALUATION, {}).get(task.name, {}).get(task.primary_metric.name)
    if score is None:
        raise DataError(
            f"comparison.json: {candidate.arch} has no {task.primary_metric.name} of task {task.name!r} on the "
            f"evaluation cases; run evaluate and compare again"
        )
    return score


def _show(value: float, metric: MetricSpec) -> str:
    return f"{metric.label} {value:.3f} {metric.unit}".rstrip()
