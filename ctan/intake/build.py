"""Building a store from raw files: once for the same data, settings and code, whole or not at all.

The work is cut into shards (`ctan.store.shards`), and runs of shards into slices: `pack_slice` packs one slice, on any
machine and as often as one likes, `commit` makes the store of all of them. `preprocess` is the loop of one.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ctan import versions
from ctan.cases import SPEC_FILE, SPLIT_TRAIN, SPLIT_VALIDATION, DataSpec, check_same_spec
from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.files import atomic_path, sha256_of_file, sha256_of_json, write_json
from ctan.intake.packing import Planned, pack, plan_shards, shards_on, slices
from ctan.seals import SEAL, sealed
from ctan.sources import buckets
from ctan.sources.buckets import check_writable, is_remote
from ctan.store import remote
from ctan.store.description import check_tables, find_damage, read_description
from ctan.store.layout import FORMAT_VERSION, STORE_FILE, Layout
from ctan.store.manifest import (
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_SCHEMA,
    SCHEMA,
    read_manifest,
    write_manifest,
)
from ctan.store.pointer import StorePointer, stores_folder
from ctan.store.shelf import Shelf, files_in

if TYPE_CHECKING:
    from ctan.datasets.base import Dataset

OPEN_SIDES = (SPLIT_TRAIN, SPLIT_VALIDATION)


@dataclass(frozen=True)
class _Job:
    """A store that is to be: what is validated, and the shards that it is cut into."""

    pointer: StorePointer
    dataset: Dataset
    manifest: pa.Table
    quarantine: pa.Table
    layout: Layout
    shards: tuple[Planned, ...]

    @classmethod
    def of(cls, manifest_dir: Path, store_root: str, config: RunConfig, sides: Collection[str]) -> _Job:
        from ctan.datasets import get_dataset

        dataset, spec = get_dataset(config.data), DataSpec.load(manifest_dir)
        manifest = read_manifest(manifest_dir / MANIFEST_FILE, SCHEMA(spec))
        manifest = manifest.filter(pa.array([side in sides for side in manifest["split"].to_pylist()], pa.bool_()))
        quarantine = read_manifest(manifest_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA)
        _check_manifest(manifest, manifest_dir, dataset)
        check_same_spec(
            dataset.spec, spec, str(manifest_dir / SPEC_FILE), "ingest the source again with these settings"
        )
        pointer, layout = _pointer(manifest, dataset, store_root, config), Layout.of(spec, config.preprocess.grid_shape)
        return cls(
            pointer,
            dataset,
            manifest,
            quarantine,
            layout,
            plan_shards(manifest, pointer.config_hash, layout, dataset, config),
        )


def preprocess(
    source: str,
    manifest_dir: Path,
    store_root: str,
    config: RunConfig,
    num_workers: int | None = None,
    sides: Collection[str] = OPEN_SIDES,
) -> StorePointer:
    """Crop, resample and pack the cases of a manifest into a store.

    Test cases are sealed: they are left out, so that nothing that trains, compares or promotes can see them.

    The store's name follows from the data, the settings and the code that shape it. When it exists already nothing is
    done; shards that another store of this root has, or a build that was killed, are not made again.

    Args:
        source: folder of raw files, or `phantom:...`.
        manifest_dir: holds `manifest.parquet` and `quarantine.parquet` of ingestion or validation.
        store_root: folder or `s3://bucket/prefix` that holds stores.
        config: the run's settings.
        num_workers: processes; None for as many as cores and memory allow.
        sides: the cases of which sides are packed.

    Raises:
        ConfigError: when `store_root` is an address of another kind than `s3://bucket/prefix`.
        DataError: when the manifest holds no case or is of another data set, or the raw files are not the ones it
            describes, or bucket or folder cannot be written to.
    """
    job = _Job.of(manifest_dir, store_root, config, sides)
    if not is_remote(store_root):
        check_writable(store_root)  # the lock is the first file there
    with _builder_lock(job.pointer):
        if _is_complete(job.pointer):
            print(f"preprocess: store {job.pointer.key} exists already, nothing to do", file=sys.stderr)
            return _sealed_pointer(job.pointer)
        if is_remote(store_root):
            check_writable(store_root)
        _remove_dead_builds(job.pointer.folder)
        Shelf(store_root).remove_dead_workplaces()
        pack(source, job.shards, store_root, job.dataset, config, num_workers)
        return _commit(job)


def pack_slice(
    source: str,
    manifest_dir: Path,
    store_root: str,
    config: RunConfig,
    index: int,
    total: int,
    num_workers: int | None = None,
    sides: Collection[str] = OPEN_SIDES,
) -> int:
    """Pack one slice of a store: a run of whole shards. Again, or twice at once, it does no harm.

    Args:
        source, manifest_dir, store_root, config, num_workers, sides: as for `preprocess`.
        index: which slice, from 0.
        total: number of slices.

    Returns:
        How many shards of the slice were not there yet.

    Raises:
        ConfigError: when there is no such slice, and as `preprocess`.
        DataError: as `preprocess`.
    """
    if not 0 <= index < total:
        raise ConfigError(f"slice {index} of {total}: expected a number from 0 to {total - 1}")
    job = _Job.of(manifest_dir, store_root, config, sides)
    check_writable(store_root)
    rows = slices([shard.num_voxels for shard in job.shards], total)[index]
    return pack(source, job.shards[rows.start : rows.stop], store_root, job.dataset, config, num_workers)


def commit(manifest_dir: Path, store_root: str, config: RunConfig, sides: Collection[str] = OPEN_SIDES) -> StorePointer:
    """Make a store of shards that are all there; `store.json` comes last.

    Raises:
        ConfigError: as `preprocess`.
        DataError: when shards are missing or cut off, naming the first, and as `preprocess`.
    """
    job = _Job.of(manifest_dir, store_root, config, sides)
    return _sealed_pointer(job.pointer) if _is_complete(job.pointer) else _commit(job)


def build_again(pointer: StorePointer, source: str, manifest_dir: Path, config: RunConfig) -> StorePointer:
    """Build a store that another container built and kept for itself.

    So a first run on a cluster needs no volume that all steps share. The store is the same one: what it is made of
    decides its name.

    Args:
        pointer: names the store.
        source: what was ingested.
        manifest_dir: output of validation.
        config: the run's settings.

    Raises:
        DataError: when what can be built here is another store, and as `preprocess` does.
    """
    print(f"store {pointer.key} is not on this machine ({pointer.folder}): packing it again", flush=True)
    built = preprocess(source, manifest_dir, pointer.store_root, config)
    if built.key != pointer.key:
        raise DataError(
            f"store {pointer.key}: is not in {pointer.store_root}, and what {source} is made into here is another one "
            f"({built.key}); give all steps one store_root (a volume or s3://bucket/prefix)"
        )
    return built


def _check_manifest(manifest: pa.Table, manifest_dir: Path, dataset: Dataset) -> None:
    path = manifest_dir / MANIFEST_FILE
    if manifest.num_rows == 0:
        raise DataError(f"{path}: holds no case; {manifest_dir / QUARANTINE_FILE} gives the reason for each")
    others = sorted(set(manifest["dataset"].to_pylist()) - {dataset.spec.dataset})
    if others:
        raise DataError(f"{path}: holds cases of {', '.join(others)}, but the data set is {dataset.spec.dataset}")
    case_ids = manifest["case_id"].to_pylist()
    repeated = sorted(case_id for case_id, count in Counter(case_ids).items() if count > 1)
    if repeated:
        raise DataError(f"{path}: lists {', '.join(repeated)} more than once; run ingestion again")


def _pointer(manifest: pa.Table, dataset: Dataset, store_root: str, config: RunConfig) -> StorePointer:
    """Name the store after everything its bytes depend on."""
    columns = [manifest[name].to_pylist() for name in ("case_id", "sha256", "split", "fold")]
    data_hash = sha256_of_json(sorted(map(list, zip(*columns, strict=True))))
    decides = {
        "spec": dataset.spec.to_json(),
        "options": dataset.decisive_options,
        "preprocess": config.preprocess.model_dump(mode="json"),
    }
    config_hash = sha256_of_json(decides)
    key = sha256_of_json([FORMAT_VERSION, data_hash, config_hash, versions.of_store(dataset)])[:16]
    spec = dataset.spec
    return StorePointer(store_root, key, data_hash, spec.dataset, config_hash, manifest.num_rows, spec.sha256)


def _sealed_pointer(pointer: StorePointer) -> StorePointer:
    """Return the pointer with the seal of the store that it names, which is complete."""
    is_there = is_remote(pointer.store_root)
    description = remote.describe(pointer) if is_there else read_description(pointer.folder)
    return replace(pointer, store_sha256=description[SEAL])


def _builder_lock(pointer: StorePointer) -> Any:
    """Return the lock that one builder of a store holds; the system frees it when the process dies."""
    from filelock import FileLock

    folder = stores_folder(pointer.store_root)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{pointer.key}.lock")


def _remove_dead_builds(folder: Path) -> None:
    """Remove what killed builds of this store left; the caller holds the lock, so none of them is alive."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _is_complete(pointer: StorePointer) -> bool:
    """Return whether a store is there with all its shards; a local one that is not is removed, to be built again."""
    if is_remote(pointer.store_root):
        problem = remote.find_problem(pointer)
        if problem not in (None, remote.ABSENT):
            print(f"preprocess: repairing {pointer.address} ({problem})", file=sys.stderr)
        return problem is None
    folder = pointer.folder
    if not folder.exists():
        return False
    try:
        description = read_description(folder)
        check_tables(folder, description)
        if damage := find_damage(files_in(Shelf(pointer.store_root).folder), description):
            raise DataError(damage)
    except DataError as error:
        print(f"preprocess: building again ({error})", file=sys.stderr)
        shutil.rmtree(folder)
        return False
    return True


def _commit(job: _Job) -> StorePointer:
    pointer, shelf = job.pointer, Shelf(job.pointer.store_root)
    with shelf.locked():
        there = shards_on(shelf, job.shards)
        found = [shard for shard in there if shard is not None]
        if len(found) < len(there):
            first = job.shards[there.index(None)]
            raise DataError(
                f"store {pointer.key}: {len(there) - len(found)} of {len(there)} shards are missing or cut off in "
                f"{shelf.address}, first that of {', '.join(first.case_ids[:3])}; pack these slices again"
            )
        shelf.sync([shard for shard, _ in found])
        entries = {entry["case_id"]: entry for _, cases in found for entry in cases}
        case_ids = job.manifest["case_id"].to_pylist()
        description = {
            "format_version": FORMAT_VERSION,
            "key": pointer.key,
            "dataset": pointer.dataset,
            "data_hash": pointer.data_hash,
            "config_hash": pointer.config_hash,
            "versions": versions.of_store(job.dataset),
            "spec": job.dataset.spec.to_json(),
            "layout": job.layout.to_json(),
            "cases": [entries[case_id] for case_id in case_ids],
            "shards": [shard.to_json() for shard, _ in found],
        }
        if is_remote(pointer.store_root):
            shutil.rmtree(pointer.folder, ignore_errors=True)
        with atomic_path(pointer.folder) as folder:
            folder.mkdir()
            write_manifest(job.manifest, folder / MANIFEST_FILE)
            write_manifest(job.quarantine, folder / QUARANTINE_FILE)
            tables = {name: sha256_of_file(folder / name) for name in (MANIFEST_FILE, QUARANTINE_FILE)}
            write_json(folder / STORE_FILE, sealed({**description, "tables": tables}))
        if is_remote(pointer.store_root):
            buckets.publish(pointer.folder, pointer.address, last=STORE_FILE)
    return _sealed_pointer(pointer)
