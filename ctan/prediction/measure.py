"""Numbers of a prediction: volumes of structures, and the dose in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ctan.cases import Case, DataSpec, Prediction
from ctan.cases.covered import doses_inside
from ctan.prediction.ask import Answer
from ctan.tasks import Task

_MM3_PER_CC = 1000.0
_PERCENTILES = {"D98": 2, "D95": 5, "D50": 50, "D2": 98}  # dose that at least so many percent of the volume receive


def shown_structures(case: Case, prediction: Prediction, spec: DataSpec) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the structures that a prediction is judged by: predicted ones, else those that came with the case."""
    found = {**{name: case.masks[name] for name in spec.structures if name in case.masks}, **prediction.masks}
    return {name: mask for name, mask in found.items() if mask.any()}


def volumes_cc(case: Case, prediction: Prediction) -> dict[str, float]:
    """Return the volume of every predicted structure; of pictures its share of the picture in percent."""
    if len(case.shape) < 3:
        return {}
    voxel = math.prod(case.spacing_mm) / _MM3_PER_CC
    return {name: round(float(np.count_nonzero(mask)) * voxel, 4) for name, mask in prediction.masks.items()}


def spread_maps(answer: Answer) -> dict[str, npt.NDArray[np.float32]]:
    """Return a map a dense task, `<task>_spread`, (1, *axes): the largest spread of its outputs in each voxel."""
    return {
        f"{name}_spread": array.max(axis=0, keepdims=True)
        for name, array in answer.spread.items()
        if array.shape[1:] == tuple(answer.case.shape)
    }


def uncertainty(answer: Answer, tasks: Sequence[Task], spec: DataSpec) -> dict[str, dict[str, float]]:
    """Return how sure the models are, by task.

    Of structures the mean spread of the probability inside each predicted one; of a dose its mean spread, Gy, inside
    each structure, and everywhere under `""`; of labels the entropy of the probabilities in proportion to that of
    equal ones, from 0 (sure) to 1, and the largest spread of a probability; of numbers the spread.
    """
    found: dict[str, dict[str, float]] = {}
    structures = shown_structures(answer.case, answer.prediction, spec)
    for task in tasks:
        values: dict[str, float] = {}
        if task.name in answer.prediction.probabilities:
            values["entropy"] = _entropy(list(answer.prediction.probabilities[task.name].values()))
        spread = answer.spread.get(task.name)
        if spread is not None and task.head == "dense":
            values |= _inside(spread, task, structures)
        elif spread is not None:
            values["spread"] = float(spread.max())
        if values:
            found[task.name] = {name: round(value, 5) for name, value in values.items()}
    return found


def _inside(
    spread: npt.NDArray[np.float32], task: Task, structures: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, float]:
    """Return the mean spread in each structure, of its own output where the task has one a structure."""
    if len(task.outlined) == len(spread):
        own = dict(zip(task.outlined, spread, strict=True))
        return {name: float(own[name][mask].mean()) for name, mask in structures.items() if name in own}
    worst = spread.max(axis=0)
    return {"": float(worst.mean())} | {name: float(worst[mask].mean()) for name, mask in structures.items()}


def _entropy(probabilities: Sequence[float]) -> float:
    known = [value for value in probabilities if value > 0]
    return -sum(value * math.log(value) for value in known) / math.log(max(2, len(probabilities)))


def doses_gy(case: Case, prediction: Prediction, spec: DataSpec) -> dict[str, dict[str, float]]:
    """Return mean and percentiles (linear) of the predicted dose in each structure, and its largest value under `""`.

    See `dose_inside`.
    """
    if "dose" not in prediction.doses:
        return {}
    found: dict[str, dict[str, float]] = {"": {"max": round(float(prediction.doses["dose"].max()), 3)}}
    for name in shown_structures(case, prediction, spec):
        inside = dose_inside(name, case, prediction)
        values = np.percentile(inside, list(_PERCENTILES.values()))
        found[name] = {"mean": round(float(inside.mean(dtype=np.float64)), 3)}
        found[name] |= {key: round(float(value), 3) for key, value in zip(_PERCENTILES, values, strict=True)}
    return found


def dose_inside(name: str, case: Case, prediction: Prediction) -> npt.NDArray[np.float32]:
    """Return the predicted dose in a structure, in Gy at places that stand for equal volumes.

    Contours that came with the case are taken at 8 x 8 points a voxel, as the planned dose is judged. A predicted
    structure is made of whole voxels, so that a steep dose is uncertain by up to half of what it changes over one.
    """
    dose, predicted = prediction.doses["dose"], name in prediction.masks
    mask = prediction.masks[name] if predicted else case.masks[name]
    covered = None if predicted else case.covered.get(name)
    (found,) = doses_inside(case, mask, covered, [dose], np.ones(dose.shape, bool)).doses
    return found
