"""Ingestion: a folder of raw files becomes a manifest, broken cases go to quarantine with the reason."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from ctan.cases import SPLIT_TRAIN, RawCase
from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.datasets.base import Dataset
from ctan.errors import CaseError, ConfigError, DataError
from ctan.files import write_json, write_text
from ctan.intake.measure import case_row
from ctan.intake.planning import PLAN_FILE, apply, propose
from ctan.intake.splits import assign_folds, assign_splits
from ctan.memory import keep_freed_memory
from ctan.progress import track
from ctan.sources import open_source
from ctan.store.manifest import MANIFEST_FILE, NO_FOLD, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, write_manifest

Row = dict[str, Any]


@dataclass(frozen=True)
class IngestSummary:
    """What ingestion found.

    Attributes:
        num_cases: cases in the manifest.
        num_quarantined: broken cases.
        cases_per_split: cases in the manifest by split.
        seconds: wall-clock time.
        remarks: what a person should know about this copy of the data set.
    """

    num_cases: int
    num_quarantined: int
    cases_per_split: dict[str, int]
    seconds: float
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.cases_per_split.items())
        broken = f"; {self.num_quarantined} broken, see {QUARANTINE_FILE}" if self.num_quarantined else ""
        remarks = "".join(f"\n{remark}" for remark in self.remarks)
        return f"{self.num_cases} cases ({splits}) in {self.seconds:.1f} s{broken}{remarks}"


def ingest(source: str, output_dir: Path, config: RunConfig, num_workers: int | None = None) -> IngestSummary:
    """Read every case once, in parallel, and write the manifest.

    Args:
        source: a folder of raw files or `phantom:...`, see `ctan.datasets.open_source`.
        output_dir: receives `manifest.parquet`, `quarantine.parquet`, `config.yaml` (what the plan leaves open
            is filled in), `plan.yaml` and `summary.json`.
        config: which data set, how many cases, how many folds.
        num_workers: processes; None for one a core.

    Raises:
        DataError: when the source holds no case, or every case is broken (the quarantine table is written first).
    """
    started = time.monotonic()
    dataset = get_dataset(config.data)
    spec = dataset.spec
    check_dims(dataset, config)
    with open_source(source, dataset) as raw_dir:
        cases, remarks = _limit(dataset.find(raw_dir), config), tuple(dataset.remarks(raw_dir))
        results = dict(track(_measure_all(config.data, cases, num_workers), len(cases), "ingest"))
    rows = [row for case in cases if isinstance(row := results[_key(case)], dict)]
    broken = [
        {"dataset": spec.dataset, "case_id": case.case_id, "split": case.split, "step": "ingest", "reason": reason}
        for case in cases
        if isinstance(reason := results[_key(case)], str)
    ]
    _assign(rows, dataset, config)
    training = [row for row in rows if row["split"] == SPLIT_TRAIN]
    proposals = propose(training, spec, config) if training else []
    config = apply(proposals, config)
    remarks += tuple(f"planned {p.field} = {p.value}: {p.reason}" for p in proposals if p.used)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["split"]] = counts.get(row["split"], 0) + 1
    summary = IngestSummary(len(rows), len(broken), counts, round(time.monotonic() - started, 3), remarks)
    write_manifest(broken, output_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    write_manifest(rows, output_dir / MANIFEST_FILE, SCHEMA(spec))
    write_text(output_dir / "config.yaml", config.to_yaml())
    spec.save(output_dir)
    write_text(output_dir / PLAN_FILE, yaml.safe_dump({p.field: p.to_json() for p in proposals}, sort_keys=False))
    write_json(output_dir / "summary.json", asdict(summary))
    if not rows:
        first = "; ".join(f"{row['case_id']}: {row['reason']}" for row in broken[:5])
        raise DataError(f"all {len(broken)} cases are in quarantine ({output_dir / QUARANTINE_FILE}): {first}")
    return summary


def check_dims(dataset: Dataset, config: RunConfig) -> None:
    """Raise `ConfigError` when the settings are for images with another number of axes."""
    if dataset.spec.spatial_dims != config.network.spatial_dims:
        raise ConfigError(
            f"network.spatial_dims is {config.network.spatial_dims}, images of {dataset.name} have "
            f"{dataset.spec.spatial_dims} axes; packaged profiles have a section for {dataset.name} that sets it"
        )


def _assign(rows: list[Row], dataset: Dataset, config: RunConfig) -> None:
    """Give every row a fold and, where there is no official split, a split; balanced by the strata of the data set."""

    def strata(of: list[Row]) -> list[tuple[Any, ...]] | None:
        return [tuple(row[name] for name in dataset.spec.strata) for row in of] if dataset.spec.strata else None

    data = config.data
    undecided = [row for row in rows if not row["split"]]
    splits = assign_splits(
        [row["group_id"] for row in undecided], data.evaluation_share, data.split_seed, strata(undecided)
    )
    for row in undecided:
        row["split"] = splits[row["group_id"]]
    training = [row for row in rows if row["split"] == SPLIT_TRAIN]
    folds = assign_folds([row["group_id"] for row in training], data.num_folds, data.split_seed, strata(training))
    for row in rows:
        row["fold"] = folds[row["group_id"]] if row["split"] == SPLIT_TRAIN else NO_FOLD


def _key(case: RawCase) -> tuple[str, str]:
    return case.split, case.case_id


def _limit(cases: list[RawCase], config: RunConfig) -> list[RawCase]:
    """Keep the first cases of the training and of the other splits, as many as the settings allow.

    Without an official split both numbers together count: the split is made of the cases that are kept.
    """
    most_train, most_others = config.data.max_train_cases, config.data.max_evaluation_cases
    undecided = [case for case in cases if not case.split]
    train = [case for case in cases if case.split == SPLIT_TRAIN]
    others = [case for case in cases if case.split and case.split != SPLIT_TRAIN]
    most = None if most_train is None and most_others is None else (most_train or 0) + (most_others or 0)
    return train[:most_train] + others[:most_others] + undecided[:most]


def _measure(data: DataConfig, case: RawCase) -> Row | str:
    """Return the case's manifest row, or why it is broken."""
    dataset = get_dataset(data)
    try:
        return case_row(dataset.read(case), dataset.spec, NO_FOLD)
    except CaseError as error:
        return error.reason


def _measure_all(
    data: DataConfig, cases: list[RawCase], num_workers: int | None
) -> Iterator[tuple[tuple[str, str], Row | str]]:
    """Yield each case's key and its row or reason, in any order; one process reads one case at a time."""
    num_workers = min(num_workers or os.cpu_count() or 1, len(cases))
    if num_workers == 1:
        for case in cases:
            yield _key(case), _measure(data, case)
        return
    with ProcessPoolExecutor(num_workers, get_context("spawn"), keep_freed_memory) as pool:
        pending = {pool.submit(_measure, data, case): case for case in cases}
        try:
            for done in as_completed(pending):
                yield _key(pending[done]), done.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died while reading cases (out of memory?); read one at a time with --workers 1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
