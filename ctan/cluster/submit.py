"""Submit a compiled pipeline to Kubeflow Pipelines, and wait for the run.

The client is kfp's own, see `ctan.cluster.client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctan.cluster.client import connect, kfp_errors, packaged, quiet
from ctan.cluster.endpoint import ClusterError
from ctan.cluster.values import Values

Show = Callable[[str], None]

SUCCEEDED = ("SUCCEEDED", "SKIPPED")
FINISHED = (*SUCCEEDED, "FAILED", "CANCELED")
_HEARTBEAT_SECONDS = 60.0
_PATIENCE = 10  # answers that may fail in a row while waiting: a run outlives a restart of the server
_DRIVERS = ("-driver", "driver")  # tasks of KFP itself


@dataclass(frozen=True)
class SubmittedRun:
    """A run on the cluster.

    Attributes:
        run_id: KFP's id.
        name: display name.
        experiment: name of its experiment.
        url: its page.
    """

    run_id: str
    name: str
    experiment: str
    url: str


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        state: KFP's word: SUCCEEDED, SKIPPED, FAILED or CANCELED.
        failures: what each failed step says, `"Train: ..."`; the run's own message when no step does.
    """

    state: str
    failures: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        return self.state in SUCCEEDED


class Cluster:
    """Kubeflow Pipelines, reached through kfp's client."""

    def __init__(self, endpoint: str | None = None, namespace: str | None = None) -> None:
        """Connect.

        Args:
            endpoint: address; None for that of the environment, see `ctan.cluster.endpoint`.
            namespace: profile to run in where Kubeflow serves several users; None otherwise.

        Raises:
            ClusterError: when there is no endpoint or nothing answers there.
        """
        self._connection = connect(endpoint, namespace)
        self._client = self._connection.client

    def submit(
        self,
        pipeline_yaml: str,
        parameters: Mapping[str, Any],
        values: Values | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
    ) -> SubmittedRun:
        """Create a run.

        Args:
            pipeline_yaml: compiled pipeline.
            parameters: typed values of its parameters; those not named keep their defaults.
            values: settings of the cluster to write into it first; None to leave it as it is.
            experiment: experiment to file it under; None for one of the pipeline's name.
            run_name: display name; None for the pipeline's name and the time.

        Raises:
            ConfigError: when values or parameters do not fit the pipeline.
            ClusterError: when the server refuses.
        """
        package = packaged(pipeline_yaml, parameters, values)
        experiment = experiment or package.pipeline.name
        run_name = run_name or f"{package.pipeline.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        namespace = self._connection.namespace
        with kfp_errors("cannot submit"), quiet(), package.file() as path:
            created = self._client.run_pipeline(
                experiment_id=self._client.create_experiment(experiment, namespace=namespace).experiment_id,
                job_name=run_name,
                pipeline_package_path=path,
                params=package.parameters,
                service_account=package.service_account,
            )
        return SubmittedRun(created.run_id, run_name, experiment, self.run_url(created.run_id))

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return self._connection.page(f"runs/details/{run_id}")

    def wait(self, run_id: str, show: Show, follow: bool = False, poll_seconds: float = 10.0) -> RunEnd:
        """Wait until a run has ended; say when its state changes, and once a minute that it goes on.

        Args:
            run_id: run to wait for.
            show: receives each line.
            follow: also say when the state of a step changes.
            poll_seconds: time between two questions.

        Raises:
            ClusterError: when the server does not know the run, or has not answered for `10 * poll_seconds`.
        """
        watched = _Watched(show, follow)
        for run in self._polled(run_id, show, poll_seconds):
            watched.update(run)
            if run.state in FINISHED:
                return RunEnd(run.state, () if run.state in SUCCEEDED else tuple(_failures(run)))
        raise AssertionError("the server is asked until the run has ended")

    def _polled(self, run_id: str, show: Show, poll_seconds: float) -> Iterator[Any]:
        """Yield the run again and again; a server that is away for a while is asked again."""
        failed = 0
        while True:
            try:
                with kfp_errors(f"run {run_id}"):
                    run = self._client.get_run(run_id)
            except ClusterError as error:
                failed += 1
                if failed >= _PATIENCE or getattr(error.__cause__, "status", None) in (401, 403, 404):
                    raise
                show(f"{_clock()} no answer, asking again ({str(error).splitlines()[0]})")
            else:
                failed = 0
                yield run
            time.sleep(poll_seconds)


class _Watched:
    """Tells of a run what is new."""

    def __init__(self, show: Show, follow: bool) -> None:
        self._show, self._follow = show, follow
        self._started = self._told = time.monotonic()
        self._state, self._steps = "", dict[str, tuple[str, str]]()

    def update(self, run: Any) -> None:
        steps = {task.task_id: (task.display_name, task.state or "PENDING") for task in _steps(run)}
        now = time.monotonic()
        state = run.state or "PENDING"
        if self._follow:
            for task, (name, now_in) in steps.items():
                if self._steps.get(task) != (name, now_in):
                    self._show(f"{_clock()}   {name}: {now_in}")
        if state != self._state or now - self._told >= _HEARTBEAT_SECONDS:
            done = sum(step_state in SUCCEEDED for _, step_state in steps.values())
            self._show(f"{_clock()} {state}, {done} of {len(steps)} steps done, {now - self._started:.0f} s")
            self._told = now
        self._state, self._steps = state, steps


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _steps(run: Any) -> list[Any]:
    """Return the tasks of a run that are steps: KFP also lists its drivers and the run itself."""
    details = (run.run_details.task_details if run.run_details else None) or []
    return [
        task
        for task in details
        if task.display_name and task.display_name != "root" and not _is_driver(task.display_name)
    ]


def _is_driver(name: str) -> bool:
    return name.endswith(_DRIVERS)


def _failures(run: Any) -> Iterator[str]:
    failed = [task for task in _steps(run) if task.state == "FAILED"]
    for task in failed:
        message = getattr(task.error, "message", None) or "failed; its log is on the run's page"
        yield f"{task.display_name}: {message}"
    if not failed and run.error is not None and run.error.message:
        yield run.error.message
