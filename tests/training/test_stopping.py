"""Being told to stop: the step is finished and saved; below KFP's launcher the end is noted within a second."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

STEPS = """
import sys, time
from ctan.training.stopping import stopping
with stopping() as stop:
    print("ready", flush=True)
    for step in range(1000):
        time.sleep(0.02)
        if stop.is_wanted:
            print("saved", flush=True)
            stop.end()
"""
# A step that stays in one operation, as a convolution does: no Python code runs, no handler is called.
BUSY = """
import ctypes, sys
from functools import partial
from ctan.tracking.closing import mark_killed
from ctan.training.stopping import stopping
with stopping() as stop:
    stop.marks.append(partial(mark_killed, sys.argv[1], "the-run"))
    print("ready", flush=True)
    libc = ctypes.CDLL(None)
    while True:
        libc.usleep(900_000) or libc.usleep(900_000) or libc.usleep(900_000) or libc.usleep(900_000)
"""


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_from_a_terminal_the_step_is_finished_and_saved(number: signal.Signals, code: int) -> None:
    process = start(STEPS)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("saved\n", code)


def test_the_second_signal_ends_at_once() -> None:
    process = start(STEPS.replace("if stop.is_wanted", "if False"))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_below_the_launcher_the_run_is_marked_in_the_database_and_nothing_else_done(tmp_path: Path) -> None:
    """Before: half a second after the signal the process was gone, and its run RUNNING for ever."""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT, status TEXT, end_time INTEGER)")
        database.execute("INSERT INTO runs VALUES ('the-run', 'RUNNING', NULL), ('another', 'RUNNING', NULL)")
    process = start(BUSY, f"sqlite:///{tmp_path}/mlflow.db", KFP_POD_NAME="ctan-abc")
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert process.returncode == 143
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("SELECT run_uuid, status, end_time > 0 FROM runs").fetchall()
    assert found == [("the-run", "KILLED", 1), ("another", "RUNNING", None)]


class Server(BaseHTTPRequestHandler):
    asked: list[tuple[str, bytes, str | None]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, body, self.headers.get("Authorization")))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_below_the_launcher_a_server_gets_one_plain_request(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    process = start(BUSY, address, KFP_RUN_ID="1", MLFLOW_TRACKING_USERNAME="u", MLFLOW_TRACKING_PASSWORD="p")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    server.shutdown()
    ((path, body, login),) = Server.asked
    assert path == "/api/2.0/mlflow/runs/update"
    assert b'"run_id": "the-run"' in body
    assert b'"KILLED"' in body
    assert login == "Basic dTpw"


def test_below_the_launcher_a_server_that_does_not_answer_costs_a_second_at_most() -> None:
    server = HTTPServer(("127.0.0.1", 0), Server)  # takes connections and never answers
    process = start(BUSY, f"http://127.0.0.1:{server.server_port}", KFP_RUN_ID="1")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert time.monotonic() - started < 20, "not the minutes that MLflow's client waits"
    server.server_close()
