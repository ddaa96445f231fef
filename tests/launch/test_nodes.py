"""One training on several nodes: the job that is asked for, and what becomes of it. torchrun's processes are real.

Kubernetes and Kubeflow Trainer are a stand-in, which starts torchrun here for a job: what it cannot show is admission,
scheduling and the network between pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from ctan import nodes, steps
from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError, KilledError
from ctan.files import write_text
from ctan.in_cluster import KubernetesError
from tests.helpers.kubernetes_api import Answers, in_cluster_of

ROOT = Path(__file__).parents[2]
RUNTIME = yaml.safe_load((ROOT / "infra/kubernetes/base/training-runtime.yaml").read_text())
WAITS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
GIVEN = {"arch": "hps", "fold": 0, "seed": 0, "pipeline_run": "5f0c", "overrides": []}


class Cluster(Answers):
    """TrainJobs of a namespace, their pods and logs."""

    jobs: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    running: dict[str, subprocess.Popen[bytes]] = {}  # noqa: RUF012
    created: list[dict[str, Any]] = []  # noqa: RUF012
    folder: Path
    instead: list[str] | None = None  # in place of torchrun

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if "trainingruntimes" in path:
            self.answer(RUNTIME)
        elif "trainjobs" in path:
            self.answer(self._job(name), 200 if name in self.jobs else 404)
        elif path.endswith("/log"):
            self.answer((self.folder / "log").read_text(), text=True)
        else:
            self.answer({"kind": "PodList", "apiVersion": "v1", "items": [self._pod(job) for job in self.jobs]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        self.created.append(body)
        trainer = body["spec"]["trainer"]
        number = str(trainer["numNodes"] * trainer["numProcPerNode"])
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
        command = self.instead or [*torchrun, *trainer["command"][1:]]
        with (self.folder / "log").open("wb") as log:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES")}
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.jobs[name] = {**body, "polls": 0}
        self.answer(body, 201)

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        known = self.jobs.pop(name, None)
        if process := self.running.pop(name, None):
            process.terminate()
            process.wait()
        self.answer({"status": "Success"}, 200 if known else 404)

    def _job(self, name: str) -> dict[str, Any]:
        job = self.jobs.get(name, {})
        if job and name in self.running and (code := self.running[name].poll()) is not None:
            job["status"] = {"conditions": [{"type": "Failed" if code else "Complete", "status": "True"}]}
        return {key: value for key, value in job.items() if key != "polls"}

    def _pod(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["polls"] += 1
        waits = job["polls"] <= 4
        condition = {"type": "PodScheduled", "status": "False", "message": WAITS, "reason": "Unschedulable"}
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": "0"}
        status = {"phase": "Pending" if waits else "Running", "conditions": [condition] if waits else []}
        return {"metadata": {"name": f"{name}-node-0-0", "labels": labels}, "status": status}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Cluster]]:
    Cluster.jobs, Cluster.running, Cluster.created, Cluster.folder = {}, {}, [], tmp_path
    Cluster.instead, Cluster.refused = None, False
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.2)
    with in_cluster_of(Cluster, tmp_path, monkeypatch):
        yield Cluster
    for process in Cluster.running.values():
        process.kill()
        process.wait()


def on(config: RunConfig, **changes: Any) -> RunConfig:
    changes = {"num_nodes": 2, "gpus_per_node": 0, "batch_size": 2, "epochs": 2} | changes
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Return arguments of a step whose nodes look at nothing."""
    (tmp_path / "manifest").mkdir()
    write_text(tmp_path / "store.json", "{}")
    places = {"pointer": "store.json", "manifest_dir": "manifest", "model_dir": "model", "checkpoint_root": "root"}
    return GIVEN | {name: str(tmp_path / place) for name, place in places.items()}


def test_a_job_is_what_kubeflow_trainer_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="install kubeflow-trainer-api from PyPI")
    monkeypatch.setenv("CTAN_IMAGE", "registry.example.org/ctan@sha256:1")
    monkeypatch.setenv("KFP_RUN_ID", "5f0c")
    monkeypatch.setenv("CTAN_S3_SECRET_ACCESS_KEY", "secret")
    resources = {"limits": {"nvidia.com/gpu": "4"}}
    job = nodes.train_job("ctan-x", "s3://b/jobs/ctan-x", 2, 4, lambda _: resources)
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job, "no field is unknown or dropped"
    assert job["spec"]["trainer"]["numProcPerNode"] == 4
    assert job["metadata"]["labels"] == {"ctan/pipeline-run": "5f0c"}, "by which the end of the run finds it"
    assert "secret" not in json.dumps(job).replace("s3_secret", "")
    assert job["spec"]["runtimeRef"]["name"] == RUNTIME["metadata"]["name"]


def test_the_name_follows_from_the_checkpoint_and_is_one_that_kubernetes_takes() -> None:
    name = nodes.job_name("cross_stitch-fold0-seed0-0123456789ab")
    assert name == "ctan-cross-stitch-fold0-seed0-0123456789ab"
    assert len(nodes.job_name("a" * 80 + "-0123456789ab")) <= 63


def test_gpus_are_asked_for_with_the_rest_of_the_runtime_s_resources(cluster: type[Cluster]) -> None:
    found = nodes._node_resources(4)
    assert found == {
        "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "4"},
        "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"},
    }


@pytest.mark.slow
def test_a_training_on_two_nodes_is_one_training(
    cluster: type[Cluster], tiny_config: RunConfig, tmp_path: Path
) -> None:
    source, settings, origin = steps.resolve("phantom:train=6,validation=2,seed=1", on(tiny_config))
    steps.ingest(settings, origin, str(tmp_path / "manifest"))
    steps.preprocess(source, str(tmp_path / "manifest"), str(tmp_path / "p.json"))
    places = {"pointer": "p.json", "manifest_dir": "manifest", "model_dir": "model", "checkpoint_root": "root"}
    arguments = GIVEN | {name: str(tmp_path / place) for name, place in places.items()}
    metadata: dict[str, Any] = {}
    metrics = steps.train_supervised(metadata=metadata, **arguments)
    (job,) = cluster.created
    assert job["spec"]["trainer"]["numNodes"] == 2
    assert metrics["epochs"] == 2
    assert metadata
    assert not cluster.jobs, "it is deleted"
    assert not list((tmp_path / "root" / "jobs").iterdir()), "and so is what it was asked with"
    alone = arguments | {"model_dir": str(tmp_path / "alone"), "checkpoint_root": str(tmp_path / "other")}
    steps.train_supervised(**(alone | {"overrides": ["training.num_nodes=1", "training.max_restarts=0"]}))
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "alone"))
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-2 * (1 + value.abs().max())


def test_what_a_pod_waits_for_and_what_nodes_print_is_told(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any]
) -> None:
    cluster.instead = [sys.executable, "-c", "import time; print('epoch 1/2'); time.sleep(1.5); raise SystemExit(3)"]
    said: list[str] = []
    with pytest.raises(KilledError, match="TrainJob ctan-x: ended without a word"):
        nodes.train_on_nodes(given, on(tiny_config), "x", said.append)
    assert f"TrainJob ctan-x: a pod waits for a node: {WAITS}" in said
    assert "epoch 1/2" in said
    assert not cluster.jobs


def test_an_error_of_a_node_is_the_step_s(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any]
) -> None:
    error = Path(given["checkpoint_root"]) / "jobs" / "ctan-x" / "error.json"
    write = f'import pathlib; pathlib.Path({str(error)!r}).write_text(\'{{"error": "fold 7 is not in 0..1"}}\')'
    cluster.instead = [sys.executable, "-c", f"{write}; raise SystemExit(1)"]
    for _ in range(2):  # it is asked again, not answered from before
        with pytest.raises(DataError, match=r"TrainJob ctan-x: fold 7 is not in 0..1"):
            nodes.train_on_nodes(given, on(tiny_config), "x", lambda _: None)
    assert len(cluster.created) == 2


def test_a_launcher_that_starts_again_attaches_to_the_job_that_runs(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any]
) -> None:
    cluster.jobs["ctan-x"] = {"metadata": {"name": "ctan-x"}, "polls": 1}
    cluster.running["ctan-x"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])
    (cluster.folder / "log").write_text("epoch 9/9\n")
    root = Path(given["checkpoint_root"]) / "jobs" / "ctan-x"
    (root / "model").mkdir(parents=True)
    (root / "model" / "model.json").write_text("{}")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "attached" in text:
            (root / "result.json").write_text('{"metrics": {"epochs": 9}, "metadata": {}}')

    metrics, _ = nodes.train_on_nodes(given, on(tiny_config), "x", say)
    assert metrics == {"epochs": 9}
    assert said[0] == "TrainJob ctan-x: runs already, attached to it"
    assert cluster.created == []
    assert (Path(given["model_dir"]) / "model.json").exists()


def test_a_launcher_that_is_told_to_stop_deletes_its_job(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any]
) -> None:
    cluster.instead = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]

    def say(text: str) -> None:
        if "waits" in text:  # said by this thread, as a signal is received
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        nodes.train_on_nodes(given, on(tiny_config), "x", say)
    assert not cluster.jobs
    assert not cluster.running


def test_an_account_without_the_rights_is_named_what_it_lacks(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any]
) -> None:
    cluster.refused = True
    with pytest.raises(KubernetesError, match="the account of the run needs trainjobs: create"):
        nodes.train_on_nodes(given, on(tiny_config), "x", lambda _: None)


def test_what_cannot_work_is_refused(
    cluster: type[Cluster], tiny_config: RunConfig, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="set checkpoint_root to a claim or s3://"):
        nodes.train_on_nodes(given | {"checkpoint_root": ""}, on(tiny_config), "x")
    with pytest.raises(ConfigError, match=r"16 processes for a training.batch_size of 2"):
        nodes.train_on_nodes(given, on(tiny_config, gpus_per_node=8), "x")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(ConfigError, match=r"training.num_nodes=2: nodes are started on Kubernetes alone"):
        nodes.train_on_nodes(given, on(tiny_config), "x")
