"""Which stores there are under a root, what refers to them, and removing those that nobody needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctan.errors import DataError
from ctan.sources import buckets, objects
from ctan.store.description import OlderFormatError, read_summary
from ctan.store.layout import STORE_FILE
from ctan.store.pointer import stores_folder
from ctan.store.shelf import Shelf


@dataclass(frozen=True)
class StoreEntry:
    """One store.

    Attributes:
        key: its name.
        address: folder, or address in object storage.
        dataset: name of its data set; empty when the store is incomplete or of another format.
        num_cases: cases in it.
        num_bytes: size of all its files, those that it shares with other stores included.
        packed_at: when its description was written, seconds since 1970.
        shards: name -> bytes of the files of its shards; empty when the store is incomplete or of an older format, None
            when it cannot be read.
        problem: why it cannot be used, empty when it can.
        referred_by: what was made from it, such as `"ctan-openkbp version 3 (champion)"`.
    """

    key: str
    address: str
    dataset: str
    num_cases: int
    num_bytes: int
    packed_at: float
    shards: Mapping[str, int] | None = field(default_factory=dict)
    problem: str = ""
    referred_by: tuple[str, ...] = ()

    @property
    def age_days(self) -> float:
        """Days since it was packed."""
        return max(0.0, (time.time() - self.packed_at) / 86_400)


def list_stores(store_root: str) -> list[StoreEntry]:
    """List the stores under a root, the newest first, with the registered models that were made from each.

    Args:
        store_root: folder or `s3://bucket/prefix`.

    Raises:
        ConfigError: when it is an address of another kind.
        DataError: when the bucket cannot be asked.
        TrackingError: when the registry cannot be asked.
    """
    entries = _remote_entries(store_root) if buckets.is_remote(store_root) else _local_entries(store_root)
    referred_by = _references() if entries else {}
    found = [StoreEntry(**{**vars(e), "referred_by": tuple(referred_by.get(e.key, ()))}) for e in entries]
    return sorted(found, key=lambda entry: -entry.packed_at)


def remove_store(store_root: str, key: str, force: bool = False) -> StoreEntry:
    """Remove a store: its description first, so that nothing half-removed counts as a store.

    Shards that another store has too stay; what remains without a store is shown by `loose_shards`.

    Args:
        store_root: folder or `s3://bucket/prefix`.
        key: its name, or the beginning of it.
        force: also when registered models refer to it.

    Returns:
        What was removed.

    Raises:
        DataError: when there is no such store, the beginning fits several, or models refer to it.
    """
    entries = list_stores(store_root)
    chosen = [entry for entry in entries if entry.key == key] or [e for e in entries if key and e.key.startswith(key)]
    if len(chosen) != 1:
        known = ", ".join(entry.key for entry in entries) or "none"
        problem = "several stores begin so" if chosen else "no such store"
        raise DataError(f"{key!r}: {problem}; under {store_root}: {known}")
    entry = chosen[0]
    if entry.referred_by and not force:
        raise DataError(
            f"store {entry.key}: {', '.join(entry.referred_by)} "
            f"{'was' if len(entry.referred_by) == 1 else 'were'} made from it; without it their scores cannot be "
            f"computed again (`--force` removes it all the same; it is packed anew from the same raw files)"
        )
    with Shelf(store_root).locked():
        if buckets.is_remote(store_root):
            buckets.remove(entry.address, first=STORE_FILE)
        folder = stores_folder(store_root) / entry.key
        if folder.exists():
            (folder / STORE_FILE).unlink(missing_ok=True)
            shutil.rmtree(folder)
        _remove_shards(store_root, entry.shards or {})
    return entry


def loose_shards(store_root: str) -> dict[str, int]:
    """Return name -> bytes of files of shards that no store lists, with their notes.

    Raises:
        DataError: when a store cannot be read, so that it is not known which are its shards; or the bucket not asked.
    """
    shelf = Shelf(store_root)
    used = _used(store_root)
    files = {name: size for name, size in shelf.found.items() if name not in used and not shelf.is_note(name)}
    notes = shelf.notes_of(files) | shelf.notes_without_files()
    return {name: shelf.found[name] for name in sorted({*files, *notes})}


def remove_shards(store_root: str, names: Collection[str]) -> None:
    """Remove those of some files of shards that no store lists now, with their notes; given notes too.

    Raises:
        DataError: as `loose_shards`.
    """
    with Shelf(store_root).locked():
        _remove_shards(store_root, names)


def _remove_shards(store_root: str, names: Collection[str]) -> None:
    shelf = Shelf(store_root)
    loose = {*names} - _used(store_root)
    notes = {name for name in loose if shelf.is_note(name)}
    files = loose - notes
    if notes:  # those of shards that have a store again stay
        notes &= {*loose_shards(store_root)}
    shelf.remove(files | notes | shelf.notes_of(files))


def _used(store_root: str) -> set[str]:
    """Return the files of shards that stores list.

    Raises:
        DataError: when one cannot be read; older formats have none, and incomplete ones do not count.
    """
    entries = _remote_entries(store_root) if buckets.is_remote(store_root) else _local_entries(store_root)
    for entry in entries:
        if entry.shards is None:
            raise DataError(
                f"store {entry.key}: {entry.problem}; which shards it has is not known, so that none are removed: "
                f"remove it first (`ctan store remove {entry.key}`)"
            )
    return {name for entry in entries for name in entry.shards or ()}


def _local_entries(store_root: str) -> list[StoreEntry]:
    root = stores_folder(store_root)
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return [_local_entry(path) for path in sorted(folders) if not path.name.startswith(".")]


def _local_entry(folder: Path) -> StoreEntry:
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    written = (folder / STORE_FILE) if (folder / STORE_FILE).exists() else folder
    try:
        content = (folder / STORE_FILE).read_bytes()
    except OSError:
        content = None
    return _entry(folder.name, str(folder), content, num_bytes, written.stat().st_mtime)


def _remote_entries(store_root: str) -> list[StoreEntry]:
    root = buckets.join(store_root, "stores")
    sizes: dict[str, int] = {}
    for name, file in buckets.list_objects(root).items():
        key = name.split("/")[0]
        sizes[key] = sizes.get(key, 0) + (file.size or 0)
    return [_remote_entry(buckets.join(root, key), key, num_bytes) for key, num_bytes in sorted(sizes.items())]


def _remote_entry(address: str, key: str, num_bytes: int) -> StoreEntry:
    place = buckets.join(address, STORE_FILE)
    content = objects.read_object(place)
    return _entry(key, address, content, num_bytes, objects.modified_at(place) if content is not None else 0.0)


def _entry(key: str, address: str, content: bytes | None, num_bytes: int, packed_at: float) -> StoreEntry:
    if content is None:
        return StoreEntry(key, address, "", 0, num_bytes, packed_at, problem=f"incomplete: no {STORE_FILE}")
    try:
        dataset, num_cases, files = read_summary(content, address)
    except DataError as error:
        shards: dict[str, int] | None = {} if isinstance(error, OlderFormatError) else None
        return StoreEntry(key, address, "", 0, num_bytes, packed_at, shards, str(error))
    return StoreEntry(key, address, dataset, num_cases, num_bytes + sum(files.values()), packed_at, files)


def _references() -> Mapping[str, Sequence[str]]:
    """Return store key -> registered versions that were made from it."""
    from ctan.tracking.registry import CHAMPION, get_alias
    from ctan.tracking.server import connect, prepare, tracking_errors

    uri = prepare()
    client = connect()
    found: dict[str, list[str]] = {}
    with tracking_errors(uri, "looking for models that were made from stores"):
        for model in client.search_registered_models():
            champion = get_alias(client, model.name, CHAMPION)
            for version in client.search_model_versions(f"name='{model.name}'"):
                if key := version.tags.get("store_key"):
                    is_champion = champion is not None and champion.version == version.version
                    named = f"{model.name} version {version.version}"
                    found.setdefault(key, []).append(f"{named} (champion)" if is_champion else named)
    return found
