"""Submit a compiled pipeline to Kubeflow Pipelines, and wait for the run.

The client is kfp's own; credentials are those it finds (`KFP_EXISTING_TOKEN`, the pod's account, a kubeconfig).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import ClusterError, check_reachable, find_endpoint
from ctan.cluster.parameters import check_complete, check_parameters
from ctan.cluster.render import render
from ctan.cluster.values import Values

Show = Callable[[str], None]

SUCCEEDED = ("SUCCEEDED", "SKIPPED")
FINISHED = (*SUCCEEDED, "FAILED", "CANCELED")
_TOKEN = "KFP_EXISTING_TOKEN"  # by the environment only: a command line is seen by all and kept in histories
_UI = "KF_PIPELINES_UI_ENDPOINT"
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
    """Kubeflow Pipelines, reached through kfp's client.

    Attributes:
        client: kfp's.
        namespace: profile to work in, None where KFP serves one user.
    """

    def __init__(self, endpoint: str | None = None, namespace: str | None = None) -> None:
        """Connect.

        Args:
            endpoint: address; None for that of the environment, see `ctan.cluster.endpoint`.
            namespace: profile to run in where Kubeflow serves several users; None otherwise.

        Raises:
            ClusterError: when there is no endpoint or nothing answers there.
        """
        found = find_endpoint(endpoint)
        check_reachable(found)
        self._ui = os.environ.get(_UI) or found.url or "/pipeline"
        with kfp_errors("cannot connect"), quiet():
            from kfp import Client

            self.client = Client(found.url, existing_token=os.environ.get(_TOKEN))
        self.namespace = None if namespace == "kubeflow" else namespace  # kfp's word for: not of a user

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
        text = pipeline_yaml if values is None else render(pipeline_yaml, values)
        pipeline = CompiledPipeline.parse(text)
        check_complete(pipeline, check_parameters(pipeline, parameters))
        experiment = experiment or pipeline.name
        run_name = run_name or f"{pipeline.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with kfp_errors("cannot submit"), quiet(), tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "pipeline.yaml"
            package.write_text(text, encoding="utf-8")
            created = self.client.run_pipeline(
                experiment_id=self.client.create_experiment(experiment, namespace=self.namespace).experiment_id,
                job_name=run_name,
                pipeline_package_path=str(package),
                params=dict(parameters),
                service_account=values.service_account if values else None,
            )
        return SubmittedRun(created.run_id, run_name, experiment, self.run_url(created.run_id))

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return f"{self._ui.rstrip('/')}/#/runs/details/{run_id}"

    def recurring_run_url(self, recurring_run_id: str) -> str:
        """Return the address of a recurring run's page."""
        return f"{self._ui.rstrip('/')}/#/recurringrun/details/{recurring_run_id}"

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
                    run = self.client.get_run(run_id)
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep links of kfp's client, which know no `--output`, and its warning about old servers from the output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def kfp_errors(action: str) -> Iterator[None]:
    """Say what the server said, instead of its headers and a traceback."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        raise ClusterError(f"{action}: {_answer(error)}") from error
    except (urllib3.exceptions.HTTPError, TimeoutError) as error:
        raise ClusterError(f"{action}: Kubeflow Pipelines does not answer ({error})") from error
    except ValueError as error:  # of kfp's client, such as two experiments of one name
        raise ClusterError(f"{action}: {error}") from error


def _answer(error: Any) -> str:
    """Return the message inside an answer of the API, and what to do about those that are known."""
    if error.status in (401, 403):
        return (
            f"access refused ({error.status} {error.reason}); a token in {_TOKEN} opens the server, "
            "and --namespace names your profile where it serves several users"
        )
    try:
        body = json.loads(error.body or "")
        message = body.get("message") or body.get("error") or error.reason
    except (ValueError, AttributeError):
        message = error.reason
    return f"the server answered {error.status}: {message}"
