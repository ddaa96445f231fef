"""`store.json`, which is written last: it says what a store holds, and that it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import parse_json, sha256_of_file
from ctan.seals import unsealed
from ctan.store.layout import ARRAYS_FOLDER, FORMAT_VERSION, STORE_FILE, array_files

REBUILD = "delete the folder and run `ctan data preprocess` again"


def read_description(folder: Path) -> dict[str, Any]:
    """Read `store.json`.

    Raises:
        DataError: when there is no complete store of this format version in `folder`.
    """
    try:
        content = (folder / STORE_FILE).read_bytes()
    except OSError as error:
        reason = "there is no store here" if not folder.exists() else f"the store is incomplete: no {STORE_FILE}"
        raise DataError(f"{folder}: {reason}; run `ctan data preprocess` with this store_root") from error
    return parse_description(content, str(folder), REBUILD)


def parse_description(content: bytes, where: str, advice: str) -> dict[str, Any]:
    """Read the bytes of a `store.json`.

    Args:
        content: the bytes.
        where: folder or address of the store, for errors.
        advice: what to do when it is damaged.

    Raises:
        DataError: when they are no JSON, were changed, or the store has another format version.
    """
    description: dict[str, Any] = parse_json(content, f"{where}/{STORE_FILE}", advice)
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{where}: the store has format version {version}, this ctan reads {FORMAT_VERSION}; "
            f"run `ctan data preprocess` again with this ctan"
        )
    unsealed(description, f"{where}/{STORE_FILE}", advice)
    return description


def read_summary(content: bytes, where: str) -> tuple[str, int]:
    """Return data set and number of cases that a `store.json` tells.

    Args:
        content: its bytes.
        where: folder or address of the store, for errors.

    Raises:
        DataError: see `parse_description`.
    """
    description = parse_description(content, where, REBUILD)
    return str(description["dataset"]), len(description["cases"])


def check_files(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise when a file of the arrays is missing or cut off, or a table was changed, before anything trains on it.

    Raises:
        DataError: naming the file.
    """
    damage = find_damage(array_files(folder / ARRAYS_FOLDER), description)
    if damage is not None:
        raise DataError(f"{folder / ARRAYS_FOLDER}/{damage}; {REBUILD}")
    for name, expected in description["tables"].items():
        path = folder / name
        if not path.is_file() or sha256_of_file(path) != expected:
            raise DataError(f"{path}: not the table that the store was packed with; {REBUILD}")


def find_damage(found: Mapping[str, int], description: Mapping[str, Any]) -> str | None:
    """Compare the files of the arrays (name -> bytes) with what was written; return the first that differs."""
    for name, size in description["files"].items():
        if found.get(name) != size:
            return f"{name}: expected {size} bytes, found {f'{found[name]} bytes' if name in found else 'nothing'}"
    return None
