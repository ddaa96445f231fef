"""Numbers of a prediction: volumes of structures, and the dose in them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ctan.cases import Case, DataSpec, Prediction

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


def doses_gy(case: Case, prediction: Prediction, spec: DataSpec) -> dict[str, dict[str, float]]:
    """Return mean and percentiles (linear) of the predicted dose in each structure, and its largest value under `""`.

    Counted by whole voxels, so that a steep dose is uncertain by up to half of what it changes over a voxel.
    """
    if "dose" not in prediction.doses:
        return {}
    dose = prediction.doses["dose"]
    found: dict[str, dict[str, float]] = {"": {"max": round(float(dose.max()), 3)}}
    for name, mask in shown_structures(case, prediction, spec).items():
        inside = dose[mask]
        values = np.percentile(inside, list(_PERCENTILES.values()))
        found[name] = {"mean": round(float(inside.mean()), 3)}
        found[name] |= {key: round(float(value), 3) for key, value in zip(_PERCENTILES, values, strict=True)}
    return found
