"""From a case to its rows in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, DataSpec
from ctan.cases import geometry as geo
from ctan.config import PreprocessConfig
from ctan.store.layout import Layout, pack_masks, quantise_dose

if TYPE_CHECKING:
    from ctan.cases import Case


def pack_case(
    case: Case, spec: DataSpec, config: PreprocessConfig, layout: Layout
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Bring a case to the working grid and pack both forms of it.

    Args:
        case: at native resolution.
        spec: names the structures and targets.
        config: the working grid.
        layout: of the store.

    Returns:
        arrays: array name -> values.
        entry: what `store.json` says of the case: id, geometry, labels; dose step and prescription in Gy.
    """
    image_spec = spec.image
    image = case.images[image_spec.name].astype(image_spec.dtype, copy=False)
    structures = np.zeros((len(spec.structures), *case.shape), bool)
    for index, name in enumerate(spec.structures):
        if name in case.masks:
            structures[index] = case.masks[name]
    possible = case.masks[POSSIBLE_DOSE_MASK] if spec.has_dose else np.zeros(case.shape, bool)
    geometry = _place(case, image, possible, spec, config)
    working_masks = geo.masks_to_working(structures, geometry)
    working = np.rint(geo.to_working(image, geometry, image_spec.outside))
    name, (shape, dtype) = next(iter(layout.arrays().items()))
    arrays: dict[str, npt.NDArray[Any]] = {name: working.astype(dtype).reshape(shape)}
    entry: dict[str, Any] = {"case_id": case.case_id, "geometry": geometry.to_json(), "labels": dict(case.labels)}
    if case.numbers:
        entry["numbers"] = dict(case.numbers)
    native = {f"native/{image_spec.name}": _fill(image, layout.native_shape)}
    if spec.has_dose:
        dose = case.doses["dose"]
        working_dose, working_possible = geo.dose_to_working(dose, possible, geometry)
        is_target = [structure in spec.targets for structure in spec.structures]
        target = np.any(working_masks[is_target], axis=0)
        arrays["working/dose"], entry["dose_step_gy"] = quantise_dose(working_dose)
        arrays["working/target_distance"] = geo.signed_distance_mm(target, geometry.spacing_mm)
        entry["prescription_gy"] = float(case.facts.get("prescription_gy", max(spec.targets.values())))
        native["native/dose"] = _fill(dose, layout.native_shape)
        working_masks = np.concatenate([working_masks, working_possible[None]])
        structures = np.concatenate([structures, possible[None]])
    if layout.masks:
        arrays["working/masks"] = pack_masks(working_masks)
        native["native/masks"] = pack_masks(_fill(structures, layout.native_shape))
    return arrays | (native if layout.keeps_native else {}), entry


def _place(
    case: Case,
    image: npt.NDArray[Any],
    possible: npt.NDArray[np.bool_],
    spec: DataSpec,
    config: PreprocessConfig,
) -> geo.Geometry:
    spacing_mm = tuple(case.spacing_mm)
    if spec.whole_image:
        return geo.fit(case.shape, spacing_mm, config.grid_shape)
    return geo.place(
        geo.body_mask(image, spec.image.body_threshold), possible, spacing_mm, config.grid_shape, config.grid_spacing_mm
    )


def _fill(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Put zeros behind the last axes of `array` until they have `shape`."""
    leading = array.ndim - len(shape)
    widths = [(0, 0)] * leading + [(0, n - m) for n, m in zip(shape, array.shape[leading:], strict=True)]
    return np.pad(array, widths) if any(after for _, after in widths) else array
