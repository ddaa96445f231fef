"""A number an image: an age, a volume, a survival time in days."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ctan.cases.expectation import Expectation, between
from ctan.errors import DataError
from ctan.metrics import PatientMetric, RSquared
from ctan.tasks.base import ERROR, Array, Baselines, MetricSpec, Resample, Row, Section, Task, mean_of_rows, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ctan.cases import Case, DataSpec, StoredCase
    from ctan.config import EvaluationConfig, ValidationConfig

R_SQUARED = MetricSpec("r_squared", True, "", "R²", bounds=(-math.inf, 1.0))
MEAN_NUMBER = "baseline-mean-number"


@dataclass(frozen=True)
class Regression(Task):
    """One number an image, learnt as `(number - centre) / spread`. A number that is not known is not learnt.

    Target: `number` (B,) float32 standardised, and `known` (B,) bool. `activate` returns it in its unit.
    """

    unit: str = ""  # of the number, from the description of the data
    centre: float = 0.0  # mean over the training cases
    spread: float = 0.0  # standard deviation over the training cases; 0 before it is known

    kind: ClassVar[str] = "regression"
    version: ClassVar[int] = 1
    head: ClassVar[Literal["dense", "image"]] = "image"
    case_rows: ClassVar[str] = "number"
    sections: ClassVar[tuple[Section, ...]] = (Section("Numbers", "ctan.report.sections:numbers"),)

    @property
    def mean_error(self) -> MetricSpec:
        """The mean absolute error, beside `1 - Dice` in spreads: predicting the mean scores about 0.8."""
        return MetricSpec("mae", False, self.unit, "MAE", scale=self._spread, bounds=ERROR)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return self.mean_error, R_SQUARED

    @property
    def num_outputs(self) -> int:
        return 1

    def expectations(self, spec: DataSpec, limits: ValidationConfig) -> list[Expectation]:
        """Return that the number is finite where it is known: one infinity would be the mean of all."""
        most = float(np.finfo(np.float32).max)  # what a network computes in
        sentence = f"{self.name}, where known, is a finite number"
        return [between(f"{self.name}-number", f"number_{self.name}", -most, most, spec.numbers[self.name], sentence)]

    @property
    def _spread(self) -> float:
        return self.spread or 1.0

    def described(self, spec: DataSpec) -> Self:
        if self.name not in spec.numbers:
            raise DataError(
                f"{spec.dataset}: the task {self.name!r} learns a number that the data do not describe; numbers: "
                f"{', '.join(spec.numbers) or 'none'}. Name it in `numbers` of the description, with its unit"
            )
        return replace(self, unit=spec.numbers[self.name])

    def fitted(self, labels: Sequence[Mapping[str, str]], numbers: Sequence[Mapping[str, float]]) -> Self:
        """Return the task with mean and standard deviation of the training cases, unless it has them.

        Where all numbers are equal, or none is known, the spread is 1.
        """
        if self.spread:
            return self
        known = np.array([of_case[self.name] for of_case in numbers if self.name in of_case], np.float64)
        if not len(known):
            return replace(self, centre=0.0, spread=1.0)
        return replace(self, centre=float(known.mean()), spread=float(known.std()) or 1.0)

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        number = stored.numbers.get(self.name)
        standardised = (number - self.centre) / self._spread if number is not None else 0.0
        return {"number": np.asarray(standardised, np.float32), "known": np.asarray(number is not None)}

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import regression_loss

        return regression_loss(output, target["number"], target["known"])

    def loss_count(self, target: dict[str, Tensor]) -> Tensor:
        return target["known"].sum()

    def activate(self, output: Tensor) -> Tensor:
        return output.float() * self._spread + self.centre

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        errors = (output.float()[:, 0] - target["number"]).abs()
        return errors[target["known"]].mean().item() if target["known"].any() else 0.0

    def rows(self, native: Array, reference: Case, spec: DataSpec, config: EvaluationConfig) -> list[Row]:
        """Return |predicted - true|, and both; no row where the number is not known."""
        true, predicted = reference.numbers.get(self.name), float(native[0])
        if true is None:
            return []
        row = {"metric": self.case_rows, "structure": "", "value": abs(predicted - true), "count": 1}
        return [{**row, "predicted": predicted, "planned": float(true)}]

    def patient_metric(self, cases: pa.Table, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
        rows = rows_of(cases, self, self.case_rows)
        if metric.name == self.mean_error.name or not rows.num_rows:
            return mean_of_rows(rows, patients)
        where = np.array([patients[group] for group in rows["group_id"].to_pylist()], np.intp)
        return RSquared(rows["predicted"].to_numpy(), rows["planned"].to_numpy(), where, len(patients))

    def baselines(self, spec: DataSpec) -> MeanNumber:
        return MeanNumber(self)

    def caption(self, rows: Sequence[Row]) -> str:
        """Return such as `"age: 61.0, predicted 57.3 years"`."""
        found = [row for row in rows if row["metric"] == self.case_rows]
        return "; ".join(f"{self.name}: {r['planned']:.4g}, predicted {r['predicted']:.4g} {self.unit}" for r in found)


class MeanNumber(Baselines):
    """The mean of the training cases for every case, whatever its image; 0 where no number is known.

    Args:
        task: names the number.
    """

    labels: ClassVar[Mapping[str, str]] = {MEAN_NUMBER: "Mean of the training cases"}
    reads_arrays: ClassVar[bool] = False

    def __init__(self, task: Regression) -> None:
        self._task = task
        self._known: list[float] = []

    def learn(self, case: StoredCase) -> None:
        if self._task.name in case.numbers:
            self._known.append(case.numbers[self._task.name])

    def predict(self, reference: Case, resample: Resample) -> dict[str, Array]:
        return {MEAN_NUMBER: np.array([np.mean(self._known) if self._known else 0.0])}
