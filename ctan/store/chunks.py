"""Reading single chunks of shards, the hot path of training.

Zarr spends 1 to 2 ms of bookkeeping on a chunk and copies it twice, which is most of the time of reading a case, and
takes a quarter of a second to import in every process. `zarr.storage.ZipStore` reads the same numbers, and a test
compares them. Reading follows the one layout that `ctan.store.shards` writes: one chunk a case, Blosc, CRC-32C, an
entry of a ZIP file without compression (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7).
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.store.layout import Layout
from ctan.store.shards import Shard, file_name

_CHECKSUM_BYTES = 4
_HEADER_BYTES, _NAME_SIZE, _EXTRA_SIZE = 30, slice(26, 28), slice(28, 30)
_LONGEST_EXTRA = 64  # of the entries that we write: none, or 20 bytes where a file is larger than 4 GiB


class ChunkReader:
    """Reads the arrays of one store, one case at a time.

    Args:
        folder: holds the shards' files.
        layout: of the store.
        shards: of the store.
    """

    def __init__(self, folder: Path, layout: Layout, shards: Sequence[Shard]) -> None:
        self._folder, self._layout = folder, layout
        self._places = {case_id: (shard, row) for shard in shards for row, case_id in enumerate(shard.case_ids)}
        self._indices: dict[str, dict[str, tuple[int, int]]] = {}

    def read(self, name: str, case_id: str) -> npt.NDArray[Any]:
        """Return one case of one array.

        Raises:
            OSError, ValueError, RuntimeError: when the bytes are missing or damaged.
        """
        from numcodecs import Blosc, blosc

        blosc.use_threads = False  # a chunk takes under a millisecond
        shard, row = self._places[case_id]
        shape, dtype = self._layout.of_shard(shard.native_shape, shard.num_covered).arrays()[name]
        kind, _, inside = name.partition("/")
        chunk = "/".join([inside, "c", str(row)] + ["0"] * len(shape))
        file = file_name(kind, shard.files[kind].sha256)
        result = np.empty(shape, dtype)
        Blosc().decode(_read(self._folder / file, chunk, *self._index(file)[chunk]), out=result)
        return result

    def _index(self, file: str) -> dict[str, tuple[int, int]]:
        """Return name -> (offset of its header, size) of every entry of a shard's file."""
        if file not in self._indices:
            try:
                with zipfile.ZipFile(self._folder / file) as archive:
                    entries = archive.infolist()
            except zipfile.BadZipFile as error:
                raise ValueError(f"{file} is no ZIP file any more") from error
            self._indices[file] = {entry.filename: (entry.header_offset, entry.compress_size) for entry in entries}
        return self._indices[file]


def _read(path: Path, name: str, offset: int, size: int) -> bytes:
    """Return the content of an entry less the checksum it ends with, which must fit."""
    import google_crc32c

    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(_HEADER_BYTES + len(name) + _LONGEST_EXTRA + size)
    start = _HEADER_BYTES + sum(int.from_bytes(content[part], "little") for part in (_NAME_SIZE, _EXTRA_SIZE))
    end = start + size - _CHECKSUM_BYTES
    payload, checksum = content[start:end], int.from_bytes(content[end : end + _CHECKSUM_BYTES], "little")
    named = content[_HEADER_BYTES : _HEADER_BYTES + len(name)] == name.encode()
    if not named or google_crc32c.value(payload) != checksum:
        raise ValueError(f"bytes {offset} to {offset + size} of {path.name} do not fit their checksum")
    return payload
