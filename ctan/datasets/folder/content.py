"""The images and masks of one case of a folder, checked against each other and brought to the order of a `Case`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.cases.volumes import judged_ct_numbers, signs_of_wrong_ct_numbers, stored_ct, to_case_axes
from ctan.config import ReadingConfig
from ctan.datasets.folder.description import SERIES, FolderDescription, LabelMapSection
from ctan.datasets.folder.grid import Grid, Volume, difference, turned_like
from ctan.datasets.folder.pictures import read_picture
from ctan.datasets.folder.volumes import read_volume
from ctan.errors import DataError

if TYPE_CHECKING:
    from ctan.datasets.folder.options import FolderOptions

_WHOLE = 1e-3  # how far a label value may be from a whole number
_MOST_HU = 65536  # what 16 bits can hold, whatever the intercept
_FEW = 5
Masks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Content:
    """Arrays of one case in the axis order of `Case`, the digests of its files by name, and what to say of it."""

    image: npt.NDArray[Any]
    masks: Masks
    spacing_mm: tuple[float, ...]
    digests: Mapping[str, str]
    remarks: tuple[str, ...] = ()


def read_content(
    root: Path,
    case_id: str,
    files: Sequence[str],
    label_map: str,
    described: FolderDescription,
    options: FolderOptions,
    limits: ReadingConfig,
    with_masks: bool = True,
) -> Content:
    """Read the image and the masks of one case. A mask file that is missing: its structures are unknown.

    Args:
        root: the folder.
        case_id: the case.
        files: patterns of the image.
        label_map: pattern of the label map; "" for none.
        described: what the folder holds.
        options: how strictly it is read.
        limits: bounds of sizes that the settings give.
        with_masks: else the image alone.

    Raises:
        DataError: naming the file inside the folder, what was expected and what was found.
    """
    read = _Pictures(described, limits) if described.image.is_picture else _Volumes(options, limits)
    digests: dict[str, str] = {}

    def values_of(pattern: str, is_mask: bool) -> npt.NDArray[Any]:
        name = pattern.replace("{case}", case_id)
        try:
            values, digests[name] = read.values(root / name, is_mask)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        return values

    channels = []
    for pattern in files:
        name = pattern.replace("{case}", case_id)
        if not (root / name).is_dir() if name.endswith(SERIES) else not (root / name).is_file():
            raise DataError(f"{name}: missing; every case has {len(files)} image files")
        values = values_of(pattern, False)
        channels += list(values) if values.ndim > read.num_axes else [values]
    if len(channels) != described.image.num_channels:
        raise DataError(
            f"{files[0].replace('{case}', case_id)}: expected {described.image.num_channels} channels, "
            f"found {len(channels)} (grey instead of colour, or the other way round?)"
        )
    masks: Masks = {}
    if label_map and described.label_map and (root / (name := label_map.replace("{case}", case_id))).is_file():
        masks |= _from_label_map(values_of(label_map, True), described.label_map, name)
    for structure, pattern in described.masks.items() if with_masks else ():
        if (root / (name := pattern.replace("{case}", case_id))).is_file():
            masks[structure] = _from_mask(values_of(pattern, True), name)
    if described.empty_masks == "unknown":
        masks = {name: mask for name, mask in masks.items() if mask.any()}
    ordered = {name: masks[name] for name in described.structures if name in masks}
    stored = [_stored(channel, described, files[0].replace("{case}", case_id)) for channel in channels]
    oriented, spacing_mm = read.oriented([*stored, *ordered.values()])
    image = np.stack(oriented[: len(stored)]) if len(stored) > 1 else oriented[0]
    remarks: tuple[str, ...] = ()
    if described.image.modality == "ct":  # before clipping hides it
        signs = [sign for raw in read.oriented(channels)[0] for sign in signs_of_wrong_ct_numbers(raw)]
        remarks = judged_ct_numbers(signs)
    return Content(
        image=image,
        masks={name: mask.astype(bool) for name, mask in zip(ordered, oriented[len(stored) :], strict=True)},
        spacing_mm=spacing_mm,
        digests=digests,
        remarks=remarks,
    )


class _Volumes:
    """The volumes of one case; the first one says where voxels lie, the others must agree."""

    num_axes = 3

    def __init__(self, options: FolderOptions, limits: ReadingConfig) -> None:
        self._options, self._limits = options, limits
        self._grid: Grid | None = None
        self._is_series = False

    def values(self, path: Path, is_mask: bool) -> tuple[npt.NDArray[Any], str]:
        """Return (z, y, x) values and the file's digest."""
        volume: Volume = read_volume(path, self._options.nifti_matrix, self._limits)
        if self._grid is None:
            self._grid, self._is_series = volume.grid, path.is_dir()
            return volume.values, volume.sha256
        values, grid = volume.values, volume.grid
        if self._is_series:  # converters turn the rows of a series round
            values, grid = turned_like(self._grid, values, grid)
        if off := difference(self._grid, grid, self._options.geometry_tolerance_mm):
            what = "mask does not lie on its image" if is_mask else "channel does not lie on the first one"
            raise DataError(f"the {what}: {off}; resample it, or allow it with data.options.geometry_tolerance_mm")
        return values, volume.sha256

    def oriented(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[list[npt.NDArray[Any]], tuple[float, ...]]:
        """Return arrays in the order (posterior, left, inferior), and the voxel edges in that order."""
        assert self._grid is not None  # an image was read
        found, spacing_mm = [], (1.0, 1.0, 1.0)
        for array in arrays:
            plain = array.astype(np.uint8) if array.dtype == bool else array
            turned, spacing_mm = to_case_axes(self._grid.image(plain))
            found.append(turned)
        return found, spacing_mm


class _Pictures:
    """The pictures of one case; all have the size of the first one."""

    num_axes = 2

    def __init__(self, described: FolderDescription, limits: ReadingConfig) -> None:
        self._image, self._limits = described.image, limits
        self._shape: tuple[int, ...] = ()

    def values(self, path: Path, is_mask: bool) -> tuple[npt.NDArray[Any], str]:
        """Return (height, width) or (3, height, width) values and the file's digest."""
        picture = read_picture(path, self._image.exif, self._limits)
        values = picture.values
        if is_mask and values.ndim != self.num_axes:
            raise DataError("expected one grey channel, found colours; save the mask as grey")
        shape = values.shape[-2:]
        if self._shape and shape != self._shape:
            sizes = [f"{width} x {height}" for height, width in (shape, self._shape)]
            raise DataError(f"{sizes[0]} pixels, its image has {sizes[1]}: they do not belong together")
        self._shape = shape
        return values, picture.sha256

    def oriented(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[list[npt.NDArray[Any]], tuple[float, ...]]:
        """Return the arrays as they are, (row, column)."""
        return [np.ascontiguousarray(array) for array in arrays], self._image.spacing_mm


def _from_label_map(values: npt.NDArray[Any], section: LabelMapSection, name: str) -> Masks:
    """Return the masks of every structure of a label map; regions may overlap."""
    whole = np.rint(values)
    if (off := float(np.abs(values - whole).max())) > _WHOLE:
        raise DataError(f"{name}: values are up to {off:.3g} from a whole number; resampled, or no label map?")
    found = {int(value) for value in np.unique(whole)}
    if section.ignore in found:
        count = int(np.count_nonzero(whole == section.ignore))
        raise DataError(
            f"{name}: {count:,} voxels have the value to ignore ({section.ignore}); a structure is known in a "
            "case or it is not, so a case that is labelled in part cannot be used"
        )
    known = {0, *(value for values_of in section.values.values() for value in values_of)}
    if unknown := sorted(found - known):
        few = ", ".join(map(str, unknown[:_FEW])) + (", ..." if len(unknown) > _FEW else "")
        raise DataError(f"{name}: values {few} are not in the description, which has {sorted(known)}")
    return {structure: np.isin(whole, values_of) for structure, values_of in section.values.items()}


def _from_mask(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.bool_]:
    """Return the mask of a file with 0 and one other value."""
    found = np.unique(values)
    inside = found[found != 0]
    if len(inside) > 1:
        few = ", ".join(f"{value:g}" for value in found[:_FEW]) + (", ..." if len(found) > _FEW else "")
        raise DataError(f"{name}: expected 0 and one other value, found {few} (a label map, or saved with losses?)")
    return values != 0


def _stored(values: npt.NDArray[Any], described: FolderDescription, name: str) -> npt.NDArray[Any]:
    """Return a channel in the type it is kept in, without a loss: HU + 1024 of CT."""
    low, high = float(values.min()), float(values.max())
    if described.image.modality == "ct":
        if low < -_MOST_HU or high > _MOST_HU:
            raise DataError(f"{name}: expected HU, found values from {low:g} to {high:g}")
        return stored_ct(values)
    dtype = np.dtype(described.image.spec().dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max or (values.dtype.kind == "f" and np.any(values != np.rint(values))):
        raise DataError(
            f"{name}: values from {low:g} to {high:g} do not fit {dtype.name}, expected whole numbers, {limits.min} "
            f"to {limits.max}; choose another image.dtype (float32 holds all)"
        )
    return values.astype(dtype)
