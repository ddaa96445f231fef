"""`ctan ui`: MLflow's pages on the embedded store."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Show training runs, models and the registry in a browser: MLflow's own pages on the workspace's database.

    Example: ctan ui --port 5001
    """
    from ctan.tracking.server import ARTIFACTS_FOLDER, is_server, prepare, without_password
    from ctan.workspace import workspace

    uri = prepare()
    if is_server(uri):
        typer.echo(f"runs are recorded by the tracking server at {without_password(uri)}: open it in a browser")
        return
    typer.echo(f"http://{host}:{port} (stop with Ctrl-C)")
    artifacts = (workspace() / ARTIFACTS_FOLDER).as_uri()
    command = ["mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root", artifacts]
    # `python -m` and, by its default of --app-dir, uvicorn look for modules in the current directory first, which may
    # be a stranger's repository.
    command += ["--uvicorn-opts", "--app-dir /", "--host", host, "--port", str(port)]
    os.execve(sys.executable, [sys.executable, "-m", *command], os.environ | {"PYTHONSAFEPATH": "1"})
