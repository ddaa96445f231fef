"""`ctan ui` starts MLflow's server, and runs nothing that lies in the current directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("mlflow", "uvicorn", "fastapi", "flask", "sqlalchemy", "sqlite3", "secrets", "ctan")


@pytest.mark.slow
def test_modules_in_the_current_directory_are_not_imported(tmp_path: Path, own_workspace: Path) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ctan")), "ui", "--port", str(port)]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"CTAN_WORKSPACE": str(own_workspace)},
    ) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "Uvicorn running" in line:
                break
        os.killpg(server.pid, signal.SIGKILL)
    assert "Uvicorn running" in said[-1], "".join(said)
    assert not (tmp_path / "imported").exists()
