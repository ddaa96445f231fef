"""Predicting every case of a source: read ahead, asked, written in its own format, whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import ctan
from ctan import versions
from ctan.cases import Case, DataSpec, RawCase
from ctan.cases.prediction import LABEL
from ctan.cases.working import to_working
from ctan.config import DataConfig
from ctan.datasets import Dataset, get_dataset
from ctan.datasets.folder.plain import PlainVolumes, are_plain_volumes
from ctan.datasets.outputs import Asked
from ctan.errors import CaseError, CtanError, DataError
from ctan.files import atomic_path, sha256_of_digests, sha256_of_file, sha256_of_json, write_json
from ctan.inference import LoadedModel, load_network
from ctan.intake.ingest import read_case
from ctan.memory import keep_freed_memory
from ctan.prediction.ask import ask
from ctan.prediction.measure import doses_gy, spread_maps, uncertainty, volumes_cc
from ctan.prediction.models import Model, open_models
from ctan.progress import track
from ctan.provenance import git_commit
from ctan.reading import printable
from ctan.records import PREDICTION_FILE, AskedModel, PredictionRecord
from ctan.settings import with_overrides
from ctan.sources import open_source
from ctan.workers import Lost, run_isolated

_LIBRARIES = ("numpy", "torch", "pydicom", "SimpleITK", "pillow", "pyarrow")  # that decode and compute
_DESCRIBED = ("image", "structures", "targets", "labels", "numbers")  # of what a network is shown and says
_TRUST = {"calibration", "fingerprint"}  # of a model's record, which its weights do not tell
_LOCK = ".ctan-predict.lock"


@dataclass(frozen=True)
class PredictionSummary:
    """What was predicted.

    Attributes:
        folder: where it lies.
        done: cases that were predicted now.
        kept: cases that were there already, predicted alike.
        failed: case -> why it could not be predicted.
        warnings: case -> what a person should know of it.
        differences: of what stands before the model, to its training.
    """

    folder: Path
    done: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    differences: tuple[str, ...] = ()


def predict(
    model: str,
    source: str,
    output_dir: Path,
    *,
    test_time_flip: bool | None = None,
    ensemble: bool = False,
    identified: bool = False,
    spread: bool = True,
    why: bool = False,
    overrides: Sequence[str] = (),
    read_ahead: bool = True,
) -> PredictionSummary:
    """Predict the cases of a source and write each into a folder of its own.

    A case's folder appears whole, with a page and `prediction.json`. Cases that are there already, predicted by the
    same models and code from the same bytes in the same way, are left alone, so that a killed prediction goes on.

    Args:
        model: see `ctan.prediction.models.open_models`.
        source: a case or a folder of cases, or what `ctan.sources.open_source` opens.
        output_dir: a new or empty folder, or that of an earlier prediction.
        test_time_flip: average with the prediction for the flipped image; None: as the model says.
        ensemble: average all folds and seeds of the model's architecture.
        identified: copy who the patient is into DICOM; else a pseudonym stands there.
        spread: tell how far mirror images and members of an ensemble are apart: an answer more of the network a case
            where the model is not asked with mirror images anyway.
        why: say what the answers hang on, see `ctan.inference.why`; a hundred times the work.
        overrides: `FIELD=VALUE` of settings of the data, such as `data.options.prescription_gy=60`.
        read_ahead: read in a process of its own, so that a file that kills or hangs it costs its case; else in this
            one, which starts faster.

    Raises:
        DataError: when the source holds no case, or the folder something else.
        ConfigError, TrackingError: see `open_models` and the data set's settings.
    """
    from ctan.prediction.page import PAGE_FILE, write_index

    with open_models(model, ensemble) as models, _output(output_dir):
        run = Run.of(models, test_time_flip, identified, spread, overrides, why)
        with opened(source, run) as (cases, reader):
            records, failed, kept = run.predict(cases, reader, output_dir, read_ahead)
            if records:
                reader.gather([record.to_json() for record in records], output_dir)
        write_index(records, failed, output_dir / PAGE_FILE)
        summary = {
            "format_version": 1,
            "label": LABEL,
            "models": [asked.model_dump(mode="json") for asked in run.asked],
            "settings": run.settings,
            "differences": list(run.differences),
            "cases": [record.case_id for record in records],
            "failed": failed,
        }
        write_json(output_dir / PREDICTION_FILE, summary)
    done = tuple(record.case_id for record in records if record.case_id not in kept)
    warnings = {record.case_id: record.warnings for record in records if record.warnings}
    return PredictionSummary(output_dir, done, tuple(kept), failed, warnings, run.differences)


@contextmanager
def _output(folder: Path) -> Iterator[None]:
    """Hold a folder that is new, empty or an earlier prediction; what a killed one left half-written is removed."""
    from filelock import FileLock, Timeout

    inside = [path for path in folder.iterdir() if path.name != _LOCK] if folder.is_dir() else []
    ours = any(path.is_dir() and (path / PREDICTION_FILE).is_file() for path in inside)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder")
    if inside and not ours and not (folder / PREDICTION_FILE).is_file() and any(p.suffix != ".tmp" for p in inside):
        raise DataError(f"{folder}: exists and is no earlier prediction; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            for path in folder.glob(".*.tmp"):
                shutil.rmtree(path, ignore_errors=True)
            yield
    except Timeout as error:
        raise DataError(f"{folder}: another `ctan predict` is writing there; wait for it or name another") from error


@contextmanager
def opened(source: str, run: Run) -> Iterator[tuple[list[RawCase], Dataset]]:
    """Yield the cases of a source and their reader."""
    dataset = get_dataset(run.data, "predict")
    path = Path(source).expanduser()
    if path.is_file():
        reader = run.reader(path)
        yield reader.find(path), reader
        return
    with open_source(source, dataset) as folder:
        reader = run.reader(folder)
        yield reader.find(folder), reader


@dataclass(frozen=True)
class Run:
    """How cases are read and asked."""

    models: list[Model]
    data: DataConfig
    spec: DataSpec
    test_time_flip: bool
    identified: bool
    spread: bool
    why: bool
    asked: tuple[AskedModel, ...]
    settings: dict[str, Any]
    versions: dict[str, int]
    differences: tuple[str, ...]

    @classmethod
    def of(
        cls,
        models: list[Model],
        test_time_flip: bool | None,
        identified: bool,
        spread: bool,
        overrides: Sequence[str],
        why: bool = False,
    ) -> Run:
        record = models[0].record
        data = with_overrides(record.config, overrides, models[0].name).data
        dataset = get_dataset(data, "predict")
        flips = record.test_time_flip if test_time_flip is None else test_time_flip
        now = versions.of_store(dataset) | {f"task {task.kind}": task.version for task in record.tasks}
        settings = {"test_time_flip": flips, "models": len(models), "grid": str(record.grid), "identified": identified}
        settings |= {"spread": spread, "why": why}
        asked = tuple(
            AskedModel(
                name=model.name,
                weights_sha256=model.weights_sha256,
                arch=model.record.arch,
                fold=model.record.fold,
                seed=model.record.seed,
                store_key=model.record.store_key,
                data_hash=model.record.data_hash,
            )
            for model in models
        )
        differences = tuple(_differences(record.versions, now, dataset.spec, record.spec))
        return cls(models, data, record.spec, flips, identified, spread, why, asked, settings, now, differences)

    def reader(self, path: Path) -> Dataset:
        """Return what reads the files at a path: the data set's own reader, or that of plain volumes."""
        return _reader(self.data, self.spec, are_plain_volumes(path, get_dataset(self.data, "predict"), self.spec))

    def key(self, reader: Dataset, raw: RawCase) -> str:
        """Return what decides the prediction of a case, its files included, as one hash."""
        try:
            paths = sorted(reader.parts(raw))
            content = sha256_of_digests({f"{n}": sha256_of_file(path) for n, path in enumerate(paths)})
        except OSError as error:
            raise CaseError(raw.case_id, f"cannot be read ({error.strerror})") from error
        weights = [model.weights_sha256 for model in self.models]
        trust = [sha256_of_json(model.record.model_dump(mode="json", include=_TRUST)) for model in self.models]
        decisive = [weights, trust, self.settings, self.versions, self.data.model_dump(mode="json"), self.spec.sha256]
        return sha256_of_json([*decisive, ctan.__version__, git_commit(), raw.case_id, content])

    def cases(self, todo: Sequence[RawCase], reader: Dataset, read_ahead: bool) -> Iterator[tuple[RawCase, Case | str]]:
        """Yield each case as it was read, or the reason why it cannot be."""
        read = partial(_read, self.data, self.spec, isinstance(reader, PlainVolumes))
        results: Iterable[tuple[int, Any]] = ((position, read(raw)) for position, raw in enumerate(todo))
        if read_ahead:
            results = run_isolated(read, todo, 1, self.data.reading.case_seconds)
        for position, result in results:
            lost = isinstance(result, Lost)
            yield todo[position], f"cannot be read: {result.reason}" if lost else result

    def predict(
        self, cases: Sequence[RawCase], reader: Dataset, output_dir: Path, read_ahead: bool
    ) -> tuple[list[PredictionRecord], dict[str, str], list[str]]:
        """Return the records of all predicted cases in order, the reasons of others, and which were there already."""
        records: dict[str, PredictionRecord] = {}
        failed: dict[str, str] = {}
        keys: dict[str, str] = {}
        todo: list[RawCase] = []
        for raw in cases:
            try:
                keys[raw.case_id] = self.key(reader, raw)
            except CaseError as error:
                failed[raw.case_id] = error.reason
                continue
            if found := _there(output_dir / raw.case_id, keys[raw.case_id]):
                records[raw.case_id] = found
            else:
                todo.append(raw)
        kept = list(records)
        keep_freed_memory()
        loaded = [load_network(model.folder, self.test_time_flip) for model in self.models] if todo else []
        for raw, case in track(self.cases(todo, reader, read_ahead), len(todo), "predict"):
            started = time.monotonic()
            try:
                if isinstance(case, str):
                    raise CaseError(raw.case_id, case)
                records[raw.case_id] = self._write(loaded, case, raw, reader, keys[raw.case_id], started, output_dir)
            except CaseError as error:
                failed[raw.case_id] = printable(error.reason)
                shutil.rmtree(output_dir / raw.case_id, ignore_errors=True)  # of an earlier prediction, now wrong
        return [records[raw.case_id] for raw in cases if raw.case_id in records], failed, kept

    def _write(
        self,
        loaded: Sequence[LoadedModel],
        case: Case,
        raw: RawCase,
        reader: Dataset,
        key: str,
        started: float,
        output_dir: Path,
    ) -> PredictionRecord:
        from ctan.prediction.page import PAGE_FILE, write_case_page

        answer = ask(loaded, case, self.spread)
        written = replace(answer.prediction, maps={**answer.prediction.maps, **spread_maps(answer)})
        target = output_dir / raw.case_id
        with atomic_path(target) as folder:
            folder.mkdir()
            asked = Asked(self.models[0].name, key, self.identified)
            reader.write(raw, answer.case, written, asked, folder)
            files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
            record = PredictionRecord(
                case_id=raw.case_id,
                label=LABEL,
                key=key,
                models=self.asked,
                input_sha256=case.sha256,
                settings=self.settings,
                versions=self.versions,
                differences=self.differences,
                ctan=ctan.__version__,
                commit=git_commit() or "",
                libraries={name: metadata.version(name) for name in _LIBRARIES},
                device=loaded[0].device.type,
                seconds=round(time.monotonic() - started, 3),
                time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
                shape=case.shape,
                spacing_mm=tuple(float(edge) for edge in case.spacing_mm),
                windows=answer.num_windows,
                uncovered_slices=answer.uncovered,
                probabilities=answer.prediction.probabilities,
                numbers=answer.prediction.numbers,
                volumes_cc=volumes_cc(case, answer.prediction),
                dose_gy=doses_gy(answer.case, answer.prediction, self.spec),
                uncertainty=uncertainty(answer, loaded[0].tasks, self.spec),
                unusual=dict(answer.unusual),
                warnings=answer.warnings,
                files=files,
            )
            more = self._reasons(loaded[0], answer.case) if self.why else []
            write_case_page(answer, record, self.spec, folder / PAGE_FILE, more)
            record.save(folder)
            shutil.rmtree(target, ignore_errors=True)
        return record

    def _reasons(self, model: LoadedModel, case: Case) -> list[object]:
        from ctan.inference.why import why
        from ctan.prediction.why_page import reasons

        grid = model.record.grid
        stored, _ = to_working(case, self.spec, grid.shape, grid.spacing_mm)
        return reasons(why(model, stored), stored, self.spec)


def _reader(data: DataConfig, spec: DataSpec, plain: bool) -> Dataset:
    return PlainVolumes(spec, data) if plain else get_dataset(data, "predict")


def _read(data: DataConfig, spec: DataSpec, plain: bool, raw: RawCase) -> Case | str:
    """Read a case in a process of its own; return the reason where that is not possible."""
    try:
        return read_case(_reader(data, spec, plain), raw)
    except CaseError as error:
        return error.reason


def _there(folder: Path, key: str) -> PredictionRecord | None:
    """Return the record of a case that was predicted alike and is whole."""
    try:
        record = PredictionRecord.load(folder)
        whole = all(sha256_of_file(folder / name) == digest for name, digest in record.files.items())
    except (CtanError, ValidationError, OSError):
        return None
    return record if whole and record.key == key else None


def _differences(
    then: Mapping[str, int], now: Mapping[str, int], spec: DataSpec, model_spec: DataSpec
) -> Iterator[str]:
    """Yield what stands before the model and is not as it was in training."""
    for name, version in then.items():
        if name != "packer" and name in now and now[name] != version:
            yield f"{name}: cases are read by version {now[name]}, the model learned from version {version}"
    one, other = spec.to_json(), model_spec.to_json()
    if changed := [name for name in _DESCRIBED if one[name] != other[name]]:
        yield f"the reader describes {', '.join(changed)} otherwise than the model learned it; the model's counts"
