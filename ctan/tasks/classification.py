"""Diagnosis: which of several classes an image belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ctan.cases import Prediction
from ctan.errors import DataError
from ctan.metrics import AUC as AreaUnderCurve
from ctan.metrics import (
    PROBABILITY,
    BalancedAccuracy,
    Brier,
    MacroAUC,
    PatientMetric,
    Temperature,
    fit_temperature,
    probability_rows,
)
from ctan.tasks.base import RATIO, Array, Baselines, MetricSpec, Resample, Row, Section, Task, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ctan.cases import Case, DataSpec, StoredCase
    from ctan.config import EvaluationConfig

AUC = MetricSpec("auc", True, "", "AUC", bounds=RATIO)
BALANCED_ACCURACY = MetricSpec("balanced_accuracy", True, "", "Balanced accuracy", bounds=RATIO)
MACRO_AUC = MetricSpec("macro_auc", True, "", "Macro AUC", bounds=RATIO)
CLASS_FREQUENCIES = "baseline-frequency"


@dataclass(frozen=True)
class Classification(Task):
    """Diagnosis: softmax over classes. Of two classes the second is the positive one, such as `("no", "yes")`.

    Target: `label` (B,) int64 and `known` (B,) bool.
    """

    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()  # from the training fold; empty for equal weights

    kind: ClassVar[str] = "classification"
    version: ClassVar[int] = 1
    head: ClassVar[Literal["dense", "image"]] = "image"
    sections: ClassVar[tuple[Section, ...]] = (Section("Diagnoses", "ctan.report.sections:diagnoses"),)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return (AUC, BALANCED_ACCURACY) if len(self.classes) == 2 else (BALANCED_ACCURACY, MACRO_AUC)

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def fitted(self, labels: Sequence[Mapping[str, str]], numbers: Sequence[Mapping[str, float]]) -> Self:
        """Return the task with the class weights of the training cases, unless it has some.

        A class weighs `N / (K N_k)`: N cases with a known label, K classes of which N_k cases are of this one; 0
        without any.
        """
        if self.class_weights:
            return self
        known = [of_case[self.name] for of_case in labels if self.name in of_case]
        counts = [known.count(name) for name in self.classes]
        weights = [len(known) / (len(self.classes) * count) if count else 0.0 for count in counts]
        return replace(self, class_weights=tuple(weights))

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        label = stored.labels.get(self.name)
        return {
            "label": np.asarray(self.classes.index(label) if label is not None else 0, np.int64),
            "known": np.asarray(label is not None),
        }

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import classification_loss

        return classification_loss(output, target["label"], target["known"], self.class_weights)

    def loss_count(self, target: dict[str, Tensor]) -> Tensor:
        return target["known"].sum()

    def activate(self, output: Tensor) -> Tensor:
        return output.float().softmax(dim=1)

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        wrong = output.argmax(dim=1) != target["label"]
        return wrong[target["known"]].float().mean().item() if target["known"].any() else 0.0

    def fitted_temperature(self, outputs: Array, cases: Sequence[StoredCase]) -> Temperature | None:
        known = [number for number, case in enumerate(cases) if self.name in case.labels]
        labels = np.array([self.classes.index(cases[number].labels[self.name]) for number in known], np.intp)
        return fit_temperature(outputs[known], labels)

    def answer(self, native: Array) -> Prediction:
        return Prediction(probabilities={self.name: dict(zip(self.classes, map(float, native), strict=True))})

    def rows(self, native: Array, reference: Case, spec: DataSpec, config: EvaluationConfig) -> list[Row]:
        """Return the probability of every class, `planned` 1 for the true one; none where the label is not known."""
        return probability_rows(self.classes, reference.labels.get(self.name), native.tolist())

    def patient_metric(self, cases: pa.Table, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
        found = diagnoses(cases, self)
        if found is None:
            return None
        where = np.array([patients[group] for group in found.group_ids], np.intp)
        if metric == BALANCED_ACCURACY:
            return BalancedAccuracy(found.probabilities, found.labels, where, len(patients))
        if metric == MACRO_AUC:
            return MacroAUC(found.probabilities, found.labels, where)
        if metric == AUC:
            return AreaUnderCurve(found.probabilities[:, 1], found.labels == 1, where)
        raise ValueError(f"{metric.name} is not a metric of diagnoses")

    def calibration(self, cases: pa.Table, patients: Mapping[str, int]) -> PatientMetric | None:
        found = diagnoses(cases, self)
        if found is None:
            return None
        where = np.array([patients[group] for group in found.group_ids], np.intp)
        return Brier(found.probabilities, found.labels, where, len(patients))

    def case_error(self, rows: Sequence[Row]) -> float | None:
        """Return one minus the probability of the true class."""
        true = [row["value"] for row in rows if row["metric"] == PROBABILITY and row["planned"] == 1]
        return 1 - float(true[0]) if true else None

    def baselines(self, spec: DataSpec) -> ClassFrequencies:
        return ClassFrequencies(self)

    def caption(self, rows: Sequence[Row]) -> str:
        """Return such as `"diagnosis: mel, predicted nv (0.62)"`."""
        classes = [row for row in rows if row["metric"] == PROBABILITY]
        if not classes:
            return ""
        best = max(classes, key=lambda row: float(row["value"]))
        true = next((str(row["structure"]) for row in classes if row["planned"] == 1), "not known")
        return f"{self.name}: {true}, predicted {best['structure']} ({best['value']:.2f})"


class ClassFrequencies(Baselines):
    """The class frequencies of the training cases for every case, whatever its image.

    Scores a balanced accuracy of 1 / K (where all K classes occur) and an AUC of 0.5. Labels that are not known do not
    count; without a known one all classes are as likely.

    Args:
        task: names the classes.
    """

    labels: ClassVar[Mapping[str, str]] = {CLASS_FREQUENCIES: "Class frequencies of the training cases"}
    reads_arrays: ClassVar[bool] = False

    def __init__(self, task: Classification) -> None:
        self._task = task
        self._counts = np.zeros(len(task.classes))

    def learn(self, case: StoredCase) -> None:
        if self._task.name in case.labels:
            self._counts[self._task.classes.index(case.labels[self._task.name])] += 1

    def predict(self, reference: Case, resample: Resample) -> dict[str, Array]:
        total = self._counts.sum()
        return {CLASS_FREQUENCIES: self._counts / total if total else np.full(len(self._counts), 1 / len(self._counts))}


@dataclass(frozen=True)
class Diagnoses:
    """One model's predictions of an image-level task.

    Attributes:
        case_ids: (N,) in the order of the table.
        group_ids: (N,) patient or lesion of each.
        probabilities: (N, K) by class.
        labels: (N,) position of the true class.
    """

    case_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.intp]


def diagnoses(cases: pa.Table, task: Classification) -> Diagnoses | None:
    """Return the predictions of an image-level task, None when the table has none.

    Args:
        cases: rows of one model and role; for every case of known label a row a class, `planned` 1 for the true one.
        task: names the classes.

    Raises:
        DataError: when a case does not have one probability of each class and one true class.
    """
    rows = rows_of(cases, task, PROBABILITY)
    if not rows.num_rows:
        return None
    group_of = dict(zip(rows["case_id"].to_pylist(), rows["group_id"].to_pylist(), strict=True))
    position = {case_id: i for i, case_id in enumerate(group_of)}
    column = {name: k for k, name in enumerate(task.classes)}
    where = np.array([position[case_id] for case_id in rows["case_id"].to_pylist()])
    classes = np.array([column.get(name, len(column)) for name in rows["structure"].to_pylist()])
    # one column more than classes: names that the task does not know, so that they are found below
    probabilities, true, count = np.zeros((3, len(position), len(column) + 1))
    np.add.at(probabilities, (where, classes), rows["value"].to_numpy())
    np.add.at(true, (where, classes), rows["planned"].to_numpy() == 1)
    np.add.at(count, (where, classes), 1)
    whole = (count[:, :-1] == 1).all(axis=1) & (count[:, -1] == 0) & (true.sum(axis=1) == 1)
    whole &= ~np.isnan(probabilities).any(axis=1)
    if not whole.all():
        raise DataError(
            f"case {list(position)[int(np.argmin(whole))]}: expected one probability of each class of {task.name!r} "
            f"({', '.join(task.classes)}) and one true class in the per-case table; evaluate the model again"
        )
    return Diagnoses(tuple(position), tuple(group_of.values()), probabilities[:, :-1], true.argmax(axis=1))
