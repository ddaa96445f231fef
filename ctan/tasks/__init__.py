"""The kinds of task: what is predicted, how it is scored and shown, and which way is better.

A kind is one module that brings everything, found by its entry point (group `ctan.tasks`). Nobody else asks which kind
a task is: every room asks the task. Importing this package imports neither torch, pandas nor matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctan import plugins
from ctan.errors import DataError
from ctan.tasks.base import Baselines, Cut, MetricSpec, Resample, Row, Section, Task, mean_of_rows, rows_of
from ctan.tasks.classification import (
    AUC,
    BALANCED_ACCURACY,
    CLASS_FREQUENCIES,
    MACRO_AUC,
    Classification,
    Diagnoses,
    diagnoses,
)
from ctan.tasks.dose import DOSE_SCORE, DVH_SCORE, DoseBaselines, DoseRegression
from ctan.tasks.regression import R_SQUARED, Regression
from ctan.tasks.segmentation import DICE_MEAN, HD95, JACCARD65, MaskBaselines, Segmentation

if TYPE_CHECKING:
    from ctan.cases import DataSpec

__all__ = [
    "AUC",
    "BALANCED_ACCURACY",
    "CLASS_FREQUENCIES",
    "DICE_MEAN",
    "DOSE_SCORE",
    "DVH_SCORE",
    "HD95",
    "JACCARD65",
    "MACRO_AUC",
    "R_SQUARED",
    "Baselines",
    "Classification",
    "Cut",
    "Diagnoses",
    "DoseBaselines",
    "DoseRegression",
    "MaskBaselines",
    "MetricSpec",
    "Regression",
    "Resample",
    "Row",
    "Section",
    "Segmentation",
    "Task",
    "diagnoses",
    "fitted",
    "mean_of_rows",
    "rows_of",
    "task_from_json",
    "tasks_of",
]


def tasks_of(spec: DataSpec) -> tuple[Task, ...]:
    """Return the tasks that a description of data names.

    Raises:
        ConfigError: for a kind that no installed package brings.
        DataError: for a task that is not described as its kind needs it.
    """
    return tuple(task_from_json(dict(task)).described(spec) for task in spec.tasks)


def fitted(
    tasks: Sequence[Task], labels: Sequence[Mapping[str, str]], numbers: Sequence[Mapping[str, float]]
) -> tuple[Task, ...]:
    """Return the tasks with what they need to know of the training cases: class weights, means and spreads.

    Args:
        tasks: what is learnt.
        labels: of every training case, by name; a label that is not known has no entry.
        numbers: likewise.
    """
    return tuple(task.fitted(labels, numbers) for task in tasks)


def task_from_json(value: Mapping[str, Any]) -> Task:
    """Rebuild a task described by `Task.to_json`.

    Raises:
        ConfigError: for a kind that no installed package brings.
        DataError: for fields that the kind does not know.
    """
    fields = {name: _as_tuples(entry) for name, entry in value.items() if name != "kind"}
    kind: type[Task] = plugins.load(plugins.TASKS, str(value.get("kind")), f"kind of the task {value.get('name')!r}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise DataError(
            f"task {value.get('name')!r}: not the description of a task of kind {kind.kind!r} ({error}); use the "
            f"version of the package that wrote it"
        ) from error


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
