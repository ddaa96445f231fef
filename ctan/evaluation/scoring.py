"""Scores of one case on its native grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import Case
from ctan.config import EvaluationConfig
from ctan.errors import DataError
from ctan.evaluation.grids import Cases
from ctan.tasks import Row, Task

Prediction = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """A case's scores and what was predicted on the native grid.

    Attributes:
        rows: `task metric structure value count predicted planned`, see `cases.parquet`.
        native: task name -> prediction on the native grid, such as (S, D, H, W) bool contours, (D, H, W) Gy, (K,)
            probabilities of classes.
    """

    rows: list[Row]
    native: dict[str, npt.NDArray[Any]]


def score_case(
    cases: Cases,
    reference: Case,
    tasks: tuple[Task, ...],
    prediction: Mapping[str, Prediction],
    config: EvaluationConfig,
) -> Scored:
    """Bring a prediction to the native grid and score it there.

    Args:
        cases: know the way from the working to the native grid.
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
        if not np.isfinite(prediction[task.name]).all():
            raise DataError(
                f"{reference.case_id}: the prediction of {task.name!r} holds NaN or infinity; the training diverged: "
                f"train again with a lower training.learning_rate or training.precision=fp32"
            )
        resample = partial(cases.to_native, reference.case_id)
        native[task.name] = task.to_native(prediction[task.name], reference, resample)
        scored = task.rows(native[task.name], reference, cases.spec, config)
        rows += [{"task": task.name, **row} for row in scored]
    return Scored(rows, native)
