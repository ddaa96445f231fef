"""Which models are asked: folders, registered versions or runs, alone or with all trainings beside them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import ConfigError, DataError, TrackingError
from ctan.files import sha256_of_file
from ctan.records import MODEL_FILE, WEIGHTS_FILE, ModelRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder with model.safetensors"


@dataclass(frozen=True)
class Model:
    """A trained model on this machine.

    Attributes:
        name: as it is recorded: `models:/NAME/VERSION`, `runs:/ID` or the name of its folder.
        folder: holds `model.safetensors` and `model.json`.
        record: of that folder.
        weights_sha256: of its weights.
    """

    name: str
    folder: Path
    record: ModelRecord
    weights_sha256: str

    @classmethod
    def of(cls, name: str, folder: Path) -> Model:
        """Return the model of a folder.

        Raises:
            DataError: when one of its files is missing or damaged.
        """
        record, weights = ModelRecord.load(folder), folder / WEIGHTS_FILE
        if not weights.is_file():
            raise DataError(f"{weights}: no such file; expected the weights that `ctan train` writes")
        return cls(name, folder, record, sha256_of_file(weights))


@contextmanager
def open_models(reference: str, ensemble: bool = False) -> Iterator[list[Model]]:
    """Yield the model that is named; of an ensemble it is the first.

    Args:
        reference: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID`, or a folder with `model.safetensors`.
        ensemble: and every other fold and seed of its architecture, trained on the same store with the same settings:
            of the same pipeline run, or beside its folder.

    Raises:
        ConfigError: when the reference is none of these.
        DataError: when the folder holds no model, or there is no second one for an ensemble.
        TrackingError: when there is no such version or run.
    """
    with tempfile.TemporaryDirectory(prefix="ctan-models-") as temporary:
        if reference.startswith(("models:", "runs:")):
            models = _tracked(reference, ensemble, Path(temporary))
        else:
            models = _in_folders(reference, ensemble)
        if ensemble and len(models) < 2:
            raise DataError(
                f"{reference}: no other fold or seed of {models[0].record.arch} was trained with it; an ensemble takes "
                f"at least two (folds or seeds of one run)"
            )
        yield models


def _in_folders(reference: str, ensemble: bool) -> list[Model]:
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"model {reference!r}: expected {_FORMS}; there is no such folder")
    model = Model.of(folder.resolve().name, folder)
    if not ensemble:
        return [model]
    around = folder.resolve().parent
    others = sorted(path for path in around.iterdir() if (path / MODEL_FILE).is_file() and path != folder.resolve())
    return [model, *_alike(model, [Model.of(path.name, path) for path in others])]


def _alike(model: Model, others: list[Model]) -> list[Model]:
    """Return the other trainings of the same architecture on the same data with the same settings."""

    def what(one: Model) -> tuple[object, ...]:
        record = one.record
        return (record.arch, record.store_key, record.spec, record.inputs, record.grid, record.config_hash)

    found = {(model.record.fold, model.record.seed)}
    chosen = []
    for other in others:
        place = (other.record.fold, other.record.seed)
        if what(other) == what(model) and place not in found:
            found.add(place)
            chosen.append(other)
    return chosen


def _tracked(reference: str, ensemble: bool, temporary: Path) -> list[Model]:
    from ctan.tracking.registry import named_version
    from ctan.tracking.server import connect, prepare, tracking_errors

    uri = prepare()
    client = connect()
    with tracking_errors(uri, f"fetching {reference}"):
        if reference.startswith("runs:"):
            run = _run(client, reference)
            run_id, model = run.info.run_id, _of_run(client, run, temporary)
        else:
            version = named_version(client, reference)
            folder = _fetched(f"models:/{version.name}/{version.version}", temporary / "version")
            model = Model.of(f"models:/{version.name}/{version.version}", folder)
            run_id = str(version.run_id)
        if not ensemble:
            return [model]
        run = _run(client, f"runs:/{run_id}")
        others = [_of_run(client, other, temporary) for other in _siblings(client, run)]
        return [model, *_alike(model, others)]


def _run(client: MlflowClient, reference: str) -> Run:
    from mlflow.exceptions import MlflowException

    run_id = reference.removeprefix("runs:").strip("/").partition("/")[0]
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"{reference}: there is no such run ({error.error_code})") from error


def _of_run(client: MlflowClient, run: Run, temporary: Path) -> Model:
    from ctan.tracking.runs import find_logged_model

    model_id = find_logged_model(client, run)
    if model_id is None:
        raise DataError(f"runs:/{run.info.run_id}: logged no model; its training did not end")
    return Model.of(f"runs:/{run.info.run_id}", _fetched(f"models:/{model_id}", temporary / run.info.run_id))


def _siblings(client: MlflowClient, run: Run) -> list[Run]:
    """Return the finished trainings of the same architecture and pipeline run, or without one of the same store."""
    from ctan.tracking.lineage import PIPELINE_RUN

    tag = PIPELINE_RUN if run.data.tags.get(PIPELINE_RUN) else "store_key"
    wanted = {name: run.data.tags.get(name, "") for name in (tag, "arch")}
    asked = " and ".join(f"tags.{name} = '{value}'" for name, value in wanted.items() if "'" not in value)
    found = client.search_runs([run.info.experiment_id], f"{asked} and attributes.status = 'FINISHED'")
    return [other for other in found if other.info.run_id != run.info.run_id]


def _fetched(uri: str, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    folder.mkdir()
    fetched = Path(download_artifacts(uri, dst_path=str(folder)))
    found = sorted(fetched.rglob(MODEL_FILE))
    if not found:
        raise DataError(f"{uri}: holds no {MODEL_FILE}; it was not logged by ctan")
    return found[0].parent
