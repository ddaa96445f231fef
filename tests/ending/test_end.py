"""The end of a run: what Kubeflow, Kubernetes and MLflow are asked and told, and that nothing of it fails the step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import kfp_server_api
import pytest

from ctan import ending
from ctan.cluster.compiled import CompiledPipeline
from ctan.ending import kubernetes
from ctan.ending.kubeflow import told
from ctan.in_cluster import KubernetesError
from ctan.tracking.lineage import LOCAL_RUN_VARIABLE, OWNER_MARK, PIPELINE_RUN
from ctan.tracking.owner import Owner
from ctan.tracking.run_end import CANCELED, ENDED, FAILED, RunEnd, write_end
from ctan.tracking.server import tracking_uri
from tests.helpers.compiled import COMPILED
from tests.helpers.kfp_runs import SimulatedRun
from tests.helpers.kubernetes_api import Answers, in_cluster_of
from tests.helpers.tracking import make_database

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp"]
GIB = 1024**3


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def client(own_workspace: Path, empty_database: Path) -> Any:
    import mlflow

    shutil.copytree(empty_database, own_workspace, dirs_exist_ok=True)
    return mlflow.MlflowClient(tracking_uri())


@pytest.fixture
def kfp(kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> KfpServer:
    monkeypatch.setenv("KFP_ENDPOINT", kfp_server.url)
    return kfp_server


def about_to_end(server: KfpServer, hours: float = 1, **outcomes: str) -> None:
    """Let the server answer as it does while the last step runs."""
    said = {"train": "ctan step: train\nctan.errors.DataError: store: chunk 3 is damaged"}
    run = SimulatedRun(CompiledPipeline.read(COMPILED), 2, outcomes, said=said, deadline_seconds=604800)
    answers = run.answers()
    before = next(n for n, answer in enumerate(answers) if _close_runs(answer))
    begun = datetime.now(UTC) - timedelta(hours=hours)
    answers[before]["created_at"] = begun.strftime("%Y-%m-%dT%H:%M:%SZ")
    server.states, server.logs = [answers[before]], run.logs
    server.runs = [kfp_server_api.V2beta1Run(display_name="ctan")]


def _close_runs(answer: dict[str, Any]) -> bool:
    tasks = answer["run_details"]["task_details"]
    return any(task.get("display_name") == "close" and task.get("state") == "RUNNING" for task in tasks)


# ---- Kubeflow Pipelines


def test_the_failed_step_and_its_reason_are_those_of_the_log(kfp: KfpServer) -> None:
    about_to_end(kfp, train="failed")
    found = told("ctan", "run-0")
    assert (found.state, found.failures) == (FAILED, (("train 1/1", "store: chunk 3 is damaged"),))
    assert found.url == f"{kfp.url}/#/runs/details/run-0"


def test_a_canceled_run_is_known_by_its_history_though_kfp_says_running(kfp: KfpServer) -> None:
    about_to_end(kfp, train="canceled")
    assert told("ctan", "run-0").state == CANCELED


def test_the_end_of_the_time_is_the_reason_where_a_run_is_older_than_its_deadline(kfp: KfpServer) -> None:
    about_to_end(kfp, train="overrun", hours=168)
    found = told("ctan", "run-0")
    assert found.state == FAILED
    assert found.failures[-1] == ("the run", "its time of 168 h is over (deadline_seconds)")


# ---- MLflow


def test_a_failed_run_is_in_mlflow_though_it_trained_nothing_and_once_however_often_it_is_told(client: Any) -> None:
    end = RunEnd("5f0c", "ctan", FAILED, (("gate", "2 of 4 cases fail"),), "https://kfp/#/runs/details/5f0c", ("note",))
    run_id = write_end(end)
    assert write_end(end) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags[ENDED] == "5f0c"
    assert PIPELINE_RUN not in run.data.tags, "it is no training"
    names = ("pipeline_state", "pipeline_failed_step", "pipeline_reason", "pipeline_run_url")
    assert [run.data.tags[name] for name in names] == ["FAILED", "gate", "2 of 4 cases fail", end.url]
    path = client.download_artifacts(run_id, "end.txt")
    assert Path(path).read_text().splitlines() == end.in_words().splitlines()


def test_trainings_carry_how_their_run_ended(client: Any) -> None:
    training = client.create_run("0", tags={PIPELINE_RUN: "5f0c"}).info.run_id
    other = client.create_run("0", tags={PIPELINE_RUN: "another"}).info.run_id
    assert write_end(RunEnd("5f0c", "ctan", "SUCCEEDED")) == ""
    assert client.get_run(training).data.tags["pipeline_state"] == "SUCCEEDED"
    assert "pipeline_state" not in client.get_run(other).data.tags


# ---- Kubernetes


class Api(Answers):
    pods: list[Any] = []  # noqa: RUF012
    jobs: dict[str, str] = {}  # noqa: RUF012 - name -> owner

    def do_GET(self) -> None:
        path, _, query = unquote(self.path).partition("?")
        selector = next(part for part in query.split("&") if part.startswith("labelSelector")).partition("=")[2]
        if "trainjobs" in path:
            owned = [name for name, owner in self.jobs.items() if selector == f"ctan/pipeline-run={owner}"]
            self.answer({"items": [{"metadata": {"name": name}} for name in owned]})
        else:
            found = [
                pod for pod in self.pods if selector == f"pipeline/runid={pod['metadata']['labels']['pipeline/runid']}"
            ]
            self.answer({"kind": "PodList", "apiVersion": "v1", "items": found})

    def do_DELETE(self) -> None:
        del self.jobs[self.path.partition("?")[0].rpartition("/")[2]]
        self.answer({"status": "Success"})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Api]]:
    """A stand-in for the Kubernetes API; what it cannot show: admission, and who may do what."""
    Api.pods, Api.jobs, Api.refused = [], {}, False
    with in_cluster_of(Api, tmp_path, monkeypatch):
        yield Api


def pod(run: str, step: str, reason: str, limit: str = "32Gi") -> dict[str, Any]:
    loop = "for-loop-2(0).iteration-iterations(0:0)(0).iteration-item(0)"
    node = f"ctan-x.root(0).exit-handler-1(0).{loop}.{step}(0).executor(0)"
    return {
        "metadata": {
            "name": f"ctan-x-{step}",
            "labels": {"pipeline/runid": run},
            "annotations": {"workflows.argoproj.io/node-name": node},
        },
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": limit} if limit else {}}}]},
        "status": {
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "ctan",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": {"reason": reason, "exitCode": 137}},
                }
            ]
        },
    }


def test_a_container_that_was_killed_for_memory_is_named_with_its_limit(api: type[Api]) -> None:
    api.pods = [
        pod("5f0c", "train", "OOMKilled"),
        pod("5f0c", "ingest", "Completed"),
        pod("another", "train", "OOMKilled"),
    ]
    assert kubernetes.killed_for_memory("5f0c") == [
        "train: its container was killed for memory; it needed more than its memory limit of 32Gi."
    ]


def test_train_jobs_of_this_run_are_stopped_and_no_others(api: type[Api]) -> None:
    api.jobs = {"ctan-1": "5f0c", "ctan-2": "another"}
    assert kubernetes.stop_train_jobs("5f0c") == ["ctan-1"]
    assert list(api.jobs) == ["ctan-2"]


def test_an_account_without_the_rights_is_told_which_and_stops_nothing(api: type[Api]) -> None:
    api.refused, api.jobs = True, {"ctan-1": "5f0c"}
    with pytest.raises(KubernetesError, match=r"answered 403 .*needs pods: list"):
        kubernetes.killed_for_memory("5f0c")
    assert kubernetes.stop_train_jobs("5f0c") == [], "it cannot have started one"
    assert list(api.jobs) == ["ctan-1"]


# ---- all together


def test_a_step_that_was_killed_is_closed_named_and_told_with_peak_and_limit(
    client: Any, kfp: KfpServer, api: type[Api], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about_to_end(kfp, train="canceled")
    kfp.states[0]["state_history"] = []  # killed, not canceled
    api.pods = [pod("run-0", "train", "OOMKilled", "2Gi")]
    tags = {PIPELINE_RUN: "run-0", OWNER_MARK: str(tmp_path / "training")}
    training = client.create_run("0", tags=tags, run_name="ctan-fold0-seed0").info.run_id
    owner = Owner(tmp_path / "training")
    owner.take(print)
    owner._write(run_id=training, memory_peak=int(1.99 * GIB), memory_limit=2 * GIB)
    owner.drop()
    ending.end("ctan", "run-0", "RUNNING")
    said = capsys.readouterr().out
    assert "ctan run-0: FAILED: train 1/1" in said
    assert "train: its container was killed for memory; it needed more than its memory limit of 2Gi. Nobody" in said
    assert "at most 1.99 GiB seen, the limit is 2.00 GiB, so that it was probably killed for memory" in said
    run = client.get_run(training)
    assert (run.info.status, run.data.tags["pipeline_state"]) == ("KILLED", "FAILED")


def test_nothing_that_is_away_fails_the_last_step(
    own_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("CTAN_NOTIFY_WEBHOOK", "http://127.0.0.1:1/")
    ending.end("ctan", "run-0", "FAILED", "exit handler failed")
    said, warned = capsys.readouterr()
    assert "ctan run-0: FAILED\nexit handler failed\n" in said
    for problem in ("cannot be asked what happened", "cannot be closed", "is not in MLflow", "nobody was told"):
        assert problem in warned


def test_on_this_machine_success_needs_no_tracking_server(
    own_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LOCAL_RUN_VARIABLE, "2026-01-31-120000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    ending.end("ctan", "ignored", "SUCCEEDED")
    said, warned = capsys.readouterr()
    assert "ctan local/2026-01-31-120000: SUCCEEDED" in said
    assert not warned
