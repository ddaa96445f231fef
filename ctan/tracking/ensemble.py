"""The chosen architecture's trainings as one model, with an MLflow run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.tracking.lineage import PIPELINE_RUN
from ctan.tracking.runs import training_run
from ctan.tracking.server import connect, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ctan.records import ModelRecord
    from ctan.store import StorePointer

MEMBERS = "members"  # tag of an ensemble's run and versions: the runs of its members


def log_ensemble(
    pointer: StorePointer, model_dirs: Sequence[Path], model_dir: Path, lineage: Mapping[str, str]
) -> ModelRecord:
    """Write trainings as one model and log it; asked again for the same members, in the run that was made before.

    Args:
        pointer: the store.
        model_dirs: trainings of one architecture, see `ctan.inference.ensemble`.
        model_dir: receives the model.
        lineage: tags of the run, see `ctan.tracking.lineage`; the pipeline's run is that of the members.

    Raises:
        DataError: when the trainings do not belong together.
        TrackingError: when the tracking server cannot be used.
    """
    from ctan.inference.ensemble import describe_ensemble, save_ensemble
    from ctan.records import MODEL_FILE
    from ctan.settings import config_from_values

    described = describe_ensemble(model_dirs)
    members = ",".join(member.run_id for member in described.members)
    uri = prepare()
    client = connect()
    with tracking_errors(uri, "describing an ensemble"):
        run_id, pipeline_run = _known(client, described, members)
    settings = config_from_values(described.config, str(model_dirs[0] / MODEL_FILE))
    settings = settings.model_copy(update={"variant": described.variant, "folds": (0,), "seeds": (0,)})
    tags = {**lineage, MEMBERS: members, **({PIPELINE_RUN: pipeline_run} if pipeline_run else {})}
    with training_run(settings, pointer, described.arch, 0, 0, run_id, tags) as run:
        record = described.model_copy(
            update={"run_id": run.run_id, "run_url": run.url, "tracking_uri": run.tracking_uri}
        )
        save_ensemble(model_dir, model_dirs, record)
        run.log_model(model_dir)
    return record


def _known(client: MlflowClient, record: ModelRecord, members: str) -> tuple[str | None, str]:
    """Return the run of the same ensemble, where there is one, and the pipeline's run of the members."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(record.members[0].run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None, ""  # promotion will say so
    found = client.search_runs([run.info.experiment_id], f"tags.{MEMBERS} = '{members}'", max_results=1)
    return (found[0].info.run_id if found else None), run.data.tags.get(PIPELINE_RUN, "")
