"""What Kubeflow Pipelines says of a run that is about to end: which steps failed, why, and who stopped it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ctan.cluster.client import connect, kfp_errors
from ctan.cluster.compiled import CompiledPipeline, compiled_pipeline
from ctan.cluster.logs import Logs
from ctan.cluster.progress import Progress
from ctan.run_log import user_error
from ctan.tracking.run_end import CANCELED, FAILED

_TAIL_LINES = 5


@dataclass(frozen=True)
class Told:
    """What Kubeflow says.

    Attributes:
        state: FAILED or CANCELED; empty where it cannot be told.
        failures: steps that failed, each with its reason.
        url: page of the run.
    """

    state: str
    failures: tuple[tuple[str, str], ...]
    url: str


def told(pipeline: str, run_id: str) -> Told:
    """Ask about a run, in whose last step this is asked: its own state is still RUNNING.

    Args:
        pipeline: its name.
        run_id: KFP's id.

    Raises:
        ClusterError: when there is no server, or it refuses.
    """
    connection = connect()
    with kfp_errors(f"run {run_id}"):
        run = connection.client.get_run(run_id)
    compiled = _pipeline_of(run, pipeline)
    progress = Progress(run, compiled)
    logs = Logs(connection, run_id, compiled.name)
    failures = []
    for step in progress.steps:
        if step.state == FAILED:
            lines = logs.of(step.place, progress.nodes).lines
            known = user_error(lines)
            reason = (
                known[1] if known else " | ".join(lines[-_TAIL_LINES:]) or "no log; it was stopped, or its pod lost"
            )
            failures.append((step.label, reason))
    state = FAILED if failures else ""
    if any(past.state in ("CANCELING", CANCELED) for past in run.state_history or []):
        state = CANCELED
    elif (longest := progress.deadline_seconds) and run.created_at and _age(run.created_at) >= longest:
        state = FAILED
        failures.append(("the run", f"its time of {longest / 3600:.3g} h is over (deadline_seconds)"))
    return Told(state, tuple(failures), connection.page(f"runs/details/{run_id}"))


def _age(created: datetime) -> float:
    return time.time() - created.timestamp()


def _pipeline_of(run: Any, name: str) -> CompiledPipeline:
    """Return the pipeline that was submitted, where the answer holds it; else that of the image, which has its steps.

    A pipeline of two documents is answered as `{"pipeline_spec": ..., "platform_spec": ...}`.
    """
    own = CompiledPipeline.read(compiled_pipeline(name.removeprefix("ctan-")))
    given = run.pipeline_spec if isinstance(run.pipeline_spec, dict) else {}
    spec, platform = given.get("pipeline_spec", given), given.get("platform_spec", own.platform)
    if {"pipelineInfo", "root", "deploymentSpec"} <= set(spec):
        return CompiledPipeline(f"run {run.run_id}", spec, platform)
    return own
