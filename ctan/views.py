"""How a volume is looked at: which slices are cut and how they lie, what part of them is shown, in which grey values.

Contact sheets, `figures.npz` and the report's slices share it; `ctan.drawing` writes on what is cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import Case, DataSpec, ImageSpec
from ctan.cases.volumes import HU_OFFSET

_BODY_CT = HU_OFFSET - 500  # shown as patient: looser than `ImageSpec.body_threshold`, so that no skin is cut off
_HOT = 0.9  # of the largest dose
SOFT_TISSUE = (HU_OFFSET - 160.0, HU_OFFSET + 240.0)  # level 40, width 400: how planning systems show contours


@dataclass(frozen=True)
class View:
    """How a volume with axes (posterior, left, inferior) is cut and laid out; row 0 is drawn at the top.

    Attributes:
        name: of the view.
        axis: that is cut.
        rows, columns: the axes that run down and to the right.
        letters: of the patient's side at the top, on the left and on the right.
    """

    name: str
    axis: int
    rows: int
    columns: int
    letters: tuple[str, str, str]

    def cut(self, volume: npt.NDArray[Any], index: int, box: Sequence[slice]) -> npt.NDArray[Any]:
        """Return the part of a slice (..., rows, columns) that a box shows.

        Args:
            volume: (..., D, H, W).
            index: of the slice, along `axis`.
            box: the part of each axis, from `box_around`.
        """
        plane = np.take(volume, index, axis=volume.ndim - 3 + self.axis)
        plane = np.swapaxes(plane, -1, -2) if self.rows > self.columns else plane
        return plane[..., box[self.rows], box[self.columns]]

    def edges_mm(self, spacing_mm: Sequence[float]) -> tuple[float, float]:
        """Return height and width of a voxel as it is drawn.

        Args:
            spacing_mm: voxel edge per axis of the volume.
        """
        return spacing_mm[self.rows], spacing_mm[self.columns]


VIEWS = (
    View("axial", 2, 0, 1, ("A", "R", "L")),
    View("coronal", 0, 2, 1, ("S", "R", "L")),
    View("sagittal", 1, 2, 0, ("S", "A", "P")),
)


# What is shown


def patient(case: Case, spec: DataSpec) -> npt.NDArray[np.bool_]:
    """Return where the patient is (D, H, W), to choose what is shown; everywhere where that cannot be told."""
    threshold = _BODY_CT if spec.image.modality == "ct" else spec.image.body_threshold
    values = first_channel(case.images[spec.image.name], len(case.shape))
    found = np.ones(case.shape, bool) if threshold is None else values > threshold
    return found if found.any() else np.ones(case.shape, bool)


def contoured(case: Case, spec: DataSpec) -> npt.NDArray[np.bool_]:
    """Return where any structure of the data set is (D, H, W)."""
    region = np.zeros(case.shape, bool)
    for name in spec.structures:
        if name in case.masks:
            region |= case.masks[name]
    return region


def extent(mask: npt.NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """Return the first and the last index along an axis where a mask is that is not empty."""
    where = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
    return int(where[0]), int(where[-1])


def box_around(mask: npt.NDArray[np.bool_], margins: Sequence[int]) -> list[slice]:
    """Return the part of each axis where a mask is that is not empty, with margins in voxels."""
    box = []
    for axis, margin in enumerate(margins):
        first, last = extent(mask, axis)
        box.append(slice(max(0, first - margin), min(mask.shape[axis], last + 1 + margin)))
    return box


def focus(case: Case, region: npt.NDArray[np.bool_]) -> list[int]:
    """Return the voxel that slices go through: the middle of the hottest dose, else of a region, else of the image."""
    dose = case.doses.get("dose")
    shown = dose >= _HOT * dose.max() if dose is not None and dose.max() > 0 else region
    if not shown.any():
        return [size // 2 for size in case.shape]
    return [round(float(middle)) for middle in np.argwhere(shown).mean(axis=0)]


# In which grey values


def first_channel(values: npt.NDArray[Any], num_axes: int) -> npt.NDArray[Any]:
    """Return what is drawn in grey of an image (*axes) or (channels, *axes)."""
    return values[0] if values.ndim > num_axes else values


def ct_window(image: ImageSpec, otherwise: tuple[float, float] = SOFT_TISSUE) -> tuple[float, float]:
    """Return the raw values of a CT drawn black and white: as described, otherwise those given."""
    return image.display or otherwise


def grey_range(
    values: npt.NDArray[Any], image: ImageSpec, ct: tuple[float, float] = SOFT_TISSUE
) -> tuple[float, float]:
    """Return the raw values drawn black and white: as described; without a common scale, the image's own.

    Args:
        values: of the image, any shape.
        image: describes it.
        ct: the range of a CT whose description leaves it open.
    """
    if image.modality == "ct":
        return ct_window(image, ct)
    if image.display is not None:
        return image.display
    if not image.per_case:
        return image.low, image.high
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1
