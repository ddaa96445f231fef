"""The champion's scores on the evaluation cases: kept in the ledger, or measured anew when the cases changed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import DataError
from ctan.files import sha256_of_file
from ctan.records import CASES_FILE, EVALUATION, MODEL_FILE, WEIGHTS_FILE, ModelRecord
from ctan.tracking.comparison import evaluation_rows
from ctan.tracking.gate import Rival
from ctan.tracking.ledger import Ledger
from ctan.tracking.runs import WEIGHTS_TAG

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities.model_registry import ModelVersion

    from ctan.config import RunConfig
    from ctan.store import StorePointer


class NotComparableError(Exception):
    """The champion cannot be scored on the evaluation cases of this store; the text says why."""


def champion_scores(
    champion: ModelVersion, ledger: Ledger, evaluation_hash: str, pointer: StorePointer, config: RunConfig
) -> Rival:
    """Return the champion with its per-case table on the evaluation cases.

    A champion of another working grid than the store's is scored on its own, from the native images.

    Args:
        champion: its registered version.
        ledger: keeps the tables.
        evaluation_hash: names the evaluation cases.
        pointer: the store with those cases.
        config: settings of the evaluation.

    Raises:
        NotComparableError: when the cases are new to the champion and it cannot be scored on them.
    """
    with tempfile.TemporaryDirectory() as folder:
        model_dir = download_model(champion, Path(folder))
        record = ModelRecord.load(model_dir)
        kept = ledger.table_path(champion.tags.get(WEIGHTS_TAG, ""), evaluation_hash)
        if champion.tags.get(WEIGHTS_TAG) and kept.exists():
            from ctan.evaluation.cases import read_cases

            table = read_cases(kept)
        else:
            table = _evaluate(champion, record, model_dir, Path(folder) / "evaluation", pointer, config)
            ledger.keep_table(sha256_of_file(model_dir / WEIGHTS_FILE), evaluation_hash, table)
    return Rival(f"champion, version {champion.version}", table, record)


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
            f"the champion, version {champion.version}, was not registered by ctan: it holds no {MODEL_FILE}"
        )
    return found[0].parent


def _evaluate(
    champion: ModelVersion,
    record: ModelRecord,
    model_dir: Path,
    output_dir: Path,
    pointer: StorePointer,
    config: RunConfig,
) -> pa.Table:
    from ctan.evaluation import evaluate
    from ctan.evaluation.cases import read_cases

    try:
        evaluate(pointer, model_dir, output_dir, config, (EVALUATION,))
    except DataError as error:
        raise NotComparableError(
            f"the champion, version {champion.version}, cannot be scored on these evaluation cases: {error}"
        ) from error
    return evaluation_rows(read_cases(output_dir / CASES_FILE), record.name, record.fold, record.seed)
