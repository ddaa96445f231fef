"""The checkpoints of one training: kept by time, in the background, by one owner.

They are written to two files in turn, so that the last two are kept and the newest is never written over. One that was
damaged or cut short is named and set aside, and the one before is used.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch

from ctan.errors import DataError
from ctan.sources import buckets
from ctan.sources.objects import read_end
from ctan.tracking.owner import Owner, TakenOverError
from ctan.training.checkpoint import (
    SEAL_BYTES,
    CheckpointKey,
    DamagedError,
    Seal,
    read_checkpoint,
    seal_of,
    write_checkpoint,
)

_FILES = ("a.pt", "b.pt")
_LAST_TRIES = 5  # to upload what must arrive


def _copied(value: Any) -> Any:
    """Return a copy in main memory that training does not change any more."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy(value)  # of the same class, with what PyTorch notes beside the tensors
        copied.update({name: _copied(inner) for name, inner in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner) for inner in value)
    return value


class Checkpoints:
    """The checkpoints of one training: in a folder, or in object storage with local copies in the workspace.

    In object storage the bucket decides. What could not be uploaded is marked beside the local copy, and uploaded by
    the next save or, after the process died, by the next start in the same workspace.

    Args:
        root: folder, or `s3://bucket/prefix`.
        key: what is trained.
        minutes: between two saves; 0: as often as they can be written.

    Attributes:
        address: folder or address of this training's checkpoints.
    """

    def __init__(self, root: str | Path, key: CheckpointKey, minutes: float) -> None:
        buckets.check_root(root, "checkpoint_root")
        self._key, self._root, self._minutes = key, root, minutes
        self._remote = buckets.is_remote(root)
        local = buckets.cache_folder("checkpoints", str(root)) if self._remote else Path(root).expanduser()
        self._folder = local / key.folder
        self._late = local / f".{key.folder}.late"
        self.address = buckets.join(str(root), key.folder) if self._remote else str(self._folder)
        self.owner = Owner(self.address)
        self._newest = ""  # file that must not be written over
        self._saved_at = time.monotonic()
        self._writer: threading.Thread | None = None
        self._lost: DataError | None = None

    @contextmanager
    def owned(self, say: Callable[[str], None], main: bool = True) -> Iterator[str]:
        """Be the only one that trains this, as long as the context lasts.

        Args:
            say: receives a line when another process trains it: then this one waits.
            main: false in the other processes of this training, which the main one stands for.

        Yields:
            The MLflow run of a process that trained this and was killed, empty when there was none.

        Raises:
            DataError: when bucket or folder cannot be written to.
        """
        if not main:
            yield ""
            return
        buckets.check_writable(self._root)
        try:
            left = self.owner.take(say)
            if self._remote:
                self._upload_late()
            yield left
        finally:
            self.wait()
            self.owner.release()

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, None when there is none. One that is damaged is set aside with a warning.

        Raises:
            DataError: when it belongs to another training, or the bucket cannot be used.
        """
        if self._remote:
            self._forget_what_the_bucket_lacks()
        for name in self._newest_first():
            state = self._read(name)
            if state is not None:
                self._newest = name
                return state
        return None

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the state in a file, None when it is damaged; of a bucket's, the bucket's own bytes decide."""
        path = self._folder / name
        while True:
            fetched = self._remote and not path.exists()
            if fetched:
                buckets.fetch_file(self.address, self._folder, name)
            try:
                return read_checkpoint(path, self._key)
            except DamagedError as error:
                self._set_aside(path, str(error))
                if fetched or not self._remote:
                    return None

    @property
    def is_due(self) -> bool:
        """Whether it is time to save again and the last save has been written.

        Raises:
            DataError: when another process has taken this training over.
        """
        if self._lost is not None:
            raise self._lost
        if self._writer is not None and self._writer.is_alive():
            return False
        return time.monotonic() - self._saved_at >= 60 * self._minutes

    def save(self, state: dict[str, Any], last: bool = False) -> None:
        """Keep a state: it is copied now and written in the background.

        A disk that is full or a bucket that is away costs no training: that is said, and the next save makes up for it.

        Args:
            state: see `Session.state`.
            last: no other save comes: return when it is written, and ask the bucket more patiently.

        Raises:
            DataError: when another process has taken this training over.
        """
        self.wait()
        if last:
            self._write(state, last=True)
        else:
            self._writer = threading.Thread(target=self._write, args=(_copied(state),), name="ctan-checkpoint")
            self._writer.start()
        self._saved_at = time.monotonic()
        if self._lost is not None:
            raise self._lost

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, state: dict[str, Any], last: bool = False) -> None:
        name = next(name for name in _FILES if name != self._newest)
        try:
            with contextlib.suppress(OSError):
                self.owner.check()
        except TakenOverError as error:
            self._lost = error
            return
        except DataError:
            pass  # a bucket that is away: the checkpoint stays here, and is uploaded only where nobody got further
        try:
            if self._remote:
                self._late.parent.mkdir(parents=True, exist_ok=True)
                self._late.touch()
            write_checkpoint(self._folder / name, self._key, state)
        except (OSError, RuntimeError, DataError) as error:
            _warn(f"{self._folder}: checkpoint not written ({error}); training goes on from the one before if it stops")
            return
        self._newest = name
        if self._remote:
            self._upload(name, last)

    def _upload(self, name: str, last: bool) -> None:
        try:
            self._put(name, _LAST_TRIES if last else 1)
        except DataError as error:
            then = f"it lies in {self._folder} and goes with the next start here" if last else "the next save will be"
            _warn(f"checkpoint not uploaded, {then} ({error})")
        else:
            self._late.unlink(missing_ok=True)

    def _put(self, name: str, tries: int) -> None:
        buckets.upload_file(self._folder / name, buckets.join(self.address, name), tries=tries)

    def _upload_late(self) -> None:
        """Upload what an earlier process here could not, unless the bucket has got further since."""
        if not self._late.exists():
            return
        here, there = self._here(), self._there()
        newest = max((seal.position for seal in there.values() if seal), default=(-1, -1))
        late = [name for name, seal in here.items() if seal and seal.position > newest]
        for name in sorted(late, key=lambda name: here[name].position):  # type: ignore[union-attr]
            with contextlib.suppress(DamagedError):
                read_checkpoint(self._folder / name, self._key)
                self._put(name, _LAST_TRIES)
        self._late.unlink()  # last: a process may die in between

    def _forget_what_the_bucket_lacks(self) -> None:
        there = self._there()
        for name, seal in self._here().items():
            if seal is None or there.get(name) != seal:
                (self._folder / name).unlink()

    def _newest_first(self) -> list[str]:
        found = self._there() if self._remote else self._here()
        for name in [name for name, seal in found.items() if seal is None]:
            if self._remote:
                _warn(f"{buckets.join(self.address, name)}: damaged or cut short; the checkpoint before it is used")
            else:
                self._set_aside(self._folder / name, "cut short")
            del found[name]
        return sorted(found, key=lambda name: found[name].position, reverse=True)  # type: ignore[union-attr]

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(f"damaged-{time.strftime('%Y-%m-%d-%H%M%S')}-{path.name}")
        path.replace(aside)
        _warn(f"{path}: the checkpoint is damaged ({why}); it is set aside as {aside.name}, the one before is used")

    def _here(self) -> dict[str, Seal | None]:
        return {name: seal_of(self._folder / name) for name in _FILES if (self._folder / name).is_file()}

    def _there(self) -> dict[str, Seal | None]:
        names = buckets.list_objects(self.address)
        return {n: Seal.read(read_end(buckets.join(self.address, n), SEAL_BYTES)) for n in _FILES if n in names}


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
