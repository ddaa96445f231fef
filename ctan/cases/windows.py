"""Windows that cover an image larger than what a network sees at once, and how they are blended.

Overlap and Gaussian weights as in Isensee et al., "nnU-Net", Nature Methods 18 (2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

_OVERLAP = 0.5  # of neighbouring windows
_SIGMA = 0.125  # of the weights, as a share of a window
_LEAST_WEIGHT = 1e-3


def window_places(shape: Sequence[int], window: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield the places of windows that cover a grid, evenly spread.

    Args:
        shape: of the grid.
        window: its size per axis, at most that of the grid.
    """
    starts = []
    for size, inner in zip(shape, window, strict=True):
        count = math.ceil((size - inner) / (inner * (1 - _OVERLAP))) + 1
        starts.append([round(float(start)) for start in np.linspace(0, size - inner, count)])
    for corner in product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, window, strict=True))


def window_weights(window: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the weights of a window's voxels, 1 in its middle."""
    weights: npt.NDArray[np.float32] = np.ones((), np.float32)
    for size in window:
        places = (np.arange(size) - (size - 1) / 2) / (size * _SIGMA)
        weights = (weights[..., None] * np.exp(-0.5 * places**2)).astype(np.float32)
    return np.maximum(weights / weights.max(), np.float32(_LEAST_WEIGHT))
