"""The MLflow run above the trainings of one pipeline run: the platform's where it gives one, else one of our own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ctan.step_environment import PARENT_VARIABLE
from ctan.tracking.lineage import PIPELINE_RUN, PIPELINE_RUN_URL

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
ABOVE = "above_pipeline_run"  # tag of our own: the id of the pipeline run; not `pipeline_run`, which trainings carry


def parent_tags(client: MlflowClient, experiment_id: str, lineage: Mapping[str, str]) -> dict[str, str]:
    """Return the tag by which MLflow shows a training below the run of its pipeline.

    The run that KFP's plug-in injects into every step (`MLFLOW_RUN_ID`) is adopted. Where there is none the first
    training of a pipeline run makes one, and the others find it by its tag. It groups and holds nothing: it is ended at
    once, so that a pipeline that dies leaves none that is RUNNING.

    Args:
        client: of the tracking server.
        experiment_id: of the trainings.
        lineage: tags of the training; without a pipeline run it stands alone.

    Raises:
        mlflow.exceptions.MlflowException: when the server cannot be used.
    """
    if injected := os.environ.pop("MLFLOW_RUN_ID", "") or os.environ.get(PARENT_VARIABLE, ""):
        return {PARENT_TAG: injected}
    pipeline_run = lineage.get(PIPELINE_RUN, "")
    if not pipeline_run or "'" in pipeline_run:
        return {}
    return {PARENT_TAG: _found(client, experiment_id, pipeline_run) or _made(client, experiment_id, lineage)}


def _found(client: MlflowClient, experiment_id: str, pipeline_run: str) -> str:
    """Return the oldest parent of a pipeline run: of two that were made at once all take the same."""
    runs = client.search_runs([experiment_id], f"tags.{ABOVE} = '{pipeline_run}'")
    return min(((run.info.start_time, run.info.run_id) for run in runs), default=(0, ""))[1]


def _made(client: MlflowClient, experiment_id: str, lineage: Mapping[str, str]) -> str:
    pipeline_run = lineage[PIPELINE_RUN]
    tags = {ABOVE: pipeline_run, **({PIPELINE_RUN_URL: url} if (url := lineage.get(PIPELINE_RUN_URL)) else {})}
    made = client.create_run(experiment_id, tags=tags, run_name=f"pipeline {pipeline_run}").info.run_id
    client.set_terminated(made)
    kept = _found(client, experiment_id, pipeline_run)
    if kept != made:
        client.delete_run(made)  # another training was faster
    return kept
