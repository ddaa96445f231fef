"""`prediction.json`: what one case was predicted by, from what, and what came out; and of a folder of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ctan.cases.spec import Description
from ctan.records.base import Record
from ctan.records.names import PREDICTION_FILE
from ctan.records.trust import Unusual


class AskedModel(Description):
    """A model that was asked.

    Attributes:
        name: `models:/NAME/VERSION`, `runs:/ID` or the name of its folder.
        weights_sha256: of its weights.
        arch, fold, seed: which training.
        store_key, data_hash: what it learned from.
    """

    name: str
    weights_sha256: str
    arch: str
    fold: int
    seed: int
    store_key: str
    data_hash: str


class PredictionRecord(Record):
    """One predicted case.

    Attributes:
        case_id: of the case, also the name of its folder.
        label: that stands on everything written.
        key: SHA-256 of all that decides the prediction; while it is the same nothing is predicted again.
        models: that were asked; several are averaged.
        input_sha256: of the case as it was read.
        settings: how the models were asked.
        versions: of the code that read the case and of the kinds of task.
        differences: of what stands before the model, to its training.
        ctan, commit, libraries: code.
        device, seconds, time: where, how long, and when (UTC) it was predicted.
        shape, spacing_mm: of the case, in the axes of the data set.
        windows: of the working grid that covered it.
        uncovered_slices: (first, last) of each run of slices without a prediction, counted from 1.
        probabilities, numbers: predicted labels and numbers.
        volumes_cc: of predicted structures.
        dose_gy: structure -> mean and percentiles of the predicted dose; the key `""` is all of it.
        uncertainty: task -> structure, `entropy` or `spread` -> how far ensemble and mirror images are apart, see
            `ctan.prediction.measure.uncertainty`.
        unusual: view -> whether it could be one of the cases that the model learned from.
        warnings: what a person should know, a sentence each.
        files: name -> SHA-256 of each file beside this one.
    """

    file = PREDICTION_FILE
    what = "the description of a prediction"
    advice = "expected a folder that `ctan predict` wrote"

    format_version: Literal[1] = 1
    case_id: str
    label: str
    key: str
    models: tuple[AskedModel, ...]
    input_sha256: str
    settings: Mapping[str, Any]
    versions: Mapping[str, int]
    differences: tuple[str, ...]
    ctan: str
    commit: str
    libraries: Mapping[str, str]
    device: str
    seconds: float
    time: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    windows: int
    uncovered_slices: tuple[tuple[int, int], ...]
    probabilities: Mapping[str, Mapping[str, float]]
    numbers: Mapping[str, float]
    volumes_cc: Mapping[str, float]
    dose_gy: Mapping[str, Mapping[str, float]]
    uncertainty: Mapping[str, Mapping[str, float]] = {}
    unusual: Mapping[str, Unusual] = {}
    warnings: tuple[str, ...]
    files: Mapping[str, str]
