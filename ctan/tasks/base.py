"""What a kind of task brings: everything from the target of a training case to the section of the report.

Knows neither data sets nor architectures. Importing it does not import torch, pandas, pyarrow or matplotlib.

Array shapes: `B` batch, `S` structures, `K` classes, `...` spatial axes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ctan.cases import Prediction
from ctan.metrics import MetricSums, PatientMetric, Temperature

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ctan.cases import Case, DataSpec, StoredCase
    from ctan.cases.expectation import Expectation
    from ctan.config import EvaluationConfig, ValidationConfig

Array = npt.NDArray[Any]
Row = dict[str, Any]  # of `cases.parquet`
Resample = Callable[[Array, float], npt.NDArray[np.float32]]  # (working grid, value outside) -> native grid
Cut = Callable[[Array], Array]  # (..., D, H, W) on the native grid -> (..., h, w), one view
RATIO, ERROR = (0.0, 1.0), (0.0, math.inf)  # bounds of metrics


@dataclass(frozen=True)
class MetricSpec:
    """A figure of merit.

    Attributes:
        name: such as `"dice_mean"`.
        higher_is_better: which way is better.
        unit: unit to print, `""` for a ratio.
        label: name for tables and plots.
        scale: what a metric that is better when lower is divided by to stand beside `1 - Dice`.
        bounds: the lowest and the highest value that it can have; intervals end there.
    """

    name: str
    higher_is_better: bool
    unit: str
    label: str
    scale: float = 1.0
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def heading(self) -> str:
        """Label, unit and an arrow towards better, such as `"Dose score (Gy) ↓"`."""
        return f"{self.label}{f' ({self.unit})' if self.unit else ''} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True)
class Section:
    """A part of the report that a kind of task brings.

    Attributes:
        title: heading; tasks whose sections have the same title and function share it.
        make: `"module:function"`, imported when a report is written and called with `(ReportData, task)`; it returns
            `ctan.html.Markup`, empty where there is nothing to show.
    """

    title: str
    make: str


class Baselines(ABC):
    """Simple predictions of one task that know no network; a first champion must beat every one of them.

    Attributes:
        labels: name in `cases.parquet` and `comparison.json`, such as `"baseline-mean"` -> name for people.
        reads_arrays: False when labels and numbers are enough: then cases may come without their arrays, which saves
            reading whole volumes.
    """

    labels: ClassVar[Mapping[str, str]]
    reads_arrays: ClassVar[bool] = True

    @abstractmethod
    def learn(self, case: StoredCase) -> None:
        """Take note of a training case."""

    @abstractmethod
    def predict(self, reference: Case, resample: Resample) -> Mapping[str, Array]:
        """Predict one evaluation case, each name of `labels` -> what `Task.to_native` would return.

        Args:
            reference: the case at native resolution; what the task predicts must not be looked at.
            resample: the way from the working to the native grid of the case, see `Task.to_native`.
        """


@dataclass(frozen=True)
class Task(ABC):
    """One thing to predict. Networks, losses and tables are keyed by `name`.

    A kind of task is a frozen dataclass whose fields are JSON values or (nested) tuples of them. Another package adds
    one by the entry point `[project.entry-points."ctan.tasks"] kind = "module:Class"`.

    Attributes:
        kind: as in the entry point.
        version: of the kind. Raise it when the same cases give another target, loss or prediction.
        head: a map at the input's resolution, or a vector an image.
        starts_rare: outputs are logits of something rare: their bias starts at `network.foreground_prior`.
        case_rows: `metric` of the per-case rows whose mean `value` is the primary metric of one case; empty where a
            single case has none.
        sections: what the kind adds to the report.
    """

    name: str

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    head: ClassVar[Literal["dense", "image"]]
    starts_rare: ClassVar[bool] = False
    case_rows: ClassVar[str] = ""
    sections: ClassVar[tuple[Section, ...]] = ()

    # What is learnt

    @property
    @abstractmethod
    def metrics(self) -> tuple[MetricSpec, ...]:
        """What predictions are scored by; the first is the primary metric."""

    @property
    def primary_metric(self) -> MetricSpec:
        """What models are chosen and compared by."""
        return self.metrics[0]

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Channels of the head's output."""

    def described(self, spec: DataSpec) -> Self:
        """Return the task with what the description of the data knows of it, such as a unit.

        Raises:
            DataError: when the description lacks what the task learns.
        """
        del spec
        return self

    def fitted(self, labels: Sequence[Mapping[str, str]], numbers: Sequence[Mapping[str, float]]) -> Self:
        """Return the task with what it needs to know of the training cases as a whole, such as class weights.

        Args:
            labels: of every training case, by name; a label that is not known has no entry.
            numbers: likewise.
        """
        del labels, numbers
        return self

    @abstractmethod
    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        """Return what the task learns from one case, without the batch axis.

        Args:
            stored: the case on the working grid.
            structures: names of `stored.masks`, in order.
        """

    def unknown(self, target: dict[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        """Return what `target` returns of a case of which nothing is known; NotImplementedError without `known`."""
        if "known" not in target:
            raise NotImplementedError(f"{self.kind} does not say what a case without a label is (Task.unknown)")
        return {**target, "known": np.zeros_like(target["known"])}

    @abstractmethod
    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Return this task's scalar loss in float32: a mean over the `loss_count` things that are known of the batch.

        Args:
            output: (B, num_outputs, ...) raw head output.
            target: this task's entry of the batch, see each kind of task.
        """

    def loss_count(self, target: dict[str, Tensor]) -> Tensor | int:
        """Return how many things of a batch `loss` is a mean over: its cases, unless a kind says otherwise.

        Processes that share a batch weigh their losses by it, so that together they compute the loss of the batch.

        Args:
            target: this task's entry of the batch.
        """
        return len(next(iter(target.values())))

    def foreground_loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor | None:
        """Return a further loss that does not fade where what is looked for is small; None of kinds without one.

        A mean over the same things as `loss`; `training.foreground_weight` is its weight.

        Args: see `loss`.
        """
        del output, target
        return None

    @abstractmethod
    def activate(self, output: Tensor) -> Tensor:
        """Turn raw head output into the predicted quantity (probability, Gy), same shape, float32."""

    @abstractmethod
    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        """Return a cheap error on the working grid, about 0 (perfect) to 1 (simple baseline), to rank epochs by."""

    def fitted_temperature(self, outputs: Array, cases: Sequence[StoredCase]) -> Temperature | None:
        """Return what raw outputs are to be divided by so that probabilities are true; None where there are none.

        Args:
            outputs: (N, num_outputs) raw head outputs of image-level tasks.
            cases: N, with the truth where it is known.
        """
        del outputs, cases
        return None

    def expectations(self, spec: DataSpec, limits: ValidationConfig) -> list[Expectation]:
        """Return what must hold of the manifest for this task beyond what holds of all data described like this."""
        del spec, limits
        return []

    # What is predicted

    def lacks(self, case: Case, spec: DataSpec) -> str:
        """Say what a case lacks so that the answer has its unit, such as a prescription; usually nothing."""
        del case, spec
        return ""

    def unflipped(self, output: Tensor, axis: int, left_right: bool) -> Tensor:
        """Return what was predicted of a mirrored image as if it had not been mirrored.

        Args:
            output: (B, num_outputs, ...) activated.
            axis: that was mirrored.
            left_right: whether paired structures changed sides.
        """
        del left_right
        return output if self.head == "image" else output.flip(axis)

    def rescaled(self, prediction: npt.NDArray[np.float32], stored: StoredCase) -> npt.NDArray[np.float32]:
        """Return an activated prediction in the terms of its case, such as its own prescription."""
        del stored
        return prediction

    def to_native(self, prediction: Array, reference: Case, resample: Resample) -> Array:
        """Bring a prediction from the working grid to the native grid, where it is scored.

        Args:
            prediction: (num_outputs, ...) on the working grid, activated; (num_outputs,) of image-level tasks.
            reference: the case at native resolution; what the task predicts must not be looked at.
            resample: the way of (..., D, H, W) arrays, linear, with a value for what lies outside the working grid.
        """
        del reference
        return prediction if self.head == "image" else resample(prediction, 0.0)

    def answer(self, native: Array) -> Prediction:
        """Return what `to_native` returned by names that formats can write.

        By default a map by the task's name, or one number.
        """
        if self.head == "dense":
            return Prediction(maps={self.name: native})
        values = [float(value) for value in native]
        named = {self.name: values[0]} if len(values) == 1 else {f"{self.name}_{n}": v for n, v in enumerate(values)}
        return Prediction(numbers=named)

    def truth(self, stored: StoredCase, structures: tuple[str, ...]) -> Array | None:
        """Return the truth on the working grid as a perfect network would predict it, for the floor of the grid.

        None where a grid loses nothing, as for image-level tasks.
        """
        del stored, structures
        return None

    # How it is scored

    @abstractmethod
    def rows(self, native: Array, reference: Case, spec: DataSpec, config: EvaluationConfig) -> list[Row]:
        """Return a case's scores, `metric structure value count predicted planned` of `cases.parquet`.

        What is not known of the case has no row.

        Args:
            native: what `to_native` returned.
            reference: the case at native resolution.
            spec: of the data.
            config: which optional scores to compute.
        """

    @abstractmethod
    def patient_metric(self, cases: pa.Table, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
        """Return a metric as what it is for any resample of the patients, None when the table has no row of it.

        Args:
            cases: rows of one model and role, of all tasks.
            metric: one of `metrics`.
            patients: group id -> position.

        Raises:
            DataError: when rows of a case are missing or contradict each other.
        """

    def case_error(self, rows: Sequence[Row]) -> float | None:
        """Return how wrong one case is, about 0 (perfect) to 1, to find the best and the worst; None where unknown.

        Args:
            rows: the task's per-case rows of one case and model.
        """
        values = [row["value"] for row in rows if row["metric"] == self.case_rows and row["value"] is not None]
        values = [value for value in values if not math.isnan(value)]  # of nothing that was rightly left empty
        if not values:
            return None
        value, metric = float(np.mean(values)), self.primary_metric
        return 1 - value if metric.higher_is_better else value / metric.scale

    def calibration(self, cases: pa.Table, patients: Mapping[str, int]) -> PatientMetric | None:
        """Return what says how true predicted probabilities are, lower is better; None where there are none.

        Args:
            cases: rows of one model and role, of all tasks.
            patients: group id -> position.
        """
        del cases, patients
        return None

    def baselines(self, spec: DataSpec) -> Baselines | None:
        """Return simple predictions to beat, that have learnt nothing yet; None where nobody thought of one."""
        del spec
        return None

    # How it is shown

    @property
    def outlined(self) -> tuple[str, ...]:
        """Structures of `true_contours` and `predicted_contours`, where `drawn` gives them."""
        return ()

    def drawn(self, native: Array, reference: Case, cut: Cut) -> dict[str, Array]:
        """Return what a view of the case shows of the task, see `figures.npz` in docs/formats.md.

        Args:
            native: what `to_native` returned.
            reference: the case at native resolution.
            cut: makes a picture of a volume.
        """
        del native, reference, cut
        return {}

    def curves(self, native: Array, reference: Case, spec: DataSpec) -> list[Row]:
        """Return the case's rows of `dvh.parquet`: dose-volume histograms."""
        del native, reference, spec
        return []

    def caption(self, rows: Sequence[Row]) -> str:
        """Return what stands under a case's picture, from the task's per-case rows of that case; or nothing."""
        del rows
        return ""

    def to_json(self) -> dict[str, Any]:
        """Describe the task so that `task_from_json` can rebuild it."""
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}}


def rows_of(cases: pa.Table, task: Task, metric: str) -> pa.Table:
    """Return the rows of a per-case table that are about a task and have this `metric`."""
    import pyarrow.compute as pc

    return cases.filter((pc.field("task") == task.name) & (pc.field("metric") == metric))


def mean_of_rows(rows: pa.Table, patients: Mapping[str, int], once_a_case: bool = True) -> MetricSums | None:
    """Return the mean of `value` as a metric of resampled patients, None without rows.

    Args:
        rows: of one task and metric.
        patients: group id -> position.
        once_a_case: a case counts once however many rows it has.
    """
    if not rows.num_rows:
        return None
    total, count = np.zeros(len(patients)), np.zeros(len(patients))
    if once_a_case:
        means = rows.group_by(["case_id", "group_id"]).aggregate([("value", "mean")])
        rows = means.rename_columns(["case_id", "group_id", "value"])
    where = [patients[group] for group in rows["group_id"].to_pylist()]
    np.add.at(total, where, rows["value"].to_numpy())
    np.add.at(count, where, 1)
    return MetricSums(total, count)
