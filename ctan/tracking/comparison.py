"""What the comparison step wrote, read and checked for promotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import DataError
from ctan.files import read_json, sha256_of_file, sha256_of_json
from ctan.records import (
    CASES_FILE,
    COMPARISON_FILE,
    EVALUATION,
    WEIGHTS_FILE,
    ComparisonRecord,
    ModelEntry,
    ModelRecord,
    Number,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ctan.store import StorePointer


@dataclass(frozen=True)
class Candidate:
    """The model that the comparison chose on the tuning cases.

    Attributes:
        arch, fold, seed: which training.
        run_id: its MLflow run.
        weights_sha256: of its weights file.
        record: how it was made.
        scores: by role, task and metric.
        cases: its rows of `cases.parquet` on the evaluation split.
        reason: why it was chosen.
    """

    arch: str
    fold: int
    seed: int
    run_id: str
    weights_sha256: str
    record: ModelRecord
    scores: dict[str, dict[str, dict[str, Number]]]
    cases: pa.Table
    reason: str


@dataclass(frozen=True)
class ComparisonFiles:
    """A comparison, checked against the store it is about.

    Attributes:
        record: `comparison.json`.
        hash: of its content: names the decision that is taken from it.
        candidate: the chosen model.
        baselines: name -> rows of what does without a network, on the evaluation split.
    """

    record: ComparisonRecord
    hash: str
    candidate: Candidate
    baselines: dict[str, pa.Table]

    @property
    def evaluation_hash(self) -> str:
        """Names the evaluation cases."""
        return self.record.evaluation_hash


def read_comparison(folder: Path, model_dirs: Sequence[Path], pointer: StorePointer) -> ComparisonFiles:
    """Read `comparison.json`, `cases.parquet` and the chosen model's description.

    Args:
        folder: output of the comparison step.
        model_dirs: folders of trained models, the chosen one among them, in any order.
        pointer: the store that was compared on.

    Raises:
        DataError: when a file is missing or damaged, the comparison is of another store, or the chosen model is
            not among `model_dirs`.
    """
    path = folder / COMPARISON_FILE
    content = read_json(path, ComparisonRecord.advice)
    record = ComparisonRecord.load(folder)
    for name, expected in (("store_key", pointer.key), ("data_hash", pointer.data_hash)):
        if getattr(record, name) != expected:
            raise DataError(
                f"{path}: compares on {name} {getattr(record, name)[:16]}, but the store is {expected[:16]}; "
                f"run compare and promote on the same store"
            )
    from ctan.evaluation.cases import read_cases

    cases = read_cases(record.check_file(folder, CASES_FILE))
    candidate = _candidate(record, folder, model_dirs, cases)
    return ComparisonFiles(record, sha256_of_json(content), candidate, _baselines(record, cases))


def _candidate(comparison: ComparisonRecord, folder: Path, model_dirs: Sequence[Path], cases: pa.Table) -> Candidate:
    model = comparison.best_model
    model_dir, record = _find_model(model, model_dirs, folder)
    return Candidate(
        arch=model.arch,
        fold=model.fold,
        seed=model.seed,
        run_id=model.run_id,
        weights_sha256=sha256_of_file(model_dir / WEIGHTS_FILE),
        record=record,
        scores=model.scores,
        cases=_cases_of(model, cases, folder / CASES_FILE),
        reason=comparison.best.reason,
    )


def _find_model(model: ModelEntry, model_dirs: Sequence[Path], folder: Path) -> tuple[Path, ModelRecord]:
    """Return the folder and description of the model that `comparison.json` names."""
    for model_dir in model_dirs:
        record = ModelRecord.load(model_dir)
        if (record.name, record.fold, record.seed, record.run_id) == (model.arch, model.fold, model.seed, model.run_id):
            return model_dir, record
    raise DataError(
        f"{folder / COMPARISON_FILE}: the best model ({model.arch}, fold {model.fold}, seed {model.seed}, "
        f"run {model.run_id}) is in none of {', '.join(map(str, model_dirs)) or 'no folders'}; "
        f"give the model folders that were compared"
    )


def _baselines(comparison: ComparisonRecord, cases: pa.Table) -> dict[str, pa.Table]:
    import pyarrow.compute as pc

    evaluated = cases.filter(pc.field("role") == EVALUATION)
    return {entry.arch: evaluated.filter(pc.field("arch") == entry.arch) for entry in comparison.baselines}


def _cases_of(model: ModelEntry, cases: pa.Table, path: Path) -> pa.Table:
    table = evaluation_rows(cases, model.arch, model.fold, model.seed)
    if table.num_rows == 0:
        raise DataError(
            f"{path}: no evaluation row of {model.arch}, fold {model.fold}, seed {model.seed}; "
            f"run evaluate and compare again"
        )
    return table


def evaluation_rows(cases: pa.Table, name: str, fold: int, seed: int) -> pa.Table:
    """Return the rows of one training on the evaluation split."""
    import pyarrow.compute as pc

    keep = (pc.field("role") == EVALUATION) & (pc.field("arch") == name)
    return cases.filter(keep & (pc.field("fold") == fold) & (pc.field("seed") == seed))
