"""Any trained models side by side: folders, registered versions, what runs logged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import ConfigError, TrackingError
from ctan.records import EVALUATION, MODEL_FILE, TUNING, ComparisonRecord, ModelRecord
from ctan.tracking.reference import NotComparableError, download_model
from ctan.tracking.registry import named_version
from ctan.tracking.runs import find_logged_model
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    from ctan.config import RunConfig
    from ctan.store import StorePointer


def compare_any(models: Sequence[str], pointer: StorePointer, output_dir: Path, config: RunConfig) -> ComparisonRecord:
    """Score models on a store, each in its own working grid, compare them and write the report.

    Args:
        models: see `fetch_model`.
        pointer: the store.
        output_dir: receives `comparison.json`, `cases.parquet`, `report.html` and the evaluations.
        config: settings of the evaluation and of the store.

    Raises:
        DataError: when one cannot be scored on this store, or they were tuned on different cases.
    """
    from ctan.evaluation import compare, evaluate
    from ctan.evaluation.settings_apart import names_of, rename
    from ctan.report import write_report

    shutil.rmtree(output_dir, ignore_errors=True)
    evaluations = [output_dir / f"evaluation-{number}" for number in range(len(models))]
    with tempfile.TemporaryDirectory() as scratch:
        found = [fetch_model(model, Path(scratch) / str(number)) for number, model in enumerate(models)]
        names = names_of([ModelRecord.load(model_dir) for model_dir in found])
        for model_dir, evaluation, name in zip(found, evaluations, names, strict=True):
            # what tuned one member of an ensemble was learned by another
            roles = (EVALUATION,) if ModelRecord.load(model_dir).members else (TUNING, EVALUATION)
            evaluate(pointer, model_dir, evaluation, config, roles)
            rename(evaluation, name)
    comparison = compare(pointer, evaluations, output_dir, config)
    write_report(comparison, evaluations, output_dir / "report.html")
    return comparison


def fetch_model(reference: str, folder: Path) -> Path:
    """Return the folder of a trained model.

    Args:
        reference: a folder that `ctan train` wrote, `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `runs:/ID`.
        folder: receives what is fetched.

    Raises:
        ConfigError: when it is none of these.
        TrackingError: when there is no such version or run, or it holds no model of ctan.
    """
    if Path(reference, MODEL_FILE).is_file():
        return Path(reference)
    kind, _, name = reference.partition(":/")
    if kind not in ("models", "runs"):
        raise ConfigError(
            f"{reference!r}: expected a folder that `ctan train` wrote, models:/NAME/VERSION, models:/NAME@ALIAS or "
            f"runs:/ID"
        )
    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"fetching {reference}"):
        try:
            if kind == "models":
                return download_model(named_version(client, reference), folder)
        except NotComparableError as error:
            raise TrackingError(f"{reference}: {error}") from error
        from mlflow.artifacts import download_artifacts

        model_id = find_logged_model(client, client.get_run(name.strip("/")))
        if model_id is None:
            raise TrackingError(f"{reference}: the run has not logged a model")
        fetched = Path(download_artifacts(f"models:/{model_id}", dst_path=str(folder)))
    return next(path.parent for path in sorted(fetched.rglob(MODEL_FILE)))
