"""From a case to its rows in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.config import PreprocessConfig
from ctan.store import geometry as geo
from ctan.store.layout import Layout, pack_masks, quantise_dose
from ctan.store.manifest import POSSIBLE_DOSE_MASK

if TYPE_CHECKING:
    from ctan.datasets.base import Case, Dataset


def pack_case(
    case: Case, dataset: Dataset, config: PreprocessConfig, layout: Layout
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Bring a case to the working grid and pack both forms of it.

    Args:
        case: at native resolution.
        dataset: names the structures and targets.
        config: the working grid.
        layout: of the store.

    Returns:
        arrays: array name -> values.
        entry: what `store.json` says of the case: id, geometry, dose step in Gy, labels.
    """
    possible, dose = case.masks[POSSIBLE_DOSE_MASK], case.doses["dose"]
    ct = case.images["ct"].astype(np.uint16, copy=False)
    structures = np.zeros((len(dataset.structures), *case.shape), bool)
    for index, name in enumerate(dataset.structures):
        if name in case.masks:
            structures[index] = case.masks[name]
    geometry = geo.place(geo.body_mask(ct), possible, tuple(case.spacing_mm), config.grid_shape, config.grid_spacing_mm)
    working_masks = geo.masks_to_working(structures, geometry)
    working_dose, working_possible = geo.dose_to_working(dose, possible, geometry)
    counts, step_gy = quantise_dose(working_dose)
    is_target = [name in dataset.targets for name in dataset.structures]
    target = np.any(working_masks[is_target], axis=0)
    arrays = {
        "working/ct": np.rint(geo.to_working(ct, geometry)).astype(np.int16),
        "working/dose": counts,
        "working/target_distance": geo.signed_distance_mm(target, geometry.spacing_mm),
        "working/masks": pack_masks(np.concatenate([working_masks, working_possible[None]])),
        "native/ct": _fill(ct, layout.native_shape),
        "native/dose": _fill(dose, layout.native_shape),
        "native/masks": pack_masks(_fill(np.concatenate([structures, possible[None]]), layout.native_shape)),
    }
    entry = {
        "case_id": case.case_id,
        "geometry": geometry.to_json(),
        "dose_step_gy": step_gy,
        "labels": dict(case.labels),
    }
    return arrays, entry


def _fill(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Put zeros behind the last axes of `array` until they have `shape`."""
    leading = array.ndim - len(shape)
    widths = [(0, 0)] * leading + [(0, n - m) for n, m in zip(shape, array.shape[leading:], strict=True)]
    return np.pad(array, widths) if any(after for _, after in widths) else array
