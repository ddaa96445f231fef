"""Shards: a few cases in one file each for the working grid and the native images, named by the SHA-256 of its bytes.

`cut` decides which cases lie together, from their ids alone: neither the number of slices nor the order of a listing
nor what was packed before matters. So a store's bytes are a function of its cases, a few new cases change a few shards,
and stores of one root share all others.

A shard is a Zarr v3 group in a ZIP file without compression (`zarr.storage.ZipStore` reads it), with one chunk a case,
each with a CRC-32C. Dates are those of the format's beginning, so that the same cases give the same bytes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.store.layout import Layout

_HASH_BITS = 256
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o644 << 16


@dataclass(frozen=True)
class ShardFile:
    """One file: its name is the SHA-256 of its bytes."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Shard:
    """Some cases of a store.

    Attributes:
        case_ids: in the order of the rows of every array.
        native_shape: of the native arrays, the largest of these cases.
        num_covered: length of the arrays of covered voxels.
        files: kind (`working`, `native`) -> file.
    """

    case_ids: tuple[str, ...]
    native_shape: tuple[int, ...]
    num_covered: int
    files: Mapping[str, ShardFile]

    def to_json(self) -> dict[str, Any]:
        """Return it as `store.json` has it."""
        return {
            "case_ids": list(self.case_ids),
            "native_shape": list(self.native_shape),
            "num_covered": self.num_covered,
            "files": {kind: vars(file) for kind, file in self.files.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Shard:
        """Rebuild what `to_json` returned."""
        files = {kind: ShardFile(**file) for kind, file in value["files"].items()}
        return cls(tuple(value["case_ids"]), tuple(value["native_shape"]), value["num_covered"], files)


def files_of(shards: Sequence[Shard], kinds: Sequence[str]) -> dict[str, int]:
    """Return name below the folder of shards -> bytes of every file of these kinds."""
    return {
        file_name(kind, shard.files[kind].sha256): shard.files[kind].num_bytes
        for shard in shards
        for kind in kinds
        if kind in shard.files
    }


def file_name(kind: str, sha256: str) -> str:
    """Return where a shard's file lies below the folder of shards."""
    return f"{kind}/{sha256}.zip"


def cut(case_ids: Sequence[str], most: int) -> list[list[str]]:
    """Divide cases into shards of at most `most` cases each.

    Cases are ordered by the SHA-256 of their ids. A range of hashes that holds more than `most` is halved. So a new
    case changes the shard whose range it falls into and no other.
    """
    ranked = sorted((int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"), name) for name in case_ids)
    shards: list[list[str]] = []
    waiting = [(ranked, _HASH_BITS - 1)]
    while waiting:
        cases, bit = waiting.pop()
        if len(cases) <= most:
            if cases:
                shards.append([name for _, name in cases])
            continue
        lower = [case for case in cases if not case[0] >> bit & 1]
        waiting += [(cases[len(lower) :], bit - 1), (lower, bit - 1)]
    return shards


class ShardWriter:
    """Writes the files of one shard, a case at a time: memory holds one case.

    Args:
        folder: receives `<kind>.zip`.
        layout: of the shard.
        num_cases: that will be added.
    """

    def __init__(self, folder: Path, layout: Layout, num_cases: int) -> None:
        self.paths = {kind: folder / f"{kind}.zip" for kind in layout.kinds}
        self._zips = {kind: zipfile.ZipFile(path, "w") for kind, path in self.paths.items()}
        self._arrays, self._row = layout.arrays(), 0
        for kind, archive in self._zips.items():
            described = tuple((name, *of) for name, of in self._arrays.items() if name.startswith(f"{kind}/"))
            for name, content in _metadata(described, num_cases):
                archive.writestr(_entry(name), content)

    def add(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the arrays of the next case."""
        for name, (shape, dtype) in self._arrays.items():
            kind, _, inside = name.partition("/")
            chunk = "/".join([inside, "c", str(self._row)] + ["0"] * len(shape))
            self._zips[kind].writestr(_entry(chunk), _encode(arrays[name].astype(dtype, copy=False).reshape(shape)))
        self._row += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for archive in self._zips.values():
            archive.close()


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _FIRST_DATE)
    info.create_system, info.external_attr = 3, _READABLE  # wherever it is written
    return info


def _encode(array: npt.NDArray[Any]) -> bytes:
    """Return the bytes of one chunk, as the codecs in `_metadata` say, ending with their checksum."""
    import google_crc32c
    from numcodecs import Blosc, blosc

    blosc.use_threads = False
    # lz4hc is read twice as fast as zstd and is a sixth larger.
    content: bytes = Blosc(cname="lz4hc", clevel=5, shuffle=Blosc.SHUFFLE).encode(np.ascontiguousarray(array))
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


@lru_cache(maxsize=64)
def _metadata(arrays: tuple[tuple[str, tuple[int, ...], str], ...], num_cases: int) -> tuple[tuple[str, bytes], ...]:
    """Return name -> content of the files in which Zarr describes a shard's arrays."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    written: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(written), mode="w", zarr_format=3)
    for name, shape, dtype in arrays:
        group.create_array(
            name.partition("/")[2],
            shape=(num_cases, *shape),
            dtype=dtype,
            chunks=(1, *shape),
            compressors=[BloscCodec(cname="lz4hc", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        )
    return tuple((name, written[name].to_bytes()) for name in sorted(written))
