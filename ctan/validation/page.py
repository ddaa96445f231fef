"""The result page: what the data is, what was expected, what failed."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.cases import DataSpec
from ctan.files import write_text
from ctan.html import Markup, element, image, join, page, table
from ctan.validation.copies import Copies
from ctan.validation.suite import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_PAIRS = 200  # on the page


def write_page(
    report: Path,
    spec: DataSpec,
    manifest: pa.Table,
    passed: pa.Table,
    quarantine: Sequence[dict[str, str]],
    outcomes: Sequence[Outcome],
    copies: Copies,
    problem: str,
) -> None:
    """Write the page, atomically.

    Args:
        report: HTML file.
        spec: names structures and targets.
        manifest: every case that ingestion could read.
        passed: the cases that passed.
        quarantine: all quarantine rows.
        outcomes: one an expectation.
        copies: cases of one content.
        problem: why the gate stopped, empty when it did not.
    """
    num_failed = sum(not outcome.success for outcome in outcomes)
    if problem:
        verdict = element("span", "Stopped.", class_="bad")
    elif num_failed or quarantine:
        verdict = join(element("span", "Passed", class_="good"), "with cases in quarantine.")
    else:
        verdict = element("span", "Passed.", class_="good")
    headline = (
        f" {passed.num_rows} cases go on, {len(quarantine)} are in quarantine, {len(outcomes)} expectations checked."
    )
    body = [
        element("h1", f"Validation of {spec.dataset}"),
        element(
            "div", element("p", verdict, headline, class_="lead"), element("p", describe(spec, passed)), class_="card"
        ),
    ]
    if problem:
        body += [element("h2", "Why the gate stopped"), element("pre", problem)]
    body += [element("h2", "Expectations"), _expectations(outcomes)]
    body += [element("h2", "Quarantine"), _quarantine(quarantine)]
    body += [element("h2", "Copies"), _copies(copies)]
    body += [
        element("h2", "Distributions"),
        image(
            _distributions(spec, manifest),
            "Histograms of the manifest",
            "All cases that could be read, one histogram a quantity.",
        ),
    ]
    write_text(report, page(f"Validation of {spec.dataset}", join(*body)))


def describe(spec: DataSpec, manifest: pa.Table) -> str:
    """Return one paragraph that says what the data is."""
    rows = manifest.to_pylist()
    if not rows:
        return "No case passed."
    splits = Counter(row["split"] for row in rows)
    counts = ", ".join(f"{number} {split}" for split, number in splits.items())
    groups = len({row["group_id"] for row in rows})
    whom = "" if groups == len(rows) else f" of {groups} patients or lesions"
    sentences = [f"{len(rows)} cases{whom}: {counts}.", _geometry(rows, spec)]
    sentences += [_balance(name, classes, rows) for name, classes in spec.labels.items()]
    if spec.has_dose:
        doses = [row["dose_max_gy"] for row in rows]
        sentences.append(f"Maximum doses range from {min(doses):.1f} to {max(doses):.1f} Gy.")
    if spec.structures:
        missing = Counter(name for row in rows for name in row["missing"])
        absent = ", ".join(f"{name} in {missing[name]}" for name in spec.structures if missing[name])
        sentences.append(f"Structures that were not contoured: {absent or 'none'}.")
    return " ".join(sentences)


def _geometry(rows: Sequence[dict[str, Any]], spec: DataSpec) -> str:
    def ranges(column: str, digits: int) -> str:
        values = zip(*(row[column] for row in rows), strict=True)
        return " x ".join(
            f"{min(v):.{digits}f}" if min(v) == max(v) else f"{min(v):.{digits}f}-{max(v):.{digits}f}" for v in values
        )

    if spec.spatial_dims == 2:  # how large a pixel is, is not known
        return f"Pictures have {ranges('shape', 0)} pixels."
    return f"Images have {ranges('shape', 0)} voxels of {ranges('spacing_mm', 2)} mm."


def _balance(name: str, classes: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    found = Counter(row[f"label_{name}"] for row in rows)
    counts = ", ".join(f"{found[value]} {value}" for value in classes)
    unknown = f", {found[None]} not known" if found[None] else ""
    return f"Classes of {name}: {counts}{unknown}."


def _expectations(outcomes: Sequence[Outcome]) -> Markup:
    rows = []
    for outcome in outcomes:
        expectation = outcome.expectation
        mark = element("span", "holds", class_="good") if outcome.success else element("span", "fails", class_="bad")
        observed = "" if outcome.low is None else f"{outcome.low:.4g} to {outcome.high:.4g} {expectation.unit}".rstrip()
        failing = ", ".join(outcome.failing)
        rows.append([mark, expectation.sentence, observed, failing])
    return table(["", "expectation", "observed", "failing cases"], rows, text=True)


def _quarantine(quarantine: Sequence[dict[str, str]]) -> Markup:
    if not quarantine:
        return element("p", "Empty: every case passed.")
    rows = [[row["case_id"], row["split"], row["step"], row["reason"]] for row in quarantine]
    return table(["case", "split", "step", "reason"], rows, text=True)


def _copies(copies: Copies) -> Markup:
    if not copies.pairs:
        return element("p", "No two groups hold the same files, image or dose, and no images look alike.")
    rows = [
        [
            element("span", pair.finding, class_="bad" if pair.finding == "error" else ""),
            pair.first,
            pair.second,
            pair.reason,
        ]
        for pair in copies.pairs[:_MAX_PAIRS]
    ]
    more = len(copies.pairs) - _MAX_PAIRS
    note = [element("p", f"and {more:,} more pairs")] if more > 0 else []
    return join(table(["", "case", "case", "what was found"], rows, text=True), *note)


def _distributions(spec: DataSpec, manifest: pa.Table) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _shown_columns(spec, manifest)
    num_rows = math.ceil(len(columns) / 3)
    figure = Figure(figsize=(11, 2.3 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(num_rows, 3, squeeze=False).flat)
    for unused in panels[len(columns) :]:
        unused.remove()
    for axes, (title, values) in zip(panels, columns.items(), strict=False):
        shown = [value for value in values if value is not None and math.isfinite(value)]  # bins need finite bounds
        axes.hist(shown, bins=20, color="#4c86c6")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=130)
    return stream.getvalue()


def _shown_columns(spec: DataSpec, manifest: pa.Table) -> dict[str, list[Any]]:
    """Return title -> values of what is worth a histogram."""
    image, unit = spec.image.name, spec.image.unit or "raw value"
    edges = [min(edges) for edges in manifest["spacing_mm"].to_pylist() if edges and None not in edges]
    columns: dict[str, list[Any]] = {"Smallest voxel edge (mm)": edges} if spec.spatial_dims == 3 else {}
    if spec.has_dose:
        columns["Maximum dose (Gy)"] = manifest["dose_max_gy"].to_pylist()
        columns["Mean dose inside the mask (Gy)"] = manifest["dose_mean_gy"].to_pylist()
        columns["Voxels of the possible-dose mask"] = manifest["num_mask_voxels"].to_pylist()
        main_target = max(spec.targets, key=lambda name: spec.targets[name])
        columns[f"Mean dose in {main_target} (Gy)"] = manifest[f"dose_mean_gy_{main_target}"].to_pylist()
        columns[f"Voxels of {main_target}"] = manifest[f"voxels_{main_target}"].to_pylist()
    else:
        columns[f"Largest value ({unit})"] = manifest[f"{image}_max"].to_pylist()
        columns |= {f"Voxels of {name}": manifest[f"voxels_{name}"].to_pylist() for name in spec.structures}
    numbers = [name for name, kind in spec.facts.items() if kind == "float64"]
    return columns | {name.replace("_", " ").capitalize(): manifest[name].to_pylist() for name in numbers}
