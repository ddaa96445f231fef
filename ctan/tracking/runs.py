"""One MLflow run a training: settings, data, losses, system load and the finished model.

MLflow takes three seconds to import: only functions import it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import StoppedError, TrackingError
from ctan.files import sha256_of_file
from ctan.provenance import git_commit, in_image
from ctan.sources.buckets import is_remote
from ctan.tracking.closing import mark_killed
from ctan.tracking.lineage import LATER_PIPELINE_RUNS, OWNER_MARK, PIPELINE_RUN
from ctan.tracking.parents import parent_tags
from ctan.tracking.server import (
    ARTIFACTS_FOLDER,
    connect,
    in_haste,
    is_embedded,
    is_server,
    prepare,
    tracking_errors,
    without_password,
)
from ctan.variants import name_of
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from ctan.config import RunConfig
    from ctan.store import StorePointer

NO_SERVER = (
    "each step has a tracking database of its own, which ends with its container; to keep runs, results and models set "
    "MLFLOW_TRACKING_URI for all steps (docs/cluster.md)"
)
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # or its page opens on those for language models
MODEL_NAME = "model"  # of the logged model within its run
WEIGHTS_TAG = "weights_sha256"
_MAX_VALUE_CHARS, _MAX_DIGEST_CHARS, _MAX_BATCH = 6000, 36, 100  # MLflow's limits


class TrainingRun:
    """An open run. Made by `training_run`.

    Attributes:
        run_id: of the MLflow run.
        tracking_uri: where it is recorded, without credentials.
        url: page of the run on the tracking server; `runs:/<run_id>` in the embedded mode.
    """

    def __init__(self, client: MlflowClient, uri: str, run: Run) -> None:
        self._client, self._uri = client, uri
        self._pending: list[Metric] = []
        self.run_id: str = run.info.run_id
        self.tracking_uri = without_password(uri)
        page = f"{self.tracking_uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{self.run_id}"
        self.url = page if is_server(uri) else f"runs:/{self.run_id}"

    def mark_killed(self) -> None:
        """Note the end in half a second, see `ctan.tracking.closing.mark_killed`."""
        mark_killed(self._uri, self.run_id)

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record the figures of one epoch.

        A server that is away for a moment must not cost a training: the figures are kept and sent with the next
        ones, at the latest when the run ends.

        Args:
            epoch: the step on MLflow's axis.
            values: such as `{"train/loss": 1.2}`.
        """
        self._pending += _metrics(values, epoch)
        try:
            with in_haste():
                self._send()
        except TrackingError as error:
            print(f"warning: figures of epoch {epoch} are kept for later: {error}", file=sys.stderr, flush=True)

    def _send(self) -> None:
        with tracking_errors(self._uri, "logging metrics"):
            while self._pending:
                self._client.log_batch(self.run_id, metrics=self._pending[:_MAX_BATCH])
                del self._pending[:_MAX_BATCH]

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags, replacing those of the same name."""
        with tracking_errors(self._uri, "setting tags"):
            _set_tags(self._client, self.run_id, tags)

    def log_model(self, model_dir: Path) -> str:
        """Record a trained model as pyfunc + safetensors with its signature; once, however often it is called.

        Args:
            model_dir: holds `model.safetensors` and `model.json`.

        Returns:
            Id of the logged model.
        """
        from ctan.inference.pyfunc import log_pyfunc
        from ctan.records import WEIGHTS_FILE, ModelRecord

        record = ModelRecord.load(model_dir)
        weights = sha256_of_file(model_dir / WEIGHTS_FILE)
        with tracking_errors(self._uri, "logging the model"):
            _set_tags(self._client, self.run_id, {"code_hash": record.code_hash})
            known = find_logged_model(self._client, self._client.get_run(self.run_id), weights)
            return known or log_pyfunc(model_dir, MODEL_NAME, {WEIGHTS_TAG: weights})


@contextmanager
def training_run(
    config: RunConfig,
    pointer: StorePointer,
    arch: str,
    fold: int,
    seed: int,
    run_id: str | None = None,
    lineage: Mapping[str, str] | None = None,
) -> Iterator[TrainingRun]:
    """Record one training as an MLflow run.

    The run is `run_id` when a resumed training gives one that still exists, else a new one, below the run of its
    pipeline (`ctan.tracking.parents`), in the experiment `MLFLOW_EXPERIMENT_NAME` (default `ctan-<dataset>`). It ends
    FINISHED, FAILED on an exception, KILLED when interrupted; a killed process leaves it RUNNING, to be resumed.

    Args:
        config: all settings, logged flattened as parameters and whole as `config.yaml`.
        pointer: the store, logged as data set input with its hash.
        arch: architecture.
        fold: the tuning fold.
        seed: of the training.
        run_id: run to go on with.
        lineage: where it comes from, as tags, see `ctan.tracking.lineage`. A run that another pipeline run started
            keeps its own, and notes the later one.

    Raises:
        TrackingError: when the tracking server or database cannot be used, naming it.
    """
    uri = prepare()
    client = connect()
    import mlflow

    with tracking_errors(uri, "starting the run"):
        existing = _run_to_adopt(client, run_id, uri)
        experiment = None if existing else experiment_id(client, f"ctan-{config.data.dataset}")
        parent = parent_tags(client, experiment, lineage or {}) if experiment else {}
        active = mlflow.start_run(
            run_id=existing,
            experiment_id=experiment,
            run_name=None if existing else run_name(config, arch, fold, seed),
            tags=None if existing else {**parent, **(lineage or {})},  # at once: by these a run that is killed is found
            log_system_metrics=True,
        )
    status = "FAILED"
    try:
        run = TrainingRun(client, uri, active)
        with tracking_errors(uri, "describing the run"):
            what = {"arch": name_of(arch, config.variant), "fold": fold, "seed": seed}
            _describe(client, run.run_id, config, pointer, what, lineage or {})
        yield run
        run._send()
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, StoppedError):
        status = "KILLED"
        raise
    finally:
        _end(uri, status)


def run_name(config: RunConfig, arch: str, fold: int, seed: int) -> str:
    """Return what a training is called: its architecture, and fold and seed where they are not the only ones.

    Args:
        config: all settings, which say how many folds and seeds there are.
        arch: architecture.
        fold: the tuning fold.
        seed: of the training.
    """
    parts = [("fold", fold, config.folds), ("seed", seed, config.seeds)]
    return " ".join(
        [name_of(arch, config.variant), *(f"{what} {value}" for what, value, all_ in parts if len(all_) > 1 or value)]
    )


def _end(uri: str, status: str) -> None:
    """End the run; when the training has failed already, its own error must not be hidden."""
    import mlflow

    hurry = in_haste() if status == "KILLED" else nullcontext()
    try:
        with hurry, tracking_errors(uri, "ending the run"):
            mlflow.end_run(status)
    except TrackingError as error:
        if status == "FINISHED":
            raise
        print(f"warning: the run could not be marked {status}: {error}", file=sys.stderr, flush=True)


def _run_to_adopt(client: MlflowClient, run_id: str | None, uri: str) -> str | None:
    """Return the run to go on with, None for a new one."""
    from mlflow.exceptions import MlflowException

    if run_id:
        try:
            if client.get_run(run_id).info.lifecycle_stage == "active":
                return run_id
            problem = "has been deleted"
        except MlflowException as error:
            # To users other than the administrator a server with a login does not tell one from the other.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
                raise
            problem = (
                "does not exist" if error.error_code == "RESOURCE_DOES_NOT_EXIST" else "is not there for this user"
            )
        place = without_password(uri)
        print(f"warning: run {run_id} {problem} at {place}; going on in another one", file=sys.stderr, flush=True)
    return None


def experiment_id(client: MlflowClient, default: str) -> str:
    """Return the experiment new runs belong to, created when it is missing: the environment's, else of this name."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or default
    location = None if is_server(client.tracking_uri) else (workspace() / ARTIFACTS_FOLDER).as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location, tags=_KIND)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return experiment_id(client, default)  # another training was faster
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _first_lineage(known: Mapping[str, str], lineage: Mapping[str, str]) -> dict[str, str]:
    """Return the lineage to set: all of it the first time, afterwards only that a later pipeline run came by.

    Args:
        known: tags that the run has.
        lineage: tags of now.
    """
    now = lineage.get(PIPELINE_RUN)
    if known.get(PIPELINE_RUN, now) == now:
        return dict(lineage)
    later = [*filter(None, known.get(LATER_PIPELINE_RUNS, "").split(", "))]
    kept = {OWNER_MARK: lineage[OWNER_MARK]} if OWNER_MARK in lineage else {}
    return {LATER_PIPELINE_RUNS: ", ".join(dict.fromkeys([*later, str(now)])), **kept} if now else kept


def _describe(
    client: MlflowClient,
    run_id: str,
    config: RunConfig,
    pointer: StorePointer,
    what: dict[str, object],
    lineage: Mapping[str, str],
) -> None:
    """Log settings, tags and data. Parameters that a resumed run has already are left as they were."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data
    settings = {name: value[:_MAX_VALUE_CHARS] for name, value in flatten(config.model_dump(mode="json")).items()}
    params = [Param(name, value) for name, value in settings.items() if name not in known.params]
    for start in range(0, len(params), _MAX_BATCH):
        client.log_batch(run_id, params=params[start : start + _MAX_BATCH])
    _set_tags(
        client,
        run_id,
        what
        | _first_lineage(known.tags, lineage)
        | {
            "store_key": pointer.key,
            "data_hash": pointer.data_hash,
            "config_hash": config.hash(),
            "git_commit": git_commit(),
            "profile": config.profile,
        },
    )
    client.log_text(run_id, config.to_yaml(), "config.yaml")
    _log_input(client, run_id, pointer)


def _log_input(client: MlflowClient, run_id: str, pointer: StorePointer) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = Dataset(
        name=pointer.dataset,
        digest=pointer.data_hash[:_MAX_DIGEST_CHARS],
        source_type="s3" if is_remote(pointer.store_root) else "local",
        source=json.dumps({"uri": pointer.address}),
        profile=json.dumps({"num_cases": pointer.num_cases}),
    )
    tags = {"mlflow.data.context": "training", "store_key": pointer.key}
    client.log_inputs(run_id, [DatasetInput(data, [InputTag(key, value) for key, value in tags.items()])])


def is_lost(client: MlflowClient, run_id: str) -> bool:
    """Whether a run was recorded in the database of another container, which ended with it.

    So it is on a cluster to which nobody has told a tracking server.
    """
    from mlflow.exceptions import MlflowException

    if not (in_image() and is_embedded(client.tracking_uri)):
        return False
    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True
    return False


def find_logged_model(client: MlflowClient, run: Run, weights_sha256: str | None = None) -> str | None:
    """Return the id of the newest complete model that a run logged, None when there is none.

    Args:
        client: of the tracking server.
        run: as `client.get_run` returns it.
        weights_sha256: only the model with these weights.
    """
    models = [client.get_logged_model(output.model_id) for output in (run.outputs.model_outputs if run.outputs else [])]
    ready = [model for model in models if model.status == "READY"]
    if weights_sha256 is not None:
        ready = [model for model in ready if model.tags.get(WEIGHTS_TAG) == weights_sha256]
    return max(ready, key=lambda model: model.creation_timestamp).model_id if ready else None


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return a nested mapping as `{"training.epochs": "5"}`."""
    if not isinstance(value, dict):
        return {prefix: str(value)}
    parts = (flatten(inner, f"{prefix}.{name}" if prefix else name) for name, inner in value.items())
    return {name: text for part in parts for name, text in part.items()}


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, object]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items() if value is not None])


def log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float], model_id: str | None = None) -> None:
    """Add figures to a run, and to a model that it logged."""
    found = _metrics(values, 0, model_id)
    for start in range(0, len(found), _MAX_BATCH):
        client.log_batch(run_id, metrics=found[start : start + _MAX_BATCH])


def _metrics(values: Mapping[str, float], step: int, model_id: str | None = None) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, model_id=model_id) for name, value in values.items()]
