"""How a pipeline's run ended, in MLflow: as tags of its trainings and, where it did not succeed, as a run of its own.

A run that failed before anything was trained would otherwise have left nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctan.tracking.lineage import PIPELINE_RUN, PIPELINE_RUN_URL
from ctan.tracking.runs import experiment_id
from ctan.tracking.server import connect, in_haste, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SUCCEEDED, FAILED, CANCELED = "SUCCEEDED", "FAILED", "CANCELED"
STOPPED = "STOPPED"  # from outside, and nobody can say by what: canceled, a deadline, memory, a lost node
ENDED = "ended_pipeline_run"  # of the run that stands for the pipeline's; not the tag of trainings
_STATE, _FAILED_STEP, _REASON = "pipeline_state", "pipeline_failed_step", "pipeline_reason"
_MAX_CHARS, _PAGE = 4000, 1000
_FILE = "end.txt"


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        pipeline_run: its id, as trainings carry it.
        pipeline: its name.
        state: SUCCEEDED, FAILED, CANCELED or STOPPED.
        failures: steps that failed, each with its reason.
        url: page of the run; empty where there is none.
        notes: what else is worth knowing.
    """

    pipeline_run: str
    pipeline: str
    state: str
    failures: tuple[tuple[str, str], ...] = ()
    url: str = ""
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """One line without anything of the data."""
        failed = f": {', '.join(step for step, _ in self.failures)}" if self.failures else ""
        return f"{self.pipeline} {self.pipeline_run}: {self.state}{failed}"

    def in_words(self) -> str:
        """Return all of it."""
        failures = [f"{step}: {reason}" for step, reason in self.failures]
        return "\n".join([self.headline, *failures, *self.notes, *([self.url] if self.url else [])])


def write_end(end: RunEnd) -> str:
    """Write down how a run ended; twice is the same as once.

    Returns:
        Id of the MLflow run that stands for the pipeline's, empty where it succeeded: its trainings say so.

    Raises:
        TrackingError: when the tracking server or database cannot be used.
    """
    uri = prepare()
    client = connect()
    with in_haste(), tracking_errors(uri, "writing down the end of the run"):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        tags = {_STATE: end.state}
        if end.failures:
            tags |= {_FAILED_STEP: end.failures[0][0], _REASON: end.failures[0][1][:_MAX_CHARS]}
        trainings = _search(client, experiments, PIPELINE_RUN, end.pipeline_run)
        for run in trainings:
            _set_tags(client, run.info.run_id, tags)
        if end.state == SUCCEEDED:
            return ""
        known = _search(client, experiments, ENDED, end.pipeline_run)
        if known:
            run_id = known[0].info.run_id
        else:
            place = trainings[0].info.experiment_id if trainings else experiment_id(client, "ctan")
            name = f"{end.pipeline} {end.pipeline_run}"
            run_id = client.create_run(place, tags={ENDED: end.pipeline_run}, run_name=name).info.run_id
        _set_tags(client, run_id, tags | ({PIPELINE_RUN_URL: end.url} if end.url else {}))
        client.log_text(run_id, end.in_words() + "\n", _FILE)
        client.set_terminated(run_id, "FAILED" if end.state == FAILED else "KILLED")
        return str(run_id)


def _search(client: MlflowClient, experiments: list[str], tag: str, value: str) -> list[Run]:
    return list(client.search_runs(experiments, f"tags.{tag} = '{value}'", max_results=_PAGE))


def _set_tags(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
