"""Stores and ledger in a real S3 server: there whole or not at all, whoever is killed, and clear when not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.sources import buckets, objects
from ctan.store import StorePointer, open_store
from ctan.tracking.ledger import Ledger
from tests.helpers.s3 import ACCESS_KEY, Proxy, S3Server
from tests.helpers.small import files_of
from tests.helpers.storage import objects_of, pack, place, pointer_in

pytest_plugins = ["tests.helpers.storage"]
pytestmark = pytest.mark.usefixtures("server")


# The store


def test_a_store_is_built_into_the_bucket_once_and_read_from_it_elsewhere(
    built: StorePointer,
    root: str,
    server: S3Server,
    tiny_config: RunConfig,
    own_workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pointer = pack(built, root, tiny_config)
    assert objects_of(server, f"{root}/stores/{built.key}") == files_of(built.folder)
    assert "nothing to do" not in capsys.readouterr().err

    shutil.rmtree(own_workspace / "cache")
    assert pack(built, root + "/", tiny_config).key == pointer.key
    assert "exists already, nothing to do" in capsys.readouterr().err
    assert not list((own_workspace / "cache").rglob("*.zarr"))  # seeing that it is there downloads nothing

    store = open_store(pointer)
    assert files_of(pointer.folder) == files_of(built.folder)
    case = store.case_ids()[0]
    assert (store.load(case).image["ct"] == open_store(built).load(case).image["ct"]).all()


def test_a_copy_in_the_workspace_needs_no_server(put: StorePointer, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(put)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert len(open_store(put).case_ids()) == 8


def test_a_copy_that_was_damaged_is_fetched_anew(put: StorePointer, built: StorePointer) -> None:
    open_store(put)
    shard = max(put.folder.rglob("c/**/0"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    shard.write_bytes(shard.read_bytes()[:100])
    open_store(put)
    assert files_of(put.folder) == files_of(built.folder)


def test_a_download_that_breaks_off_is_not_seen_and_goes_on(
    put: StorePointer, built: StorePointer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.damage = (b"blosc", b"blosd")  # in the metadata of each array
    with pytest.raises(DataError, match=rf"{put.address}.*files could not be fetched"):
        open_store(put)
    assert not put.folder.exists()
    proxy.damage, proxy.num_bytes = None, 0
    open_store(put)
    assert files_of(put.folder) == files_of(built.folder)
    total = sum(len(content) for content in files_of(built.folder).values())
    assert proxy.num_bytes < total  # what had arrived was not fetched again


def test_a_small_object_is_asked_for_again_when_the_connection_breaks_within_it(
    root: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 200
    objects.write_object(f"{root}/small", content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.cuts = [20_000, 10_000]
    assert objects.read_object(f"{root}/small") == content
    assert not proxy.cuts


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_damaged_object_behind_the_marker_is_named_and_the_next_build_repairs_it(
    put: StorePointer,
    built: StorePointer,
    server: S3Server,
    tiny_config: RunConfig,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = max(files_of(built.folder).items(), key=lambda item: len(item[1]))[0]
    if damage == "missing":
        server.client.delete_object(**place(f"{put.address}/{name}"))
    else:
        server.client.put_object(**place(f"{put.address}/{name}"), Body=b"short")
    found = "nothing" if damage == "missing" else "5 bytes"
    size = len(files_of(built.folder)[name])
    with pytest.raises(
        DataError, match=rf"{put.address}: {name}: expected {size} bytes, found {found}; run `ctan data"
    ):
        open_store(put)
    assert not put.folder.exists()

    pack(built, put.store_root, tiny_config)
    assert f"repairing {put.address}" in capsys.readouterr().err
    assert objects_of(server, put.address) == files_of(built.folder)


def test_an_upload_that_was_killed_leaves_no_store_and_the_next_one_completes_it(
    built: StorePointer, root: str, server: S3Server, tiny_config: RunConfig, tmp_path: Path, proxy: Proxy
) -> None:
    pointer = pointer_in(root, built)
    code = (
        f"from ctan.sources import buckets; from pathlib import Path; print('go', flush=True); "
        f"buckets.publish(Path({str(built.folder)!r}), {pointer.address!r}, 'store.json')"
    )
    proxy.bytes_per_second = 2000  # each answer takes a while
    environment = os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not buckets.list_objects(pointer.address):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert "store.json" not in buckets.list_objects(pointer.address)
    with pytest.raises(DataError, match=rf"{pointer.address}: there is no store here; run `ctan data preprocess`"):
        open_store(pointer)

    pack(built, root, tiny_config)
    assert objects_of(server, pointer.address) == files_of(built.folder)


def test_two_builders_at_once_end_with_one_whole_store(built: StorePointer, root: str, server: S3Server) -> None:
    """Each on a machine of its own: with copies of their own and no common lock."""
    address, failures = pointer_in(root, built).address, []

    def publish() -> None:
        try:
            buckets.publish(built.folder, address, last="store.json")
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert objects_of(server, address) == files_of(built.folder)


def test_publishing_again_uploads_nothing(put: StorePointer, built: StorePointer, server: S3Server) -> None:
    name = "manifest.parquet"
    before = server.client.head_object(**place(f"{put.address}/{name}"))["LastModified"]
    server.client.put_object(**place(f"{put.address}/quarantine.parquet"), Body=b"others")
    buckets.publish(built.folder, put.address, last="store.json")
    assert server.client.head_object(**place(f"{put.address}/{name}"))["LastModified"] == before
    assert objects_of(server, put.address) == files_of(built.folder)


# What goes wrong


def test_a_missing_bucket_is_named_before_any_work(built: StorePointer, tiny_config: RunConfig) -> None:
    with pytest.raises(DataError, match=r"s3://no-such-bucket/x/stores/\w+/store\.json: there is no such bucket"):
        pack(built, "s3://no-such-bucket/x", tiny_config)


def test_wrong_credentials_are_told_without_naming_them(
    built: StorePointer, root: str, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(DataError, match=r"the secret key does not belong to the access key") as caught:
        pack(built, root, tiny_config)
    assert root in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_what_may_be_read_but_not_written_is_refused_before_the_build(
    built: StorePointer, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch, own_workspace: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(DataError, match=r"s3://public/\.ctan-probe: no access: these credentials may not write it"):
        pack(built, "s3://public", tiny_config)
    assert not list(own_workspace.rglob("*.zarr"))


def test_a_server_that_is_not_there_is_told(built: StorePointer, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=rf"{root}.*the server cannot be reached .*check AWS_ENDPOINT_URL"):
        open_store(pointer_in(root, built))


@pytest.mark.parametrize("root", ["gs://bucket/x", "s3://Bucket", "s3:///x"])
def test_other_addresses_are_refused(root: str, built: StorePointer) -> None:
    with pytest.raises(ConfigError, match="store_root: expected a folder or s3://bucket/prefix"):
        _ = pointer_in(root, built).folder


# The ledger


def test_the_ledger_keeps_every_entry_and_table_in_the_bucket(root: str, server: S3Server, own_workspace: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ledger = Ledger(root, "some-model", needed=("number",))
    assert ledger.entries() == []
    ledger.check_writable()
    assert buckets.list_objects(root) == {}
    for number in range(3):
        Ledger(root, "some-model", needed=("number",)).append({"number": number})
    assert not ledger.table_path("w" * 64, "e" * 64).exists()
    table = pa.table({"value": [1.0, 2.0]})
    ledger.keep_table("w" * 64, "e" * 64, table)

    shutil.rmtree(own_workspace / "cache")
    assert [entry["number"] for entry in ledger.entries()] == [0, 1, 2]
    lines = objects_of(server, f"{root}/ledger")["some-model.jsonl"].decode().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [{name: line[name] for name in line if name != "previous"} for line in kept] == ledger.entries()
    assert pq.read_table(ledger.table_path("w" * 64, "e" * 64)).equals(table)


def test_a_ledger_that_cannot_be_written_stops_promotion_before_it_changes_anything() -> None:
    with pytest.raises(DataError, match=r"the promotion ledger cannot be written, nothing has been promoted: .*bucket"):
        Ledger("s3://no-such-bucket/x", "some-model").check_writable()
