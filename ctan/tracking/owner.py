"""Who trains: a mark beside the checkpoint, so that no two processes train the same at the same time.

A mark is a small file `owner-<number>.json`. Whoever wants to train writes the next number, on condition that it is
not there: of several exactly one succeeds, in a folder as in a bucket. It then renews its mark every few seconds and
says at its end that it is done. A mark counts as left behind when its process is gone from this host, or when it has
not been renewed for `LEASE_SECONDS` by the clock of the folder's or the bucket's own server: clocks of two machines
are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ctan.errors import DataError
from ctan.limits import memory_bytes, memory_peak_bytes
from ctan.process import host_of, is_gone, this_process
from ctan.sources import buckets, objects

BEAT_SECONDS, LEASE_SECONDS = 15.0, 60.0
_POLL_SECONDS = 2.0
_NAME = "owner-{:06d}.json"
_HELD: set[str] = set()  # what this very process owns


class TakenOverError(DataError):
    """Another process has taken the training over."""


@dataclass(frozen=True)
class Mark:
    """What the owner says of itself.

    Attributes:
        owner: of this one taking, unlike any other.
        process: see `ctan.process.this_process`.
        run_id: its MLflow run, empty before there is one.
        since: when it began, for people.
        beat: how often it has been renewed.
        released: it is done.
        memory_peak: bytes that its container has used at most, as of this beat; 0 where that is not known.
        memory_limit: bytes that its container may use.
    """

    owner: str
    process: str
    run_id: str
    since: str
    beat: int = 0
    released: bool = False
    memory_peak: int = 0
    memory_limit: int = 0

    @classmethod
    def read(cls, content: bytes) -> Mark | None:
        """Read a mark, None when it is none: then nobody owns what it marks."""
        try:
            value = json.loads(content)
            mark = cls(**value)
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {"beat": int, "released": bool, "memory_peak": int, "memory_limit": int}
        right = all(type(getattr(mark, f.name)) is kinds.get(f.name, str) for f in fields(cls))
        return mark if right else None

    def __str__(self) -> str:
        run = f", MLflow run {self.run_id}" if self.run_id else ""
        return f"a process on {host_of(self.process)} since {self.since}{run}"


class _Place(Protocol):
    """Where marks lie."""

    def numbers(self) -> list[int]: ...

    def create(self, number: int, content: bytes) -> bool:
        """Write a mark unless there is one of this number; say whether that was so."""

    def write(self, number: int, content: bytes) -> None: ...

    def read(self, number: int) -> tuple[bytes | None, float]:
        """Return the bytes of a mark and its age in seconds, by the clock of whoever keeps it."""

    def remove(self, number: int) -> None: ...


class Owner:
    """The mark beside one checkpoint.

    Args:
        address: folder or `s3://bucket/prefix` of the checkpoint.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = str(address)
        self._place: _Place = _Bucket(self.address) if buckets.is_remote(address) else _Folder(Path(address))
        self._number = 0
        self._mark: Mark | None = None
        self._end = threading.Event()
        self._beats: threading.Thread | None = None
        self._writing = threading.Lock()

    def present(self) -> tuple[Mark | None, bool]:
        """Return the newest mark and whether its owner is known to be at work; nothing is changed."""
        number = max(self._place.numbers(), default=0)
        content, age = self._place.read(number) if number else (None, 0.0)
        mark = Mark.read(content) if content is not None else None
        return mark, mark is not None and not _is_left(mark, age)

    def take(self, say: Callable[[str], None]) -> str:
        """Become the owner; wait while another process is at work.

        Args:
            say: receives a line when there is something to wait for.

        Returns:
            The MLflow run of an owner that ended without a word, empty when there is none.

        Raises:
            DataError: when folder or bucket cannot be used.
        """
        watched: tuple[bytes | None, float] = (None, 0.0)
        told = False
        while True:
            number = max(self._place.numbers(), default=0)
            content, age = self._place.read(number) if number else (None, 0.0)
            mark = Mark.read(content) if content is not None else None
            if content != watched[0]:
                watched = (content, time.monotonic())
            # Watched here as well: where a clock was moved back an old mark looks new for ever.
            if mark is None or _is_left(mark, max(age, time.monotonic() - watched[1])):
                if self._try(number + 1):
                    return mark.run_id if mark is not None and not mark.released else ""
                continue
            if not told:
                say(f"{mark} trains this already ({self.address}); waiting until it ends or has gone")
                told = True
            time.sleep(_POLL_SECONDS)

    def _try(self, number: int) -> bool:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        mark = Mark(uuid.uuid4().hex, this_process(), "", since)
        if not self._place.create(number, _bytes(mark)):
            return False
        content, _ = self._place.read(number)  # a server that does not know the condition lets two write
        if content is None or (found := Mark.read(content)) is None or found.owner != mark.owner:
            return False
        if max(self._place.numbers(), default=0) > number:  # this number was taken, done with and removed before
            self._place.remove(number)
            return False
        self._number, self._mark = number, mark
        _HELD.add(mark.owner)
        for older in self._place.numbers():
            if older < number:
                self._place.remove(older)
        self._end.clear()
        self._beats = threading.Thread(target=self._renew, name="ctan-owner", daemon=True)
        self._beats.start()
        return True

    def note_run(self, run_id: str) -> None:
        """Let the mark name the MLflow run."""
        self._write(run_id=run_id)

    def check(self) -> None:
        """See that nobody has taken over.

        Raises:
            TakenOverError: when somebody has, saying who.
            DataError: when the bucket cannot be asked.
        """
        if self._mark is None:
            return
        content, _ = self._place.read(self._number + 1)
        if content is not None:
            who = Mark.read(content) or "another process"
            raise TakenOverError(
                f"{self.address}: {who} has taken this training over, for this process was not heard of for "
                f"{LEASE_SECONDS:.0f} s; it ends here, nothing is lost"
            )

    def release(self) -> None:
        """Say that this process is done. What cannot be said now is found out later: nothing is raised."""
        if self._mark is None:
            return
        self._end.set()
        if self._beats is not None:
            self._beats.join(5.0)
        with contextlib.suppress(DataError, OSError):
            self._write(released=True)
        _HELD.discard(self._mark.owner)
        self._mark = None

    def drop(self) -> None:
        """Say the same at once, waiting for nothing: what a process does that has less than a second."""
        with contextlib.suppress(DataError, OSError):
            self._write(released=True)

    def _renew(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with contextlib.suppress(DataError, OSError):  # the next beat may come through
                self._write(memory_peak=memory_peak_bytes(), memory_limit=memory_bytes())

    def _write(self, **changes: str | bool | int) -> None:
        with self._writing:
            if self._mark is None:
                return
            if self._mark.released:
                return
            self._mark = replace(self._mark, beat=self._mark.beat + 1, **changes)  # type: ignore[arg-type]
            self._place.write(self._number, _bytes(self._mark))


def _is_left(mark: Mark, age: float) -> bool:
    """Whether an owner is done, gone from this host, or has not been heard of for too long."""
    if mark.released or (mark.process == this_process() and mark.owner not in _HELD):
        return True
    gone = is_gone(mark.process)
    return age > LEASE_SECONDS if gone is None else gone


def _bytes(mark: Mark) -> bytes:
    return json.dumps(asdict(mark), sort_keys=True).encode() + b"\n"


def _numbers(names: list[str]) -> list[int]:
    texts = (name.removeprefix("owner-").removesuffix(".json") for name in names if name.startswith("owner-"))
    return [int(text) for text in texts if text.isascii() and text.isdigit()]


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def numbers(self) -> list[int]:
        return _numbers([path.name for path in self._folder.glob("owner-*.json")])

    def create(self, number: int, content: bytes) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        target, beside = self._path(number), self._beside(content)
        try:
            os.link(beside, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links; there the mark is seen empty for a moment
            try:
                with target.open("xb") as stream:
                    stream.write(content)
            except FileExistsError:
                return False
        finally:
            beside.unlink()
        return True

    def write(self, number: int, content: bytes) -> None:
        self._beside(content).replace(self._path(number))

    def read(self, number: int) -> tuple[bytes | None, float]:
        path = self._path(number)
        try:
            content, written = path.read_bytes(), path.stat().st_mtime
        except FileNotFoundError:
            return None, 0.0
        return content, self._now() - written

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def _now(self) -> float:
        """Return the time of the server that keeps the folder, which stamps the files of all machines."""
        probe = self._beside(b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / _NAME.format(number)

    def _beside(self, content: bytes) -> Path:
        path = self._folder / f".owner-{uuid.uuid4().hex[:8]}.tmp"
        path.write_bytes(content)
        return path


class _Bucket:
    def __init__(self, address: str) -> None:
        self._address = address

    def numbers(self) -> list[int]:
        return _numbers(list(buckets.list_objects(self._address)))

    def create(self, number: int, content: bytes) -> bool:
        return objects.create_object(self._path(number), content)

    def write(self, number: int, content: bytes) -> None:
        objects.write_object(self._path(number), content)

    def read(self, number: int) -> tuple[bytes | None, float]:
        return objects.read_object_and_age(self._path(number))

    def remove(self, number: int) -> None:
        with contextlib.suppress(DataError):  # credentials that may not delete are enough
            objects.remove_object(self._path(number))

    def _path(self, number: int) -> str:
        return buckets.join(self._address, _NAME.format(number))
