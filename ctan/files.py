"""Atomic writes, content hashes, and reading back what we wrote: nothing half-written stays, damage is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to; rename it onto `target` on success.

    On an exception the unfinished path is removed and `target` stays as it was. A folder that exists
    already is kept when a concurrent writer finished first (both wrote the same content-addressed bytes).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield beside
        if beside.is_dir():
            for path in beside.rglob("*"):
                if path.is_file():
                    _sync(path)
            if target.is_dir():
                shutil.rmtree(beside)
            else:
                beside.rename(target)
        else:
            _sync(beside)
            beside.replace(target)
        _sync(target.parent)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


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
