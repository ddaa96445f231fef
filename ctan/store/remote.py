"""Stores in object storage: built in a local copy and published, or fetched into one.

`s3://bucket/prefix/stores/<key>/` holds the same files as a store in a folder. `store.json` is put last and makes it
complete; the local copy is a store like any other, in the workspace.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.seals import SEAL
from ctan.sources import buckets
from ctan.sources.objects import read_object
from ctan.store.description import check_files, find_damage, parse_description, read_description
from ctan.store.layout import ARRAYS_FOLDER, STORE_FILE
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE
from ctan.store.pointer import StorePointer

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


def find_problem(pointer: StorePointer) -> str | None:
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
    objects = buckets.list_objects(pointer.address)
    for name in (MANIFEST_FILE, QUARANTINE_FILE):
        if name not in objects:
            return f"{name} is missing"
    arrays = f"{ARRAYS_FOLDER}/"
    sizes = {name.removeprefix(arrays): file.size or 0 for name, file in objects.items() if name.startswith(arrays)}
    damage = find_damage(sizes, description)
    return damage and f"{arrays}{damage}"


def publish(pointer: StorePointer) -> None:
    """Upload the local copy of a store, which must be complete.

    Raises:
        DataError: see `ctan.sources.buckets.publish`.
    """
    buckets.publish(pointer.folder, pointer.address, last=STORE_FILE)


def fetch(pointer: StorePointer) -> None:
    """Make the local copy of a store complete; nothing is asked of the bucket when it is.

    Raises:
        DataError: when the store does not exist, is damaged, or cannot be fetched.
    """
    check = partial(_check, pointer.store_sha256)
    if _passes(pointer.folder, check):
        return
    problem = find_problem(pointer)
    if problem is not None:
        raise DataError(f"{pointer.address}: {problem}; {_REPAIR}")
    buckets.mirror(pointer.address, pointer.folder, check)


def _passes(folder: Path, check: Callable[[Path], None]) -> bool:
    try:
        check(folder)
    except DataError:
        return False
    return True


def _check(seal: str, folder: Path) -> None:
    """Raise when a store in a folder is not complete, or another than the one of this seal.

    Raises:
        DataError: naming the file.
    """
    description = read_description(folder)
    if seal not in ("", description[SEAL]):
        raise DataError(f"{folder}/{STORE_FILE}: not the store that the pointer names (its hash differs); {_REPAIR}")
    check_files(folder, description)
