"""The cases of a store on another working grid than its own, for a model that works on that."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctan.cases import DataSpec, StoredCase
from ctan.cases import geometry as geo
from ctan.cases.working import to_working
from ctan.errors import DataError
from ctan.records import Grid
from ctan.store import Store


class Cases(Protocol):
    """Cases on a working grid, and the way back from it."""

    spec: DataSpec

    def load(self, case_id: str) -> StoredCase:
        """Return a case on the working grid."""

    def to_native(self, case_id: str, array: npt.NDArray[Any], pad_value: float) -> npt.NDArray[np.float32]:
        """Bring a prediction from the working grid to the native grid of a case."""


class InGrid:
    """The cases of a store on a grid that is made anew from their native images, as packing would.

    Args:
        store: keeps native images.
        grid: the working grid.

    Raises:
        DataError: when it keeps none.
    """

    def __init__(self, store: Store, grid: Grid) -> None:
        if not store.spec.keeps_native:
            raise DataError(
                f"store {store.pointer.key}: keeps no native images, so that nothing can be brought to a grid of {grid}"
            )
        self._store, self._grid, self.spec = store, grid, store.spec
        self._geometries: dict[str, geo.Geometry] = {}

    def load(self, case_id: str) -> StoredCase:
        """Return a case on the grid."""
        native = self._store.reference(case_id)
        stored, self._geometries[case_id] = to_working(native, self.spec, self._grid.shape, self._grid.spacing_mm)
        return stored

    def to_native(self, case_id: str, array: npt.NDArray[Any], pad_value: float) -> npt.NDArray[np.float32]:
        """Bring a prediction from the grid to the native grid of a case that was loaded."""
        return geo.to_native(array.astype(np.float32, copy=False), self._geometries[case_id], pad_value)


def on_grid(store: Store, grid: Grid, own: Grid) -> Cases:
    """Return the cases of a store on a grid.

    Args:
        store: has them on its own.
        grid: that is wanted.
        own: grid of the store.

    Raises:
        DataError: when these are different and the store keeps no native images.
    """
    same = grid.shape == own.shape and (store.spec.whole_image or grid.spacing_mm == own.spacing_mm)
    return store if same else InGrid(store, grid)
