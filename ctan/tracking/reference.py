"""The champion's scores on the evaluation cases: kept in the ledger, or measured anew when the cases changed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.files import sha256_of_file
from ctan.records import CASES_FILE, MODEL_FILE, WEIGHTS_FILE, Grid, ModelRecord
from ctan.tracking.comparison import evaluation_rows
from ctan.tracking.ledger import Ledger
from ctan.tracking.runs import WEIGHTS_TAG

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig
    from ctan.store import StorePointer


class NotComparableError(Exception):
    """The champion cannot be scored on the evaluation cases of this store; the text says why and what to do."""


def champion_cases(
    champion: ModelVersion, ledger: Ledger, evaluation_hash: str, pointer: StorePointer, config: RunConfig
) -> pa.Table:
    """Return the champion's per-case table on the evaluation cases.

    Args:
        champion: its registered version.
        ledger: keeps the tables.
        evaluation_hash: names the evaluation cases.
        pointer: the store with those cases.
        config: settings of the evaluation.

    Raises:
        NotComparableError: when the cases are new to the champion and the store has another working grid than it.
    """
    weights = champion.tags.get(WEIGHTS_TAG, "")
    kept = ledger.table_path(weights, evaluation_hash)
    if weights and kept.exists():
        from ctan.evaluation.cases import read_cases

        return read_cases(kept)
    with tempfile.TemporaryDirectory() as folder:
        model_dir = download_model(champion, Path(folder))
        table = _evaluate(champion, model_dir, Path(folder) / "evaluation", pointer, config)
        ledger.keep_table(sha256_of_file(model_dir / WEIGHTS_FILE), evaluation_hash, table)
    return table


def download_model(champion: ModelVersion, folder: Path) -> Path:
    """Fetch the model folder of a registered version.

    Raises:
        NotComparableError: when it was not registered by ctan.
    """
    from mlflow.artifacts import download_artifacts

    fetched = Path(download_artifacts(f"models:/{champion.name}/{champion.version}", dst_path=str(folder)))
    found = sorted(fetched.rglob(MODEL_FILE))
    if not found:
        raise NotComparableError(
            f"the champion, version {champion.version}, was not registered by ctan: it holds no {MODEL_FILE}; "
            f"remove its alias champion, or choose another promotion.model_name"
        )
    return found[0].parent


def _evaluate(
    champion: ModelVersion, model_dir: Path, output_dir: Path, pointer: StorePointer, config: RunConfig
) -> pa.Table:
    record = ModelRecord.load(model_dir)
    own, present = record.grid, Grid.of(config.preprocess)
    if own != present:
        raise NotComparableError(
            f"the evaluation cases are not those the champion, version {champion.version}, was scored on, and it "
            f"cannot be scored on these: it works on a grid of {own}, this store has "
            f"{present}. Use the champion's preprocess settings, or choose another "
            f"promotion.model_name to start a new line of models"
        )
    from ctan.evaluation import evaluate
    from ctan.evaluation.cases import read_cases

    evaluate(pointer, model_dir, output_dir, config)
    return evaluation_rows(read_cases(output_dir / CASES_FILE), record)
