"""Fetch listed files into a folder: in parallel, resumed where they stopped, checked, renamed when complete.

A file that is being fetched lies beside its target as `.<name>.<identity>.part`, so that a part of other bytes (the
file changed at the source) is never continued. A ledger in the folder, `LEDGER_FILE`, remembers which files were
checked against the source, so that running again costs one listing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ctan.errors import CtanError, DataError
from ctan.sources.progress import ByteProgress
from ctan.sources.trust import require_safe_names

LEDGER_FILE = ".ctan-download.jsonl"
MAX_FAILURES_WITHOUT_PROGRESS = 6
_MAX_FAILED_FILES = 10
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 20.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


Chunks = Generator[bytes, None, None]  # closed when not read to the end


class InterruptedTransferError(Exception):
    """The connection broke or the server was busy: go on from where it stopped."""


class DamagedTransferError(Exception):
    """The bytes that arrived are not those that were sent: begin again."""


class _StoppedError(Exception):
    """Another file failed for good."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a listing.

    Attributes:
        name: POSIX path below the folder it is fetched to.
        size: bytes; None when the listing does not say.
        identity: names the bytes (other bytes, other identity): `"etag:<etag>"`, `"md5:<hex>"` or `"git:<sha1>"`.
        address: key or URL.
    """

    name: str
    size: int | None
    identity: str
    address: str


class Source(Protocol):
    """Where files come from. Used by several threads at once."""

    def open(self, file: RemoteFile, offset: int) -> tuple[int, Chunks]:
        """Return where the bytes begin (`offset`, or 0 where the server cannot resume) and the bytes.

        Raises (also while reading):
            InterruptedTransferError: the rest can be asked for again.
            DamagedTransferError: begin again.
            DataError: missing, no access, changed since it was listed.
        """

    def problem(self, file: RemoteFile, path: Path) -> str | None:
        """Return why the bytes in `path` are not those listed; None when they are."""


@dataclass(frozen=True)
class TransferSummary:
    """What was done.

    Attributes:
        num_files: files that are complete now.
        num_fetched: of these, fetched in this run.
        num_bytes: bytes that came over the network in this run.
        seconds: wall-clock time.
    """

    num_files: int
    num_fetched: int
    num_bytes: int
    seconds: float

    def __str__(self) -> str:
        if not self.num_fetched:
            return f"{self.num_files} files, all complete already"
        return (
            f"{self.num_files} files complete, {self.num_fetched} of them fetched now "
            f"({self.num_bytes / 1e6:.1f} MB in {self.seconds:.1f} s)"
        )


class Ledger:
    """Which files of a folder were checked against the source: appended line by line, the last one counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LEDGER_FILE
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a process that was killed
                    entry = json.loads(line)
                    self._entries[entry["name"]] = entry

    def holds(self, file: RemoteFile) -> bool:
        """Say whether the file was checked before and has not been touched since."""
        entry = self._entries.get(file.name, {})
        if entry.get("identity") != file.identity:
            return False
        if "unpacked" in entry:
            return count_files(self._folder / entry["unpacked"]) == entry["num_files"]
        path = self._folder / file.name
        if not path.is_file():
            return False
        return all(entry.get(name) == value for name, value in _status(path).items())

    def add(self, file: RemoteFile) -> None:
        """Remember a checked file."""
        self._write(file, _status(self._folder / file.name))

    def add_unpacked(self, file: RemoteFile, folder: str) -> None:
        """Remember that an archive was unpacked into `folder`, so that it is not needed any more."""
        self._write(file, {"unpacked": folder, "num_files": count_files(self._folder / folder)})

    def _write(self, file: RemoteFile, values: dict[str, Any]) -> None:
        entry = {"name": file.name, "identity": file.identity, **values}
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            # A line that a killed process left unfinished must not swallow this one.
            stream.write(("\n" if stream.tell() else "") + json.dumps(entry))
        self._entries[file.name] = entry


def _status(path: Path) -> dict[str, int]:
    """Return what shows that a file was touched, also one of the same length whose date was set back."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}


def count_files(folder: Path) -> int:
    """Return the number of files below a folder; 0 when it does not exist."""
    return sum(path.is_file() for path in folder.rglob("*"))


def part_path(target: Path, identity: str) -> Path:
    """Return where the unfinished file lies."""
    return target.parent / f".{target.name}.{hashlib.sha256(identity.encode()).hexdigest()[:12]}.part"


def transfer(
    files: Sequence[RemoteFile], source: Source, folder: Path, num_workers: int = 8, what: str = "download"
) -> TransferSummary:
    """Fetch `files` into `folder`; complete ones are left alone, unfinished ones are continued.

    Args:
        files: the listing.
        source: where they come from.
        folder: receives `folder/<file.name>`; created.
        num_workers: files fetched at the same time.
        what: label of the progress.

    Raises:
        DataError: naming the files that could not be fetched and why; what was fetched stays.
    """
    started = time.monotonic()
    require_safe_names(file.name for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder)
    wanted = [file for file in files if not ledger.holds(file)]
    _require_space(wanted, folder)
    total = sum(file.size or 0 for file in wanted)
    with ByteProgress(what, len(wanted), total) as progress:
        worker = _Worker(source, folder, ledger, progress)
        failures = _run_all(worker, wanted, num_workers)
    if failures:
        shown = "; ".join(str(failure) for failure in failures[:5])
        more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
        raise DataError(f"{len(failures)} of {len(files)} files could not be fetched: {shown}{more}")
    return TransferSummary(len(files), worker.num_fetched, worker.num_bytes, round(time.monotonic() - started, 3))


def _run_all(worker: _Worker, wanted: Sequence[RemoteFile], num_workers: int) -> list[CtanError]:
    """Fetch all files; stop early when the disk is full or many failed."""
    failures: list[CtanError] = []
    with ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="ctan-fetch") as pool:
        pending = {pool.submit(worker.fetch, file): file for file in wanted}
        try:
            for done in as_completed(pending):
                try:
                    done.result()
                except _StoppedError:
                    continue
                except DataError as error:
                    failures.append(error)
                    if len(failures) >= _MAX_FAILED_FILES:
                        worker.stop.set()
        finally:
            worker.stop.set()
            pool.shutdown(cancel_futures=True)
    return failures


class _Worker:
    """What the threads share."""

    def __init__(self, source: Source, folder: Path, ledger: Ledger, progress: ByteProgress) -> None:
        self.stop = threading.Event()
        self.num_fetched = 0
        self.num_bytes = 0
        self._source = source
        self._folder = folder
        self._ledger = ledger
        self._progress = progress
        self._lock = threading.Lock()

    def fetch(self, file: RemoteFile) -> None:
        """Make one file complete."""
        target = self._folder / file.name
        try:
            if not self._is_complete(file, target):
                self._fetch(file, target)
            self._ledger.add(file)
        except OSError as error:
            self.stop.set()
            if error.errno in _NO_SPACE:
                raise DataError(
                    f"{file.name}: the disk is full; make room and run again: it goes on from where it stopped"
                ) from error
            raise DataError(f"{file.name}: cannot be written ({error.strerror})") from error
        self._progress.file_done()

    def _is_complete(self, file: RemoteFile, target: Path) -> bool:
        """Say whether a file that the ledger does not know is what the source has: copied here by hand, perhaps."""
        if not target.is_file() or (file.size is not None and target.stat().st_size != file.size):
            return False
        return self._source.problem(file, target) is None

    def _fetch(self, file: RemoteFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_path(target, file.identity)
        for stale in target.parent.glob(f".{_escape(target.name)}.*.part"):
            if stale != part:
                stale.unlink()
        if part.exists():
            self._progress.advance(part.stat().st_size)
        problem = self._fetch_part(file, part)
        if problem is not None:
            self._discard(part)
            problem = self._fetch_part(file, part)  # once more from the start: damage on the way happens
        if problem is not None:
            self._discard(part)
            raise DataError(
                f"{file.name}: fetched twice, and both times {problem}; the source or the way to it is broken"
            )
        part.replace(target)
        with self._lock:
            self.num_fetched += 1

    def _fetch_part(self, file: RemoteFile, part: Path) -> str | None:
        """Fetch the rest of a part; return why its bytes are wrong, None when they are right."""
        failures = 0
        while not self._has_all(file, part):
            before = part.stat().st_size if part.exists() else 0
            try:
                self._append(file, part)
                break
            except DamagedTransferError as error:
                return str(error)
            except InterruptedTransferError as error:
                failures = 1 if part.exists() and part.stat().st_size > before else failures + 1
                if failures >= MAX_FAILURES_WITHOUT_PROGRESS:
                    raise DataError(
                        f"{file.name}: the connection broke {failures} times in a row ({error}); "
                        "run again: it goes on from where it stopped"
                    ) from error
                self._pause(failures)
        return self._source.problem(file, part)

    def _has_all(self, file: RemoteFile, part: Path) -> bool:
        if file.size == 0:
            part.write_bytes(b"")
        if file.size is None or not part.exists():
            return False
        if part.stat().st_size > file.size:
            self._discard(part)
            return False
        return part.stat().st_size == file.size

    def _append(self, file: RemoteFile, part: Path) -> None:
        """Ask for the rest of the file and append it."""
        offset = part.stat().st_size if part.exists() else 0
        begin, chunks = self._source.open(file, offset)
        with part.open("ab") as stream, contextlib.closing(chunks):
            if begin < offset:
                stream.truncate(begin)
                self._progress.advance(begin - offset)
            for chunk in chunks:
                if self.stop.is_set():
                    raise _StoppedError
                stream.write(chunk)
                self._progress.advance(len(chunk))
                with self._lock:
                    self.num_bytes += len(chunk)
            stream.flush()
            os.fsync(stream.fileno())

    def _discard(self, part: Path) -> None:
        if part.exists():
            self._progress.advance(-part.stat().st_size)
            part.unlink()

    def _pause(self, failures: int) -> None:
        """Wait longer after each failure in a row; wake up when another file failed for good."""
        if self.stop.wait(min(_FIRST_PAUSE_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS)):
            raise _StoppedError


def _escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _require_space(wanted: Sequence[RemoteFile], folder: Path) -> None:
    """Refuse before the start what cannot fit; what is there in part counts."""
    left = 0
    for file in wanted:
        part = part_path(folder / file.name, file.identity)
        left += max(0, (file.size or 0) - (part.stat().st_size if part.exists() else 0))
    free = shutil.disk_usage(folder).free
    if left > free:
        raise DataError(
            f"the disk has {free / 1e9:.1f} GB left and {left / 1e9:.1f} GB are to be fetched: "
            "choose another folder or a subset"
        )


def hash_file(path: Path, algorithm: str, prefix: bytes = b"") -> str:
    """Return the hexadecimal digest of `prefix` and a file's bytes, together."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, prefix, usedforsecurity=False)).hexdigest()
