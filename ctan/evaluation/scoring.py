"""Scores of one case on its native grid, by kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Case, DataSpec
from ctan.config import EvaluationConfig
from ctan.errors import DataError
from ctan.evaluation.cases import Row
from ctan.metrics import dice, hd95_mm, probability_rows, score_dose, thresholded_jaccard
from ctan.store import Store
from ctan.tasks import Classification, DoseRegression, Segmentation, Task

Prediction = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """A case's scores and what was predicted on the native grid.

    Attributes:
        rows: `task metric structure value count predicted planned`, see `cases.parquet`.
        native: task name -> prediction on the native grid: (S, D, H, W) bool contours, (D, H, W) Gy; (K,) probabilities
            of classes.
    """

    rows: list[Row]
    native: dict[str, npt.NDArray[Any]]


def score_case(
    store: Store,
    reference: Case,
    tasks: tuple[Task, ...],
    prediction: Mapping[str, Prediction],
    config: EvaluationConfig,
) -> Scored:
    """Bring a prediction to the native grid and score it there.

    Args:
        store: knows the way from the working to the native grid.
        reference: the case at native resolution.
        tasks: what was predicted.
        prediction: task name -> (num_outputs, D, H, W) on the working grid, activated; (K,) of image-level tasks.
        config: which optional scores to compute.

    Raises:
        DataError: when a prediction holds NaN or infinity.
    """
    rows: list[Row] = []
    native: dict[str, npt.NDArray[Any]] = {}
    for task in tasks:
        to_native, score = _SCORERS[task.kind]
        if not np.isfinite(prediction[task.name]).all():
            raise DataError(
                f"{reference.case_id}: the prediction of {task.name!r} holds NaN or infinity; the training diverged: "
                f"train again with a lower training.learning_rate or training.precision=fp32"
            )
        native[task.name] = to_native(store, reference, prediction[task.name])
        rows += [{"task": task.name, **row} for row in score(task, native[task.name], reference, store.spec, config)]
    return Scored(rows, native)


def native_contours(store: Store, reference: Case, probabilities: Prediction) -> npt.NDArray[np.bool_]:
    """Upsample probabilities, then threshold: (S, D, H, W) bool on the native grid."""
    return store.to_native(reference.case_id, probabilities, 0.0) >= 0.5


def native_dose(store: Store, reference: Case, dose: Prediction) -> npt.NDArray[np.float32]:
    """Return the dose on the native grid, (D, H, W) Gy: at least 0, and 0 outside the possible-dose mask."""
    upsampled = store.to_native(reference.case_id, dose.reshape(dose.shape[-3:]), 0.0)
    return np.where(reference.masks[POSSIBLE_DOSE_MASK], np.maximum(upsampled, 0), 0).astype(np.float32)


def score_contours(
    task: Segmentation,
    contours: npt.NDArray[np.bool_],
    reference: Case,
    spec: DataSpec,  # noqa: ARG001  scorers share a signature
    config: EvaluationConfig,
) -> list[Row]:
    """Return Dice (and HD95) of every contoured structure; those that were not contoured have no row."""
    rows: list[Row] = []
    for index, name in enumerate(task.structures):
        true = reference.masks.get(name)
        if true is None:
            continue
        count = int(np.count_nonzero(true))
        rows.append({"metric": "dice", "structure": name, "value": dice(true, contours[index]), "count": count})
        if task.thresholded_jaccard:
            value = thresholded_jaccard(true, contours[index])
            rows.append({"metric": "jaccard65", "structure": name, "value": value, "count": count})
        if config.hd95:
            distance = hd95_mm(true, contours[index], reference.spacing_mm)
            rows.append({"metric": "hd95_mm", "structure": name, "value": distance, "count": count})
    return rows


def score_dose_map(
    task: DoseRegression,  # noqa: ARG001  scorers share a signature
    dose: npt.NDArray[np.float32],
    reference: Case,
    spec: DataSpec,
    config: EvaluationConfig,  # noqa: ARG001
) -> list[Row]:
    """Return the dose score of the case and every DVH criterion."""
    possible = reference.masks[POSSIBLE_DOSE_MASK]
    structures = {name: reference.masks[name] for name in spec.structures if name in reference.masks}
    score, values = score_dose(reference.doses["dose"], dose, possible, structures, spec.targets, reference.spacing_mm)
    rows: list[Row] = [
        {"metric": "dose_score", "structure": "", "value": score, "count": int(np.count_nonzero(possible))}
    ]
    for v in values:
        row = {"metric": "dvh", "structure": f"{v.structure}:{v.criterion}", "value": v.error, "count": 1}
        rows.append({**row, "predicted": v.predicted, "planned": v.planned})
    return rows


def score_classes(
    task: Classification,
    probabilities: npt.NDArray[np.float32],
    reference: Case,
    spec: DataSpec,  # noqa: ARG001
    config: EvaluationConfig,  # noqa: ARG001
) -> list[Row]:
    """Return the probability of every class, `planned` 1 for the true one; none where the label is not known."""
    return probability_rows(task.classes, reference.labels.get(task.name), probabilities.tolist())


def _as_they_are(store: Store, reference: Case, probabilities: Prediction) -> Prediction:  # noqa: ARG001
    return probabilities


# kind of task -> how a prediction gets to the native grid, how it is scored there
_SCORERS: dict[str, tuple[Callable[..., Any], Callable[..., list[Row]]]] = {
    Segmentation.kind: (native_contours, score_contours),
    DoseRegression.kind: (native_dose, score_dose_map),
    Classification.kind: (_as_they_are, score_classes),
}
