"""Score one trained model on its tuning cases and on the evaluation split."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctan import versions
from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION, check_same_spec
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.evaluation.cases import CASES_FILE, EVALUATION, SCHEMA, TUNING, write_cases
from ctan.evaluation.figures import DVH_SCHEMA, pictures
from ctan.evaluation.grids import Cases, on_grid
from ctan.evaluation.scoring import Scored, score_case
from ctan.evaluation.shown import case_errors, shown_cases
from ctan.evaluation.summary import scores
from ctan.files import atomic_path, sha256_of_json
from ctan.launch import run_in_processes
from ctan.progress import track
from ctan.records import DVH_FILE, FIGURES_FILE, HISTORY_FILE, EvaluationRecord, Grid, ModelRecord
from ctan.store import Store, StorePointer, open_store
from ctan.tasks import Row, tasks_of

if TYPE_CHECKING:
    from ctan.cases import Case
    from ctan.inference import LoadedModel


def evaluation_cases(store: Store) -> list[str]:
    """Return the cases that only measure: the validation split; of a sealed store, which holds nothing else, test."""
    return store.case_ids(split=SPLIT_TEST if store.is_sealed else SPLIT_VALIDATION)


def evaluation_hash(store: Store) -> str:
    """Return the SHA-256 over what scores on the evaluation cases are made of.

    Their ids and raw bytes, what the reader makes of them (description, labels, code) and how they are scored: tables
    of other labels, structures, units or metrics are never set beside each other.
    """
    wanted = set(evaluation_cases(store))
    rows = store.manifest.select(["case_id", "sha256"]).to_pylist()
    cases = sorted([row["case_id"], row["sha256"]] for row in rows if row["case_id"] in wanted)
    truth = [dict(labels) for labels in store.labels([case_id for case_id, _ in cases])]
    scoring = versions.of_scoring(tasks_of(store.spec))
    return sha256_of_json([cases, truth, store.spec.to_json(), store.versions, scoring])


def evaluate(
    pointer: StorePointer,
    model_dir: Path,
    output_dir: Path,
    config: RunConfig,
    wanted: Collection[str] = (TUNING, EVALUATION),
) -> EvaluationRecord:
    """Predict every tuning and evaluation case and score it on the native grid.

    A model of another working grid than the store's gets its own, made from the native images. Several processes share
    the cases where the settings say so; the tables are the same.

    Args:
        pointer: the store.
        model_dir: a trained model.
        output_dir: receives `cases.parquet`, `dvh.parquet`, `figures.npz`, `summary.json` and copies of `model.json`
            and `history.parquet`; appears whole or not at all. An earlier evaluation there is replaced.
        config: the evaluation settings.
        wanted: roles of the cases to score.

    Returns:
        What `summary.json` holds.

    Raises:
        DataError: when a role has no case, the model cannot be loaded, is of another data set, or of another working
            grid in a store without native images, its predictions are not finite, or `output_dir` holds something else.
    """
    from ctan.ranks import are_started, num_processes

    number = num_processes(
        config.evaluation.num_processes, pointer.num_cases, "evaluation.num_processes", "a number of cases of"
    )
    given = (pointer, model_dir, output_dir, config, wanted)
    if number == 1 or are_started():
        return evaluate_here(*given)
    again = "Evaluating again starts anew."
    function = "ctan.evaluation.evaluate:evaluate_here"
    record: EvaluationRecord = run_in_processes(function, number, *given, again=again)
    return record


def evaluate_here(
    pointer: StorePointer, model_dir: Path, output_dir: Path, config: RunConfig, wanted: Collection[str]
) -> EvaluationRecord:
    """Evaluate in this process, which is one of several where `torchrun` started it. See `evaluate`."""
    from ctan.inference import load_network
    from ctan.ranks import Ranks

    started = time.monotonic()
    ranks = Ranks.here()
    _check_output(output_dir)
    with ranks.one_a_machine_first():
        store = open_store(pointer)
    model = load_network(model_dir, config.evaluation.test_time_flip)
    record = model.record
    if record.dataset != pointer.dataset:
        raise DataError(f"{model_dir}: a model of data set {record.dataset!r}, the store holds {pointer.dataset!r}")
    check_same_spec(
        model.spec, store.spec, str(pointer.folder), "pack the data as the model knows them, or train again"
    )
    cases = on_grid(store, record.grid, Grid.of(config.preprocess))
    roles = {
        TUNING: store.case_ids(split=SPLIT_TRAIN, fold=record.fold),
        EVALUATION: evaluation_cases(store),
    }
    roles = {role: case_ids for role, case_ids in roles.items() if role in wanted}
    for role, case_ids in roles.items():
        if not case_ids:
            raise DataError(f"store {pointer.key} has no {role} cases; ingest more cases")
    todo = [(role, case_id) for role, case_ids in roles.items() for case_id in case_ids]
    named = {"arch": record.name, "fold": record.fold, "seed": record.seed}
    own = ranks.share(todo)
    scored = (_rows(store, cases, model, role, case_id, config) for role, case_id in own)
    shown = track(scored, len(own), f"evaluate {record.name}") if ranks.is_main else scored
    everything = ranks.joined(list(shown), len(todo))
    table = pa.Table.from_pylist([{**named, **row} for found in everything for row in found], SCHEMA)
    by_role = {role: scores(table.filter(pc.field("role") == role), model.tasks) for role in roles}
    summary = EvaluationRecord(
        scores=by_role,
        num_cases={role: len(case_ids) for role, case_ids in roles.items()},
        seconds=round(time.monotonic() - started, 1),
        store_key=pointer.key,
    )
    if ranks.is_main:
        looked_at = shown_cases(case_errors(table, model.tasks), config.evaluation.num_figure_cases)
        looks = [_look(store, cases, model, case_id, config) for case_id in looked_at]
        curves = [{**named, **row} for look in looks for row in look.curves]
        figures = {name: picture for look in looks for name, picture in look.figures.items()}
        _write(output_dir, model_dir, table, curves, figures, summary, record)
    ranks.wait()
    return summary


def _write(
    output_dir: Path,
    model_dir: Path,
    table: pa.Table,
    curves: list[Row],
    figures: dict[str, Any],
    summary: EvaluationRecord,
    record: ModelRecord,
) -> None:
    with atomic_path(output_dir) as folder:
        folder.mkdir()
        write_cases(table, folder / CASES_FILE)
        pq.write_table(pa.Table.from_pylist(curves, DVH_SCHEMA), folder / DVH_FILE)
        np.savez_compressed(folder / FIGURES_FILE, **figures)
        if (model_dir / HISTORY_FILE).exists():
            shutil.copyfile(record.check_file(model_dir, HISTORY_FILE), folder / HISTORY_FILE)
        summary.save(folder)
        record.save(folder)
        if output_dir.exists():
            shutil.rmtree(output_dir)


def _check_output(output_dir: Path) -> None:
    """Refuse to replace anything but an empty folder or an earlier evaluation."""
    empty = not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir()))
    if not empty and not (output_dir / CASES_FILE).is_file():
        raise DataError(f"{output_dir}: exists and is no earlier evaluation; give another output folder")


def _scored(store: Store, cases: Cases, model: LoadedModel, case_id: str, config: RunConfig) -> tuple[Case, Scored]:
    """Predict a case and score it; return what it is at native resolution, too."""
    reference = store.reference(case_id)
    return reference, score_case(cases, reference, model.tasks, model.predict(cases.load(case_id)), config.evaluation)


def _rows(store: Store, cases: Cases, model: LoadedModel, role: str, case_id: str, config: RunConfig) -> list[Row]:
    """Return the rows of a case."""
    reference, scored = _scored(store, cases, model, case_id, config)
    identity = {"role": role, "case_id": case_id, "group_id": reference.group_id}
    return [{**identity, **row} for row in scored.rows]


@dataclass(frozen=True)
class _Look:
    """What is shown of a case."""

    curves: list[Row]
    figures: dict[str, Any]


def _look(store: Store, cases: Cases, model: LoadedModel, case_id: str, config: RunConfig) -> _Look:
    """Predict a case once more, now that it is known which ones are shown: pictures of all would fill the memory."""
    reference, scored = _scored(store, cases, model, case_id, config)
    curves = [row for task in model.tasks for row in task.curves(scored.native[task.name], reference, store.spec)]
    return _Look(curves, pictures(reference, scored.native, model.tasks, store.spec))
