"""Building a store from raw files: once for the same data, settings and code, whole or not at all."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ctan import limits, versions
from ctan.cases import SPEC_FILE, SPLIT_TRAIN, SPLIT_VALIDATION, DataSpec, check_same_spec
from ctan.config import DataConfig, PreprocessConfig, RunConfig
from ctan.errors import CaseError, DataError
from ctan.files import atomic_path, sha256_of_file, sha256_of_json, write_json
from ctan.progress import track
from ctan.seals import SEAL, sealed
from ctan.sources.buckets import check_writable, is_remote
from ctan.store import remote
from ctan.store.description import check_files, read_description
from ctan.store.layout import ARRAYS_FOLDER, FORMAT_VERSION, STORE_FILE, Layout, array_files, create_arrays, write_rows
from ctan.store.manifest import (
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_SCHEMA,
    SCHEMA,
    read_manifest,
    write_manifest,
)
from ctan.store.pointer import StorePointer, stores_folder
from ctan.workers import exit_with_parent

if TYPE_CHECKING:
    from ctan.cases import RawCase
    from ctan.datasets.base import Dataset

OPEN_SIDES = (SPLIT_TRAIN, SPLIT_VALIDATION)


@dataclass(frozen=True)
class _Shard:
    """The work of one process: read, check, pack and write the cases of one shard."""

    folder: Path
    data: DataConfig
    config: PreprocessConfig
    layout: Layout
    first: int
    raws: list[RawCase]
    sha256: list[str]


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
    done; a build that was killed leaves nothing that a later one would use.

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
    from ctan.datasets import get_dataset

    dataset, spec = get_dataset(config.data), DataSpec.load(manifest_dir)
    manifest = read_manifest(manifest_dir / MANIFEST_FILE, SCHEMA(spec))
    manifest = manifest.filter(pa.array([side in sides for side in manifest["split"].to_pylist()], pa.bool_()))
    quarantine = read_manifest(manifest_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    _check_manifest(manifest, manifest_dir, dataset)
    check_same_spec(dataset.spec, spec, str(manifest_dir / SPEC_FILE), "ingest the source again with these settings")
    pointer = _pointer(manifest, dataset, store_root, config)
    if not is_remote(store_root):
        check_writable(store_root)  # the lock is the first file there
    with _builder_lock(pointer):
        if _is_published(pointer) if is_remote(store_root) else _is_complete(pointer):
            print(f"preprocess: store {pointer.key} exists already, nothing to do", file=sys.stderr)
            return _sealed_pointer(pointer)
        if is_remote(store_root):
            check_writable(store_root)
        if not _is_complete(pointer):
            _remove_dead_builds(pointer.folder)
            with atomic_path(pointer.folder) as folder:
                write_manifest(manifest, folder / MANIFEST_FILE)
                write_manifest(quarantine, folder / QUARANTINE_FILE)
                layout = _layout(manifest, spec, config)
                entries = _write_arrays(source, manifest, folder, layout, config, num_workers)
                write_json(folder / STORE_FILE, _describe(pointer, dataset, layout, entries, folder))
        if is_remote(store_root):
            remote.publish(pointer)
        return _sealed_pointer(pointer)


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


def _is_complete(pointer: StorePointer) -> bool:
    """Return whether a store is there; what is there but cannot be opened is removed, to be built again."""
    folder = pointer.folder
    if not folder.exists():
        return False
    try:
        description = read_description(folder)
        if is_remote(pointer.store_root):
            check_files(folder, description)  # a copy that was damaged must not be published
    except DataError as error:
        print(f"preprocess: building again ({error})", file=sys.stderr)
        shutil.rmtree(folder)
        return False
    return True


def _is_published(pointer: StorePointer) -> bool:
    """Return whether a complete store is in object storage."""
    problem = remote.find_problem(pointer)
    if problem not in (None, remote.ABSENT):
        print(f"preprocess: repairing {pointer.address} ({problem})", file=sys.stderr)
    return problem is None


def _remove_dead_builds(folder: Path) -> None:
    """Remove what killed builds of this store left; the caller holds the lock, so none of them is alive."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _describe(
    pointer: StorePointer, dataset: Dataset, layout: Layout, entries: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    return sealed(
        {
            "format_version": FORMAT_VERSION,
            "key": pointer.key,
            "dataset": pointer.dataset,
            "data_hash": pointer.data_hash,
            "config_hash": pointer.config_hash,
            "versions": versions.of_store(dataset),
            "spec": dataset.spec.to_json(),
            "layout": layout.to_json(),
            "cases": entries,
            "files": array_files(folder / ARRAYS_FOLDER),
            "tables": {name: sha256_of_file(folder / name) for name in (MANIFEST_FILE, QUARANTINE_FILE)},
        }
    )


def _layout(manifest: pa.Table, spec: DataSpec, config: RunConfig) -> Layout:
    native_shape = tuple(max(sizes) for sizes in zip(*manifest["shape"].to_pylist(), strict=True))
    chosen = config.preprocess
    covered = max(manifest["num_covered_voxels"].to_pylist()) if spec.has_dose else 0
    return Layout.of(spec, manifest.num_rows, native_shape, chosen.grid_shape, chosen.cases_per_shard, covered)


def _write_arrays(
    source: str, manifest: pa.Table, folder: Path, layout: Layout, config: RunConfig, num_workers: int | None
) -> list[dict[str, Any]]:
    """Write every shard and return what `store.json` says of each case, in the order of the manifest."""
    from ctan.datasets import get_dataset
    from ctan.sources import open_source

    dataset = get_dataset(config.data)
    create_arrays(folder, layout)
    with open_source(source, dataset) as raw_dir:
        shards = _shards(dataset.find(raw_dir), manifest, folder, config, layout)
        workers = min(limits.workers(num_workers), len(shards))
        entries: dict[int, list[dict[str, Any]]] = {}
        for first, shard_entries in track(_run(shards, workers), len(shards), "preprocess (shards)"):
            entries[first] = shard_entries
    return [entry for first in sorted(entries) for entry in entries[first]]


def _shards(raws: list[RawCase], manifest: pa.Table, folder: Path, config: RunConfig, layout: Layout) -> list[_Shard]:
    found = {(raw.split, raw.case_id): raw for raw in raws}
    undecided = {raw.case_id: raw for raw in raws if not raw.split}  # ingestion gave them a split
    keys = list(zip(manifest["split"].to_pylist(), manifest["case_id"].to_pylist(), strict=True))
    hashes = manifest["sha256"].to_pylist()
    absent = [case_id for split, case_id in keys if (split, case_id) not in found and case_id not in undecided]
    if absent:
        raise DataError(
            f"{', '.join(absent[:5])}: in the manifest but not among the {len(raws)} cases of the source; "
            f"give the source that was ingested or ingest this one"
        )
    shards = []
    for first in range(0, len(keys), layout.cases_per_shard):
        rows = slice(first, first + layout.cases_per_shard)
        chosen = [found.get(key) or undecided[key[1]] for key in keys[rows]]
        shards.append(_Shard(folder, config.data, config.preprocess, layout, first, chosen, hashes[rows]))
    return shards


def _run(shards: list[_Shard], num_workers: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (first row, entries) of each shard as it is done."""
    if num_workers <= 1:
        for shard in shards:
            yield shard.first, _write_shard(shard)
        return
    # New processes instead of forks: a fork of a process whose libraries run threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_write_shard, shard): shard.first for shard in shards}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while packing cases (out of memory?); each holds preprocess.cases_per_shard cases, "
            "try again with fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One core a worker, and no worker outlives the process that started it."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    exit_with_parent()


def _write_shard(shard: _Shard) -> list[dict[str, Any]]:
    from ctan.datasets import get_dataset
    from ctan.store.pack import pack_case

    dataset = get_dataset(shard.data)
    rows, entries = [], []
    for raw, sha256 in zip(shard.raws, shard.sha256, strict=True):
        try:
            case = dataset.read(raw)
        except CaseError as error:
            raise DataError(f"{error} (it could be read when it was ingested; ingest the source again)") from error
        if case.sha256 != sha256:
            raise DataError(
                f"{raw.case_id}: its raw files changed since ingestion (sha256 {case.sha256[:12]}, in the manifest "
                f"{sha256[:12]}); ingest the source again"
            )
        arrays, entry = pack_case(case, dataset.spec, shard.config, shard.layout)
        rows.append(arrays)
        entries.append(entry)
    write_rows(shard.folder, shard.first, rows)
    return entries
