"""What a model learned from, as numbers a case, and whether a new case could be one of them.

Two views of a case: plain measures of image, grid and targets, and where it lies in the network's bottleneck. Measures
of training cases and of new ones are alike by nature; distances in the bottleneck are compared with those of tuning
cases, as the network has learned its training cases by heart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.cases import DataSpec, StoredCase
from ctan.cases.geometry import Geometry
from ctan.inference.load import LoadedModel
from ctan.inputs import network_input
from ctan.metrics.novelty import FEWEST, most_unusual, unusually_large
from ctan.records import Embedding, Fingerprint, Unusual

if TYPE_CHECKING:
    from torch import Tensor, nn

LEVEL = 0.05  # false alarms a case, over all features and both views
MEASURES, BOTTLENECK = "measures", "bottleneck"
MOST_CASES = 200  # that are kept
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST_DIRECTIONS = 16
_CASES_A_DIRECTION = 5
_MM3_PER_CC = 1000.0
_LOG_FLOOR = 0.01  # a deviation of one percent is none
_VALUE_FLOOR = 0.002  # of the image's window: 5 HU of a CT, what a scanner may be off by
_BINS, _SMOOTHED_BINS = 1000, 9
_SHARE_FLOOR = 0.05
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """A case as a fingerprint is made of it.

    Attributes:
        stored: on the working grid.
        geometry: where that grid lies.
        held_out: whether no weight was fitted to it.
    """

    stored: StoredCase
    geometry: Geometry
    held_out: bool


def measures(stored: StoredCase, geometry: Geometry, spec: DataSpec) -> dict[str, float]:
    """Return plain measures of a case; one that it does not have is nan.

    Spacing and extent (logarithms), quantiles of the image, its commonest value and its roughness (the logarithm of the
    median second difference along the last axis) where the patient is, and which targets there are and how large.
    """
    found: dict[str, float] = {}
    for axis, (edge, size) in enumerate(zip(geometry.native_spacing_mm, geometry.native_shape, strict=True)):
        if spec.spatial_dims > 2:
            found[f"log spacing {axis} (mm)"] = math.log(edge)
        found[f"log extent {axis}{' (mm)' if spec.spatial_dims > 2 else ''}"] = math.log(edge * size)
    found |= _of_image(stored, geometry, spec)
    voxel_cc = math.prod(stored.spacing_mm) / _MM3_PER_CC
    for name in spec.targets:
        there = float(np.count_nonzero(stored.masks[spec.structures.index(name)])) * voxel_cc
        found[f"has {name}"] = float(there > 0)
        found[f"log volume of {name} (cc)"] = math.log(there) if there else math.nan
    return found


def floors(names: Sequence[str], spec: DataSpec) -> tuple[float, ...]:
    """Return the smallest standard deviation of each measure that counts."""
    window = _VALUE_FLOOR * (spec.image.high - spec.image.low)
    return tuple(
        _LOG_FLOOR if name.startswith("log") else _SHARE_FLOOR if name.startswith("has") else window for name in names
    )


def fingerprint(model: LoadedModel, cases: Iterable[Seen], num_cases: int) -> Fingerprint:
    """Return what a model learned from.

    Args:
        model: that learned from them.
        cases: some of its training cases, and of those that no weight was fitted to.
        num_cases: all training cases.
    """
    rows: list[dict[str, float]] = []
    places: dict[bool, list[Floats]] = {False: [], True: []}
    for case in cases:
        if not case.held_out:
            rows.append(measures(case.stored, case.geometry, model.spec))
        if (place := embedded(model, case.stored)) is not None and np.isfinite(place).all():
            places[case.held_out].append(place)
    names = tuple(rows[0]) if rows else ()
    return Fingerprint(
        features=names,
        floors=floors(names, model.spec),
        cases=tuple(tuple(_short(row[name]) for name in names) for row in rows),
        num_cases=num_cases,
        embedding=_embedding(np.array(places[False]), np.array(places[True])) if places[False] else None,
    )


def judge(model: LoadedModel, stored: StoredCase, geometry: Geometry, level: float = LEVEL) -> dict[str, Unusual]:
    """Judge whether a case could be one that a model learned from.

    Args:
        model: with a fingerprint; of one without nothing is said.
        stored: the case on the working grid, placed as in training.
        geometry: where that grid lies.
        level: false alarms that are accepted, of both views together.

    Returns:
        `"measures"` and `"bottleneck"`, where there are enough cases to judge by.
    """
    known = model.record.fingerprint
    if known is None:
        return {}
    by_bottleneck = known.embedding is not None and len(known.embedding.held_out) >= FEWEST
    each = level / 2 if by_bottleneck else level
    found: dict[str, Unusual] = {}
    measured = measures(stored, geometry, model.spec)
    sample = np.array(known.cases, np.float64).reshape(len(known.cases), len(known.features))
    case = np.array([measured.get(name, math.nan) for name in known.features])
    novelty = most_unusual(sample, case, np.array(known.floors), each)
    if novelty is not None:
        out = {}
        if novelty.p <= each:
            sizes = np.nan_to_num(np.abs(novelty.deviations))
            for index in np.argsort(-sizes):
                if sizes[index] >= min(novelty.critical, sizes.max()):
                    mean = float(np.nanmean(sample[:, index])) if not np.isnan(sample[:, index]).all() else math.nan
                    out[known.features[index]] = (float(case[index]), mean, float(novelty.deviations[index]))
        found[MEASURES] = Unusual(p=novelty.p, level=each, num_cases=len(sample), features=out)
    if by_bottleneck and known.embedding is not None and (place := embedded(model, stored)) is not None:
        value = distance(known.embedding, place)
        held_out = np.array(known.embedding.held_out)
        if (judged := unusually_large(held_out, value, each)) is not None:
            usual = float(np.median(held_out))
            out = {"distance": (value, usual, value / max(usual, 1e-12))} if judged[0] <= each else {}
            found[BOTTLENECK] = Unusual(p=judged[0], level=each, num_cases=len(held_out), features=out)
    return found


def in_words(found: Mapping[str, Unusual]) -> list[str]:
    """Return a sentence for each view that a case is outside of."""
    said = []
    if (measured := found.get(MEASURES)) is not None and measured.outside:
        parts = [
            f"{_plain(name)} is {_value(name, value)}, in training {_value(name, mean)} ({deviation:+.1f} deviations)"
            for name, (value, mean, deviation) in list(measured.features.items())[:3]
        ]
        more = f" and {len(measured.features) - 3} more" if len(measured.features) > 3 else ""
        said.append(f"unlike the {measured.num_cases} training cases it was compared with: {'; '.join(parts)}{more}")
    if (inside := found.get(BOTTLENECK)) is not None and inside.outside:
        ratio = next((deviation for _, _, deviation in inside.features.values()), math.nan)
        said.append(f"the network sees something unlike what it knows: {ratio:.1f} times as far as a usual case")
    return said


def embedded(model: LoadedModel, stored: StoredCase) -> Floats | None:
    """Return where a case lies in a network's bottleneck: its deepest features' mean over space, (d,).

    None where the network has no encoder that is known here, as in architectures of other packages.
    """
    import torch

    from ctan.networks.backbone import Encoder

    encoders = [module for module in model.network.modules() if isinstance(module, Encoder)]
    if not encoders:
        return None
    image = torch.from_numpy(np.ascontiguousarray(network_input(stored, model.spec, model.inputs)[None]))
    with torch.inference_mode(), _bottlenecks(encoders) as found:
        with suppress(_EnoughError):
            model.raw(image.to(model.device))
        if not found:  # a network of another package that goes through its stages by itself
            return None
        place: Floats = torch.cat([one[0].float().flatten(1).mean(1) for one in found]).double().cpu().numpy()
    return place


class _EnoughError(Exception):
    """Every encoder has answered: the decoders, most of the work, need not be asked."""


@contextmanager
def _bottlenecks(encoders: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: tuple[list[Tensor], list[Tensor]]) -> None:
        found.append(output[1][-1])
        if len(found) == len(encoders):
            raise _EnoughError

    hooks = [module.register_forward_hook(keep) for module in encoders]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def distance(embedding: Embedding, place: Floats) -> float:
    """Return how far a case lies from the training cases: Mahalanobis' distance in the principal directions, and what
    they leave over in proportion to what they leave over of training cases.
    """
    directions = np.array(embedding.directions).reshape(-1, len(embedding.mean))
    moved = place - np.array(embedding.mean)
    along = directions @ moved
    rest = float(np.linalg.norm(moved - along @ directions)) / embedding.remainder
    return math.sqrt(float(((along / np.array(embedding.spread)) ** 2).sum()) + rest**2)


def _embedding(places: Floats, held_out: Floats) -> Embedding:
    mean = places.mean(axis=0)
    _, sizes, directions = np.linalg.svd(places - mean, full_matrices=False)
    number = min(_MOST_DIRECTIONS, len(places) // _CASES_A_DIRECTION, len(mean))
    smallest = 1e-6 * max(float(sizes[0]) if len(sizes) else 0.0, 1e-6)
    spread = np.maximum(sizes[:number], smallest) / math.sqrt(max(len(places) - 1, 1))
    rest = (places - mean) - (places - mean) @ directions[:number].T @ directions[:number]
    remainder = max(float(np.sqrt((rest**2).sum(axis=1).mean())), smallest)
    made = Embedding(
        mean=tuple(_digits(mean)),
        directions=tuple(tuple(_digits(row)) for row in directions[:number]),
        spread=tuple(_digits(spread)),
        remainder=remainder,
        held_out=(),
    )
    return made.model_copy(update={"held_out": tuple(_digits([distance(made, place) for place in held_out]))})


def _of_image(stored: StoredCase, geometry: Geometry, spec: DataSpec) -> dict[str, float]:
    image = stored.image[spec.image.name]
    channels = image if spec.image.num_channels > 1 else image[None]
    inside = _covered(geometry)
    if spec.image.body_threshold is not None:
        body = inside & (channels[0] > spec.image.body_threshold)
        inside = body if body.any() else inside
    found: dict[str, float] = {}
    for number, channel in enumerate(channels):
        values = channel[inside].astype(np.float64)
        named = f" of channel {number}" if len(channels) > 1 else ""
        for share, value in zip(_QUANTILES, np.quantile(values, _QUANTILES) if values.size else (), strict=False):
            found[f"value {share:.0%}{named}"] = float(value)
        if values.size:
            found[f"commonest value{named}"] = _commonest(values, spec)
        second = np.diff(channel.astype(np.float64), n=2, axis=-1)
        second = second[inside[..., 1:-1] & inside[..., 2:] & inside[..., :-2]]
        unit = 1e-3 * (spec.image.high - spec.image.low)
        found[f"log roughness{named}"] = math.log(np.median(np.abs(second)) + unit) if second.size else math.nan
    return found


def _commonest(values: Floats, spec: DataSpec) -> float:
    """Return the value that most voxels have, but for some: in a CT that of soft tissue.

    How much fat, bone and air a patient is made of moves every quantile, this hardly.
    """
    counts, edges = np.histogram(values.clip(spec.image.low, spec.image.high), _BINS, (spec.image.low, spec.image.high))
    place = int(np.convolve(counts, np.ones(_SMOOTHED_BINS), "same").argmax())
    return float(edges[place : place + 2].mean())


def _covered(geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Return the voxels of the working grid whose centres lie on the native one."""
    inside = np.ones(geometry.shape, bool)
    for axis, (size, native, corner, ratio) in enumerate(
        zip(geometry.shape, geometry.native_shape, geometry.corner, geometry.ratio, strict=True)
    ):
        places = corner + (np.arange(size) + 0.5) * ratio
        shape = [1] * len(geometry.shape)
        shape[axis] = size
        inside &= ((places >= 0) & (places <= native)).reshape(shape)
    return inside


def _plain(name: str) -> str:
    return name.removeprefix("log ")


def _value(name: str, value: float) -> str:
    return f"{math.exp(value) if name.startswith('log') else value:.3g}"


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def _digits(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
