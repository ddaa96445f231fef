"""The report of a comparison: one HTML file that needs nothing besides itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import yaml

from ctan.drawing import DPI, png
from ctan.evaluation.cases import EVALUATION, TUNING
from ctan.files import write_text
from ctan.html import Markup, contents, element, image, join, page
from ctan.report.cases import cases_section
from ctan.report.data import ReportData, read_report_data
from ctan.report.decision import PLACE
from ctan.report.dose import Contours, hu_window, slices_picture
from ctan.report.headline import facts, headline, title_of
from ctan.report.pictures import outlines_picture
from ctan.report.plots import improvement_chart, loss_chart, schedule_chart
from ctan.report.sections import picture
from ctan.report.spread import spread_section
from ctan.report.style import architecture_label
from ctan.report.subgroups import subgroups_section
from ctan.report.tables import against_table, comparison_table, trainings_table
from ctan.report.trust import calibration, exchange
from ctan.tasks import Row, Section, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ctan.records import ComparisonRecord
    from ctan.report.data import Arrays

_SLICES_BYTES = 1_500_000  # of all slices together, so that the page stays small enough to send
_LOWEST_DPI = 40


def write_report(comparison: ComparisonRecord, evaluation_dirs: list[Path], report: Path) -> None:
    """Write the report of a comparison, atomically.

    Args:
        comparison: what `comparison.json` holds.
        evaluation_dirs: the evaluations in the order of `comparison.models`.
        report: HTML file, self-contained.

    Raises:
        DataError: when an evaluation is missing or damaged, or not the one that was compared.
    """
    data = read_report_data(comparison, evaluation_dirs)
    made = [(title, make(data)) for title, make in _FIRST]
    made += _of_tasks(data)
    made += [(title, make(data)) for title, make in _LAST]
    sections = [(title, _anchor(title), content) for title, content in made if content]
    parts = [
        headline(data),
        PLACE,
        contents([(anchor, title) for title, anchor, _ in sections]),
    ]
    parts += [element("section", element("h2", title), content, id=anchor) for title, anchor, content in sections]
    write_text(report, page(f"{title_of(data)} ({comparison.dataset})", *parts))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _evaluation(data: ReportData) -> Markup:
    notes = [
        f"Small print: {data.confidence} intervals over patients. Bold: best of the column. "
        "↑ higher is better, ↓ lower is better."
    ]
    if data.content.excludes_training_variance:
        notes.append("Intervals exclude training variance.")
    if data.content.grid_floor:
        notes.append("The grid floor is what the truth itself scores after the way to the working grid and back.")
    gains = element(
        "p",
        "Relative improvement: (−1)",
        element("sup", "l"),
        " (M − M",
        element("sub", "ref"),
        ") / M",
        element("sub", "ref"),
        " of each task's first score, l = 1 where lower is better; the average is over tasks.",
        class_="soft",
    )
    parts = [element("p", " ".join(notes), class_="soft"), comparison_table(data, EVALUATION)]
    parts += [gains] if len(data.archs) > 1 else []
    return join(*parts, against_table(data))


def _tuning(data: ReportData) -> Markup:
    text = (
        "The cases that the choice was made on; what is chosen by its scores tends to score too well on the same cases."
    )
    return (
        join(element("p", text, class_="soft"), comparison_table(data, TUNING)) if data.columns(TUNING) else Markup("")
    )


def _improvement(data: ReportData) -> Markup:
    reference = architecture_label(data.reference)
    return picture(
        improvement_chart(data),
        f"Relative improvement over {reference} per task and on average, by architecture",
        f"Points: relative improvement over {reference} (the vertical line at 0). Bars: {data.confidence} intervals, "
        "paired over patients.",
    )


def _losses(data: ReportData) -> Markup:
    figure = loss_chart(data)
    if figure is None:
        return Markup("")
    schedule = picture(
        schedule_chart(data),
        "Learning rate and task weights by epoch",
        "Learning rate; task weights where they are not constant.",
    )
    return join(
        picture(
            figure,
            "Training loss by epoch of every task and architecture",
            "Training loss, mean of each epoch; a line a training.",
        ),
        schedule,
    )


def _slices(data: ReportData) -> Markup:
    if data.spec.spatial_dims == 2:
        return _outlines(data)
    cases, has_dose = data.best.figures(), data.spec.has_dose
    outlined = next((task.outlined for task in data.tasks if task.outlined), ())
    contours = Contours(outlined, tuple(data.targets), data.colours)

    def drawn(views: Mapping[str, Arrays]) -> Figure | None:
        return slices_picture(views, contours, data.spec.image)

    figures = [(case_id, figure) for case_id, views in cases.items() if (figure := drawn(views))]
    pictures = _within(_SLICES_BYTES, [figure for _, figure in figures])
    best, captions = architecture_label(data.best_arch), _captions(data)
    is_ct = data.spec.image.modality == "ct"
    shown = "contours, planned and predicted dose" if has_dose else "the image and what was predicted"
    parts = [
        join(
            element("h3", _titled(data, case_id)),
            image(shot, f"Slices of case {case_id}: {shown}", captions.get(case_id, "")),
        )
        for (case_id, _), shot in zip(figures, pictures, strict=True)
    ]
    if not parts:
        return Markup("")
    where = "the region of highest planned dose" if has_dose else "the middle"
    sentences = [f"Slices through {where}, predicted by {best}; cases are spread from the worst to the best."]
    if is_ct:
        low, high = (f"{value:g}".replace("-", "−") for value in hu_window(data.spec.image))
        sentences.append(f"CT window {low} to {high} HU.")
    if outlined:
        sentences.append("True contours are solid, predicted ones dashed, targets dotted.")
    if has_dose:
        sentences.append(
            "On a dose lie the contours that belong to it. Red in the difference: too much dose predicted, blue: too "
            "little."
        )
    return join(element("p", " ".join(sentences), class_="soft"), *parts)


def _outlines(data: ReportData) -> Markup:
    cases = {case_id: views["picture"] for case_id, views in data.best.figures().items() if "picture" in views}
    captions = _captions(data)
    captions = {case_id: "\n".join(filter(None, (data.place(case_id), captions.get(case_id)))) for case_id in cases}
    figure = outlines_picture(cases, data.spec.image.name, captions)
    best = architecture_label(data.best_arch)
    if figure is None:
        return Markup("")
    return image(
        png(figure),
        f"Evaluation pictures from the worst to the best with outlines, true and predicted by {best}",
        f"Evaluation pictures from the worst to the best, predicted by {best}. {data.spec.licence}",
    )


def _titled(data: ReportData, case_id: str) -> str:
    """Return a case's id and where it stands among all."""
    return ", ".join(filter(None, (case_id, data.place(case_id))))


def _captions(data: ReportData) -> dict[str, str]:
    """Return by case what the tasks say under its picture, by the best model."""
    by_case: dict[str, list[Row]] = {}
    for row in data.best.cases.to_pylist():
        if row["role"] == EVALUATION:
            by_case.setdefault(row["case_id"], []).append(row)
    return {
        case_id: "; ".join(
            filter(None, (task.caption([r for r in rows if r["task"] == task.name]) for task in data.tasks))
        )
        for case_id, rows in by_case.items()
    }


def _within(limit: int, figures: Sequence[Figure]) -> list[bytes]:
    """Return figures as PNG, at a lower resolution where they would exceed `limit` bytes together."""
    dpi = DPI
    pictures = [png(figure, dpi) for figure in figures]
    while (size := sum(map(len, pictures))) > limit and dpi > _LOWEST_DPI:
        dpi = max(_LOWEST_DPI, min(int(0.95 * dpi * (limit / size) ** 0.5), dpi - 1))
        pictures = [png(figure, dpi) for figure in figures]
    return pictures


def _provenance(data: ReportData) -> Markup:
    return join(facts(data), trainings_table(data))


def _settings(data: ReportData) -> Markup:
    text = yaml.safe_dump(dict(data.best.record.config), sort_keys=False, allow_unicode=True)
    others = {model.record.config_hash for model in data.models} - {data.best.record.config_hash}
    note = element("p", "Not every model was trained with these settings: their hashes differ.", class_="bad")
    return join(
        *([note] if others else []), element("details", element("summary", "All settings (YAML)"), element("pre", text))
    )


def _of_tasks(data: ReportData) -> list[tuple[str, Markup]]:
    """Return the sections that the kinds of the tasks bring, in the order of the tasks."""
    tasks_of: dict[Section, list[Task]] = {}
    for task in data.tasks:
        for section in task.sections:
            tasks_of.setdefault(section, []).append(task)
    return [
        (section.title, join(*(resolve_name(section.make)(data, task) for task in tasks)))
        for section, tasks in tasks_of.items()
    ]


_FIRST: tuple[tuple[str, Callable[[ReportData], Markup]], ...] = (
    ("Evaluation cases", _evaluation),
    ("Relative improvement", _improvement),
    ("Folds and seeds", spread_section),
    ("Subgroups", subgroups_section),
    ("Tuning cases", _tuning),
)
_LAST: tuple[tuple[str, Callable[[ReportData], Markup]], ...] = (
    ("Predictions", _slices),
    ("Case by case", cases_section),
    ("Calibration", calibration),
    ("What tasks take from each other", exchange),
    ("Training", _losses),
    ("Provenance", _provenance),
    ("Settings", _settings),
)
