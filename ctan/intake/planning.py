"""What to train on what: the flat list of trainings, and what follows from the data (grid, voxel size, depth, batch).

As nnU-Net does it: a fingerprint of the training cases, then a plan, every number with its reason. What a profile or a
user sets is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import SPLIT_TRAIN, SPLIT_VALIDATION, DataSpec
from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError

PLAN_FILE = "plan.yaml"
# That a run of Kubeflow Pipelines carries: Argo keeps the state of a whole run in one object of 1 MiB, 6.6 to 8.5 KB of
# it a training.
MOST_TRAININGS = 90
_LEAST_DEEPEST = 3  # voxels per axis that the deepest stage keeps
_CLASSES_NEEDED = 2
_MOST_STAGES, _MOST_CASES_A_STEP = 6, 32
Floats = npt.NDArray[np.float64]


def plan(config: RunConfig) -> list[dict[str, str]]:
    """Return one item a training, architectures of the same fold and seed side by side.

    Args:
        config: settings; uses `architectures`, `folds` and `seeds`.

    Returns:
        Items `{"arch": "ctan", "fold": "0", "seed": "0"}`, `arch` as it stands in `architectures`; strings, because
        fields of a pipeline's loop items are.
    """
    return [
        {"arch": arch, "fold": str(fold), "seed": str(seed)}
        for fold, seed, arch in product(config.folds, config.seeds, config.architectures)
    ]


def check_number(config: RunConfig) -> None:
    """Refuse more trainings than one run carries.

    Raises:
        ConfigError: saying how to split them.
    """
    number = len(config.folds) * len(config.seeds) * len(config.architectures)
    if number > MOST_TRAININGS:
        raise ConfigError(
            f"{len(config.architectures)} architectures x {len(config.folds)} folds x {len(config.seeds)} seeds are "
            f"{number} trainings; one run carries {MOST_TRAININGS}. Split them into several runs by folds or seeds, "
            f"with the same store_root and checkpoint_root: the store is packed once, and no training is done twice"
        )


@dataclass(frozen=True)
class Proposal:
    """One setting that the data suggests.

    Attributes:
        field: dotted name of the setting.
        value: what is proposed.
        reason: why, with the numbers it follows from.
        used: False when the profile or the user sets the field.
        instead: what it is set to in that case.
    """

    field: str
    value: Any
    reason: str
    used: bool = True
    instead: Any = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `plan.yaml`."""
        entry = {"value": self.value, "reason": self.reason, "used": self.used}
        return entry if self.used else {**entry, "set_to": self.instead}


@dataclass(frozen=True)
class Fingerprint:
    """What the training cases have in common.

    Attributes:
        num_cases: how many.
        spacing_mm: (axes,) median voxel edge.
        extent_mm: (axes,) size of the patient (of the picture) that `covered_share` of the cases do not exceed.
        largest_mm: (axes,) largest size.
    """

    num_cases: int
    spacing_mm: Floats
    extent_mm: Floats
    largest_mm: Floats

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], covered_share: float) -> Fingerprint:
        """Measure manifest rows.

        Raises:
            DataError: when there is none.
        """
        if not rows:
            raise DataError("there is no training case that a plan could be made from")
        spacing = np.array([row["spacing_mm"] for row in rows], np.float64)
        extent = np.array([row["extent"] for row in rows], np.float64) * spacing
        covered = np.quantile(extent, covered_share, axis=0, method="higher")
        return cls(len(rows), np.median(spacing, axis=0), covered, extent.max(axis=0))


def propose(rows: Sequence[Mapping[str, Any]], spec: DataSpec, config: RunConfig) -> list[Proposal]:
    """Derive settings from the training cases.

    Args:
        rows: manifest rows of the training split, at least one.
        spec: says whether the whole image is shown.
        config: budgets, and what is set already.
    """
    found = Fingerprint.of(rows, config.planning.covered_share)
    spacing_mm, why_spacing = _spacing(found, spec, config)
    set_mm = config.preprocess.grid_spacing_mm
    sizes = found.extent_mm / (spacing_mm if set_mm is None else np.asarray(set_mm, np.float64))
    num_stages = next(n for n in range(_MOST_STAGES, 0, -1) if n == 1 or _deepest(sizes, n, config) >= _LEAST_DEEPEST)
    depth = config.network.num_stages if "num_stages" in config.network.model_fields_set else num_stages
    divisor = config.network.io_stride * 2 ** (depth - 1)
    shape = [max(2, math.ceil(size / divisor - 1e-6)) * divisor for size in sizes]
    seen = math.prod(map(min, shape, config.network.patch_shape or shape))
    batch_size = min(max(1, config.planning.step_voxels // seen), _MOST_CASES_A_STEP)
    native = [round(float(edge), 2) for edge in found.spacing_mm]
    extent = " x ".join(f"{mm:.0f}" for mm in found.extent_mm)
    what, unit = ("pictures", "pixels") if spec.spatial_dims == 2 else ("patients", "mm")
    edges = "" if spec.spatial_dims == 2 else f" (voxels {native} at the median)"
    proposals = [
        Proposal(
            "preprocess.grid_spacing_mm", None if spec.whole_image else [float(mm) for mm in spacing_mm], why_spacing
        ),
        Proposal(
            "preprocess.grid_shape",
            shape,
            f"{config.planning.covered_share:.0%} of {found.num_cases} {what} measure at most {extent} "
            f"{unit}{edges}, rounded up to multiples of {divisor}, what the network halves to",
        ),
        Proposal(
            "network.num_stages",
            num_stages,
            f"the most stages, up to {_MOST_STAGES}, that leave {_LEAST_DEEPEST} voxels per axis at the deepest",
        ),
        Proposal(
            "training.batch_size",
            batch_size,
            f"as many cases of {seen:,} voxels as planning.step_voxels "
            f"{config.planning.step_voxels:,} allows, at most {_MOST_CASES_A_STEP}",
        ),
    ]
    return [_beside(proposal, config) for proposal in proposals]


def _deepest(sizes: Floats, num_stages: int, config: RunConfig) -> int:
    """Return the voxels of the shortest axis at the deepest stage."""
    return math.ceil(float(sizes.min()) / (config.network.io_stride * 2 ** (num_stages - 1)) - 1e-6)


def _spacing(found: Fingerprint, spec: DataSpec, config: RunConfig) -> tuple[Floats, str]:
    """Return the voxel edges at which the extent fits the budget, and why."""
    most = config.planning.max_grid_voxels
    if np.prod(found.extent_mm / found.spacing_mm) <= most:
        return found.spacing_mm, f"the median of the cases; the grid fits planning.max_grid_voxels {most:,}"
    if spec.whole_image:  # keep the proportions
        factor = (np.prod(found.extent_mm / found.spacing_mm) / most) ** (1 / spec.spatial_dims)
        return found.spacing_mm * factor, f"the whole picture is resized, {factor:.2f} times smaller, to fit {most:,}"
    low, high = float(found.spacing_mm.min()), float(found.extent_mm.max())
    for _ in range(60):  # the finest edge that fits: fine axes become coarser until all are alike, then all together
        edge = (low + high) / 2
        fits = np.prod(found.extent_mm / np.maximum(found.spacing_mm, edge)) <= most
        low, high = (low, edge) if fits else (edge, high)
    spacing_mm = np.ceil(np.maximum(found.spacing_mm, high) * 100) / 100
    median = " x ".join(f"{mm:.2f}" for mm in found.spacing_mm)
    return (
        spacing_mm,
        f"the median of the cases, {median} mm, with fine axes coarser until the grid fits {most:,} voxels",
    )


def _beside(proposal: Proposal, config: RunConfig) -> Proposal:
    """Mark a proposal that is not used because the field is set."""
    section, name = proposal.field.split(".")
    settings = getattr(config, section)
    if name not in settings.model_fields_set:
        return proposal
    value = settings.model_dump(mode="json")[name]
    return Proposal(proposal.field, proposal.value, proposal.reason, used=False, instead=value)


def one_sided(rows: Sequence[Mapping[str, Any]], spec: DataSpec, folds: Sequence[int]) -> list[str]:
    """Say which scores will be undefined, before anything is trained: labels of one class, structures of no case.

    Args:
        rows: of the validated manifest.
        spec: names labels and structures.
        folds: that tune.

    Returns:
        A sentence each; empty when every task can be learnt, tuned and measured.
    """
    training = [row for row in rows if row["split"] == SPLIT_TRAIN]
    sides = {"evaluation": [row for row in rows if row["split"] == SPLIT_VALIDATION]}
    for fold in folds:
        sides[f"tuning (fold {fold})"] = [row for row in training if row["fold"] == fold]
        sides[f"training (without fold {fold})"] = [row for row in training if row["fold"] != fold]
    said = []
    for side, cases in sides.items():
        for name in spec.labels:
            found = {row[f"label_{name}"] for row in cases} - {None}
            if cases and len(found) < _CLASSES_NEEDED:
                what = f"all have {name} = {found.pop()}" if found else f"have no {name} that is known"
                said.append(
                    f"the {len(cases)} {side} cases {what}: AUC and what needs several classes is left out there"
                )
        absent = [name for name in spec.structures if cases and all(name in row["missing"] for row in cases)]
        if absent:
            said.append(f"none of the {len(cases)} {side} cases has {', '.join(absent)} contoured: no Dice there")
    return said


def apply(proposals: Sequence[Proposal], config: RunConfig) -> RunConfig:
    """Return the settings with the proposals that are used."""
    values = config.model_dump(mode="json")
    for proposal in proposals:
        if proposal.used:
            section, name = proposal.field.split(".")
            values[section][name] = proposal.value
    return RunConfig.model_validate(values)


__all__ = ["PLAN_FILE", "Fingerprint", "Proposal", "apply", "one_sided", "plan", "propose"]
