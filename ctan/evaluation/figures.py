"""What the report draws of a case: slices with contours and dose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctan.cases import Case, DataSpec
from ctan.cases.volumes import HU_OFFSET
from ctan.tasks import Task

DVH_SCHEMA = pa.schema(
    [
        ("arch", pa.string()),
        ("fold", pa.int32()),
        ("seed", pa.int32()),
        ("case_id", pa.string()),
        ("structure", pa.string()),
        ("dose_gy", pa.float64()),
        ("planned", pa.float64()),
        ("predicted", pa.float64()),
    ]
)
_MARGIN_VOXELS = 6
# the axis that is cut, and whether the picture is drawn with its columns and rows exchanged; axes are (P, L, I)
_VIEWS = {"axial": (2, False), "coronal": (0, True), "sagittal": (1, True)}


def pictures(
    reference: Case, native: Mapping[str, npt.NDArray[Any]], tasks: tuple[Task, ...], spec: DataSpec
) -> dict[str, npt.NDArray[Any]]:
    """Return what is drawn of a case: axial, coronal and sagittal slices of a volume, or the picture itself.

    Slices go through the hottest part of the planned dose, else through the middle of the contoured structures or of
    the image. Row 0 is drawn at the top: anterior in axial, superior in coronal and sagittal slices.

    Args:
        reference: the case at native resolution.
        native: task name -> prediction on the native grid.
        tasks: what was predicted.
        spec: names image and targets.

    Returns:
        `<case_id>/<view>/<what>` -> array, see `figures.npz` in docs/formats.md.
    """
    views: Mapping[str, tuple[int, bool] | None] = _VIEWS if spec.spatial_dims == 3 else {"picture": None}
    centre, box = _centre(reference), _box(reference, spec)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for view, how in views.items():
        in_plane = list(range(spec.spatial_dims))
        if how is not None:
            in_plane = [a for a in in_plane if a != how[0]]
            if how[1]:
                in_plane.reverse()

        def cut(volume: npt.NDArray[Any], how: Any = how, in_plane: list[int] = in_plane) -> npt.NDArray[Any]:
            if how is None:
                return np.ascontiguousarray(volume)
            plane = np.take(volume, centre[how[0]], axis=volume.ndim - 3 + how[0])
            if in_plane[0] > in_plane[1]:
                plane = np.swapaxes(plane, -1, -2)
            return np.ascontiguousarray(plane[..., box[in_plane[0]], box[in_plane[1]]])

        what = _drawn(reference, native, tasks, spec, cut)
        what["spacing_mm"] = np.array([reference.spacing_mm[a] for a in in_plane])
        arrays |= {f"{reference.case_id}/{view}/{name}": array for name, array in what.items()}
    return arrays


def _drawn(
    reference: Case,
    native: Mapping[str, npt.NDArray[Any]],
    tasks: tuple[Task, ...],
    spec: DataSpec,
    cut: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> dict[str, npt.NDArray[Any]]:
    """Return what one view shows, by name."""
    image, empty = reference.images[spec.image.name], np.zeros(reference.shape, bool)
    what: dict[str, npt.NDArray[Any]] = {}
    what[spec.image.name] = cut(image).astype(np.int16) - HU_OFFSET if spec.image.modality == "ct" else cut(image)
    if spec.targets:
        what["targets"] = np.stack([cut(reference.masks.get(name, empty)) for name in spec.targets])
    for task in tasks:
        what |= task.drawn(native[task.name], reference, cut)
    return what


def _centre(reference: Case) -> list[int]:
    """Return the voxel that slices go through."""
    dose = reference.doses.get("dose")
    if dose is not None:
        shown = dose >= 0.9 * dose.max()
    else:
        shown = np.zeros(reference.shape, bool)
        for mask in reference.masks.values():
            shown = shown | mask
    if not shown.any():
        return [size // 2 for size in reference.shape]
    return [round(float(c)) for c in np.argwhere(shown).mean(0)]


def _box(reference: Case, spec: DataSpec) -> list[slice]:
    """Return the part of each axis that holds the patient or dose, with a margin; all of a picture."""
    if spec.image.modality != "ct":
        return [slice(None)] * spec.spatial_dims
    occupied = reference.images[spec.image.name] > HU_OFFSET - 500
    if "dose" in reference.doses:
        occupied = occupied | (reference.doses["dose"] > 0)
    box = []
    for axis in range(occupied.ndim):
        where = np.flatnonzero(occupied.any(axis=tuple(a for a in range(occupied.ndim) if a != axis)))
        first, last = (int(where[0]), int(where[-1])) if len(where) else (0, occupied.shape[axis] - 1)
        box.append(slice(max(0, first - _MARGIN_VOXELS), last + 1 + _MARGIN_VOXELS))
    return box
