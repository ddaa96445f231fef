"""What the comparison step wrote, read and checked for promotion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import DataError
from ctan.files import sha256_of_file, sha256_of_json

if TYPE_CHECKING:
    import pyarrow as pa

    from ctan.store import StorePointer

COMPARISON_FILE, CASES_FILE = "comparison.json", "cases.parquet"
EVALUATION = "evaluation"
_NEEDED = ("dataset", "store_key", "data_hash", "evaluation_hash", "models", "baselines", "best")


@dataclass(frozen=True)
class Candidate:
    """The model that the comparison chose on the tuning cases.

    Attributes:
        arch, fold, seed: which training.
        run_id: its MLflow run.
        weights_sha256: of its weights file.
        model_json: how it was made.
        scores: `{role: {task: {metric: value}}}`.
        cases: its rows of `cases.parquet` on the evaluation split.
        reason: why it was chosen.
    """

    arch: str
    fold: int
    seed: int
    run_id: str
    weights_sha256: str
    model_json: dict[str, Any]
    scores: dict[str, dict[str, dict[str, float]]]
    cases: pa.Table
    reason: str


@dataclass(frozen=True)
class ComparisonFiles:
    """A comparison, checked against the store it is about.

    Attributes:
        content: `comparison.json`.
        hash: of that content: names the decision that is taken from it.
        candidate: the chosen model.
    """

    content: dict[str, Any]
    hash: str
    candidate: Candidate

    @property
    def evaluation_hash(self) -> str:
        """Names the evaluation cases."""
        return self.content["evaluation_hash"]


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
    content = _read_json(folder / COMPARISON_FILE)
    for name, expected in (("store_key", pointer.key), ("data_hash", pointer.data_hash)):
        if content[name] != expected:
            raise DataError(
                f"{folder / COMPARISON_FILE}: compares on {name} {content[name][:16]}, but the store is "
                f"{expected[:16]}; run compare and promote on the same store"
            )
    return ComparisonFiles(content, sha256_of_json(content), _candidate(content, folder, model_dirs))


def _read_json(path: Path) -> dict[str, Any]:
    advice = "expected what `ctan compare` writes"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); {advice}") from error
    missing = [name for name in _NEEDED if name not in content] if isinstance(content, dict) else list(_NEEDED)
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; {advice}")
    return content


def _candidate(content: dict[str, Any], folder: Path, model_dirs: Sequence[Path]) -> Candidate:
    from ctan.inference.load import WEIGHTS_FILE

    best = content["best"]
    model = content["models"][best["model_index"]]
    model_dir, model_json = _find_model(model, model_dirs, folder)
    return Candidate(
        arch=model["arch"],
        fold=model["fold"],
        seed=model["seed"],
        run_id=model["run_id"],
        weights_sha256=sha256_of_file(model_dir / WEIGHTS_FILE),
        model_json=model_json,
        scores=model["scores"],
        cases=_cases_of(model, folder / CASES_FILE),
        reason=best.get("reason", ""),
    )


def _find_model(model: dict[str, Any], model_dirs: Sequence[Path], folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder and description of the model that `comparison.json` names."""
    from ctan.inference.load import read_model_json

    fields = ("arch", "fold", "seed", "run_id")
    wanted = [model[name] for name in fields]
    for model_dir in model_dirs:
        described = read_model_json(model_dir)
        if [described.get(name) for name in fields] == wanted:
            return model_dir, described
    raise DataError(
        f"{folder / COMPARISON_FILE}: the best model ({model['arch']}, fold {model['fold']}, seed {model['seed']}, "
        f"run {model['run_id']}) is in none of {', '.join(map(str, model_dirs)) or 'no folders'}; "
        f"give the model folders that were compared"
    )


def _cases_of(model: dict[str, Any], path: Path) -> pa.Table:
    from ctan.evaluation.cases import read_cases

    table = evaluation_rows(read_cases(path), model)
    if table.num_rows == 0:
        raise DataError(
            f"{path}: no evaluation row of {model['arch']}, fold {model['fold']}, seed {model['seed']}; "
            f"run evaluate and compare again"
        )
    return table


def evaluation_rows(cases: pa.Table, model: Mapping[str, Any]) -> pa.Table:
    """Return the rows of one model (`arch fold seed`) on the evaluation split."""
    import pyarrow.compute as pc

    keep = pc.field("role") == EVALUATION
    for name in ("arch", "fold", "seed"):
        keep = keep & (pc.field(name) == model[name])
    return cases.filter(keep)
