"""Shapes that phantoms are made of. Only sums, products, quotients and square roots, which round alike everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float64]


def distance(mask: Mask, sampling: Iterable[float]) -> Volume:
    """Return each voxel's distance to a structure, 0 inside; `sampling` is the length of a voxel edge per axis."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(~mask, sampling=tuple(sampling))


def ellipsoid(axes: Sequence[Volume], centre: Sequence[float], radii: Sequence[float]) -> Mask:
    """Return an ellipsoid.

    Args:
        axes: coordinates along each axis, shaped to broadcast, as `np.ogrid` makes them.
        centre, radii: along each axis, in the unit of the coordinates.
    """
    total = sum(
        ((axis - at) / radius) * ((axis - at) / radius) for axis, at, radius in zip(axes, centre, radii, strict=True)
    )
    return np.asarray(total) <= 1
