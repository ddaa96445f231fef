"""Submit a compiled pipeline to Kubeflow Pipelines, and wait for the run.

The client is kfp's own, see `ctan.cluster.client`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ctan.cluster.client import Package, connect, kfp_errors, packaged, quiet
from ctan.cluster.endpoint import ClusterError
from ctan.cluster.logs import Logs
from ctan.cluster.parameters import settings_of
from ctan.cluster.values import Values
from ctan.cluster.watch import RunEnd, Show, Watch, clock

_PATIENCE = 10  # answers that may fail in a row while waiting: a run outlives a restart of the server


@dataclass(frozen=True)
class SubmittedRun:
    """A run on the cluster.

    Attributes:
        run_id: KFP's id.
        name: display name.
        experiment: name of its experiment.
        url: its page.
        package: what was submitted.
    """

    run_id: str
    name: str
    experiment: str
    url: str
    package: Package


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
        cache: bool = True,
    ) -> SubmittedRun:
        """Create a run.

        Args:
            pipeline_yaml: compiled pipeline.
            parameters: typed values of its parameters; those not named keep their defaults.
            values: settings of the cluster to write into it first; None to leave it as it is.
            experiment: experiment to file it under; None for one of the pipeline's name.
            run_name: display name; None for the pipeline's name and the time.
            cache: whether KFP may reuse outputs of earlier runs where the pipeline allows it.

        Raises:
            ConfigError: when values or parameters do not fit the pipeline.
            ClusterError: when the server refuses.
        """
        package = packaged(pipeline_yaml, parameters, values, cache=cache)
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
        return SubmittedRun(created.run_id, run_name, experiment, self.run_url(created.run_id), package)

    def run_url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        return self._connection.page(f"runs/details/{run_id}")

    def wait(self, run: SubmittedRun, show: Show, follow: bool = False, poll_seconds: float = 10.0) -> RunEnd:
        """Wait until a run has ended; say when its state changes, and once a minute that it goes on.

        Args:
            run: run to wait for.
            show: receives each line.
            follow: also say when the state of a step changes.
            poll_seconds: time between two questions.

        Raises:
            ClusterError: when the server does not know the run, or has not answered for `10 * poll_seconds`.
        """
        logs = Logs(self._connection, run.run_id, run.package.pipeline.name)
        watch = Watch(run.package.pipeline, logs, show, follow, num_trainings(run.package))
        for answer in self._polled(run.run_id, show, poll_seconds):
            if end := watch.update(answer):
                return end
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
                show(f"{clock()} no answer, asking again ({str(error).splitlines()[0]})")
            else:
                failed = 0
                yield run
            time.sleep(poll_seconds)


def num_trainings(package: Package) -> int:
    """Return how often the loop of a pipeline of ours will run; 0 where that is not known here.

    The step `plan` makes the list in its pod; here it is made from the same parameters.
    """
    from ctan.intake.planning import plan

    config = settings_of(package.pipeline, package.parameters)
    return len(plan(config)) if config else 0
