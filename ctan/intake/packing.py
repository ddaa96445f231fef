"""Packing cases into shards: what each is made of, who packs which, and the work itself."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ctan import limits, versions
from ctan.cases import SPLIT_TEST
from ctan.config import DataConfig, PreprocessConfig, RunConfig
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_json
from ctan.progress import track
from ctan.store.layout import FORMAT_VERSION, Layout
from ctan.store.shards import Shard, ShardWriter, cut
from ctan.store.shelf import NUM_READERS, Shelf
from ctan.workers import exit_with_parent

if TYPE_CHECKING:
    from ctan.cases import RawCase
    from ctan.datasets.base import Dataset

_SMALL_WORK_VOXELS = 60_000_000  # below it starting processes takes longer than what they would do


@dataclass(frozen=True)
class Planned:
    """A shard before it is packed: its cases, the hashes of their raw bytes, and what names the work."""

    layout: Layout
    case_ids: tuple[str, ...]
    splits: tuple[str, ...]
    sha256: tuple[str, ...]
    num_voxels: int
    made_of: str


@dataclass(frozen=True)
class _Work:
    """The work of one process: read, check, pack and write the cases of one shard."""

    store_root: str
    data: DataConfig
    config: PreprocessConfig
    planned: Planned
    raws: tuple[RawCase, ...]


def plan_shards(
    manifest: pa.Table, config_hash: str, layout: Layout, dataset: Dataset, config: RunConfig
) -> tuple[Planned, ...]:
    """Cut the cases of a manifest into shards, and name each by all that its bytes depend on."""
    rows = {row["case_id"]: row for row in manifest.to_pylist()}
    decides = [FORMAT_VERSION, config_hash, versions.of_store(dataset)]
    planned = []
    for case_ids in cut(list(rows), config.preprocess.cases_per_shard):
        chosen = [rows[case_id] for case_id in case_ids]
        shapes = [row["shape"] for row in chosen]
        covered = max(row["num_covered_voxels"] for row in chosen) if dataset.spec.has_dose else 0
        sha256 = tuple(row["sha256"] for row in chosen)
        planned.append(
            Planned(
                layout.of_shard(tuple(max(sizes) for sizes in zip(*shapes, strict=True)), covered),
                tuple(case_ids),
                tuple(row["split"] for row in chosen),
                sha256,
                sum(prod(shape) for shape in shapes),
                sha256_of_json([*decides, [[row["case_id"], row["sha256"], _reads_truth(row)] for row in chosen]]),
            )
        )
    return tuple(planned)


def _reads_truth(row: dict[str, Any]) -> bool:
    return bool(row["split"] != SPLIT_TEST)  # readers may leave the truth of test cases out


def slices(weights: Sequence[int], total: int) -> list[range]:
    """Divide shards into runs of about equal weight.

    Args:
        weights: of each shard, such as its voxels.
        total: number of runs; some are empty where there are fewer shards.
    """
    whole, done, ends = sum(weights), 0, [0]
    for number, weight in enumerate(weights):
        while len(ends) < total and done + weight / 2 >= whole * len(ends) / total:
            ends.append(number)
        done += weight
    ends += [len(weights)] * (total + 1 - len(ends))
    return [range(first, last) for first, last in pairwise(ends)]


def pack(
    source: str,
    shards: Sequence[Planned],
    store_root: str,
    dataset: Dataset,
    config: RunConfig,
    num_workers: int | None,
) -> int:
    """Write those of some shards that are not there, and return how many; the source is not opened when all are."""
    from ctan.sources import open_source

    shelf = Shelf(store_root)
    missing = [shard for shard, there in zip(shards, shards_on(shelf, shards), strict=True) if there is None]
    if not missing:
        return 0
    with open_source(source, dataset) as raw_dir:
        work = _work(dataset.find(raw_dir), missing, store_root, config)
        small = sum(shard.num_voxels for shard in missing) < _SMALL_WORK_VOXELS
        workers = 1 if small else min(limits.workers(num_workers), len(work))
        for _ in track(_run(work, workers), len(work), "preprocess (shards)"):
            pass
    return len(missing)


def shards_on(shelf: Shelf, shards: Sequence[Planned]) -> list[tuple[Shard, list[dict[str, Any]]] | None]:
    """Return which of the shards are there."""
    with ThreadPoolExecutor(NUM_READERS if shelf.is_remote else 1) as pool:
        return list(pool.map(lambda shard: shelf.shard(shard.made_of), shards))


def _work(raws: list[RawCase], shards: Sequence[Planned], store_root: str, config: RunConfig) -> list[_Work]:
    found = {(raw.split, raw.case_id): raw for raw in raws}
    undecided = {raw.case_id: raw for raw in raws if not raw.split}  # ingestion gave them a split
    keys = [key for shard in shards for key in zip(shard.splits, shard.case_ids, strict=True)]
    absent = [case_id for split, case_id in keys if (split, case_id) not in found and case_id not in undecided]
    if absent:
        raise DataError(
            f"{', '.join(absent[:5])}: in the manifest but not among the {len(raws)} cases of the source; "
            f"give the source that was ingested or ingest this one"
        )
    return [
        _Work(
            store_root,
            config.data,
            config.preprocess,
            shard,
            tuple(found.get(key) or undecided[key[1]] for key in zip(shard.splits, shard.case_ids, strict=True)),
        )
        for shard in shards
    ]


def _run(work: list[_Work], num_workers: int) -> Iterator[None]:
    """Yield once for each shard as it is done."""
    if num_workers <= 1:
        yield from map(_write_shard, work)
        return
    # New processes instead of forks: a fork of a process whose libraries run threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    try:
        for future in as_completed([pool.submit(_write_shard, each) for each in work]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while packing cases (out of memory?); each holds one case at a time, try again "
            "with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One core a worker, and no worker outlives the process that started it."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    exit_with_parent()


def _write_shard(work: _Work) -> None:
    from ctan.datasets import get_dataset
    from ctan.store.pack import pack_case

    dataset, planned, shelf, entries = get_dataset(work.data), work.planned, Shelf(work.store_root), []
    with shelf.workplace() as folder:
        with ShardWriter(folder, planned.layout, len(work.raws)) as writer:
            for raw, sha256 in zip(work.raws, planned.sha256, strict=True):
                try:
                    case = dataset.read(raw)
                except CaseError as error:
                    raise DataError(
                        f"{error} (it could be read when it was ingested; ingest the source again)"
                    ) from error
                if case.sha256 != sha256:
                    raise DataError(
                        f"{raw.case_id}: its raw files changed since ingestion (sha256 {case.sha256[:12]}, in the "
                        f"manifest {sha256[:12]}); ingest the source again"
                    )
                arrays, entry = pack_case(case, dataset.spec, work.config, planned.layout)
                writer.add(arrays)
                entries.append(entry)
        layout = planned.layout
        shard = Shard(planned.case_ids, layout.native_shape, layout.num_covered, {})
        shelf.put(planned.made_of, shard, writer.paths, entries)
