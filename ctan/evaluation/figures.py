"""What the report draws of a case: slices with contours and dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctan.cases import Case, DataSpec, levels_of
from ctan.cases.volumes import HU_OFFSET
from ctan.tasks import Cut, Task
from ctan.views import VIEWS, View, box_around, contoured, focus, patient

DVH_SCHEMA = pa.schema(
    [
        ("arch", pa.string()),
        ("fold", pa.int32()),
        ("seed", pa.int32()),
        ("case_id", pa.string()),
        ("structure", pa.string()),
        ("level_gy", pa.float64()),
        ("dose_gy", pa.float64()),
        ("planned", pa.float64()),
        ("predicted", pa.float64()),
    ]
)
_MARGIN_VOXELS = 6


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
    arrays: dict[str, npt.NDArray[Any]] = {}
    for view, (cut, edges_mm) in _cuts(reference, spec).items():
        what = _drawn(reference, native, tasks, spec, cut)
        what["spacing_mm"] = np.array(edges_mm)
        arrays |= {f"{reference.case_id}/{view}/{name}": array for name, array in what.items()}
    return arrays


def _cuts(reference: Case, spec: DataSpec) -> dict[str, tuple[Cut, Sequence[float]]]:
    """Return by view what makes a picture of arrays on the case's grid, and height and width of its pixels in mm."""
    if spec.spatial_dims == 2:
        return {"picture": (np.ascontiguousarray, reference.spacing_mm)}
    centre, box = focus(reference, contoured(reference, spec)), _box(reference, spec)

    def cut(volume: npt.NDArray[Any], view: View) -> npt.NDArray[Any]:
        return np.ascontiguousarray(view.cut(volume, centre[view.axis], box))

    return {view.name: (partial(cut, view=view), view.edges_mm(reference.spacing_mm)) for view in VIEWS}


def _drawn(
    reference: Case,
    native: Mapping[str, npt.NDArray[Any]],
    tasks: tuple[Task, ...],
    spec: DataSpec,
    cut: Cut,
) -> dict[str, npt.NDArray[Any]]:
    """Return what one view shows, by name."""
    image, empty = reference.images[spec.image.name], np.zeros(reference.shape, bool)
    what: dict[str, npt.NDArray[Any]] = {}
    what[spec.image.name] = cut(image).astype(np.int16) - HU_OFFSET if spec.image.modality == "ct" else cut(image)
    if spec.targets:
        what["targets"] = np.stack([cut(reference.masks.get(name, empty)) for name in spec.targets])
        levels_gy = levels_of(reference, spec.targets)
        what["levels_gy"] = np.array([levels_gy[name] for name in spec.targets])
    for task in tasks:
        what |= task.drawn(native[task.name], reference, cut)
    return what


def _box(reference: Case, spec: DataSpec) -> list[slice]:
    """Return the part of each axis that holds the patient or dose, with a margin; of other images than CT all."""
    if spec.image.modality != "ct":
        return [slice(None)] * spec.spatial_dims
    occupied = patient(reference, spec)
    if "dose" in reference.doses:
        occupied |= reference.doses["dose"] > 0
    return box_around(occupied, [_MARGIN_VOXELS] * spec.spatial_dims)
