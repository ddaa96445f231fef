"""Whether incoming cases are still those that a model learned from: as a sample, not one by one.

scipy's tests with Holm's correction, not a library of drift: Evidently picks its test by the number of reference rows
(over 1,000, twenty cases of the same kind have "drifted"), and what is compared here is one number a case and feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan import html
from ctan.cases import Case, RawCase
from ctan.cases.working import to_working
from ctan.errors import CtanError, DataError
from ctan.files import write_text
from ctan.html import element
from ctan.inference import LoadedModel, load_network
from ctan.inference.fingerprint import distance, embedded, measures
from ctan.prediction.models import Model, open_models
from ctan.prediction.predict import Run, opened
from ctan.progress import track
from ctan.reading import printable

LEVEL = 0.05  # probability of any false alarm, over all features
FEWEST = 8  # cases on either side
BOTTLENECK = "distance in the network's bottleneck"


@dataclass(frozen=True)
class FeatureDrift:
    """How one feature of incoming cases stands to that of training cases.

    Attributes:
        name: of the feature.
        p: after correction for the number of features.
        distance: largest difference between the two distribution functions, 0 to 1.
        then, now: means; of logarithms.
        drifted: whether it has drifted.
    """

    name: str
    p: float
    distance: float
    then: float
    now: float
    drifted: bool


@dataclass(frozen=True)
class DriftReport:
    """How incoming cases stand to those that a model learned from.

    Attributes:
        model: that was asked.
        weights_sha256: of its weights.
        num_cases: incoming ones that were compared.
        num_known: training cases that they were compared with.
        failed: case -> why it could not be read.
        features: the most drifted first.
        threshold: least distance that counts as drift, however sure it is.
    """

    model: str
    weights_sha256: str
    num_cases: int
    num_known: int
    failed: Mapping[str, str]
    features: tuple[FeatureDrift, ...]
    threshold: float

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """What has drifted."""
        return tuple(feature for feature in self.features if feature.drifted)

    def __str__(self) -> str:
        compared = f"{self.num_cases} cases against {self.num_known} that {self.model} learned from"
        if not self.drifted:
            return f"no drift: {compared}"
        names = ", ".join(f"{feature.name} ({feature.distance:.2f})" for feature in self.drifted[:4])
        more = f" and {len(self.drifted) - 4} more" if len(self.drifted) > 4 else ""
        return f"drift: {compared}: {names}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        features = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
            for row in map(asdict, self.features)
        ]
        found = {**asdict(self), "features": features, "failed": dict(self.failed)}
        return {"format_version": 1, "drifted": bool(self.drifted), **found}


def drift(
    model: str, source: str, threshold: float = 0.0, overrides: Sequence[str] = (), read_ahead: bool = True
) -> DriftReport:
    """Compare the cases of a source with those that a model learned from.

    Args:
        model: see `ctan.prediction.models.open_models`.
        source: see `ctan.prediction.predict`; no truth is needed.
        threshold: least distance of a feature's distribution that counts as drift. Of many cases every difference is
            sure, however small.
        overrides: `FIELD=VALUE` of settings of the data.
        read_ahead: read in a process of its own.

    Raises:
        DataError: when the model has no fingerprint, or there are too few cases.
    """
    with open_models(model) as models:
        run = Run.of(models, None, False, False, overrides)
        with opened(source, run) as (cases, reader):
            return _compared(models[0], run.cases(cases, reader, read_ahead), len(cases), threshold)


def compare(
    known: Mapping[str, npt.NDArray[np.float64]],
    incoming: Mapping[str, npt.NDArray[np.float64]],
    threshold: float,
    floors: Mapping[str, float] | None = None,
) -> tuple[FeatureDrift, ...]:
    """Compare two samples, feature by feature; nan where a case does not have one.

    What differs by less than its floor (see `Fingerprint`) is the same.

    Kolmogorov and Smirnov's test of two samples, of what is there or not Fisher's exact test; Holm's correction: the
    probability of any false alarm is at most 5%.
    """
    from scipy.stats import fisher_exact, ks_2samp

    names, ps, distances, means = [], [], [], []
    for name in known:
        then, now = (values[name][~np.isnan(values[name])] for values in (known, incoming))
        if min(len(then), len(now)) < FEWEST:
            continue
        if np.ptp(np.concatenate([then, now])) <= (floors or {}).get(name, 0.0):
            p, apart = 1.0, 0.0
        elif name.startswith("has "):
            table = [[np.count_nonzero(some), len(some) - np.count_nonzero(some)] for some in (then, now)]
            p, apart = float(fisher_exact(table).pvalue), abs(float(then.mean() - now.mean()))
        else:
            found = ks_2samp(then, now)
            p, apart = float(found.pvalue), float(found.statistic)
        names.append(name)
        ps.append(p)
        distances.append(apart)
        means.append((float(then.mean()), float(now.mean())))
    adjusted = _holm(ps)
    features = [
        FeatureDrift(name, p, apart, *both, drifted=p <= LEVEL and apart >= threshold)
        for name, p, apart, both in zip(names, adjusted, distances, means, strict=True)
    ]
    return tuple(sorted(features, key=lambda feature: (not feature.drifted, feature.p, -feature.distance)))


def write_page(report: DriftReport, path: Path) -> None:
    """Write the comparison as a page."""
    title = "Drift" if report.drifted else "No drift"
    rows = [
        [
            feature.name.removeprefix("log "),
            f"{feature.p:.3g}",
            f"{feature.distance:.2f}",
            _mean(feature.name, feature.then),
            _mean(feature.name, feature.now),
            "drifted" if feature.drifted else "",
        ]
        for feature in report.features
    ]
    parts: list[object] = [element("h1", title), element("p", str(report))]
    parts.append(html.table(["feature", "p (Holm)", "distance", "training mean", "incoming mean", ""], rows))
    words = (
        f"p: probability of such a difference between samples of the same kind, corrected for {len(rows)} features: "
        f"a false alarm in one comparison of twenty. Distance: largest gap between the distribution functions; drift "
        f"counts from {report.threshold:g}. Means of logarithms are geometric."
    )
    parts.append(element("p", words, class_="soft"))
    if report.failed:
        failed = [[case_id, reason] for case_id, reason in report.failed.items()]
        parts += [element("h2", f"Not read: {len(failed)}"), html.table(["case", "why"], failed, text=True)]
    write_text(path, html.page(f"{title}: {report.model}", *parts))


def _compared(model: Model, cases: Iterable[tuple[RawCase, Case | str]], number: int, threshold: float) -> DriftReport:
    known = model.record.fingerprint
    if known is None or len(known.cases) < FEWEST:
        raise DataError(
            f"{model.name}: does not say what it learned from (trained by an earlier ctan, or on fewer than {FEWEST} "
            f"cases): train it again"
        )
    loaded = load_network(model.folder)
    failed: dict[str, str] = {}
    rows: list[dict[str, float]] = []
    for raw, case in track(cases, number, "drift"):
        try:
            if isinstance(case, str):
                failed[raw.case_id] = printable(case)
                continue
            rows.append(_row(loaded, case))
        except CtanError as error:
            failed[raw.case_id] = printable(str(error))
    if len(rows) < FEWEST:
        raise DataError(f"{len(rows)} cases could be read; at least {FEWEST} are needed to tell drift")
    sample = np.array(known.cases, np.float64).reshape(len(known.cases), len(known.features))
    then = {name: sample[:, column] for column, name in enumerate(known.features)}
    if known.embedding is not None:
        then[BOTTLENECK] = np.array(known.embedding.held_out)
    now = {name: np.array([row.get(name, math.nan) for row in rows]) for name in then}
    features = compare(then, now, threshold, dict(zip(known.features, known.floors, strict=True)))
    return DriftReport(model.name, model.weights_sha256, len(rows), len(sample), failed, features, threshold)


def _row(model: LoadedModel, case: Case) -> dict[str, float]:
    from ctan.prediction.ask import with_what_can_be_told

    record = model.record
    case, _ = with_what_can_be_told(case, model)
    stored, geometry = to_working(case, model.spec, record.grid.shape, record.grid.spacing_mm)
    row = measures(stored, geometry, model.spec)
    embedding = record.fingerprint.embedding if record.fingerprint else None
    if embedding is not None and not model.inputs.lacking(case, model.spec):
        place = embedded(model, stored)
        row[BOTTLENECK] = math.nan if place is None else distance(embedding, place)
    return row


def _holm(ps: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction (Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [1.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(np.argsort(ps)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _mean(name: str, value: float) -> str:
    return f"{math.exp(value) if name.startswith('log') else value:.4g}"
