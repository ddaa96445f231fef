"""Where the shards of all stores of one root lie, and the note of what each was made of: in a folder or a bucket.

A shard counts when its note is there, `made/<hash of what it is made of>.json`, which is written after its files. All
is written whole or not at all, and under names that follow from contents: who writes the same twice, or at the same
time as another, leaves the same files.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import parse_json, sha256_of_file, storage_faults, sync
from ctan.seals import sealed, unsealed
from ctan.sources import buckets, objects
from ctan.store.layout import NATIVE, WORKING
from ctan.store.shards import Shard, ShardFile, file_name, files_of

SHARDS = "shards"
_MADE = "made"
_WORKPLACE, _LOCK = ".packing-", ".lock"
_TRIES = 4
NUM_READERS = 16  # notes of a bucket that are read at the same time


class Shelf:
    """The shards below one `store_root`, a folder or `s3://bucket/prefix`.

    Attributes:
        root: the address or folder.
        folder: holds the files; of a bucket those that were fetched.
    """

    def __init__(self, store_root: str) -> None:
        buckets.check_root(store_root, "store_root")
        self.root = store_root
        self.is_remote = buckets.is_remote(store_root)
        cached = buckets.cache_folder(SHARDS, store_root) if self.is_remote else None
        self.folder = cached or Path(store_root).expanduser() / SHARDS

    @property
    def address(self) -> str:
        """Where the files lie."""
        return buckets.join(self.root, SHARDS) if self.is_remote else str(self.folder)

    @cached_property
    def found(self) -> dict[str, int]:
        """Name -> bytes of every file and note that was there at the first look."""
        if self.is_remote:
            return {name: file.size or 0 for name, file in buckets.list_objects(self.address).items()}
        return files_in(self.folder)

    def shard(self, made_of: str) -> tuple[Shard, list[dict[str, Any]]] | None:
        """Return a shard that is complete, and what `store.json` says of its cases; None when it is not there.

        Args:
            made_of: hash of all that it is made of.

        Raises:
            DataError: when the bucket cannot be asked.
        """
        name = f"{_MADE}/{made_of}.json"
        if name not in self.found:
            return None
        where = f"{self.address}/{name}"
        content = objects.read_object(where) if self.is_remote else _bytes_of(self.folder / name)
        try:
            value = unsealed(parse_json(content or b"", where, ""), where, "")
        except DataError:
            return None  # it is made again
        shard = Shard.from_json(value["shard"])
        if any(self.found.get(name) != size for name, size in files_of([shard], (WORKING, NATIVE)).items()):
            return None
        return shard, value["cases"]

    def put(self, made_of: str, shard: Shard, paths: Mapping[str, Path], cases: list[dict[str, Any]]) -> Shard:
        """Put the files of a shard and then its note.

        Args:
            made_of: hash of all that it is made of.
            shard: without files.
            paths: kind -> finished file on the same file system as `workplace`; moved or uploaded.
            cases: what `store.json` says of its cases, in order.

        Returns:
            The shard with its files.

        Raises:
            DataError: when the bucket takes nothing.
            StorageError: when the disk takes no more.
        """
        files = {kind: self._put(kind, path) for kind, path in paths.items()}
        whole = Shard(shard.case_ids, shard.native_shape, shard.num_covered, files)
        text = json.dumps(sealed({"shard": whole.to_json(), "cases": cases}))
        name = f"{_MADE}/{made_of}.json"
        if self.is_remote:
            objects.write_object(f"{self.address}/{name}", text.encode())
        else:
            path = next(iter(paths.values())).with_name("note.json")
            with storage_faults(self.folder):
                path.write_text(text, encoding="utf-8")
                self._move(path, name)
        return whole

    def _put(self, kind: str, path: Path) -> ShardFile:
        file = ShardFile(sha256_of_file(path), path.stat().st_size)
        name = file_name(kind, file.sha256)
        if not self.is_remote:
            with storage_faults(self.folder):
                self._move(path, name)
        elif objects.size_of(f"{self.address}/{name}") != file.num_bytes:
            buckets.upload_file(path, f"{self.address}/{name}", _TRIES)
        return file

    def _move(self, path: Path, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(exist_ok=True)
        path.replace(target)

    def sync(self, shards: Collection[Shard]) -> None:
        """Let the disk keep the files of shards; all at once, which takes far less time than one by one.

        What a machine without power loses before is found by its size, or by its checksums when it is read.
        """
        if not self.is_remote:
            for name in (*files_of([*shards], (WORKING, NATIVE)), WORKING, NATIVE, _MADE):
                if (self.folder / name).exists():
                    sync(self.folder / name)

    def locked(self) -> Any:
        """Return the lock that whoever counts on files here holds, and who removes some; of a bucket: on this machine.

        A store that is committed in the very moment in which another machine removes one of its files from a bucket
        is refused when it is opened, and packed again.
        """
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Yield a folder for files that are being written, on the file system where they will lie."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        folder = self.folder / f"{_WORKPLACE}{uuid.uuid4().hex[:12]}"
        lock = FileLock(f"{folder}{_LOCK}")  # the system frees it when the process dies
        with lock:
            try:
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)

    def remove_dead_workplaces(self) -> None:
        """Remove what processes that were killed have left."""
        from filelock import FileLock, Timeout

        for path in self.folder.glob(f"{_WORKPLACE}*{_LOCK}"):
            with suppress(Timeout), FileLock(path, timeout=0):
                shutil.rmtree(path.with_name(path.name.removesuffix(_LOCK)), ignore_errors=True)
                path.unlink(missing_ok=True)

    def remove(self, names: Collection[str]) -> None:
        """Remove files and notes by name, copies of a bucket's too. Notes last: by them a killed removal goes on.

        Raises:
            DataError: when the bucket cannot be asked.
        """
        for name in sorted(names, key=lambda name: (self.is_note(name), name)):
            if self.is_remote:
                objects.remove_object(f"{self.address}/{name}")
            (self.folder / name).unlink(missing_ok=True)
        for name in ("found", "_shards"):
            self.__dict__.pop(name, None)

    @staticmethod
    def is_note(name: str) -> bool:
        """Whether a name is that of a note, not of a shard's file."""
        return name.startswith(f"{_MADE}/")

    def names_about(self, case_ids: Collection[str]) -> set[str]:
        """Return the names of notes and files of shards that hold one of these cases.

        Raises:
            DataError: when the bucket cannot be asked.
        """
        about = {name: shard for name, shard in self._shards.items() if shard}
        holding = {name for name, shard in about.items() if not {*shard.case_ids}.isdisjoint(case_ids)}
        files = {file for name in holding for file in self._notes[name]}
        return {name for name in holding | files if self.is_note(name) or name in self.found}

    @cached_property
    def _shards(self) -> dict[str, Shard | None]:
        names = [name for name in self.found if self.is_note(name)]
        with ThreadPoolExecutor(NUM_READERS if self.is_remote else 1) as pool:
            return dict(zip(names, pool.map(self._shard_of, names), strict=True))

    @property
    def _notes(self) -> dict[str, set[str]]:
        return {
            name: {*files_of([shard], (WORKING, NATIVE))} if shard else set() for name, shard in self._shards.items()
        }

    def notes_of(self, files: Collection[str]) -> set[str]:
        """Return the names of the notes about any of these files.

        Raises:
            DataError: when the bucket cannot be asked.
        """
        return {name for name, about in self._notes.items() if not about.isdisjoint(files)}

    def notes_without_files(self) -> set[str]:
        """Return the names of the notes about files that are not there, or about none that can be read.

        Raises:
            DataError: when the bucket cannot be asked.
        """
        return {name for name, about in self._notes.items() if not about or not about <= {*self.found}}

    def _shard_of(self, note: str) -> Shard | None:
        path = self.folder / note
        content = objects.read_object(f"{self.address}/{note}") if self.is_remote else _bytes_of(path)
        try:
            return Shard.from_json(parse_json(content or b"", note, "")["shard"])
        except (DataError, KeyError, TypeError):
            return None


def files_in(folder: Path) -> dict[str, int]:
    """Return name -> bytes of every finished file and note in a folder of shards."""
    found = {}
    for kind in (WORKING, NATIVE, _MADE):
        if (folder / kind).is_dir():
            with os.scandir(folder / kind) as entries:
                found.update({f"{kind}/{e.name}": e.stat().st_size for e in entries if not e.name.startswith(".")})
    return found


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
