"""The format of a store: which arrays there are, and how numbers become their bytes.

```
store_root/stores/<key>/
    manifest.parquet, quarantine.parquet    as validated
    store.json                              format version, hashes, layout, geometry of every case, the list of shards
store_root/shards/
    working/<SHA-256>.zip                   Zarr v3 in a ZIP file: {<image>, dose uint16, target_distance int8, masks}
    native/<SHA-256>.zip                    {<image>, dose float32, masks, covered_voxels uint32, covered_points uint8}
    made/<hash>.json                        what each was made of, and what `store.json` says of its cases
```
Which arrays there are depends on the data set: no dose, no masks, no native images where it has or keeps none. Images
are int16 (working) and uint16 (native) for CT, uint8 for colour. Masks are bit-packed, `(cases, masks, bytes)`; last
come the possible-dose mask and where the dose is known. The working dose counts steps of 1/65535 of the case's largest
dose (about 0.001 Gy; the error is half of that); the native dose is kept exactly. Native arrays of a shard are as large
as its largest case, smaller cases lie in their corner. Where structures were read from contours, the voxels that an
outline runs through follow structure by structure, with the points of each that lie inside, see `ctan.cases.covered`;
their numbers are in `store.json`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import DOSE_KNOWN, POSSIBLE_DOSE_MASK, DataSpec
from ctan.cases.covered import PER_EDGE

FORMAT_VERSION = 6
STORE_FILE = "store.json"
WORKING, NATIVE = "working", "native"
_DOSE_STEPS = 65535


@dataclass(frozen=True)
class Layout:
    """Which arrays a store has, and the sizes of one case in them.

    Attributes:
        image: name of the image.
        image_dtype: of its raw values.
        working_dtype: of its values on the working grid.
        num_channels: of the image; arrays have a channel axis when there are several.
        masks: names of the masks, in order.
        has_dose: whether there are doses.
        keeps_native: whether native arrays are kept.
        grid_shape: the working grid.
        native_shape: largest native grid of the cases of a shard; () for a store, whose shards have each their own.
        num_covered: most voxels of these cases that outlines run through; 0 where nothing was read from contours.
    """

    image: str
    image_dtype: str
    working_dtype: str
    num_channels: int
    masks: tuple[str, ...]
    has_dose: bool
    keeps_native: bool
    grid_shape: tuple[int, ...]
    native_shape: tuple[int, ...] = ()
    num_covered: int = 0

    @classmethod
    def of(cls, spec: DataSpec, grid_shape: tuple[int, ...]) -> Layout:
        """Return the layout of a store of data of this description."""
        return cls(
            image=spec.image.name,
            image_dtype=spec.image.dtype,
            working_dtype=spec.image.working_dtype,
            num_channels=spec.image.num_channels,
            masks=(*spec.structures, *((POSSIBLE_DOSE_MASK, DOSE_KNOWN) if spec.has_dose else ())),
            has_dose=spec.has_dose,
            keeps_native=spec.keeps_native,
            grid_shape=grid_shape,
        )

    def of_shard(self, native_shape: tuple[int, ...], num_covered: int) -> Layout:
        """Return the layout of a shard whose cases are at most this large."""
        return replace(self, native_shape=native_shape, num_covered=num_covered)

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return name -> (shape of one case, dtype) of every array of a shard."""
        channels = (self.num_channels,) if self.num_channels > 1 else ()
        arrays = {f"working/{self.image}": ((*channels, *self.grid_shape), self.working_dtype)}
        if self.has_dose:
            arrays["working/dose"] = (self.grid_shape, "uint16")
            arrays["working/target_distance"] = (self.grid_shape, "int8")
        if self.masks:
            arrays["working/masks"] = ((len(self.masks), _num_bytes(self.grid_shape)), "uint8")
        if self.keeps_native:
            arrays[f"native/{self.image}"] = ((*channels, *self.native_shape), self.image_dtype)
            if self.has_dose:
                arrays["native/dose"] = (self.native_shape, "float32")
            if self.masks:
                arrays["native/masks"] = ((len(self.masks), _num_bytes(self.native_shape)), "uint8")
            if self.num_covered:
                arrays["native/covered_voxels"] = ((self.num_covered,), "uint32")
                arrays["native/covered_points"] = ((self.num_covered, PER_EDGE), "uint8")
        return arrays

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return which kinds of shard files there are."""
        return (WORKING, NATIVE) if self.keeps_native else (WORKING,)

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as a dictionary of numbers and lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        """Rebuild what `to_json` returned."""
        sizes: dict[str, Any] = {n: tuple(size) if isinstance(size, list) else size for n, size in value.items()}
        return cls(**sizes)


def _num_bytes(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // 8)


def pack_masks(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pack (S, ...) bool into (S, bytes)."""
    return np.packbits(masks.reshape(len(masks), -1), axis=1)


def unpack_masks(packed: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Unpack (S, bytes) into (S, *shape) bool."""
    bits = np.unpackbits(packed, axis=1, count=math.prod(shape))
    return bits.view(np.bool_).reshape(len(packed), *shape)


def quantise_dose(dose: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], float]:
    """Return the dose in whole steps and the step in Gy; negative dose becomes 0."""
    step_gy = float(dose.max()) / _DOSE_STEPS
    if step_gy <= 0:
        return np.zeros(dose.shape, np.uint16), 0.0
    return np.rint(np.clip(dose / np.float32(step_gy), 0, _DOSE_STEPS)).astype(np.uint16), step_gy
