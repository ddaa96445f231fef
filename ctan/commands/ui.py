"""`ctan ui`: MLflow's pages on the embedded store."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Annotated

import psutil
import typer

from ctan.errors import ConfigError

_WAIT_SECONDS = 120.0


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Show training runs, models and the registry in a browser: MLflow's own pages on the workspace's database.

    Example: ctan ui --port 5001
    """
    from ctan.tracking.server import ARTIFACTS_FOLDER, is_server, prepare, without_password
    from ctan.workspace import workspace

    _check_free(host, port)
    uri = prepare()
    if is_server(uri):
        typer.echo(f"runs are recorded by the tracking server at {without_password(uri)}: open it in a browser")
        return
    typer.echo("starting MLflow's pages, which takes some seconds", err=True)
    artifacts = (workspace() / ARTIFACTS_FOLDER).as_uri()
    command = ["mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root", artifacts]
    command += ["--registry-store-uri", uri, "--workers", "1"]
    # `python -m` and, by its default of --app-dir, uvicorn look for modules in the current directory first, which may
    # be a stranger's repository. Jobs are for evaluating language models: four more processes.
    command += ["--uvicorn-opts", "--app-dir / --log-level warning", "--host", host, "--port", str(port)]
    settings = {"PYTHONSAFEPATH": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    _in_a_process_beside(partial(_announce, host, port, os.getpid()))
    os.execve(sys.executable, [sys.executable, "-m", *command], os.environ | settings)


def _check_free(host: str, port: int) -> None:
    """Refuse a port that something listens on, before anything is started."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} cannot be listened on ({error.strerror}); say --port {port + 1}, or stop what is there"
            ) from error


def _in_a_process_beside(work: Callable[[], None]) -> None:
    """Do something in a process that nobody has to wait for: its parent ends at once."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    if os.fork() == 0:
        work()
        sys.stdout.flush()
    os._exit(0)


def _announce(host: str, port: int, server: int) -> None:
    """Tell the address as soon as the server, a process of this id, answers."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    deadline = time.monotonic() + _WAIT_SECONDS
    while psutil.pid_exists(server) and time.monotonic() < deadline:
        connection = HTTPConnection(shown, port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                address = f"[{shown}]" if ":" in shown else shown
                typer.echo(f"http://{address}:{port}/#/experiments (stop with Ctrl-C)")
                break
        except (OSError, HTTPException):
            time.sleep(0.3)
        finally:
            connection.close()
