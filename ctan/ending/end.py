"""What is done at the end of a run, in this order: TrainJobs, MLflow's runs, the note of the end, messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ctan.ending import kubernetes, notify
from ctan.errors import CtanError
from ctan.provenance import in_image
from ctan.step_environment import step
from ctan.tracking.closing import EndedRun, closed_runs
from ctan.tracking.lineage import LOCAL, pipeline_run_of
from ctan.tracking.run_end import CANCELED, FAILED, STOPPED, SUCCEEDED, RunEnd, write_end
from ctan.tracking.server import is_embedded, tracking_uri

Result = TypeVar("Result")
_GIB = 1024**3
_NEARLY_ALL = 0.95  # of the memory limit: a container that was stopped there was probably killed for memory


def end(pipeline: str, pipeline_run: str, state: str, message: str = "") -> None:
    """Close a run, as the last step of its pipeline. What cannot be done is said, and fails nothing.

    Args:
        pipeline: its name, `ctan` or `ctan-retrain`.
        pipeline_run: KFP's id of the run.
        state: as KFP told it: SUCCEEDED, FAILED, or RUNNING where a step was killed, by whatever it was.
        message: of KFP, if there is one.
    """
    with step("close", pipeline):
        here = pipeline_run_of(pipeline_run)
        found = RunEnd(here, pipeline, {"SUCCEEDED": SUCCEEDED, "FAILED": FAILED}.get(state, STOPPED))
        if here.startswith(LOCAL):
            # A step that failed ends a run here before this one. MLflow takes seconds to load: its trainings are done.
            print(found.in_words())
            _tried("nobody was told", notify.tell, found)
            return
        if found.state != SUCCEEDED:
            from ctan.ending import kubeflow

            told = _tried("Kubeflow Pipelines cannot be asked what happened", kubeflow.told, pipeline, here)
            if told is not None:
                found = replace(found, state=told.state or found.state, failures=told.failures, url=told.url)
            killed = _tried("Kubernetes cannot be asked about the pods", kubernetes.killed_for_memory, here) or []
            found = replace(found, notes=tuple(f"{pod} Nobody tries such a pod again." for pod in killed))
            if message and not found.failures:
                found = replace(found, notes=(*found.notes, message))
        stopped = _tried("Kubernetes cannot be asked about TrainJobs", kubernetes.stop_train_jobs, here) or []
        _close(replace(found, notes=(*found.notes, *(f"TrainJob {name} was stopped" for name in stopped))))


def end_here(pipeline: str, pipeline_run: str, state: str, failed: str = "", reason: str = "") -> None:
    """Close a run on this machine that failed or was stopped, in place of its last step, which does not run then.

    Args:
        pipeline: its name.
        pipeline_run: such as `local/2026-01-31-120000`.
        state: FAILED or CANCELED.
        failed: the step that failed; empty when none did.
        reason: why.
    """
    found = RunEnd(pipeline_run, pipeline, state, ((failed, reason),) if failed else ())
    # Whoever stops a run here knows it, and waits for nothing that need not be.
    _close(found, quietly=state == CANCELED)


def _close(found: RunEnd, quietly: bool = False) -> None:
    # A cluster without a tracking server: what is recorded in a step ends with its container.
    if found.pipeline_run.startswith(LOCAL) or not (in_image() and is_embedded(tracking_uri())):
        closed = _tried("MLflow's runs cannot be closed", closed_runs, found.pipeline_run, quietly=quietly) or []
        found = replace(found, notes=(*found.notes, *map(_in_words, closed)))
        if not quietly:
            _tried("the end of the run is not in MLflow", write_end, found)
    if not quietly:
        print(found.in_words())
    _tried("nobody was told", notify.tell, found)


def _in_words(run: EndedRun) -> str:
    """Say of a training that was stopped what its memory tells, where that is worth saying."""
    words = f"MLflow run {run.name or run.run_id} was still open and is KILLED now"
    if not (run.memory_limit and run.memory_peak):
        return words
    peak, limit = run.memory_peak / _GIB, run.memory_limit / _GIB
    words += f"; its container's memory: at most {peak:.2f} GiB seen, the limit is {limit:.2f} GiB"
    if run.memory_peak >= _NEARLY_ALL * run.memory_limit:
        words += ", so that it was probably killed for memory: raise memory_limit, or lower training.batch_size"
    return words


def _tried(problem: str, what: Callable[..., Result], *arguments: object, quietly: bool = False) -> Result | None:
    """Do what the end of a run must not fail for; say what went wrong."""
    try:
        return what(*arguments)
    except (CtanError, OSError) as error:
        if not quietly or os.environ.get("CTAN_DEBUG"):
            print(f"warning: {problem}: {error}", file=sys.stderr, flush=True)
        return None
