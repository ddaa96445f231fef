"""One case at native resolution through one or several models, and back to its own grid.

A case that fits the working grid is placed on it as in training, so that what is predicted is what `ctan evaluate`
scores. A larger one is covered by overlapping windows of the working grid, blended by
`ctan.cases.windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Case, DataSpec, Prediction, StoredCase
from ctan.cases import geometry as geo
from ctan.cases.windows import window_places, window_weights
from ctan.cases.working import to_working
from ctan.errors import CaseError
from ctan.inference import LoadedModel
from ctan.inference.fingerprint import in_words, judge
from ctan.inputs import network_input
from ctan.records import Unusual
from ctan.tasks import Task

_SLICES = 2  # the axis of a volume that slices are counted along
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What was predicted of one case.

    Attributes:
        case: that was asked about, with what was filled in.
        prediction: on its grid.
        warnings: what a person should know, a sentence each.
        num_windows: that covered it.
        uncovered: slices that nothing was predicted for, (first, last) of each run, counted from 1.
        spread: task -> (num_outputs, *axes) or (num_outputs,): standard deviation over the members of an ensemble and
            their mirror images; empty where it was not asked for or there is one member.
        unusual: whether it could be one of the cases that the model learned from, by view.
    """

    case: Case
    prediction: Prediction
    warnings: tuple[str, ...]
    num_windows: int
    uncovered: tuple[tuple[int, int], ...]
    spread: Mapping[str, Floats] = field(default_factory=dict)
    unusual: Mapping[str, Unusual] = field(default_factory=dict)


def ask(models: Sequence[LoadedModel], case: Case, spread: bool = False) -> Answer:
    """Predict one case.

    Args:
        models: of one architecture, ensembles among them; their outputs are averaged before anything is thresholded.
        case: at native resolution; the truth, where it is known, is not looked at.
        spread: tell how far the members of an ensemble and their mirror images are apart. The prediction is the same.

    Raises:
        CaseError: naming what the models need and the case lacks.
    """
    models = [one for model in models for one in model.each]
    model, warnings = models[0], list(case.remarks)
    spec = model.spec
    case, filled = with_what_can_be_told(case, model)
    warnings += filled
    if lacking := model.inputs.lacking(case, spec):
        raise CaseError(case.case_id, f"the model needs {' and '.join(lacking)}, which the case does not have")
    tasks = []
    for task in model.tasks:
        if lacks := task.lacks(case, spec):
            warnings.append(f"{task.name} is not predicted: {lacks}")
        else:
            tasks.append(task)
    if not tasks:
        raise CaseError(case.case_id, "; ".join(warnings[len(case.remarks) :]))
    native: dict[str, npt.NDArray[np.generic]] = {}
    num_windows = 1
    uncovered: tuple[tuple[int, int], ...] = ()
    spreads: dict[str, Floats] = {}
    grids = _grids(case, model)
    unusual = judge(model, grids[0].stored, grids[0].geometry)
    warnings += in_words(unusual)
    for grid in grids:
        chosen = [task for task in tasks if grid.takes(task)]
        if not chosen:
            continue
        outputs, apart = _predicted(models, grid, chosen, spread)
        resample = partial(_to_native, geometry=grid.geometry)
        native |= {task.name: task.to_native(outputs[task.name], case, resample) for task in chosen}
        for task in chosen:
            if task.name in apart:
                found = apart[task.name]
                spreads[task.name] = resample(found, 0.0) if task.head == "dense" else found
        if any(task.head == "dense" for task in chosen):
            num_windows = len(list(grid.windows(model.record.grid.shape)))
            uncovered = _uncovered(grid.geometry)
    prediction = Prediction.joined(task.answer(native[task.name]) for task in tasks)
    for name, mask in prediction.masks.items():
        if not mask.any():
            warnings.append(f"{name}: nothing was found")
    if told := _declared(case, spec, uncovered):
        warnings.append(told)
    return Answer(case, prediction, tuple(dict.fromkeys(warnings)), num_windows, uncovered, spreads, unusual)


@dataclass(frozen=True)
class _Grid:
    """A case on a grid of the model's voxels; heads that make a map and those that make a vector may need two."""

    stored: StoredCase
    geometry: geo.Geometry
    heads: tuple[str, ...]

    def takes(self, task: Task) -> bool:
        return task.head in self.heads

    def windows(self, shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
        """Return the places of windows that cover the grid, evenly spread."""
        return window_places(self.geometry.shape, shape)


def _grids(case: Case, model: LoadedModel) -> list[_Grid]:
    """Return the working grid as in training, and a larger one for maps where the patient does not fit into it."""
    spec, grid = model.spec, model.record.grid
    stored, geometry = to_working(case, spec, grid.shape, grid.spacing_mm)
    image = case.images[spec.image.name]
    if spec.whole_image:
        return [_Grid(stored, geometry, ("dense", "image"))]
    needed = _extent(case, image, spec)
    sizes = [math.ceil(extent / ratio - 1e-6) for extent, ratio in zip(needed, geometry.ratio, strict=True)]
    shape = tuple(max(size, own) for size, own in zip(sizes, grid.shape, strict=True))
    if shape == tuple(grid.shape):
        return [_Grid(stored, geometry, ("dense", "image"))]
    larger = to_working(case, spec, shape, grid.spacing_mm)
    return [_Grid(stored, geometry, ("image",)), _Grid(*larger, ("dense",))]


def _extent(case: Case, image: npt.NDArray[np.generic], spec: DataSpec) -> tuple[int, ...]:
    """Return the size in voxels of the box around the patient and where dose is possible."""
    body = geo.body_mask(image, spec.image.body_threshold)
    if spec.has_dose:
        body = body | case.masks[POSSIBLE_DOSE_MASK]
    return geo.occupied_extent(body, 0.5)


def _predicted(
    models: Sequence[LoadedModel], grid: _Grid, tasks: Sequence[Task], spread: bool
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return what the models say on a grid, averaged over them and blended over windows, and how far they are apart."""
    model = models[0]
    channels = network_input(grid.stored, model.spec, model.inputs)
    shape = model.record.grid.shape
    dense = [task for task in tasks if task.head == "dense"]
    sums = {task.name: np.zeros((task.num_outputs, *grid.geometry.shape), np.float32) for task in dense}
    sums_apart = {name: np.zeros_like(array) for name, array in sums.items()} if spread else {}
    outputs: dict[str, Floats] = {}
    apart: dict[str, Floats] = {}
    total, weights = np.zeros(grid.geometry.shape, np.float32), window_weights(shape)
    windows = list(grid.windows(shape))
    for window in windows:
        image = channels[(slice(None), *window)][None]
        found, between = _asked(models, image, tasks, spread)
        if len(windows) == 1:
            outputs, apart = found, between
            break
        total[window] += weights
        for task in dense:
            sums[task.name][(slice(None), *window)] += found[task.name] * weights
            if task.name in between:
                sums_apart[task.name][(slice(None), *window)] += between[task.name] * weights
    else:
        outputs = {name: value / total for name, value in sums.items()}
        apart = {name: value / total for name, value in sums_apart.items() if name in between}

    def rescaled(found: Mapping[str, Floats]) -> dict[str, Floats]:
        asked = [task for task in tasks if task.name in found]
        return {task.name: task.rescaled(found[task.name].astype(np.float32), grid.stored) for task in asked}

    return rescaled(outputs), rescaled(apart)


def _asked(
    models: Sequence[LoadedModel], image: Floats, tasks: Sequence[Task], spread: bool
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the models' mean answer to one image, and the standard deviation over them and their mirror images."""
    if not spread:
        answers = [one.predict_batch(image) for one in models]
        return {task.name: np.mean([answer[task.name][0] for answer in answers], axis=0) for task in tasks}, {}
    of_models = [one.members(image, True) for one in models]
    averaged = 2 if models[0].test_time_flip else 1  # of each model's answers
    counted = [member for found in of_models for member in found[:averaged]]
    members = [member for found in of_models for member in found]
    means = {task.name: np.mean([member[task.name][0] for member in counted], axis=0) for task in tasks}
    if len(members) == 1:
        return means, {}
    return means, {task.name: np.std([member[task.name][0] for member in members], axis=0) for task in tasks}


def _to_native(array: npt.NDArray[np.generic], pad_value: float, geometry: geo.Geometry) -> Floats:
    return geo.to_native(array, geometry, pad_value).astype(np.float32, copy=False)


def with_what_can_be_told(case: Case, model: LoadedModel) -> tuple[Case, list[str]]:
    """Give a case without a possible-dose mask the body for one, where the network does not see it."""
    spec = model.spec
    if not spec.has_dose or POSSIBLE_DOSE_MASK in case.masks or model.inputs.shown != "ct":
        return case, []
    body = geo.body_mask(case.images[spec.image.name], spec.image.body_threshold)
    said = "no possible-dose mask: the dose is cut off at the body as the CT shows it"
    return replace(case, masks={**case.masks, POSSIBLE_DOSE_MASK: body}), [said]


def _uncovered(geometry: geo.Geometry) -> tuple[tuple[int, int], ...]:
    """Return the runs of slices whose centres lie outside the working grid."""
    if len(geometry.native_shape) <= _SLICES:
        return ()
    number = geometry.native_shape[_SLICES]
    places = (np.arange(number) + 0.5 - geometry.corner[_SLICES]) / geometry.ratio[_SLICES]
    inside = np.flatnonzero((places >= 0) & (places <= geometry.shape[_SLICES]))
    if not len(inside):
        return ((1, number),)
    runs = [(1, int(inside[0])), (int(inside[-1]) + 2, number)]
    return tuple((first, last) for first, last in runs if first <= last)


def _declared(case: Case, spec: DataSpec, uncovered: Sequence[tuple[int, int]]) -> str:
    """Say which slices with a part of the patient have no prediction; nothing where all have."""
    if spec.image.body_threshold is None or not uncovered:
        return ""
    shown = np.asarray(geo.body_mask(case.images[spec.image.name], spec.image.body_threshold).any(axis=(0, 1)))
    runs = [f"{first} to {last}" for first, last in uncovered if shown[first - 1 : last].any()]
    return f"slices {' and '.join(runs)} (from the head) are not predicted: outside the model's grid" if runs else ""
