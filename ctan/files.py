"""Atomic writes, content hashes, and reading back what we wrote.

Nothing half-written stays, damage is named, and so is a disk that takes no more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import CtanError, DataError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa


_FAULTS = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file got larger than this process may write (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE_BYTES = 2**16  # a library that fails to write where no more is free has failed because of that


def sync(path: Path) -> None:
    """Let the disk keep a file or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_faults(folder: Path | None = None, written: Path | None = None) -> Iterator[None]:
    """Turn what a full, read-only or forbidden disk makes of writing into one message that names folder and space.

    Args:
        folder: that is written to; None: whatever the error names.
        written: what has been written so far, a file or a folder.

    Raises:
        StorageError: in place of such an error; others pass.
    """
    try:
        yield
    except CtanError:
        raise
    except Exception as error:
        number, named = _fault(error, folder)
        place = folder or named
        if number is None or place is None:
            raise
        space = ""
        if number in _FULL:
            free = shutil.disk_usage(_existing(place)).free
            done = _size(written) if written is not None else 0
            space = f"; {done / 1e6:.1f} MB had been written and are removed again, {free / 1e6:.1f} MB were free then"
        raise StorageError(
            f"{place}: cannot be written: {_FAULTS[number]}{space}. Make room or mend it, or give another folder, and "
            f"run the same command again: nothing half-written is left"
        ) from error


def _fault(error: BaseException, folder: Path | None) -> tuple[int | None, Path | None]:
    """Return number and folder of the fault behind an error, None for what is no fault of the disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FAULTS:
            named = Path(os.fsdecode(cause.filename)).parent if isinstance(cause.filename, str | bytes) else None
            related = folder is None or named is None or named.is_relative_to(folder) or folder.is_relative_to(named)
            return (cause.errno, named) if related or cause.errno in _FULL else (None, None)
        for number in _FAULTS:  # libraries hide it in many ways
            if f"os error {number})" in str(cause) or (number in _FULL and os.strerror(number) in str(cause)):
                return number, None
        cause = cause.__cause__ or cause.__context__
    # PyTorch says no more than that writing failed.
    full = folder is not None and shutil.disk_usage(_existing(folder)).free < _LITTLE_BYTES
    return (errno.ENOSPC if full and isinstance(error, OSError | RuntimeError) else None), None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to; rename it onto `target` on success.

    On an exception the unfinished path is removed and `target` stays as it was. A folder that exists
    already is kept when a concurrent writer finished first (both wrote the same content-addressed bytes).

    Raises:
        StorageError: when the disk is full, read-only or not ours to write to.
    """
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with storage_faults(target.parent, beside):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            _publish(beside, target)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        elif beside.exists():
            beside.unlink()


def _publish(beside: Path, target: Path) -> None:
    if beside.is_dir():
        for path in beside.rglob("*"):
            if path.is_file():
                sync(path)
        if target.is_dir():
            shutil.rmtree(beside)
        else:
            beside.rename(target)
    else:
        sync(beside)
        beside.replace(target)
    sync(target.parent)


def put_beside(source: Path, target: Path) -> None:
    """Let a finished file of ours appear in another folder too; linked where the file system can, else copied."""
    with atomic_path(target) as beside:
        try:
            os.link(source, beside)
        except OSError:
            shutil.copyfile(source, beside)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON to `target`, atomically; keys keep their order."""
    write_text(target, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, advice: str) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        advice: what to do when it cannot be read, the end of the message.

    Raises:
        DataError: when the file is missing, cannot be read or is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    return parse_json(content, str(path), advice)


def read_table(path: Path, columns: Sequence[str], advice: str) -> pa.Table:
    """Return a Parquet table that must have these columns; it may have more.

    Args:
        path: the file.
        columns: their names.
        advice: what to do when it cannot be used, the end of the message.

    Raises:
        DataError: when the file is missing, damaged or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)  # `split=x` in its path is no column of it
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); {advice}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; {advice}")
    return table


def parse_json(content: bytes | str, where: str, advice: str) -> Any:
    """Return what JSON that was read already holds.

    Args:
        content: the text.
        where: it comes from, for errors.
        advice: what to do when it is damaged, the end of the message.

    Raises:
        DataError: when it is not JSON.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}); {advice}") from error


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_digests(digests: Mapping[str, str]) -> str:
    """Return one SHA-256 over file names and the SHA-256 of each file's bytes, in name order."""
    combined = hashlib.sha256()
    for name in sorted(digests):
        combined.update(f"{name}\0{digests[name]}\n".encode())
    return combined.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
