"""Dose prediction: Gy at every voxel that can receive dose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Prediction, levels_of
from ctan.cases.covered import doses_inside
from ctan.goals import GOAL, Goal
from ctan.metrics import DoseAtPoints, PatientMetric, dvh_curve, score_dose
from ctan.tasks.base import (
    ERROR,
    Array,
    Baselines,
    Cut,
    MetricSpec,
    Resample,
    Row,
    Section,
    Task,
    mean_of_rows,
    rows_of,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ctan.cases import Case, DataSpec, StoredCase
    from ctan.config import EvaluationConfig

DOSE_SCORE = MetricSpec(
    "dose_score", False, "Gy", "Dose score", scale=7.9, bounds=ERROR
)  # the distance baseline's, on OpenKBP
DVH_SCORE = MetricSpec("dvh_score", False, "Gy", "DVH score", bounds=ERROR)
MEAN, DISTANCE = "baseline-mean", "baseline-distance"
_FAR_MM = 127  # the store clips distances there
_DOSE_STEP_GY = 0.5  # of DVH curves


@dataclass(frozen=True)
class DoseRegression(Task):
    """Dose prediction. The head's output is dose over the case's own prescription.

    Target: `dose` (B, 1, ...) Gy, `mask` (B, 1, ...) 0/1, where dose is possible and known, and `prescription_gy` (B,).
    `activate` returns the dose of a case that is prescribed `scale_gy`.
    """

    scale_gy: float = 70.0

    kind: ClassVar[str] = "dose"
    version: ClassVar[int] = 2
    head: ClassVar[Literal["dense", "image"]] = "dense"
    case_rows: ClassVar[str] = "dose_score"
    sections: ClassVar[tuple[Section, ...]] = (Section("Dose-volume histograms", "ctan.report.sections:doses"),)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return DOSE_SCORE, DVH_SCORE

    @property
    def num_outputs(self) -> int:
        return 1

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        prescription_gy = np.asarray(stored.prescription_gy, np.float32)
        return {"dose": stored.dose[None], "mask": stored.dose_known[None], "prescription_gy": prescription_gy}

    def unknown(self, target: dict[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        return {**target, "mask": np.zeros_like(target["mask"])}

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import dose_loss

        return dose_loss(output, target["dose"] / _per_case(target["prescription_gy"], output), target["mask"])

    def activate(self, output: Tensor) -> Tensor:
        return output.float().clamp_min(0) * self.scale_gy

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        mask, prescription_gy = target["mask"].bool(), _per_case(target["prescription_gy"], output)
        dose = output.float().clamp_min(0) * prescription_gy
        return (dose - target["dose"]).abs()[mask].mean().item() / DOSE_SCORE.scale

    def lacks(self, case: Case, spec: DataSpec) -> str:
        """Say that a dose which is scaled by the case's own prescription needs one."""
        if "prescription_gy" not in spec.facts or "prescription_gy" in case.facts:
            return ""
        return "the prescribed dose is not known (RTPLAN, or --set data.options.prescription_gy=60)"

    def rescaled(self, prediction: npt.NDArray[np.float32], stored: StoredCase) -> npt.NDArray[np.float32]:
        if self.scale_gy == stored.prescription_gy:
            return prediction
        return prediction * np.float32(stored.prescription_gy / self.scale_gy)

    def to_native(self, prediction: Array, reference: Case, resample: Resample) -> Array:
        """Return (*axes) Gy: at least 0, and 0 outside the possible-dose mask."""
        upsampled = resample(prediction.reshape(prediction.shape[-len(reference.spacing_mm) :]), 0.0)
        return np.where(reference.masks[POSSIBLE_DOSE_MASK], np.maximum(upsampled, 0), 0).astype(np.float32)

    def answer(self, native: Array) -> Prediction:
        return Prediction(doses={"dose": native})

    def truth(self, stored: StoredCase, structures: tuple[str, ...]) -> Array:
        return stored.dose

    def rows(self, native: Array, reference: Case, spec: DataSpec, config: EvaluationConfig) -> list[Row]:
        """Return the dose score of the case and every DVH criterion, of the dose that is known."""
        possible, known, planned = reference.masks[POSSIBLE_DOSE_MASK], reference.dose_known, reference.doses["dose"]
        structures = {name: reference.masks[name] for name in spec.structures if name in reference.masks}
        points = {name: _at_points(name, reference, native) for name in structures if name in reference.covered}
        spacing_mm = reference.spacing_mm
        score, values = score_dose(planned, native, possible, structures, spec.targets, spacing_mm, known, points)
        count = int(np.count_nonzero(possible & known))
        rows: list[Row] = [{"metric": "dose_score", "structure": "", "value": score, "count": count}]
        for v in values:
            row = {"metric": "dvh", "structure": f"{v.structure}:{v.criterion}", "value": v.error, "count": 1}
            rows.append({**row, "predicted": v.predicted, "planned": v.planned})
        return rows + self._goal_rows(native, reference, config)

    def _goal_rows(self, native: Array, reference: Case, config: EvaluationConfig) -> list[Row]:
        """Return a row a clinical goal of a contoured structure whose dose is all known."""
        rows: list[Row] = []
        for goal in map(Goal.parse, config.clinical_goals):
            mask = reference.masks.get(goal.structure)
            if mask is None or not mask.any() or not reference.dose_known[mask].all():
                continue
            inside = _at_points(goal.structure, reference, native)
            planned = goal.value(inside.planned, inside.volume_mm3)
            predicted = goal.value(inside.predicted, inside.volume_mm3)
            row = {"metric": GOAL, "structure": str(goal), "value": abs(predicted - planned), "count": 1}
            rows.append({**row, "predicted": predicted, "planned": planned})
        return rows

    def patient_metric(self, cases: pa.Table, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
        pooled = metric == DVH_SCORE  # over all criteria of all patients, as the challenge does
        return mean_of_rows(rows_of(cases, self, "dvh" if pooled else self.case_rows), patients, not pooled)

    def baselines(self, spec: DataSpec) -> DoseBaselines:
        return DoseBaselines(spec)

    def drawn(self, native: Array, reference: Case, cut: Cut) -> dict[str, Array]:
        planned = np.where(reference.dose_known, reference.doses["dose"], np.nan)
        return {"planned": cut(planned.astype(np.float32)), "predicted": cut(native)}

    def curves(self, native: Array, reference: Case, spec: DataSpec) -> list[Row]:
        """Return the DVH curve of every contoured structure, planned and predicted, where the dose is known.

        With each the prescribed dose of the case's own target; None of an organ.
        """
        levels_gy = levels_of(reference, spec.targets) if spec.targets else {}
        grid = np.arange(0, max(reference.doses["dose"].max(), native.max()) + 2 * _DOSE_STEP_GY, _DOSE_STEP_GY)
        rows = []
        for name in (name for name in spec.structures if name in reference.masks):
            inside = _at_points(name, reference, native)
            if not len(inside.planned):
                continue
            found = zip(grid, dvh_curve(inside.planned, grid), dvh_curve(inside.predicted, grid), strict=True)
            named = {"case_id": reference.case_id, "structure": name, "level_gy": levels_gy.get(name)}
            rows += [{**named, "dose_gy": gy, "planned": a, "predicted": b} for gy, a, b in found]
        return rows


def _at_points(name: str, reference: Case, native: Array) -> DoseAtPoints:
    """Return planned and predicted dose in a structure, of its contour where there is one, where the dose is known."""
    doses, known = (reference.doses["dose"], native), reference.dose_known
    found = doses_inside(reference, reference.masks[name], reference.covered.get(name), doses, known)
    voxel_mm3 = float(np.prod(reference.spacing_mm))
    planned, predicted = found.doses
    return DoseAtPoints(planned, predicted, found.known_share, voxel_mm3 * found.share)


def _per_case(values: Tensor, like: Tensor) -> Tensor:
    """Return (B,) values in the shape (B, 1, ...) of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class DoseBaselines(Baselines):
    """The mean training dose where it is possible and known, and that at equal distance to the targets.

    Doses are scaled to one prescription, that of the first case.

    Args:
        spec: names the targets and their prescriptions.
    """

    labels: ClassVar[Mapping[str, str]] = {
        MEAN: "Mean dose inside the mask",
        DISTANCE: "Mean dose at equal distance to the targets",
    }

    def __init__(self, spec: DataSpec) -> None:
        size = 2 * _FAR_MM + 1
        self._targets = spec.targets
        self._total, self._count = np.zeros(size), np.zeros(size)
        self.prescription_gy = 0.0

    def learn(self, case: StoredCase) -> None:
        """Take note of a training case's dose where it is possible and known, by distance to the targets."""
        self.prescription_gy = self.prescription_gy or case.prescription_gy
        inside = np.flatnonzero(case.dose_known)
        dose = case.dose.reshape(-1)[inside] * (self.prescription_gy / case.prescription_gy)
        distance = case.target_distance.reshape(-1)[inside].astype(np.int64) + _FAR_MM
        self._total += np.bincount(distance, dose, len(self._total))
        self._count += np.bincount(distance, minlength=len(self._count))

    def predict(self, reference: Case, resample: Resample) -> dict[str, Array]:
        return {MEAN: self.mean_dose(reference), DISTANCE: self.dose_by_distance(reference)}

    @property
    def mean_gy(self) -> float:
        """Mean dose where it is possible and known."""
        return float(self._total.sum() / max(self._count.sum(), 1))

    @property
    def by_distance_gy(self) -> npt.NDArray[np.float64]:
        """(255,) mean known dose at -127..127 mm from the union of the targets."""
        seen = np.flatnonzero(self._count)
        if not len(seen):
            return np.zeros(len(self._count))
        return np.interp(np.arange(len(self._count)), seen, self._total[seen] / self._count[seen])

    def _scale_to(self, reference: Case) -> float:
        """Return what doses of the training cases are multiplied by for a case with its own prescription."""
        own = float(reference.facts.get("prescription_gy", self.prescription_gy))
        return own / self.prescription_gy if self.prescription_gy else 1.0

    def mean_dose(self, reference: Case) -> npt.NDArray[np.float32]:
        """Predict the mean training dose everywhere inside the possible-dose mask, (D, H, W) Gy."""
        mean_gy = self.mean_gy * self._scale_to(reference)
        return (reference.masks[POSSIBLE_DOSE_MASK] * mean_gy).astype(np.float32)

    def dose_by_distance(self, reference: Case) -> npt.NDArray[np.float32]:
        """Predict the mean training dose at equal distance to the targets, the prescription inside them.

        Args:
            reference: the case at native resolution; its targets are an input, its dose is not looked at.

        Returns:
            (D, H, W) Gy.
        """
        from scipy import ndimage

        possible = reference.masks[POSSIBLE_DOSE_MASK]
        prescribed = np.zeros(reference.shape, np.float32)
        for name, level_gy in levels_of(reference, self._targets).items():
            if name in reference.masks:
                prescribed = np.where(reference.masks[name], np.maximum(prescribed, np.float32(level_gy)), prescribed)
        inside, dose = prescribed > 0, np.zeros(reference.shape, np.float32)
        (box,) = ndimage.find_objects(
            (possible | inside).astype(np.uint8)
        )  # most of the grid is neither: 4 times faster
        if inside.any():
            distance = ndimage.distance_transform_edt(~inside[box], sampling=reference.spacing_mm)
        else:
            distance = np.full(inside[box].shape, np.inf)
        nearest = np.rint(np.minimum(distance, _FAR_MM)).astype(np.intp) + _FAR_MM
        elsewhere = self.by_distance_gy[nearest] * self._scale_to(reference)
        dose[box] = np.where(possible[box], np.where(inside[box], prescribed[box], elsewhere), 0)
        return dose
