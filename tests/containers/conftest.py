"""What the tests in containers share: the image that `make test-containers` built, and an MLflow server on the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import components
from tests.helpers.s3 import free_ports
from tests.helpers.workloads import http_status, wait_until


@pytest.fixture(scope="session")
def image() -> str:
    """Name of the image, the one that the compiled pipeline names."""
    found = subprocess.run(["docker", "image", "inspect", components.IMAGE], capture_output=True, check=False)
    if found.returncode:
        pytest.fail(f"there is no image {components.IMAGE}: run `make test-containers`, which builds it")
    return components.IMAGE


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """Address of a tracking server with an empty database, which also takes the artifacts."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", str(tmp_path / "mlartifacts")]
    with (tmp_path / "mlflow.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: http_status(f"{address}/health", "127.0.0.1") == 200, server)
        yield address
    finally:
        server.terminate()
        server.wait(60)
