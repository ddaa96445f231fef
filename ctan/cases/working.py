"""From a case at native resolution to the working grid, in memory: what a store packs and a prediction starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ctan.cases import geometry as geo
from ctan.cases.case import POSSIBLE_DOSE_MASK, Case, StoredCase, levels_of
from ctan.cases.spec import DataSpec


def to_working(
    case: Case,
    spec: DataSpec,
    grid_shape: Sequence[int],
    grid_spacing_mm: Sequence[float] | None,
    fold: int = -1,
) -> tuple[StoredCase, geo.Geometry]:
    """Bring a case to the working grid; one without a dose too, where the data set has doses.

    Args:
        case: at native resolution.
        spec: names image, structures and targets.
        grid_shape: voxels of the working grid.
        grid_spacing_mm: its voxel edges; None for the native ones. Images that are shown whole ignore it.
        fold: of the case.

    Returns:
        The case on the working grid, as `Store.load` returns it (the dose there is rounded to the store's steps), and
        where that grid lies on the native one.
    """
    image = case.images[spec.image.name].astype(spec.image.dtype, copy=False)
    possible = case.masks[POSSIBLE_DOSE_MASK] if spec.has_dose else np.zeros(case.shape, bool)
    spacing_mm = None if grid_spacing_mm is None else tuple(grid_spacing_mm)
    geometry = _place(case, image, possible, spec, tuple(grid_shape), spacing_mm)
    masks = geo.masks_to_working(stacked_masks(case, spec), geometry)
    dose, distance = np.zeros(0, np.float32), np.zeros(0, np.int8)
    possible_dose = dose_known = np.zeros(0, bool)
    prescription_gy, levels_gy = 1.0, {}
    if spec.has_dose:
        possible_dose = geo.touching(possible, geometry)
        if "dose" in case.doses:
            dose, dose_known = geo.dose_to_working(case.doses["dose"], possible & case.dose_known, geometry)
        target = np.any(masks[[name in spec.targets for name in spec.structures]], axis=0)
        distance = geo.signed_distance_mm(target, geometry.spacing_mm)
        levels_gy = levels_of(case, spec.targets)
        prescription_gy = float(case.facts.get("prescription_gy", max(levels_gy.values())))
    stored = StoredCase(
        case_id=case.case_id,
        group_id=case.group_id,
        split=case.split,
        fold=fold,
        image={spec.image.name: _values(geo.to_working(image, geometry, spec.image.outside), spec)},
        masks=masks,
        known=np.array([name in case.masks for name in spec.structures], bool),
        dose=dose,
        possible_dose=possible_dose,
        dose_known=dose_known,
        target_distance=distance,
        spacing_mm=geometry.spacing_mm,
        labels=dict(case.labels),
        prescription_gy=prescription_gy,
        numbers=dict(case.numbers),
        levels_gy=levels_gy,
    )
    return stored, geometry


def stacked_masks(case: Case, spec: DataSpec) -> npt.NDArray[np.bool_]:
    """Return the structures of a case in the order of the description, (S, *axes); none where it is not contoured."""
    masks = np.zeros((len(spec.structures), *case.shape), bool)
    for index, name in enumerate(spec.structures):
        if name in case.masks:
            masks[index] = case.masks[name]
    return masks


def _values(image: npt.NDArray[np.float32], spec: DataSpec) -> npt.NDArray[np.generic]:
    """Return an image in the type that the store keeps: whole numbers are rounded."""
    dtype = np.dtype(spec.image.working_dtype)
    return (np.rint(image) if dtype.kind in "iu" else image).astype(dtype, copy=False)


def _place(
    case: Case,
    image: npt.NDArray[np.generic],
    possible: npt.NDArray[np.bool_],
    spec: DataSpec,
    grid_shape: tuple[int, ...],
    grid_spacing_mm: tuple[float, ...] | None,
) -> geo.Geometry:
    spacing_mm = tuple(case.spacing_mm)
    if spec.whole_image:
        return geo.fit(case.shape, spacing_mm, grid_shape)
    body = geo.body_mask(image, spec.image.body_threshold)
    return geo.place(body, possible, spacing_mm, grid_shape, grid_spacing_mm)
