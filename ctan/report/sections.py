"""What the report shows of a task beyond its scores, by kind; the kinds name these functions, see `Task.sections`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctan.drawing import svg
from ctan.evaluation.cases import EVALUATION
from ctan.html import Markup, element, image, join
from ctan.report.dose import criteria_chart, dvh_chart
from ctan.report.labels import confusion_chart, recall_table, roc_chart
from ctan.report.numbers import numbers_chart
from ctan.report.plots import structures_chart
from ctan.report.structures import goals_table, spread_table
from ctan.report.style import architecture_label
from ctan.report.tables import criteria_table, structures_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ctan.report.data import ReportData
    from ctan.tasks import Classification, DoseRegression, Regression, Segmentation


def picture(figure: Figure | None, alt: str, caption: object = "") -> Markup:
    """Return a figure as an image inside the page; nothing without one."""
    return Markup("") if figure is None else image(svg(figure), alt, caption)


def structures(data: ReportData, task: Segmentation) -> Markup:
    """Return the Dice of every structure."""
    figure = structures_chart(data, task)
    if figure is None:
        return Markup("")
    alt = "Mean Dice of every structure by architecture; the numbers are in the table below"
    caption = "Mean Dice on the evaluation cases; bars span the middle half of the cases. Structures that were not contoured do not count."  # noqa: E501
    return join(picture(figure, alt, caption), structures_table(data, task), spread_table(data, task))


def diagnoses(data: ReportData, task: Classification) -> Markup:
    """Return ROC, reliability, confusion and recall."""
    roc = picture(
        roc_chart(data, task),
        f"Receiver operating characteristic and reliability of {task.name}",
        f"{task.name} on the evaluation cases.",
    )
    confusion = picture(confusion_chart(data, task), f"Confusion matrix and recall of {task.name}")
    if not (roc or confusion):
        return Markup("")
    return join(element("h3", task.name), roc, confusion, recall_table(data, task))


def doses(data: ReportData, task: DoseRegression) -> Markup:
    """Return DVH curves and criteria of the chosen architecture, and the criteria of all."""
    best = architecture_label(data.best_arch)
    rows = data.best.cases.to_pandas()
    rows = rows[(rows["role"] == EVALUATION) & (rows["task"] == task.name) & (rows["metric"] == "dvh")]
    parts = [
        picture(
            dvh_chart(data.best.dvh(), data.colours),
            f"Dose-volume histograms of {best}, predicted (dashed) against planned (solid)",
            f"Share of a structure's volume that receives at least a dose: planned solid, by {best} dashed.",
        ),
        picture(
            criteria_chart(rows, data.targets, data.colours),
            f"Predicted against planned DVH criteria of {best} on all evaluation cases",
            f"DVH criteria of {best} on all evaluation cases; on the line the prediction equals the plan.",
        ),
        criteria_table(data),
        goals_table(data, task),
    ]
    return join(*(part for part in parts if part))


def numbers(data: ReportData, task: Regression) -> Markup:
    """Return predicted against true numbers."""
    return picture(
        numbers_chart(data, task),
        f"Predicted against true {task.name} by architecture",
        f"{task.name} of the evaluation cases, the mean over trainings; on the line the prediction is true.",
    )
