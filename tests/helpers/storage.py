"""Roots in object storage, for tests: the real S3 server in the environment, and a small store to put there.

A module says `pytest_plugins = ["tests.helpers.storage"]` and gets the fixtures `server`, `root`, `built` and `put`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ctan.config import RunConfig
from ctan.intake.build import preprocess
from ctan.sources import buckets, objects
from ctan.store import StorePointer
from ctan.store.shelf import Shelf, files_in
from tests.helpers.s3 import S3Server
from tests.helpers.small import files_of

pytest_plugins = ["tests.helpers.s3"]

SOURCE = "phantom:train=6,validation=2,seed=1"


@pytest.fixture
def server(s3_server: S3Server, credentials: None, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, named by the environment with its credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    return s3_server


@pytest.fixture
def root(bucket: str, server: S3Server) -> str:
    """An address below which nothing lies yet."""
    return f"s3://{bucket}/team/ctan"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_config: RunConfig) -> StorePointer:
    """A store in a folder beside its manifest, to compare with."""
    from ctan.intake.ingest import ingest

    folder = tmp_path_factory.mktemp("built")
    ingest(SOURCE, folder / "manifest", tiny_config, num_workers=0)
    return preprocess(SOURCE, folder / "manifest", str(folder / "store"), tiny_config, num_workers=1)


@pytest.fixture
def put(built: StorePointer, root: str, own_workspace: Path, tiny_config: RunConfig) -> StorePointer:
    """The same store in the bucket, and no copy in this workspace."""
    put_shards(built, root)
    buckets.publish(built.folder, f"{root}/stores/{built.key}", last="store.json")
    return pointer_in(root, built)


def put_shards(built: StorePointer, root: str) -> None:
    """Put the shards of a store in a folder into a bucket."""
    for name, content in shards_in(built).items():
        objects.write_object(f"{root}/{name}", content)


def shards_in(pointer: StorePointer) -> dict[str, bytes]:
    """Return name below the root -> bytes of the shards in a root's folder, or in the copy of a bucket."""
    folder = Shelf(pointer.store_root).folder
    return {f"shards/{name}": (folder / name).read_bytes() for name in files_in(folder)}


def all_of(pointer: StorePointer) -> dict[str, bytes]:
    """Return name below the root -> bytes of a store in a folder and of all shards there."""
    own = {f"stores/{pointer.key}/{name}": content for name, content in files_of(pointer.folder).items()}
    return own | shards_in(pointer)


def pointer_in(root: str, built: StorePointer) -> StorePointer:
    return StorePointer(root, built.key, built.data_hash, built.dataset, built.config_hash, built.num_cases)


def pack(built: StorePointer, root: str, config: RunConfig) -> StorePointer:
    return preprocess(SOURCE, Path(built.store_root).parent / "manifest", root, config, num_workers=1)


def objects_of(server: S3Server, uri: str) -> dict[str, bytes]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return {
        name: server.client.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
        for name in buckets.list_objects(uri)
    }


def place(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}
