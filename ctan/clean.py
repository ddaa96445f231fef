"""Clearing up: stores, shards, checkpoints and runs that nothing refers to any more and that are old.

Kept are, whatever their age: the table of sides, ledgers, models, MLflow's own, the store of every registered model and
of every training that MLflow has seen begin within the time that is asked for, and whatever a younger file lies in.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ctan.changes import Change
from ctan.errors import ConfigError, DataError
from ctan.sources import buckets, objects
from ctan.store.shelf import Shelf
from ctan.stores import list_stores, loose_shards, remove_shards, remove_store
from ctan.workspace import workspace

DAYS = 30.0  # that what nothing refers to is kept
_SECONDS_A_DAY = 86_400


def plan(store_root: str = "", checkpoint_root: str = "", days: float = DAYS) -> list[Change]:
    """Return what is to be removed, in the order in which it is done; changes nothing.

    Args:
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.
        checkpoint_root: of the checkpoints; empty: in the workspace.
        days: what is younger is kept.

    Raises:
        ConfigError: when a root is an address of another kind, or the time is not positive.
        DataError: when a bucket cannot be asked.
        TrackingError: when the registry cannot be asked: without it nothing is known to be unused.
    """
    if not days > 0:
        raise ConfigError(f"clean: expected a positive number of days, found {days:g}")
    roots = store_root or str(workspace() / "store"), checkpoint_root or str(workspace() / "checkpoints")
    for name, root in zip(("store_root", "checkpoint_root"), roots, strict=True):
        buckets.check_root(root, name)
    return [*_of_stores(roots[0], days), *_of_shards(roots[0], days), *_of_checkpoints(roots[1], days), *_of_runs(days)]


def _of_stores(root: str, days: float) -> Iterator[Change]:
    entries = list_stores(root)
    used = _used_lately(days) if entries else set()
    for entry in entries:
        if not entry.referred_by and entry.age_days > days and entry.key not in used:
            what = f"store {entry.key}: {entry.num_cases} cases, {_size(entry.num_bytes)}, {_age(entry.age_days)}"
            yield Change(f"{what}; shards that others share stay", partial(remove_store, root, entry.key))


def _of_shards(root: str, days: float) -> Iterator[Change]:
    shelf = Shelf(root)
    try:
        loose = loose_shards(root)
    except DataError as error:
        yield Change(f"shards are kept: {error}")
        return
    written = {name: _written(shelf.address, name) for name in loose}
    old = {name: size for name, size in loose.items() if _days_since(written[name]) > days}
    if old:
        what = f"{len(old)} files of shards that no store lists, {_size(sum(old.values()))}"
        yield Change(f"{what}, older than {days:g} days", partial(remove_shards, root, {*old}))


def _of_checkpoints(root: str, days: float) -> Iterator[Change]:
    """Remove checkpoints that nobody has gone on with: a training that was not finished begins again without."""
    names: dict[str, list[str]] = {}
    if buckets.is_remote(root):
        for name in buckets.list_objects(root):
            names.setdefault(name.split("/")[0], []).append(name)
    else:
        for path in sorted(Path(root).expanduser().glob("*/*")):
            names.setdefault(path.parent.name, []).append(f"{path.parent.name}/{path.name}")
    for folder, files in sorted(names.items()):
        if not any(name.endswith(".pt") for name in files):
            continue  # not ours
        age = _days_since(max(_written(root, name) for name in files))
        if age > days:
            yield Change(f"checkpoint {folder}, {_age(age)}", partial(_remove, root, folder, files))


def _of_runs(days: float) -> Iterator[Change]:
    """Remove what runs on this machine have left; models, tables and pages of registered versions lie in MLflow."""
    for folder in sorted((workspace() / "runs").glob("*")):
        files = [path for path in folder.rglob("*") if path.is_file()]
        newest = max((path.stat().st_mtime for path in (folder, *files)), default=0.0)
        if folder.is_dir() and _days_since(newest) > days:
            size = sum(path.stat().st_size for path in files)
            yield Change(
                f"run {folder.name}: {_size(size)}, {_age(_days_since(newest))}", partial(shutil.rmtree, folder)
            )


def _used_lately(days: float) -> set[str]:
    """Return the stores of trainings that began within some days."""
    from ctan.tracking.server import all_runs, connect, prepare, tracking_errors

    uri = prepare()
    since = int(1000 * (time.time() - days * _SECONDS_A_DAY))
    with tracking_errors(uri, "looking for trainings of these days"):
        runs = all_runs(connect(), f"attributes.start_time > {since}")
        return {run.data.tags.get("store_key", "") for run in runs}


def _remove(root: str, folder: str, names: list[str]) -> None:
    if buckets.is_remote(root):
        for name in names:
            objects.remove_object(buckets.join(root, name))
        root = str(buckets.cache_folder("checkpoints", root))
    shutil.rmtree(Path(root).expanduser() / folder, ignore_errors=True)


def _written(root: str, name: str) -> float:
    if buckets.is_remote(root):
        return objects.modified_at(buckets.join(root, name))
    path = Path(root).expanduser() / name
    return path.stat().st_mtime if path.exists() else time.time()


def _days_since(seconds: float) -> float:
    return (time.time() - seconds) / _SECONDS_A_DAY


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _age(days: float) -> str:
    return f"{days:.0f} days old"
