"""From a case to its rows in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, DataSpec
from ctan.cases.covered import PER_EDGE
from ctan.cases.working import stacked_masks, to_working
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
        entry: what `store.json` says of the case: id, geometry, labels; dose step, prescription and levels in Gy.
    """
    working, geometry = to_working(case, spec, config.grid_shape, config.grid_spacing_mm)
    shapes = layout.arrays()
    image = f"working/{spec.image.name}"
    arrays: dict[str, npt.NDArray[Any]] = {image: working.image[spec.image.name].reshape(shapes[image][0])}
    entry: dict[str, Any] = {"case_id": case.case_id, "geometry": geometry.to_json(), "labels": dict(case.labels)}
    if case.numbers:
        entry["numbers"] = dict(case.numbers)
    native_image = case.images[spec.image.name].astype(spec.image.dtype, copy=False)
    native = {f"native/{spec.image.name}": _fill(native_image, layout.native_shape)}
    masks, structures = working.masks, stacked_masks(case, spec)
    if spec.has_dose:
        arrays["working/dose"], entry["dose_step_gy"] = quantise_dose(working.dose)
        arrays["working/target_distance"] = working.target_distance
        entry["prescription_gy"], entry["levels_gy"] = working.prescription_gy, dict(working.levels_gy)
        native["native/dose"] = _fill(case.doses["dose"], layout.native_shape)
        masks = np.concatenate([masks, working.possible_dose[None], working.dose_known[None]])
        structures = np.concatenate([structures, case.masks[POSSIBLE_DOSE_MASK][None], case.dose_known[None]])
    if layout.masks:
        arrays["working/masks"] = pack_masks(masks)
        native["native/masks"] = pack_masks(_fill(structures, layout.native_shape))
    if layout.num_covered and layout.keeps_native:
        native["native/covered_voxels"], native["native/covered_points"], entry["covered"] = _covered(case, layout)
    return arrays | (native if layout.keeps_native else {}), entry


def _covered(
    case: Case, layout: Layout
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8], list[tuple[str, int, int]]]:
    """Return the voxels that outlines run through, the points in them, and (structure, axis, number) in order."""
    entry = [(name, covered.axis, len(covered.voxels)) for name, covered in case.covered.items()]
    voxels = np.zeros(layout.num_covered, np.uint32)
    points = np.zeros((layout.num_covered, PER_EDGE), np.uint8)
    start = 0
    for covered in case.covered.values():
        rows = slice(start, start + len(covered.voxels))
        voxels[rows], points[rows] = covered.voxels, covered.points
        start = rows.stop
    return voxels, points, entry


def _fill(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Put zeros behind the last axes of `array` until they have `shape`."""
    leading = array.ndim - len(shape)
    widths = [(0, 0)] * leading + [(0, n - m) for n, m in zip(shape, array.shape[leading:], strict=True)]
    return np.pad(array, widths) if any(after for _, after in widths) else array
