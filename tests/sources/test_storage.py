"""Stores and ledger in a real S3 server: there whole or not at all, whoever is killed, and clear when not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.sources import buckets, objects
from ctan.store import StorePointer, open_store
from ctan.store.shelf import Shelf
from ctan.tracking.ledger import Ledger
from tests.helpers.s3 import ACCESS_KEY, Proxy, S3Server
from tests.helpers.small import files_of
from tests.helpers.storage import SOURCE, all_of, objects_of, pack, place, pointer_in, shards_in

pytest_plugins = ["tests.helpers.storage"]
pytestmark = pytest.mark.usefixtures("server")


def files_only(shards: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out notes, which are for those who pack."""
    return {name: content for name, content in shards.items() if not name.startswith("shards/made/")}


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
    assert objects_of(server, root) == all_of(built)
    assert "nothing to do" not in capsys.readouterr().err

    shutil.rmtree(own_workspace / "cache")
    assert pack(built, root + "/", tiny_config).key == pointer.key
    assert "exists already, nothing to do" in capsys.readouterr().err
    assert not list((own_workspace / "cache").rglob("*.zip"))  # seeing that it is there downloads nothing

    case = open_store(pointer, ("working",)).case_ids()[0]
    assert {name.split("/")[1] for name in shards_in(pointer)} == {"working"}  # a training needs no native images
    store = open_store(pointer)
    assert files_of(pointer.folder) == files_of(built.folder)
    assert shards_in(pointer) == files_only(shards_in(built))
    assert (store.reference(case).images["ct"] == open_store(built).reference(case).images["ct"]).all()
    assert (store.load(case).image["ct"] == open_store(built).load(case).image["ct"]).all()


def test_a_copy_in_the_workspace_needs_no_server(put: StorePointer, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(put)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert len(open_store(put).case_ids()) == 8


def test_a_copy_that_was_damaged_is_fetched_anew(put: StorePointer, built: StorePointer) -> None:
    open_store(put)
    shard = next((Shelf(put.store_root).folder / "working").glob("*.zip"))
    shard.write_bytes(shard.read_bytes()[:100])
    open_store(put)
    assert files_of(put.folder) == files_of(built.folder)
    assert shards_in(put) == files_only(shards_in(built))


def test_a_download_that_breaks_off_is_not_seen_and_goes_on(
    put: StorePointer, built: StorePointer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.damage = (b"blosc", b"blosd")  # in the metadata of each array
    with pytest.raises(DataError, match=rf"{put.store_root}/shards: .*files could not be fetched: .*fetched twice"):
        open_store(put)
    assert not put.folder.exists()
    assert not files_only(shards_in(put))
    proxy.damage, proxy.cuts = None, [40_000, 30_000]
    open_store(put)
    assert not proxy.cuts
    assert files_of(put.folder) == files_of(built.folder)
    assert shards_in(put) == files_only(shards_in(built))

    next((Shelf(put.store_root).folder / "working").glob("*.zip")).unlink()
    proxy.num_bytes = 0
    open_store(put)
    assert shards_in(put) == files_only(shards_in(built))
    assert proxy.num_bytes < sum(map(len, shards_in(put).values()))  # what had arrived was not fetched again


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
    name = next(name for name in shards_in(built) if name.startswith("shards/native/"))
    if damage == "missing":
        server.client.delete_object(**place(f"{put.store_root}/{name}"))
    else:
        server.client.put_object(**place(f"{put.store_root}/{name}"), Body=b"short")
    found = "nothing" if damage == "missing" else "5 bytes"
    size = len(shards_in(built)[name])
    with pytest.raises(
        DataError,
        match=rf"{put.address}: {name.removeprefix('shards/')}: expected {size} bytes, found {found}; run `ctan data",
    ):
        open_store(put)
    assert not put.folder.exists()

    pack(built, put.store_root, tiny_config)
    assert f"repairing {put.address}" in capsys.readouterr().err
    assert objects_of(server, put.store_root) == all_of(built)


def test_a_build_that_was_killed_leaves_no_store_and_the_next_one_completes_it(
    built: StorePointer, root: str, server: S3Server, tiny_config: RunConfig, tmp_path: Path, proxy: Proxy
) -> None:
    pointer = pointer_in(root, built)
    code = (
        "import sys, pathlib; from ctan.config import RunConfig; from ctan.intake.build import preprocess\n"
        "config = RunConfig.model_validate_json(sys.argv[4]); print('go', flush=True)\n"
        "preprocess(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], config, 1)"
    )
    manifest = str(Path(built.store_root).parent / "manifest")
    command = [sys.executable, "-c", code, SOURCE, manifest, root, tiny_config.model_dump_json()]
    proxy.bytes_per_second = 2000  # each answer takes a while
    environment = os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while not any(name.startswith("shards/") for name in buckets.list_objects(root)):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not buckets.list_objects(pointer.address)
    with pytest.raises(DataError, match=rf"{pointer.address}: there is no store here; run `ctan data preprocess`"):
        open_store(pointer)

    pack(built, root, tiny_config)
    assert objects_of(server, root) == all_of(built)


def test_two_builders_at_once_end_with_one_whole_store(
    built: StorePointer, root: str, server: S3Server, tiny_config: RunConfig, tmp_path: Path
) -> None:
    """Each on a machine of its own: with copies of their own and no common lock."""
    code = (
        "import sys, pathlib; from ctan.config import RunConfig; from ctan.intake.build import preprocess\n"
        "config = RunConfig.model_validate_json(sys.argv[4])\n"
        "preprocess(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], config, 1)"
    )
    manifest = str(Path(built.store_root).parent / "manifest")
    command = [sys.executable, "-c", code, SOURCE, manifest, root, tiny_config.model_dump_json()]
    both = [
        subprocess.Popen(command, env=os.environ | {"CTAN_WORKSPACE": str(tmp_path / name)}) for name in ("one", "two")
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert objects_of(server, root) == all_of(built)


def test_packing_again_uploads_nothing(
    put: StorePointer, built: StorePointer, server: S3Server, tiny_config: RunConfig
) -> None:
    def times() -> dict[str, object]:
        names = buckets.list_objects(put.store_root)
        return {n: server.client.head_object(**place(f"{put.store_root}/{n}"))["LastModified"] for n in names}

    before = times()
    server.client.delete_object(**place(f"{put.address}/store.json"))
    pack(built, put.store_root, tiny_config)
    assert objects_of(server, put.store_root) == all_of(built)
    name = f"stores/{built.key}/store.json"
    after = times()
    assert {n: time for n, time in after.items() if n != name} == {n: time for n, time in before.items() if n != name}


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
    assert not list(own_workspace.rglob("*.zip"))


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
