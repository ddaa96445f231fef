"""What stand-ins of the Kubernetes API share: a server on this machine that the code of a pod takes for its cluster's.

What a stand-in cannot show: admission, scheduling, and who may do what.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ctan import in_cluster


class Answers(BaseHTTPRequestHandler):
    """Answers requests that carry the token of the account; all are refused where `refused`."""

    refused = False

    def answer(self, content: Any, code: int = 200, text: bool = False) -> None:
        allowed = self.headers["Authorization"] == "bearer the-token" and not self.refused
        body = content.encode() if text else json.dumps(content).encode()
        self.send_response(code if allowed else 403)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_cluster_of(handler: type[Answers], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be a pod of a cluster that a handler answers for.

    Args:
        handler: of its API.
        folder: receives what lies in a pod of its service account.
        monkeypatch: undoes it.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    for name, content in {"token": "the-token", "namespace": "ctan", "ca.crt": "-"}.items():
        (folder / name).write_text(content)
    monkeypatch.setattr(in_cluster, "ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    made = in_cluster.cluster

    def without_tls() -> Any:
        client = made()
        client.configuration.refresh_api_key_hook = None  # would set the address again
        client.configuration.host = f"http://127.0.0.1:{server.server_port}"
        return client

    monkeypatch.setattr(in_cluster, "cluster", without_tls)
    yield
    server.shutdown()
    server.server_close()
