"""Measuring a case: its row of the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctan.cases import POSSIBLE_DOSE_MASK, DataSpec, levels_of
from ctan.cases.geometry import occupied_extent
from ctan.intake.content import array_sha256, looks

if TYPE_CHECKING:
    from ctan.cases import Case


def case_row(case: Case, spec: DataSpec, fold: int) -> dict[str, Any]:
    """Measure one case.

    Args:
        case: at native resolution.
        spec: the data set it belongs to.
        fold: its fold, or `NO_FOLD` outside the training split.

    Returns:
        A manifest row: every column of `SCHEMA(spec)`. Doses in Gy, means where the dose is known; `dose_mean_gy` is
        over the possible-dose mask.
    """
    name, image = spec.image.name, case.images[spec.image.name]
    row = {
        "dataset": spec.dataset,
        "case_id": case.case_id,
        "group_id": case.group_id,
        "split": case.split,
        "fold": fold,
        "sha256": case.sha256,
        "image_sha256": array_sha256(image),
        **({"dose_sha256": _sha256_of_dose(case)} if spec.has_dose else {}),
        "looks": looks(image, spec),
        "shape": list(case.shape),
        "spacing_mm": [float(edge) for edge in case.spacing_mm],
        "extent": list(
            case.shape
            if spec.whole_image
            else occupied_extent(image, spec.image.body_threshold, case.masks.get(POSSIBLE_DOSE_MASK))
        ),
        f"{name}_min": image.min().item(),
        f"{name}_max": image.max().item(),
        **(_dose_columns(case) if spec.has_dose else {}),
        "missing": [structure for structure in spec.structures if structure not in case.masks],
    }
    masks = {structure: case.masks.get(structure) for structure in spec.structures}
    row |= {f"voxels_{s}": None if mask is None else int(np.count_nonzero(mask)) for s, mask in masks.items()}
    if spec.has_dose:
        row |= {f"unknown_dose_share_{name}": _unknown_share(mask, case.dose_known) for name, mask in masks.items()}
        row |= _target_columns(case, spec)
    row |= {f"label_{label}": case.labels.get(label) for label in spec.labels}
    row |= {f"number_{name}": case.numbers.get(name) for name in spec.numbers}
    return row | {fact: case.facts.get(fact) for fact in spec.facts}


def _dose_columns(case: Case) -> dict[str, Any]:
    dose, possible = case.doses["dose"], case.masks[POSSIBLE_DOSE_MASK]
    known = possible & case.dose_known
    return {
        "num_mask_voxels": int(np.count_nonzero(possible)),
        "num_known_dose_voxels": int(np.count_nonzero(known)),
        "dose_max_gy": float(dose.max()),
        "dose_mean_gy": _mean(dose[known]),
        "num_dose_voxels_outside_mask": int(np.count_nonzero(dose) - np.count_nonzero(dose[possible])),
        "num_covered_voxels": sum(len(covered.voxels) for covered in case.covered.values()),
    }


def _target_columns(case: Case, spec: DataSpec) -> dict[str, Any]:
    """Return level and mean dose of each target; that of a lower level is its mean beside the higher ones."""
    levels_gy = levels_of(case, spec.targets)
    said = case.levels_gy if "prescription_gy" in spec.facts else levels_gy
    row: dict[str, Any] = {}
    for name, level_gy in levels_gy.items():
        mask = case.masks.get(name)
        row[f"level_gy_{name}"] = None if mask is None else said.get(name)
        row[f"dose_mean_gy_{name}"] = None
        if mask is not None:
            higher = [case.masks[o] for o, gy in levels_gy.items() if gy > level_gy and o in case.masks]
            own = mask & case.dose_known
            beside = own & ~np.any(higher, axis=0) if higher else own
            row[f"dose_mean_gy_{name}"] = _mean(case.doses["dose"][beside if beside.any() else own])
    return row


def _unknown_share(mask: np.ndarray | None, known: np.ndarray) -> float | None:
    """Return the share of a structure whose dose is not known; None where there is no structure."""
    size = 0 if mask is None else int(np.count_nonzero(mask))
    return float(np.count_nonzero(mask & ~known)) / size if mask is not None and size else None


def _sha256_of_dose(case: Case) -> str | None:
    """Return the hash of a dose; None where it is zero everywhere, which says nothing."""
    dose = case.doses["dose"]
    return array_sha256(dose) if dose.any() else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if values.size else None
