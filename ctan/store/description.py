"""`store.json`, which is written last: it says what a store holds, and that it is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import parse_json, sha256_of_file
from ctan.seals import unsealed
from ctan.store.layout import FORMAT_VERSION, NATIVE, STORE_FILE, WORKING
from ctan.store.shards import Shard, files_of

REBUILD = "run `ctan data preprocess` again, which writes what is missing"
KINDS = (WORKING, NATIVE)


class OlderFormatError(DataError):
    """The store is of an older format, which has no shards."""


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
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise (OlderFormatError if older else DataError)(
            f"{where}: the store has format version {version}, this ctan reads {FORMAT_VERSION}; "
            f"run `ctan data preprocess` again with this ctan"
        )
    unsealed(description, f"{where}/{STORE_FILE}", advice)
    return description


def read_summary(content: bytes, where: str) -> tuple[str, int, dict[str, int]]:
    """Return data set, number of cases, and the files of shards (name -> bytes) that a `store.json` tells.

    Args:
        content: its bytes.
        where: folder or address of the store, for errors.

    Raises:
        DataError: see `parse_description`.
    """
    description = parse_description(content, where, REBUILD)
    return str(description["dataset"]), len(description["cases"]), files_of(shards_of(description), KINDS)


def shards_of(description: Mapping[str, Any]) -> list[Shard]:
    """Return the shards that a `store.json` lists."""
    return [Shard.from_json(value) for value in description["shards"]]


def check_tables(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise when a table was changed, before anything trains on it.

    Raises:
        DataError: naming the file.
    """
    for name, expected in description["tables"].items():
        path = folder / name
        if not path.is_file() or sha256_of_file(path) != expected:
            raise DataError(f"{path}: not the table that the store was packed with; {REBUILD}")


def find_damage(found: Mapping[str, int], description: Mapping[str, Any], kinds: Sequence[str] = KINDS) -> str | None:
    """Compare the files of shards (name -> bytes) with those of a store; return the first that is not as it was.

    Args:
        found: what there is.
        description: of the store.
        kinds: which files are looked for.
    """
    for name, size in files_of(shards_of(description), kinds).items():
        if found.get(name) != size:
            return f"{name}: expected {size} bytes, found {f'{found[name]} bytes' if name in found else 'nothing'}"
    return None
