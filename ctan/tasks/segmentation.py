"""Contouring: which voxels belong to each structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ctan.cases import Prediction
from ctan.metrics import PatientMetric, dice, surface_scores, thresholded_jaccard
from ctan.tasks.base import (
    ERROR,
    RATIO,
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

DICE_MEAN = MetricSpec("dice_mean", True, "", "Dice", bounds=RATIO)
HD95 = MetricSpec("hd95_mm", False, "mm", "HD95", bounds=ERROR)
SURFACE_DICE = MetricSpec("surface_dice", True, "", "Surface Dice", bounds=RATIO)
JACCARD65 = MetricSpec(
    "jaccard65", True, "", "Thresholded Jaccard", bounds=RATIO
)  # ISIC 2018 task 1: below 0.65 counts as 0
EMPTY, MEAN_MASK = "baseline-empty", "baseline-mean-mask"


@dataclass(frozen=True)
class Segmentation(Task):
    """Contouring: one sigmoid a structure, structures may overlap.

    Target: `masks` (B, S, ...) float 0/1 and `known` (B, S) bool. A structure that was not contoured is
    unknown, not absent: neither loss nor metric sees it.
    """

    structures: tuple[str, ...] = ()
    mirrored_pairs: tuple[tuple[str, str], ...] = ()  # (left, right): swapped by a left-right flip
    thresholded_jaccard: bool = False  # score by it too, as lesions are

    kind: ClassVar[str] = "segmentation"
    version: ClassVar[int] = 1
    head: ClassVar[Literal["dense", "image"]] = "dense"
    starts_rare: ClassVar[bool] = True
    case_rows: ClassVar[str] = "dice"
    sections: ClassVar[tuple[Section, ...]] = (Section("Dice per structure", "ctan.report.sections:structures"),)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        return (DICE_MEAN, *((JACCARD65,) if self.thresholded_jaccard else ()), SURFACE_DICE, HD95)

    @property
    def num_outputs(self) -> int:
        return len(self.structures)

    @property
    def mirrored_order(self) -> tuple[int, ...]:
        """Structure order after a left-right flip: position s of the flipped image shows `structures[order[s]]`."""
        swap = dict(self.mirrored_pairs) | {b: a for a, b in self.mirrored_pairs}
        return tuple(self.structures.index(swap.get(name, name)) for name in self.structures)

    def target(self, stored: StoredCase, structures: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
        order = [structures.index(name) for name in self.structures]
        return {"masks": stored.masks[order], "known": stored.known[order]}

    def loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import segmentation_loss

        return segmentation_loss(output, target["masks"], target["known"])

    def foreground_loss(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        from ctan.losses import foreground_loss

        return foreground_loss(output, target["masks"], target["known"])

    def loss_count(self, target: dict[str, Tensor]) -> Tensor:
        return target["known"].sum()

    def activate(self, output: Tensor) -> Tensor:
        return output.float().sigmoid()

    def error(self, output: Tensor, target: dict[str, Tensor]) -> float:
        predicted, masks = (output > 0).flatten(2), target["masks"].bool().flatten(2)
        overlap = 2 * (predicted & masks).sum(2) / (predicted.sum(2) + masks.sum(2)).clamp_min(1)
        return 1 - overlap[target["known"]].mean().item() if target["known"].any() else 0.0

    def unflipped(self, output: Tensor, axis: int, left_right: bool) -> Tensor:
        unflipped = super().unflipped(output, axis, left_right)
        return unflipped[:, list(self.mirrored_order)] if left_right else unflipped

    def to_native(self, prediction: Array, reference: Case, resample: Resample) -> Array:
        """Upsample probabilities, then threshold: (S, D, H, W) bool."""
        return super().to_native(prediction, reference, resample) >= 0.5

    def answer(self, native: Array) -> Prediction:
        return Prediction(masks=dict(zip(self.structures, native, strict=True)))

    def truth(self, stored: StoredCase, structures: tuple[str, ...]) -> Array:
        return stored.masks[[structures.index(name) for name in self.structures]].astype(np.float32)

    def rows(self, native: Array, reference: Case, spec: DataSpec, config: EvaluationConfig) -> list[Row]:
        """Return Dice (surface Dice, HD95) of every contoured structure; those that were not contoured have no row."""
        rows: list[Row] = []
        for contour, name in zip(native, self.structures, strict=True):
            true = reference.masks.get(name)
            if true is None:
                continue
            found = {"dice": dice(true, contour)}
            if self.thresholded_jaccard:
                found["jaccard65"] = thresholded_jaccard(true, contour)
            if config.hd95:
                tolerance = config.surface_tolerance_mm
                distances = surface_scores(true, contour, reference.spacing_mm, tolerance)
                found["hd95_mm"], found["surface_dice"] = distances
            count = int(np.count_nonzero(true))
            rows += [{"metric": m, "structure": name, "value": v, "count": count} for m, v in found.items()]
        return rows

    def patient_metric(self, cases: pa.Table, metric: MetricSpec, patients: Mapping[str, int]) -> PatientMetric | None:
        import pyarrow.compute as pc

        rows = rows_of(cases, self, self.case_rows if metric == DICE_MEAN else metric.name)
        # Undefined: HD95 of an empty prediction, which Dice punishes; all of nothing that was rightly left empty.
        return mean_of_rows(rows.filter(pc.invert(pc.is_nan(rows["value"]))), patients)

    def baselines(self, spec: DataSpec) -> MaskBaselines:
        return MaskBaselines(self, spec)

    @property
    def outlined(self) -> tuple[str, ...]:
        return self.structures

    def drawn(self, native: Array, reference: Case, cut: Cut) -> dict[str, Array]:
        empty = np.zeros(reference.shape, bool)
        true = [cut(reference.masks.get(name, empty)) for name in self.structures]
        known = np.array([name in reference.masks for name in self.structures])
        return {"true_contours": np.stack(true), "known": known, "predicted_contours": cut(native)}


class MaskBaselines(Baselines):
    """Nothing contoured at all; and every structure where most training cases have it, on the working grid.

    A case in which a structure was not contoured says nothing about it.

    Args:
        task: names the structures.
        spec: says in which order cases have them.
    """

    labels: ClassVar[Mapping[str, str]] = {EMPTY: "Nothing contoured", MEAN_MASK: "Mean mask of the training cases"}

    def __init__(self, task: Segmentation, spec: DataSpec) -> None:
        self._task = task
        self._order = [spec.structures.index(name) for name in task.structures]
        self._count = np.zeros(len(self._order))
        self._total: npt.NDArray[np.float32] | None = None

    def learn(self, case: StoredCase) -> None:
        if self._total is None:
            self._total = np.zeros((len(self._order), *case.masks.shape[1:]), np.float32)
        known = case.known[self._order]
        self._total[known] += case.masks[self._order][known]
        self._count += known

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """(S, D, H, W) share of the training cases with the structure in which each voxel belongs to it."""
        if self._total is None:
            raise ValueError("no training case was learnt from")
        count: Any = np.maximum(self._count, 1).reshape(-1, *[1] * (self._total.ndim - 1))
        return (self._total / count).astype(np.float32)

    def predict(self, reference: Case, resample: Resample) -> dict[str, Array]:
        nothing = np.zeros((len(self._order), *reference.shape), bool)
        return {EMPTY: nothing, MEAN_MASK: self._task.to_native(self.mean, reference, resample)}
