"""What names the content of a case, whatever its files are called: to find one patient under two ids."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import DataSpec
from ctan.cases.geometry import occupied_box

_CELLS = {2: 12, 3: 10}  # an axis, of the coarse image: no two of 8,020 real pictures or 35 real CTs look alike


def array_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's values, type and shape."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def looks(image: npt.NDArray[Any], spec: DataSpec) -> str:
    """Return bits, as hexadecimal digits, that images which look alike share for the most part.

    Each says which of two neighbouring cells of a coarse image is brighter (difference hash), so that compression,
    another size, another brightness or noise change few of them. Of a CT only the box around the body counts, within
    the window of the data set. A mirrored or turned copy has other bits.

    Args:
        image: raw values, (C, *axes) with several channels.
        spec: of the data set.

    Returns:
        264 bits of a picture, 2,700 of a volume; empty where nothing differs, or an axis is too short to tell.
    """
    axes, cells = spec.spatial_dims, _CELLS[spec.spatial_dims]
    if min(image.shape[-axes:]) < cells:
        return ""
    grey, box = image, occupied_box(image, spec.image.body_threshold)[-axes:]
    for axis, (first, last) in zip(range(-axes, 0), box, strict=True):
        grey = np.take(grey, range(first, last), axis) if last - first >= cells else grey
    for axis in range(-axes, 0):
        grey = _coarse(grey, axis, cells, (spec.image.low, spec.image.high))
    grey = grey.mean(axis=0) if grey.ndim > axes else grey
    if np.ptp(grey) == 0:
        return ""
    bits = np.concatenate([(np.diff(grey, axis=axis) > 0).ravel() for axis in range(axes)])
    return np.packbits(bits).tobytes().hex()


def _coarse(values: npt.NDArray[Any], axis: int, cells: int, window: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return the mean of each of some equal parts of an axis; slab by slab, so that little memory is taken."""
    edges = np.linspace(0, values.shape[axis], cells + 1).astype(int)
    parts = (np.take(values, range(first, last), axis) for first, last in pairwise(edges))
    return np.stack([np.clip(part, *window).mean(axis=axis, dtype=np.float64) for part in parts], axis=axis)
