"""The first screen of the report: which architecture, by how much, how sure, and from what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctan import __version__
from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, join
from ctan.provenance import git_commit
from ctan.records import MIN_CASES
from ctan.report.style import (
    DASH,
    NBSP,
    architecture_label,
    format_metric,
    format_metric_interval,
    format_percent,
    format_percent_interval,
)
from ctan.report.tables import sign_of

if TYPE_CHECKING:
    from ctan.records import Interval
    from ctan.report.data import ReportData


def headline(data: ReportData) -> Markup:
    """Return title, origin, verdict and key figures."""
    best, content = architecture_label(data.best_arch), data.content
    alone = len(data.archs) == 1
    choice = element(
        "p",
        element("strong", f"{best} was chosen on the {content.num_tuning_cases} tuning cases"),
        f": {_with_labels(content.best.reason, data.archs)}.",
        class_="lead",
    )
    roles = element(
        "p",
        f"Sealed test cases: none of the {content.num_evaluation_cases} was trained on, chosen by or gated on."
        if not content.num_tuning_cases
        else "Tuning cases choose, the evaluation split only measures: tuning cases are training cases that were set "
        f"aside for choosing; the {content.num_evaluation_cases} evaluation cases had no say in any choice.",
        class_="soft",
    )
    sentences = [
        element("p", sentence, **({"class_": "bad"} if sentence.startswith("Warning") else {}))
        for sentence in verdict(data)
    ]
    return join(
        element("h1", title_of(data)),
        element("p", _origin(data), class_="soft"),
        element("div", *([] if alone else [choice]), *sentences, roles, class_="card"),
        _tiles(data),
    )


def title_of(data: ReportData) -> str:
    """Return what the comparison comes to, before anything is decided about promotion."""
    best = architecture_label(data.best_arch)
    if better := {sentence.split("“")[1].split("”")[0] for sentence in _below_baseline(data)}:
        return f"{best} is not better than {_listed([f'“{name}”' for name in sorted(better)])}"
    if len(data.archs) == 1:
        return f"{best} on {data.content.dataset}"
    if not data.has_enough_cases:
        return f"{best} was chosen; {data.content.num_evaluation_cases} evaluation cases tell no architectures apart"
    others = [arch for arch in data.archs if arch != data.best_arch]
    if all(sign_of(data.best_against(arch).get("average")) == 1 for arch in others):
        return f"{best} is better than {_listed([architecture_label(arch) for arch in others])}"
    return f"{best} was chosen of {len(data.archs)} architectures; the evaluation cases do not tell it apart from all"


def _origin(data: ReportData) -> str:
    """Return data set, numbers of cases and what names them, in a line."""
    content = data.content
    parts = [
        content.dataset,
        f"{content.num_tuning_cases} tuning and {content.num_evaluation_cases} evaluation cases",
        f"data {content.data_hash[:12]}",
        f"store {content.store_key[:16]}",
        f"code {_short_commit()}",
        f"settings {(data.best.record.config_hash or DASH)[:12]}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return " · ".join(parts)


def _short_commit() -> str:
    commit, _, changed = (git_commit() or "unknown").partition("-")
    return f"{commit[:12]}{' (changed)' if changed else ''}"


def verdict(data: ReportData) -> list[str]:
    """Return what the evaluation cases say about the choice, in sentences."""
    best, sentences = architecture_label(data.best_arch), []
    found = {arch: data.best_against(arch).get("average") for arch in data.archs if arch != data.best_arch}
    gains = {arch: gain for arch, gain in found.items() if gain is not None and gain.value is not None}
    compared = data.reference if data.reference in gains else min(gains, key=lambda a: gains[a].value or 0, default="")
    if compared:
        gain = gains[compared]
        interval = format_percent_interval(gain)
        value = gain.value or 0.0
        amount = f"{abs(value):.1f}{NBSP}% {'better' if value >= 0 else 'worse'}"
        sentences.append(
            f"On the {data.content.num_evaluation_cases} evaluation cases {best} is {amount} than "
            f"{architecture_label(compared)} on average over the tasks"
            + (f" ({data.confidence} interval {interval}{NBSP}%)." if interval else ".")
        )
        too_few = f"Fewer than {MIN_CASES} cases say nothing about other patients: no architecture is told apart."
        sentences.append(_certainty(best, gains) if data.has_enough_cases else too_few)
    sentences += _below_baseline(data)
    if data.content.excludes_training_variance:
        sentences.append(
            "The intervals exclude training variance: they say how much depends on which patients were measured, not "
            "how much another training of the same architecture would differ (that takes three seeds or more)."
        )
    return sentences


def _below_baseline(data: ReportData) -> list[str]:
    """Warn of scores that a baseline without a network has better than the chosen architecture."""
    sentences = []
    for task, metric in data.columns(EVALUATION):
        ours = data.scored(data.best_arch, EVALUATION, task, metric).value
        for baseline in data.content.baselines:
            theirs = baseline.scores.get(EVALUATION, {}).get(task.name, {}).get(metric.name)
            sign = 1 if metric.higher_is_better else -1
            if ours is not None and theirs is not None and sign * theirs > sign * ours:
                sentences.append(
                    f"Warning: the baseline “{baseline.label}” has the better {metric.label}, "
                    f"{format_metric(metric, theirs)} against {format_metric(metric, ours)} {metric.unit}".rstrip()
                    + "."
                )
    return sentences


def _with_labels(text: str, archs: Sequence[str]) -> str:
    """Write architectures in a text as the report does."""
    return re.sub(
        rf"\b({'|'.join(map(re.escape, sorted(archs, key=len, reverse=True)))})\b",
        lambda found: architecture_label(found[0]),
        text,
    )


def _certainty(best: str, gains: dict[str, Interval]) -> str:
    """Say which architectures the chosen one is told apart from by the evaluation cases."""
    by_sign: dict[int, list[str]] = {}
    for arch, gain in gains.items():
        by_sign.setdefault(sign_of(gain), []).append(architecture_label(arch))
    parts = []
    if 1 in by_sign:
        parts.append(f"It is better than {_listed(by_sign[1])} beyond what chance between patients explains")
    if 0 in by_sign:
        verb = "but the" if parts else "The"
        parts.append(f"{verb} evaluation cases do not tell it apart from {_listed(by_sign[0])} (interval includes 0)")
    if -1 in by_sign:
        parts.append(f"{'and ' if parts else ''}{_listed(by_sign[-1])} measured better than {best} there")
    return ", ".join(parts) + "."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _tiles(data: ReportData) -> Markup:
    """Return the chosen architecture's key figures on the evaluation cases."""
    best, reference = architecture_label(data.best_arch), architecture_label(data.reference)
    tiles = []
    average = data.gains(data.best_arch, EVALUATION).get("average")
    if average is not None and average.value is not None:
        interval = format_percent_interval(average)
        tiles.append(_tile(f"{best} over {reference}, average", format_percent(average.value), interval))
    for task, metric in data.columns(EVALUATION):
        scored = data.scored(data.best_arch, EVALUATION, task, metric)
        unit = f" {metric.unit}" if metric.unit else ""
        better = "higher is better" if metric.higher_is_better else "lower is better"
        name = f"{metric.label}, {better}"
        tiles.append(
            _tile(name, f"{format_metric(metric, scored.value)}{unit}", format_metric_interval(metric, scored))
        )
    return element("div", *tiles, class_="tiles")


def _tile(name: str, value: str, interval: str) -> Markup:
    return element("div", element("span", name), element("b", value), element("span", interval), class_="tile")


def facts(data: ReportData) -> Markup:
    """Return from which data, by which code and with which settings the comparison was made, in full."""
    content, record = data.content, data.best.record
    hardware = sorted({f"{model.facts.device}, {model.facts.precision}" for model in data.models})
    over = "the patients" if content.excludes_training_variance else "patients and seeds"
    how = f"jackknife over {over} with Student's t, paired"
    if content.num_bootstrap is not None:
        how = f"percentiles of {content.num_bootstrap:,} bootstrap resamples of {over}, paired".replace(",", NBSP, 1)
    named: list[tuple[str, object]] = [
        ("Data set", content.dataset),
        ("Store", element("code", content.store_key)),
        ("Data hash", element("code", content.data_hash)),
        ("Hash of the evaluation cases", element("code", content.evaluation_hash)),
        ("Hash of the settings", element("code", record.config_hash or DASH)),
        ("Hash of the training code", element("code", record.code_hash or DASH)),
        ("Compared by", f"ctan {__version__}, commit {git_commit() or 'unknown'}"),
        ("Trained on", "; ".join(hardware)),
        ("Tracking server", record.tracking_uri or DASH),
        ("Intervals", f"{data.confidence}, {how}"),
    ]
    items = [part for name, value in named for part in (element("dt", name), element("dd", value))]
    return element("dl", *items, class_="facts")
