"""The format of a store: which arrays there are, and how numbers become their bytes.

```
store_root/stores/<key>/
    manifest.parquet, quarantine.parquet    as validated; row number = row of every array
    store.json                              format version, hashes, layout, geometry of every case, size of every file
    arrays.zarr/                            Zarr v3, one chunk a case, many cases a shard
        working/{<image>, dose uint16, target_distance int8, masks uint8}
        native/{<image>, dose float32, masks uint8, covered_voxels uint32, covered_points uint8}
```
Which arrays there are depends on the data set: no dose, no masks, no native images where it has or keeps none. Images
are int16 (working) and uint16 (native) for CT, uint8 for colour. Masks are bit-packed, `(cases, masks, bytes)`; last
come the possible-dose mask and where the dose is known. The working dose counts steps of 1/65535 of the case's largest
dose (about 0.001 Gy; the error is half of that); the native dose is kept exactly. Native arrays are as large as the
largest case, smaller cases lie in their corner. Where structures were read from contours, the voxels that an outline
runs through follow structure by structure, with the points of each that lie inside, see `ctan.cases.covered`; their
numbers are in `store.json`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.cases import DOSE_KNOWN, POSSIBLE_DOSE_MASK, DataSpec
from ctan.cases.covered import PER_EDGE

if TYPE_CHECKING:
    import zarr


FORMAT_VERSION = 5
STORE_FILE, ARRAYS_FOLDER = "store.json", "arrays.zarr"
_DOSE_STEPS = 65535


@dataclass(frozen=True)
class Layout:
    """Which arrays a store has, and their sizes.

    Attributes:
        num_cases: rows of every array.
        image: name of the image.
        image_dtype: of its raw values.
        working_dtype: of its values on the working grid.
        num_channels: of the image; arrays have a channel axis when there are several.
        masks: names of the masks, in order.
        has_dose: whether there are doses.
        keeps_native: whether native arrays are kept.
        native_shape: largest native grid of all cases.
        grid_shape: the working grid.
        cases_per_shard: rows of one shard file.
        num_covered: most voxels of all cases that outlines run through; 0 where nothing was read from contours.
    """

    num_cases: int
    image: str
    image_dtype: str
    working_dtype: str
    num_channels: int
    masks: tuple[str, ...]
    has_dose: bool
    keeps_native: bool
    native_shape: tuple[int, ...]
    grid_shape: tuple[int, ...]
    cases_per_shard: int
    num_covered: int = 0

    @classmethod
    def of(
        cls,
        spec: DataSpec,
        num_cases: int,
        native_shape: tuple[int, ...],
        grid_shape: tuple[int, ...],
        cases_per_shard: int,
        num_covered: int = 0,
    ) -> Layout:
        """Return the layout of a store of data of this description."""
        return cls(
            num_cases=num_cases,
            image=spec.image.name,
            image_dtype=spec.image.dtype,
            working_dtype=spec.image.working_dtype,
            num_channels=spec.image.num_channels,
            masks=(*spec.structures, *((POSSIBLE_DOSE_MASK, DOSE_KNOWN) if spec.has_dose else ())),
            has_dose=spec.has_dose,
            keeps_native=spec.keeps_native,
            native_shape=native_shape,
            grid_shape=grid_shape,
            cases_per_shard=cases_per_shard,
            num_covered=num_covered,
        )

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return name -> (shape of one case, dtype) of every array."""
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


def open_arrays(folder: Path, mode: Literal["r", "r+", "w"]) -> zarr.Group:
    """Open the arrays of the store in `folder` with Zarr."""
    import zarr

    return zarr.open_group(str(folder / ARRAYS_FOLDER), mode=mode, zarr_format=3)


def create_arrays(folder: Path, layout: Layout) -> None:
    """Create the empty arrays of a store."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    group = open_arrays(folder, "w")
    for name, (shape, dtype) in layout.arrays().items():
        group.create_array(
            name,
            shape=(layout.num_cases, *shape),
            dtype=dtype,
            chunks=(1, *shape),
            shards=(layout.cases_per_shard, *shape),
            # lz4hc is read twice as fast as zstd and is a sixth larger; the checksum tells damaged bytes from data.
            compressors=[BloscCodec(cname="lz4hc", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        )


def write_rows(folder: Path, first: int, rows: list[dict[str, npt.NDArray[Any]]]) -> None:
    """Write consecutive cases, which must fill whole shards (the last shard may be shorter).

    Args:
        folder: of the store.
        first: row of the first case.
        rows: array name -> values of one case, for each case.
    """
    from zarr import config

    group = open_arrays(folder, "r+")
    with config.set({"array.write_empty_chunks": True}):  # a chunk that is missing is damage, never zeros
        for name in rows[0]:
            group[name][first : first + len(rows)] = np.stack([row[name] for row in rows])  # type: ignore[index]


def array_files(arrays: Path) -> dict[str, int]:
    """Return the size in bytes of every file of the arrays. To tell whether any is missing."""
    return {
        path.relative_to(arrays).as_posix(): path.stat().st_size for path in sorted(arrays.rglob("*")) if path.is_file()
    }


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
