"""`ctan ui` starts MLflow's server, and runs nothing that lies in the current directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from ctan.commands.ui import ui
from ctan.errors import ConfigError

MODULES = ("mlflow", "uvicorn", "fastapi", "flask", "sqlalchemy", "sqlite3", "secrets", "ctan")


def processes_of(session: int) -> list[int]:
    """Return the processes of a session."""
    return [pid for pid in psutil.pids() if psutil.pid_exists(pid) and os.getsid(pid) == session]


@pytest.mark.slow
def test_the_pages_answer_at_the_address_that_is_told_from_two_processes_and_import_nothing_from_here(
    tmp_path: Path, own_workspace: Path
) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ctan")), "ui", "--port", str(port)]
    environment = os.environ | {"CTAN_WORKSPACE": str(own_workspace)}
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=environment,
        ) as server,
    ):
        assert server.stdout is not None
        told = next((line for line in server.stdout if line.startswith("http")), "")
        try:
            assert told == f"http://127.0.0.1:{port}/#/experiments (stop with Ctrl-C)\n", (
                tmp_path / "errors"
            ).read_text()
            with urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert b"MLflow" in answer.read()
            deadline = time.monotonic() + 30  # until the one that told the address has ended
            while len(processes_of(server.pid)) > 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(processes_of(server.pid)) == 2
        finally:
            os.killpg(server.pid, signal.SIGKILL)
    assert not (tmp_path / "imported").exists()


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} cannot be listened on .* say --port {port + 1}"):
            ui("127.0.0.1", port)
