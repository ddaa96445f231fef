"""Case by case: which ones are shown, how the scores spread, and all of them as a table that sorts and as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, download, element, join, table
from ctan.metrics import PROBABILITY
from ctan.report.plots import case_values, cases_chart
from ctan.report.sections import picture
from ctan.report.style import DASH, architecture_label, format_metric, is_number
from ctan.report.tables import worst_table

if TYPE_CHECKING:
    from ctan.report.data import ReportData

_COLUMNS = ("arch", "fold", "seed", "case_id", "task", "metric", "structure", "value", "planned", "predicted")
_DIGITS, _DIGITS_MEASURED = 4, 2  # more would only make the page larger; `cases.parquet` has them


def cases_section(data: ReportData) -> Markup:
    """Return how the scores of the evaluation cases spread, the worst ones, and all of them."""
    figure = cases_chart(data)
    parts = []
    if figure is not None:
        caption = "A point a case; boxes span the middle half, the thick line is the median."
        parts += [picture(figure, "Distribution of the scores over the evaluation cases by architecture", caption)]
        parts += [element("div", *(worst_table(data, task) for task in data.tasks), class_="side")]
    return join(*parts, every_case(data), csv_file(data))


def every_case(data: ReportData) -> Markup:
    """Return a table of every evaluation case with the scores that single cases have, by architecture; it sorts."""
    shown = [(task, values) for task in data.tasks if not (values := case_values(data, task)).empty]
    if not shown:
        return Markup("")
    columns = [(task, arch, values[arch]) for task, values in shown for arch in values.columns]
    titles = ["case", *(f"{architecture_label(arch)} {task.primary_metric.label}" for task, arch, _ in columns)]
    case_ids = sorted({str(case_id) for _, values in shown for case_id in values.index})
    rows = []
    for case_id in case_ids:
        found = [(task.primary_metric, values.get(case_id)) for task, _, values in columns]
        rows.append([case_id, *(format_metric(metric, value) if is_number(value) else DASH for metric, value in found)])
    return join(element("h3", f"All {len(case_ids)} evaluation cases"), table(titles, rows, sortable=True))


def csv_file(data: ReportData) -> Markup:
    """Return a link to all scores of all evaluation cases as CSV, which lies in the page."""
    import pyarrow.compute as pc
    from pyarrow import csv

    rows = pa.concat_tables([model.cases for model in data.models])
    rows = rows.filter(pc.field("role") == EVALUATION).select(_COLUMNS)
    measured = pc.and_(pc.is_valid(rows["planned"]), pc.not_equal(rows["metric"], PROBABILITY))  # Gy and the like
    for name in ("value", "planned", "predicted"):
        rounded = (pc.round(rows[name], ndigits=digits) for digits in (_DIGITS_MEASURED, _DIGITS))
        rows = rows.set_column(rows.column_names.index(name), name, pc.if_else(measured, *rounded))
    sink = pa.BufferOutputStream()
    csv.write_csv(rows, sink, csv.WriteOptions(quoting_style="needed"))
    text = sink.getvalue().to_pybytes().decode("utf-8")
    label = f"Download all {rows.num_rows:,} scores as CSV".replace(",", "\u202f")
    return element("p", download(text, f"{data.content.dataset}-evaluation-cases.csv", label))
