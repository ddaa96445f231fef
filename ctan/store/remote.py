"""Stores in object storage: described, looked over, and copied into the workspace.

`s3://bucket/prefix` holds the same files as a folder with stores: `stores/<key>/`, whose `store.json` is put last and
makes it complete, and `shards/`. Of these a copy takes what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import sha256_of_file
from ctan.seals import SEAL
from ctan.sources import buckets
from ctan.sources.objects import read_object
from ctan.sources.s3 import S3Source
from ctan.sources.transfer import RemoteFile
from ctan.store.description import KINDS, check_tables, find_damage, parse_description, read_description, shards_of
from ctan.store.layout import STORE_FILE
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE
from ctan.store.pointer import StorePointer
from ctan.store.shards import files_of
from ctan.store.shelf import Shelf, files_in

ABSENT = "there is no store here"
_REPAIR = "run `ctan data preprocess` with this store_root: it repairs the store"


def describe(pointer: StorePointer) -> dict[str, Any]:
    """Return what the `store.json` of a store in object storage says.

    Raises:
        DataError: when it is not there or damaged, or the bucket cannot be asked.
    """
    content = read_object(buckets.join(pointer.address, STORE_FILE))
    if content is None:
        raise DataError(f"{pointer.address}: {ABSENT}; {_REPAIR}")
    return parse_description(content, pointer.address, _REPAIR)


def find_problem(pointer: StorePointer, kinds: Sequence[str] = KINDS) -> str | None:
    """Return why the store in object storage cannot be used, None when it is complete. Downloads `store.json` only.

    Raises:
        DataError: when the bucket cannot be asked.
    """
    content = read_object(buckets.join(pointer.address, STORE_FILE))
    if content is None:
        return ABSENT
    try:
        description = parse_description(content, pointer.address, _REPAIR)
    except DataError as error:
        return str(error)
    tables = buckets.list_objects(pointer.address)
    for name in (MANIFEST_FILE, QUARANTINE_FILE):
        if name not in tables:
            return f"{name} is missing"
    return find_damage(Shelf(pointer.store_root).found, description, kinds)


def fetch(pointer: StorePointer, kinds: Sequence[str] = KINDS) -> None:
    """Copy what is needed of a store; nothing is asked of the bucket when it is all here.

    Args:
        pointer: names the store.
        kinds: which files of its shards are needed.

    Raises:
        DataError: when the store does not exist, is damaged, or cannot be fetched.
    """
    shelf = Shelf(pointer.store_root)
    try:
        _check(pointer, pointer.folder)
        if not find_damage(files_in(shelf.folder), read_description(pointer.folder), kinds):
            return
    except DataError:
        pass
    problem = find_problem(pointer, kinds)
    if problem is not None:
        raise DataError(f"{pointer.address}: {problem}; {_REPAIR}")
    wanted = files_of(shards_of(describe(pointer)), kinds)
    buckets.copy(buckets.source_of(shelf.address, _Shards), shelf.folder, wanted)
    buckets.mirror(pointer.address, pointer.folder, lambda folder: _check(pointer, folder))


class _Shards(S3Source):
    """Files whose names are the SHA-256 of their bytes."""

    def problem(self, file: RemoteFile, path: Path) -> str | None:
        """Compare the bytes with the name."""
        same = path.stat().st_size == file.size and sha256_of_file(path) == Path(file.name).stem
        return None if same else "the SHA-256 of what arrived is not its name"


def _check(pointer: StorePointer, folder: Path) -> None:
    """Raise when description and tables in a folder are not complete, or another store's.

    Raises:
        DataError: naming the file.
    """
    description = read_description(folder)
    if pointer.store_sha256 not in ("", description[SEAL]):
        raise DataError(f"{folder}/{STORE_FILE}: not the store that the pointer names (its hash differs); {_REPAIR}")
    check_tables(folder, description)
