"""Reading single chunks of the sharded arrays, the hot path of training.

Zarr spends 1 to 2 ms of bookkeeping on a chunk and copies it twice, which is most of the time of reading a case (9 ms
against 3), and takes a quarter of a second to import in every process. `ctan.store.layout.open_arrays` reads the same
numbers, and a test compares them. Reading follows
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/v1.0.html for the one layout that
`ctan.store.layout` writes: chunks of one case, shards along the cases, Blosc, CRC-32C, index at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.store.layout import ARRAYS_FOLDER, Layout

_CHECKSUM_BYTES = 4


class ChunkReader:
    """Reads the arrays of one store, one case at a time.

    Args:
        folder: of the store.
        layout: of the store.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder, self._layout = folder / ARRAYS_FOLDER, layout
        self._arrays = layout.arrays()
        self._indices: dict[Path, npt.NDArray[np.uint64]] = {}

    def read(self, name: str, row: int) -> npt.NDArray[Any]:
        """Return one case of one array.

        Raises:
            OSError, ValueError, RuntimeError: when the bytes are missing or damaged.
        """
        from numcodecs import Blosc, blosc

        blosc.use_threads = False  # a chunk takes under a millisecond
        shape, dtype = self._arrays[name]
        number, position = divmod(row, self._layout.cases_per_shard)
        shard = self._folder / name / "c" / "/".join([str(number)] + ["0"] * len(shape))
        offset, size = (int(value) for value in self._index(shard)[position])
        result = np.empty(shape, dtype)
        Blosc().decode(_read(shard, offset, size), out=result)
        return result

    def _index(self, shard: Path) -> npt.NDArray[np.uint64]:
        """Return (offset, size) of every chunk of a shard."""
        if shard not in self._indices:
            size = self._layout.cases_per_shard * 16 + _CHECKSUM_BYTES
            content = _read(shard, shard.stat().st_size - size, size)
            self._indices[shard] = np.frombuffer(content, "<u8").reshape(-1, 2)
        return self._indices[shard]


def _read(path: Path, offset: int, size: int) -> bytes:
    """Return `size` bytes of a file less the checksum they end with, which must fit."""
    import google_crc32c

    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(size)
    payload, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if len(content) != size or google_crc32c.value(payload) != int.from_bytes(checksum, "little"):
        raise ValueError(f"bytes {offset} to {offset + size} of {path.name} do not fit their checksum")
    return payload
