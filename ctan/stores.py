"""Which stores there are under a root, what refers to them, and removing those that nobody needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctan.errors import DataError
from ctan.sources import buckets, objects
from ctan.store.description import read_summary
from ctan.store.layout import STORE_FILE
from ctan.store.pointer import stores_folder


@dataclass(frozen=True)
class StoreEntry:
    """One store.

    Attributes:
        key: its name.
        address: folder, or address in object storage.
        dataset: name of its data set; empty when the store is incomplete or of another format.
        num_cases: cases in it.
        num_bytes: size of all its files.
        packed_at: when its description was written, seconds since 1970.
        problem: why it cannot be used, empty when it can.
        referred_by: what was made from it, such as `"ctan-openkbp version 3 (champion)"`.
    """

    key: str
    address: str
    dataset: str
    num_cases: int
    num_bytes: int
    packed_at: float
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
    if buckets.is_remote(store_root):
        buckets.remove(entry.address, first=STORE_FILE)
    folder = stores_folder(store_root) / entry.key
    if folder.exists():
        (folder / STORE_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return entry


def _local_entries(store_root: str) -> list[StoreEntry]:
    root = stores_folder(store_root)
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return [_local_entry(path) for path in sorted(folders) if not path.name.startswith(".")]


def _local_entry(folder: Path) -> StoreEntry:
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    written = (folder / STORE_FILE) if (folder / STORE_FILE).exists() else folder
    dataset, num_cases, problem = "", 0, ""
    try:
        dataset, num_cases = read_summary((folder / STORE_FILE).read_bytes(), str(folder))
    except OSError:
        problem = f"incomplete: no {STORE_FILE}"
    except DataError as error:
        problem = str(error)
    return StoreEntry(folder.name, str(folder), dataset, num_cases, num_bytes, written.stat().st_mtime, problem)


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
    if content is None:
        return StoreEntry(key, address, "", 0, num_bytes, 0.0, f"incomplete: no {STORE_FILE}")
    try:
        dataset, num_cases = read_summary(content, address)
        problem = ""
    except DataError as error:
        dataset, num_cases, problem = "", 0, str(error)
    return StoreEntry(key, address, dataset, num_cases, num_bytes, objects.modified_at(place), problem)


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
