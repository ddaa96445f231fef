"""Telling people how a run ended: by a real HTTP server's and a real SMTP server's word."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ctan.ending.notify import NotifyError, tell
from ctan.tracking.run_end import CANCELED, FAILED, SUCCEEDED, RunEnd

HTTP = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[1], "ab") as file:
            file.write(self.path.encode() + b" " + body + b"\\n")
        self.send_response(int(self.path.rpartition("-")[2]) if "-" in self.path else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
SMTP = """
import asyncore, smtpd, sys
class Server(smtpd.SMTPServer):
    def process_message(self, peer, sender, receivers, data, **_):
        with open(sys.argv[1], "ab") as file:
            file.write(f"{sender} -> {receivers}\\n".encode() + data + b"\\n")
        return "550 no such user" if "nobody@example.org" in receivers else None
server = Server(("127.0.0.1", 0), None)
print(server.socket.getsockname()[1], flush=True)
asyncore.loop()
"""
FAILURE = RunEnd(
    "5f0c", "ctan", FAILED, (("gate", "2 of 4 cases fail (pt_17, pt_18)"),), "https://kfp/#/runs/details/5f0c"
)


@dataclass
class Server:
    port: int
    file: Path

    @property
    def received(self) -> str:
        return self.file.read_text() if self.file.exists() else ""


def serve(code: str, folder: Path) -> Iterator[Server]:
    file = folder / "received"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield Server(int(process.stdout.readline()), file)
    process.kill()
    process.wait()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Server]:
    yield from serve(HTTP, tmp_path)


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[Server]:
    yield from serve(SMTP, tmp_path)


def test_nobody_is_told_unless_the_environment_names_somebody() -> None:
    assert tell(FAILURE, {}) == []


def test_a_webhook_learns_which_step_failed_and_nothing_of_the_cases(http: Server) -> None:
    address = f"http://127.0.0.1:{http.port}/hooks/s3cret"
    assert tell(FAILURE, {"CTAN_NOTIFY_WEBHOOK": address}) == ["webhook"]
    path, _, body = http.received.partition(" ")
    assert path == "/hooks/s3cret"
    assert json.loads(body) == {
        "text": "ctan 5f0c: FAILED: gate\nhttps://kfp/#/runs/details/5f0c",
        "pipeline": "ctan",
        "pipeline_run": "5f0c",
        "state": "FAILED",
        "failed_steps": ["gate"],
        "url": "https://kfp/#/runs/details/5f0c",
    }
    tell(FAILURE, {"CTAN_NOTIFY_WEBHOOK": address, "CTAN_NOTIFY_REASONS": "1"})
    assert "pt_17" in http.received


def test_success_is_told_only_to_who_asks_for_it(http: Server) -> None:
    variables = {"CTAN_NOTIFY_WEBHOOK": f"http://127.0.0.1:{http.port}/"}
    success = RunEnd("5f0c", "ctan", SUCCEEDED)
    assert tell(success, variables) == []
    assert tell(RunEnd("5f0c", "ctan", CANCELED), variables) == ["webhook"]
    assert tell(success, variables | {"CTAN_NOTIFY_WHEN": "always"}) == ["webhook"]
    with pytest.raises(NotifyError, match="CTAN_NOTIFY_WHEN: expected failure or always, found 'sometimes'"):
        tell(success, variables | {"CTAN_NOTIFY_WHEN": "sometimes"})


def test_an_e_mail_arrives_with_the_run_in_its_subject(smtp: Server) -> None:
    variables = {
        "CTAN_NOTIFY_SMTP": f"smtp://127.0.0.1:{smtp.port}",
        "CTAN_NOTIFY_TO": "a@example.org, b@example.org",
        "CTAN_NOTIFY_FROM": "ctan@example.org",
    }
    assert tell(FAILURE, variables) == ["e-mail"]
    envelope, _, mail = smtp.received.partition("\n")
    assert envelope == "ctan@example.org -> ['a@example.org', 'b@example.org']"
    assert "Subject: ctan 5f0c: FAILED: gate" in mail
    assert "pt_17" not in mail


def test_a_server_that_refuses_is_told_of_without_its_secret_and_the_other_receiver_is_told(
    http: Server, smtp: Server
) -> None:
    variables = {
        "CTAN_NOTIFY_WEBHOOK": f"http://127.0.0.1:{http.port}/s3cret-404",
        "CTAN_NOTIFY_SMTP": f"smtp://127.0.0.1:{smtp.port}",
        "CTAN_NOTIFY_TO": "a@example.org",
    }
    with pytest.raises(NotifyError, match="webhook: the server answered 404") as refused:
        tell(FAILURE, variables)
    assert "s3cret" not in str(refused.value)
    assert "Subject: ctan 5f0c" in smtp.received
    with pytest.raises(NotifyError, match=r"e-mail: .*no such user"):
        tell(FAILURE, variables | {"CTAN_NOTIFY_WEBHOOK": "", "CTAN_NOTIFY_TO": "nobody@example.org"})


def test_a_server_with_an_error_of_its_own_is_asked_once_more(http: Server) -> None:
    with pytest.raises(NotifyError, match="503"):
        tell(FAILURE, {"CTAN_NOTIFY_WEBHOOK": f"http://127.0.0.1:{http.port}/x-503"})
    assert http.received.count("/x-503") == 2


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"CTAN_NOTIFY_WEBHOOK": "file:///etc/passwd"}, "begins with https"),
        ({"CTAN_NOTIFY_SMTP": "mail.example.org", "CTAN_NOTIFY_TO": "a@b"}, "expected smtp://HOST:PORT"),
        ({"CTAN_NOTIFY_SMTP": "smtp://127.0.0.1:1"}, "CTAN_NOTIFY_TO: missing"),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(NotifyError, match=problem):
        tell(FAILURE, variables)


def test_a_server_that_is_not_there_is_an_error_and_no_wait() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(NotifyError, match="refused"):
        tell(FAILURE, {"CTAN_NOTIFY_WEBHOOK": f"http://127.0.0.1:{port}/x"})
    assert time.monotonic() - started < 60
