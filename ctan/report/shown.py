"""Pictures of the cases that an evaluation shows, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctan.drawing import png, structure_colours
from ctan.evaluation.cases import CASES_FILE, read_cases
from ctan.evaluation.shown import case_errors, place_of
from ctan.records import EvaluationRecord, ModelRecord
from ctan.report.data import read_figures
from ctan.report.dose import Contours, slices_picture
from ctan.report.pictures import outlines_picture

if TYPE_CHECKING:
    import pyarrow as pa

_DPI = 110


def case_pictures(evaluation_dir: Path, record: ModelRecord) -> tuple[pa.Table, dict[str, bytes]]:
    """Return an evaluation's per-case rows, and a PNG of every case it shows, by place and case, worst first.

    Args:
        evaluation_dir: what `evaluate` wrote.
        record: of the model.
    """
    cases = read_cases(EvaluationRecord.vouched(evaluation_dir, CASES_FILE))
    errors, spec = case_errors(cases, record.tasks), record.spec
    outlined = next((task.outlined for task in record.tasks if task.outlined), ())
    colours = structure_colours(spec.structures, dict(spec.targets), spec.mirrored_pairs)
    contours = Contours(outlined, tuple(spec.targets), colours)
    shown = {}
    for number, (case_id, views) in enumerate(read_figures(evaluation_dir).items(), 1):
        place = place_of(errors, case_id)
        if "picture" in views:
            figure = outlines_picture({case_id: views["picture"]}, spec.image.name, {case_id: place})
        else:
            figure = slices_picture(views, contours, spec.image)
        if figure is not None:
            shown[f"{number} {place.partition(' of ')[0]} {case_id}".replace("  ", " ")] = png(figure, _DPI)
    return cases, shown
