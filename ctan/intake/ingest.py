"""Ingestion: a folder of raw files becomes a manifest, broken cases go to quarantine with the reason."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from ctan import limits
from ctan.cases import SPLIT_TRAIN, Case, DataSpec, RawCase
from ctan.cases.sides import check_sides
from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.datasets.base import Dataset
from ctan.errors import CaseError, ConfigError, DataError
from ctan.files import write_json, write_text
from ctan.intake.burned_in import REMARK, holds_text
from ctan.intake.measure import case_row
from ctan.intake.planning import PLAN_FILE, apply, propose
from ctan.intake.sides import SIDES, Table, table_for
from ctan.progress import track
from ctan.reading import is_sane_spacing, printable
from ctan.seals import seal_folder
from ctan.sources import is_phantom, open_source
from ctan.sources.synthetic import is_marked
from ctan.store.manifest import MANIFEST_FILE, NO_FOLD, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, write_manifest
from ctan.workers import Lost, run_isolated

Row = dict[str, Any]
_NUM_NAMED = 5  # cases in a remark
_PICTURE, _VOLUME = 2, 3  # axes


@dataclass(frozen=True)
class IngestSummary:
    """What ingestion found.

    Attributes:
        num_cases: cases in the manifest.
        num_quarantined: broken cases.
        cases_per_split: cases in the manifest by split.
        seconds: wall-clock time.
        remarks: what a person should know about this copy of the data set.
        first_broken: id and reason of a few broken cases.
        synthetic: whether it consists of phantoms.
    """

    num_cases: int
    num_quarantined: int
    cases_per_split: dict[str, int]
    seconds: float
    remarks: tuple[str, ...] = ()
    first_broken: tuple[str, ...] = ()
    synthetic: bool = False

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.cases_per_split.items())
        broken = f"; {self.num_quarantined} broken, see {QUARANTINE_FILE}" if self.num_quarantined else ""
        if not self.num_cases:
            broken = "".join([broken, *(f"\n  {case}" for case in self.first_broken)])
        remarks = "".join(f"\n{remark}" for remark in self.remarks)
        return f"{self.num_cases} cases ({splits}) in {self.seconds:.1f} s{broken}{remarks}"


def ingest(
    source: str,
    output_dir: Path,
    config: RunConfig,
    num_workers: int | None = None,
    sides: Mapping[str, Any] | None = None,
    only: Collection[str] = SIDES,
) -> IngestSummary:
    """Read every case once, in parallel, and write the manifest.

    Args:
        source: a folder of raw files or `phantom:...`, see `ctan.datasets.open_source`.
        output_dir: receives `manifest.parquet`, `quarantine.parquet`, `config.yaml` (what the plan leaves open
            is filled in), `plan.yaml` and `summary.json`.
        config: which data set, how many cases, how many folds.
        num_workers: processes, so that a case that kills or hangs one costs no other; None for as many as cores and
            memory allow; 0 for none: everything in this one, which starts faster and is not protected.
        sides: of the origin: where the table of sides lies and what it says; None: divided as for the first time.
        only: cases of these sides are read.

    Returns:
        What was found. That every case is broken is no error here: it is the verdict of `validate`, which writes a page
        that says why, and on a cluster an output of a step that fails is lost.

    Raises:
        DataError: when the source holds no case.
    """
    started = time.monotonic()
    dataset = get_dataset(config.data)
    spec = dataset.spec
    check_dims(dataset, config)
    with open_source(source, dataset) as raw_dir:
        cases = dataset.find(raw_dir)
        table = table_for(cases, config, sides or {})
        cases = [case for case in _chosen(cases, table, config.data) if case.split in only]
        if not cases:
            raise DataError(f"the source has no {' or '.join(only)} case (see docs/data.md, sides)")
        remarks, synthetic = tuple(dataset.remarks(raw_dir)), is_phantom(source) or is_marked(raw_dir)
        measured = _measure_all(config.data, cases, num_workers)
        results = dict(track(measured, len(cases), "ingest"))
    rows = [result.row for number in range(len(cases)) if (result := results[number]).row is not None]
    broken = [
        {
            "dataset": spec.dataset,
            "case_id": printable(case.case_id),
            "split": case.split,
            "step": "ingest",
            "reason": printable(results[number].reason),
        }
        for number, case in enumerate(cases)
        if results[number].row is None
    ]
    remarks += _remarks_of_cases([(case.case_id, results[number].remarks) for number, case in enumerate(cases)])
    for row in rows:
        row["fold"] = table.groups[row["group_id"]].fold(config.data.num_folds)
    training = [row for row in rows if row["split"] == SPLIT_TRAIN]
    proposals = propose(training, spec, config) if training else []
    config = apply(proposals, config)
    remarks += tuple(f"planned {p.field} = {p.value}: {p.reason}" for p in proposals if p.used)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["split"]] = counts.get(row["split"], 0) + 1
    first = tuple(f"{row['case_id']}: {row['reason']}" for row in broken[:_NUM_NAMED])
    seconds = round(time.monotonic() - started, 3)
    summary = IngestSummary(len(rows), len(broken), counts, seconds, remarks, first, synthetic)
    write_manifest(broken, output_dir / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    write_manifest(rows, output_dir / MANIFEST_FILE, SCHEMA(spec))
    write_text(output_dir / "config.yaml", config.to_yaml())
    spec.save(output_dir)
    write_text(output_dir / PLAN_FILE, yaml.safe_dump({p.field: p.to_json() for p in proposals}, sort_keys=False))
    write_json(output_dir / "summary.json", asdict(summary))
    seal_folder(output_dir)
    return summary


def check_dims(dataset: Dataset, config: RunConfig) -> None:
    """Raise `ConfigError` when the settings are for images with another number of axes."""
    if dataset.spec.spatial_dims != config.network.spatial_dims:
        raise ConfigError(
            f"network.spatial_dims is {config.network.spatial_dims}, images of {dataset.name} have "
            f"{dataset.spec.spatial_dims} axes; packaged profiles have a section for {dataset.name} that sets it"
        )


def _chosen(cases: list[RawCase], table: Table, data: DataConfig) -> list[RawCase]:
    """Give every case the side of its group, then keep as many of each side as the settings allow.

    Sides come first: so a limit of one side leaves the others whole. Kept are the lowest hash ranks, of training cases
    the lowest of every fold in turn, so that no fold stays empty: fewer are always part of more.
    """
    rows = {case.group_id: table.groups[case.group_id] for case in cases}
    cases = [replace(case, split=rows[case.group_id].side) for case in cases]
    by_rank = sorted(range(len(cases)), key=lambda n: (rows[cases[n].group_id].rank, cases[n].case_id))
    of_fold: Counter[int] = Counter()
    turns: dict[int, int] = {}  # of the training cases of a fold: first, second, ...
    for number in by_rank:
        fold = rows[cases[number].group_id].fold(data.num_folds)
        turns[number] = of_fold[fold] if fold != NO_FOLD else 0
        of_fold[fold] += 1
    kept: list[int] = []
    for side in SIDES:
        of_side = [number for number in by_rank if cases[number].split == side]
        limit = data.max_train_cases if side == SPLIT_TRAIN else data.max_evaluation_cases
        kept += sorted(of_side, key=turns.__getitem__)[:limit]
    return [cases[number] for number in sorted(kept)]


def _remarks_of_cases(found: list[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return each remark once, with the cases that it is about."""
    about: dict[str, list[str]] = {}
    for case_id, remarks in found:
        for remark in remarks:
            about.setdefault(remark, []).append(case_id)
    return tuple(
        f"{remark}: {len(ids):,} {'case' if len(ids) == 1 else 'cases'} ({', '.join(ids[:_NUM_NAMED])}"
        f"{', ...' if len(ids) > _NUM_NAMED else ''})"
        for remark, ids in about.items()
    )


@dataclass(frozen=True)
class _Measured:
    """A case's manifest row and what is to be said of it, or why it is broken."""

    row: Row | None = None
    remarks: tuple[str, ...] = ()
    reason: str = ""


def _measure(data: DataConfig, case: RawCase) -> _Measured:
    """Read and measure a case. Whatever happens on the way is this case's fault, except for wrong settings."""
    dataset = get_dataset(data)
    try:
        found = read_case(dataset, case)
        row = case_row(found, dataset.spec, NO_FOLD)
        pa.Table.from_pylist([row], SCHEMA(dataset.spec))  # numbers and texts that the manifest cannot hold
        return _Measured(row, found.remarks + _burned_in(found))
    except CaseError as error:
        return _Measured(reason=error.reason)
    except ConfigError:
        raise
    except Exception as error:
        return _Measured(reason=_unexpected(error))


def _burned_in(case: Case) -> tuple[str, ...]:
    """Say that a picture seems to hold text."""
    pictures = [image for image in case.images.values() if len(case.spacing_mm) == _PICTURE and image.dtype == np.uint8]
    return (REMARK,) if any(holds_text(image) for image in pictures) else ()


def read_case(dataset: Dataset, raw: RawCase) -> Case:
    """Read a case and check what holds of every case; whatever goes wrong on the way is this case's fault.

    Raises:
        CaseError: with the reason.
        ConfigError: when the settings are wrong.
    """
    try:
        found = dataset.read(raw)
        check_case(found, raw)
        found = _on_their_sides(found, dataset.spec)
    except (CaseError, ConfigError):
        raise
    except Exception as error:
        raise CaseError(raw.case_id, _unexpected(error)) from error
    return found


def check_case(found: Case, raw: RawCase) -> None:
    """Check what holds of every case, whatever its format.

    Raises:
        CaseError: with the reason.
    """
    if found.group_id != raw.group_id:
        raise CaseError(raw.case_id, "belongs to another group than when it was listed; the files changed, try again")
    if not is_sane_spacing(found.spacing_mm):
        raise CaseError(raw.case_id, f"expected positive voxel edges in mm, found {list(found.spacing_mm)}")
    for name, array in {**found.images, **found.doses}.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            number = int(np.count_nonzero(~np.isfinite(array)))
            raise CaseError(raw.case_id, f"{name}: {number:,} voxels are NaN or infinite")


def _on_their_sides(found: Case, spec: DataSpec) -> Case:
    """See that the structures of a volume lie on the side that their names say, whatever its format; add remarks.

    Raises:
        CaseError: when a left one lies to the right of its partner.
    """
    if spec.spatial_dims != _VOLUME or not spec.mirrored_pairs:
        return found
    image, threshold = found.images[spec.image.name], spec.image.body_threshold
    body = None if threshold is None or image.ndim != _VOLUME else image > threshold
    try:
        said = check_sides(found.masks, spec.mirrored_pairs, body)
    except DataError as error:
        raise CaseError(found.case_id, str(error)) from error
    return replace(found, remarks=(*found.remarks, *(remark for remark in said if remark not in found.remarks)))


def _unexpected(error: Exception) -> str:
    """Say what kind of error it was and where; its text may quote values of the files."""
    place, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        place = f" in {module}, line {trace.tb_lineno}" if module.startswith("ctan.") else place
        trace = trace.tb_next
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return f"cannot be read: {kind}{place}; it needs more memory than there is"
    return f"cannot be read: {kind}{place}; the files are damaged in a way that this reader does not know"


def _measure_all(data: DataConfig, cases: list[RawCase], num_workers: int | None) -> Iterator[tuple[int, _Measured]]:
    """Yield each case's number and what was found, in any order; one process reads one case at a time."""
    if num_workers == 0:
        yield from ((number, _measure(data, case)) for number, case in enumerate(cases))
        return
    workers, seconds = limits.workers(num_workers), data.reading.case_seconds
    for number, result in run_isolated(partial(_measure, data), cases, workers, seconds):
        if isinstance(result, Lost):
            late = "" if result.died else "; data.reading.case_seconds allows no more"
            result = _Measured(reason=f"cannot be read: {result.reason}{late}")
        yield number, result
