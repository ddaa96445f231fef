"""`ctan doctor --cluster` against a server of Kubeflow's shape and a stand-in for Kubernetes.

The stand-in's kubelet runs a pod's command as a process, with the environment that the pod would have; the bucket is a
real S3 server's. It cannot show admission, who may do what, and pulling of images.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctan.cluster.values import Values
from ctan.doctor import Finding
from ctan.doctor import cluster as module
from ctan.doctor.cluster import ClusterDoctor
from tests.helpers.s3 import ACCESS_KEY, SECRET_KEY, S3Server

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp", "tests.helpers.s3"]
IMAGE = "registry.example.org/ctan:1"
STOCK = {"workflowDefaults": "spec: {templateDefaults: {retryStrategy: {limit: 2, retryPolicy: OnError}}}"}


class Kubernetes(BaseHTTPRequestHandler):
    objects: dict[str, Any] = {}  # noqa: RUF012 - path -> object
    refused: tuple[str, ...] = ()
    image_problem = ""
    started: list[dict[str, Any]] = []  # noqa: RUF012
    deleted: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if any(part in path for part in self.refused):
            return self._answer(403, {"message": "forbidden"})
        if path.endswith("/log"):
            return self._answer(200, self.objects[path])
        if path in self.objects:
            return self._answer(200, self.objects[path])
        return self._answer(404, {"message": "not found"})

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).started.append(pod)
        path = f"{self.path}/ctan-doctor-x1"
        status: dict[str, Any] = {"phase": "Pending"}
        if self.image_problem:
            waiting = {"reason": self.image_problem, "message": "manifest unknown"}
            status["containerStatuses"] = [STATUS | {"state": {"waiting": waiting}}]
        else:
            status["phase"] = "Succeeded"
            self.objects[f"{path}/log"] = self._run(pod["spec"]["containers"][0])
        self.objects[path] = pod | {"metadata": {"name": "ctan-doctor-x1"}, "status": status}
        self._answer(201, self.objects[path])

    def do_DELETE(self) -> None:
        type(self).deleted.append(self.path.partition("?")[0].rpartition("/")[2])
        self._answer(200, {"kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": []}})

    def _run(self, container: dict[str, Any]) -> str:
        kept = ("PATH", "HOME", "LD_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        for entry in container["env"]:
            value = entry.get("value")
            for kind, reference in entry.get("valueFrom", {}).items():
                place = {"secretKeyRef": "secrets", "configMapKeyRef": "configmaps"}[kind]
                data = self.objects.get(f"/api/v1/namespaces/ctan/{place}/{reference['name']}", {}).get("data", {})
                value = data.get(reference["key"])
                if value is not None and kind == "secretKeyRef":
                    value = base64.b64decode(value).decode()
            if value is not None:
                env[entry["name"]] = value
        command = [sys.executable, *container["command"][1:]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def _answer(self, status: int, content: Any) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


STATUS = {"name": "main", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}


def put(path: str, **content: Any) -> None:
    Kubernetes.objects[f"/api/v1/namespaces/{path}"] = content


def secret(name: str, **data: str) -> None:
    put(
        f"ctan/secrets/{name}",
        data={key.replace("_", "-"): base64.b64encode(v.encode()).decode() for key, v in data.items()},
    )


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kfp_server: KfpServer) -> Iterator[type[Kubernetes]]:
    Kubernetes.objects, Kubernetes.refused, Kubernetes.image_problem = {}, (), ""
    Kubernetes.started, Kubernetes.deleted = [], []
    put("ctan", metadata={"name": "ctan", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}})
    put("ctan/resourcequotas", items=[])
    put("kubeflow/configmaps/workflow-controller-configmap", data=STOCK)
    server = HTTPServer(("127.0.0.1", 0), Kubernetes)
    Thread(target=server.serve_forever, daemon=True).start()
    named = {"name": "here"}
    config = {
        "current-context": "here",
        "contexts": [named | {"context": {"cluster": "here", "user": "here"}}],
        "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [named | {"user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("CTAN_IMAGE", raising=False)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    yield Kubernetes
    server.shutdown()


def look(kfp_server: KfpServer, pod: bool = False, **values: Any) -> dict[str, Finding]:
    settings = Values.model_validate({"image": IMAGE} | values)
    findings = ClusterDoctor(settings, "ctan", kfp_server.url, pod).findings()
    assert len({finding.about for finding in findings}) == len(findings)
    return {finding.about: finding for finding in findings}


def test_a_cluster_in_order_has_no_problem(kubernetes: type[Kubernetes], kfp_server: KfpServer) -> None:
    found = look(kfp_server)
    assert {about: finding.state for about, finding in found.items()} == {
        "Kubeflow Pipelines": "note",
        "image": "fine",
        "pod security": "fine",
        "retries": "fine",
        "quota": "fine",
        "a pod": "skipped",
    }
    assert "version unknown" in found["Kubeflow Pipelines"].text, "the tests' server tells none"
    assert found["image"].text == IMAGE
    assert "lost pods are tried again" in found["retries"].text


def test_secrets_are_compared_with_the_keys_that_the_steps_ask_for(
    kubernetes: type[Kubernetes], kfp_server: KfpServer
) -> None:
    secret("ctan-s3", access_key_id="x")
    keys = {"access-key-id": "CTAN_S3_ACCESS_KEY_ID", "secret-access-key": "CTAN_S3_SECRET_ACCESS_KEY"}
    wanted = {"name": "ctan-s3", "keys": keys}
    found = look(kfp_server, defaults={"secrets": [wanted, {"name": "no-such", "keys": {"a": "A"}, "optional": False}]})
    assert (found["secrets ctan-s3"].state, found["secrets no-such"].state) == ("note", "problem")
    assert found["secrets ctan-s3"].text == "lacks secret-access-key; steps start without it"
    assert found["secrets no-such"].text == "does not exist; steps wait for it for ever"


def test_what_this_account_may_not_see_is_skipped_with_the_right_that_is_missing(
    kubernetes: type[Kubernetes], kfp_server: KfpServer
) -> None:
    kubernetes.refused = ("/secrets/", "workflow-controller", "resourcequotas")
    found = look(kfp_server, defaults={"secrets": [{"name": "ctan-s3", "keys": {"a": "A"}}]})
    for about, right in {
        "secrets ctan-s3": "get secrets",
        "retries": "get configmaps in kubeflow",
        "quota": "list resourcequotas",
    }.items():
        assert found[about].state == "skipped"
        assert right in found[about].text


def test_retries_that_multiply_a_quota_that_is_too_small_and_a_claim_of_one_node_are_named(
    kubernetes: type[Kubernetes], kfp_server: KfpServer
) -> None:
    always = "spec: {templateDefaults: {retryStrategy: {limit: 2, retryPolicy: Always}}}"
    put("kubeflow/configmaps/workflow-controller-configmap", data={"workflowDefaults": always})
    quota = {"hard": {"requests.memory": "8Gi", "requests.nvidia.com/gpu": "1"}, "used": {"requests.memory": "6Gi"}}
    put("ctan/resourcequotas", items=[{"metadata": {"name": "q"}, "status": quota}])
    put("ctan/persistentvolumeclaims/store", spec={"accessModes": ["ReadWriteOnce"]})
    claims = [{"name": "store", "mount_path": "/mnt/store"}, {"name": "gone", "mount_path": "/mnt/gone"}]
    found = look(kfp_server, defaults={"claims": claims}, steps={"train": {"gpus": 2, "memory_request": "4Gi"}})
    assert found["retries"].state == "problem"
    assert "ten times" in found["retries"].text
    assert "train asks for requests.memory" in found["quota"].text
    assert "train asks for requests.nvidia.com/gpu 2, 1 of 1 are free" in found["quota"].text
    assert found["claim store"].state == "note"
    assert found["claim gone"].text == "does not exist; steps wait for it for ever"


def test_a_namespace_that_refuses_roots_pods_names_the_steps(
    kubernetes: type[Kubernetes], kfp_server: KfpServer
) -> None:
    found = look(kfp_server, steps={"train": {"security_context": {"run_as_user": 0, "run_as_non_root": False}}})
    assert found["pod security"].state == "problem"
    assert found["pod security"].text.endswith("refuses the pods of: train")


def test_an_image_that_cannot_be_pulled_is_found_and_the_pod_deleted(
    kubernetes: type[Kubernetes], kfp_server: KfpServer
) -> None:
    kubernetes.image_problem = "ImagePullBackOff"
    found = look(kfp_server, pod=True)["a pod"]
    assert found.state == "problem"
    assert found.text == "its image cannot be pulled (ImagePullBackOff: manifest unknown); runs would wait for ever"
    assert kubernetes.deleted == ["ctan-doctor-x1"]


def test_a_pod_sees_the_bucket_and_the_tracking_server_with_the_steps_own_secrets(
    kubernetes: type[Kubernetes], kfp_server: KfpServer, s3_server: S3Server, bucket: str
) -> None:
    secret("ctan-s3", id=ACCESS_KEY, key=SECRET_KEY)
    put("ctan/configmaps/ctan-services", data={"s3": s3_server.endpoint, "mlflow": "http://127.0.0.1:1"})
    values = {
        "parameters": {"store_root": f"s3://{bucket}/ctan", "checkpoint_root": "s3://no-such-bucket-of-ctan/x"},
        "defaults": {
            "secrets": [
                {"name": "ctan-s3", "keys": {"id": "CTAN_S3_ACCESS_KEY_ID", "key": "CTAN_S3_SECRET_ACCESS_KEY"}}
            ],
            "config_maps": [
                {"name": "ctan-services", "keys": {"s3": "CTAN_S3_ENDPOINT_URL", "mlflow": "MLFLOW_TRACKING_URI"}}
            ],
        },
    }
    findings = ClusterDoctor(Values.model_validate({"image": IMAGE} | values), "ctan", kfp_server.url).findings()
    problems = [finding.text for finding in findings if finding.state == "problem"]
    assert len(problems) == 2, problems
    assert problems[0].startswith("checkpoint_root: s3://no-such-bucket-of-ctan")
    assert problems[1].startswith("MLflow: http://127.0.0.1:1 does not answer")

    put("ctan/configmaps/ctan-services", data={"s3": s3_server.endpoint})
    values["parameters"]["checkpoint_root"] = f"s3://{bucket}/ctan/checkpoints"  # type: ignore[index]
    found = look(kfp_server, pod=True, **values)
    assert found["a pod"].state == "fine", found["a pod"]
    assert found["config_maps ctan-services"].text == "lacks mlflow; steps start without it"
    assert kubernetes.started[-1]["spec"]["containers"][0]["image"] == IMAGE
    assert kubernetes.deleted == ["ctan-doctor-x1"] * 2


def test_without_access_to_kubernetes_that_is_said_and_kubeflow_looked_at(
    kfp_server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    found = look(kfp_server, pod=True)
    assert found["Kubeflow Pipelines"].state == "note"
    for about in ("pod security", "retries", "quota", "a pod"):
        assert found[about].state == "skipped"
        assert "set KUBECONFIG" in found[about].text
