"""Stores are listed with what refers to them, and none that a model was made from goes without saying so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctan.cli import app
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.store import StorePointer, open_store
from ctan.store.shelf import files_in
from ctan.stores import list_stores, loose_shards, remove_shards, remove_store
from ctan.tracking.server import connect, prepare
from tests.helpers.s3 import S3Server
from tests.helpers.storage import put  # noqa: F401 - a fixture

pytest_plugins = ["tests.helpers.storage"]


@pytest.fixture
def kept(tiny_pointer: StorePointer, tmp_path: Path) -> StorePointer:
    """A copy of a store that may be removed."""
    shutil.copytree(tiny_pointer.store_root, tmp_path / "root")
    return StorePointer(**{**vars(tiny_pointer), "store_root": str(tmp_path / "root")})


def register(key: str) -> str:
    """Register a version that says it was made from a store."""
    prepare()
    client = connect()
    client.create_registered_model("ctan-openkbp")
    version = client.create_model_version("ctan-openkbp", "file:///nowhere", tags={"store_key": key})
    client.set_registered_model_alias("ctan-openkbp", "champion", version.version)
    return f"ctan-openkbp version {version.version} (champion)"


def test_a_store_is_listed_with_its_size_and_cases(kept: StorePointer) -> None:
    (entry,) = list_stores(kept.store_root)
    assert (entry.key, entry.dataset, entry.num_cases) == (kept.key, "openkbp", 8)
    files = [path for path in Path(kept.store_root).rglob("*") if path.is_file() and "made" not in path.parts]
    assert entry.num_bytes == sum(path.stat().st_size for path in files)
    assert 0 <= entry.age_days < 1
    assert entry.referred_by == ()


def test_a_store_that_a_model_was_made_from_is_only_removed_by_force(kept: StorePointer) -> None:
    champion = register(kept.key)
    assert list_stores(kept.store_root)[0].referred_by == (champion,)
    with pytest.raises(DataError, match=r"ctan-openkbp version 1 \(champion\) was made from it"):
        remove_store(kept.store_root, kept.key[:6])
    assert open_store(kept).case_ids()
    assert remove_store(kept.store_root, kept.key[:6], force=True).key == kept.key
    assert list_stores(kept.store_root) == []
    assert files_in(Path(kept.store_root) / "shards") == {}


def grown(kept: StorePointer, config: RunConfig) -> StorePointer:
    """Pack the same patients and one more into the same root."""
    folder = Path(kept.store_root).parent / "grown"
    ingest("phantom:train=7,validation=2,seed=1", folder, config, num_workers=0)
    return preprocess("phantom:train=7,validation=2,seed=1", folder, kept.store_root, config, num_workers=1)


def test_stores_share_shards_and_removing_one_leaves_those_of_the_other(
    kept: StorePointer, tiny_config: RunConfig
) -> None:
    other = grown(kept, tiny_config)
    first, second = ({*entry.shards} for entry in reversed(list_stores(kept.store_root)))
    assert first & second
    assert first - second
    remove_store(kept.store_root, kept.key)
    found = files_in(Path(kept.store_root) / "shards")
    assert {name for name in found if not name.startswith("made/")} == second
    store = open_store(other)
    assert all(store.reference(case_id).doses["dose"].max() > 50 for case_id in store.case_ids())
    assert loose_shards(kept.store_root) == {}


def test_what_a_slice_left_without_a_store_is_loose_and_can_be_removed(
    kept: StorePointer, tiny_config: RunConfig
) -> None:
    before = files_in(Path(kept.store_root) / "shards")
    other = grown(kept, tiny_config)
    shutil.rmtree(other.folder)
    loose = loose_shards(kept.store_root)
    assert {*loose} == {*files_in(Path(kept.store_root) / "shards")} - {*before}
    assert any(name.startswith("made/") for name in loose)
    remove_shards(kept.store_root, {*loose, *before})  # of these some have a store
    assert files_in(Path(kept.store_root) / "shards") == before
    open_store(kept)


def test_no_shard_is_removed_while_a_store_cannot_be_read(kept: StorePointer, tiny_config: RunConfig) -> None:
    other = grown(kept, tiny_config)
    path = other.folder / "store.json"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(DataError, match=rf"store {other.key}: .*not valid JSON.*which shards it has is not known"):
        loose_shards(kept.store_root)


def test_a_store_that_is_cut_short_is_listed_with_the_reason(kept: StorePointer) -> None:
    (kept.folder / "store.json").unlink()
    (entry,) = list_stores(kept.store_root)
    assert entry.problem == "incomplete: no store.json"
    remove_store(kept.store_root, kept.key)
    assert not kept.folder.exists()


def test_a_name_that_is_unknown_or_fits_several_is_refused(kept: StorePointer) -> None:
    with pytest.raises(DataError, match=f"'zzz': no such store; under .*: {kept.key}"):
        remove_store(kept.store_root, "zzz")
    shutil.copytree(kept.folder, kept.folder.with_name(f"{kept.key[:4]}other"))
    with pytest.raises(DataError, match="several stores begin so"):
        remove_store(kept.store_root, kept.key[:4])


def test_a_store_in_a_bucket_is_listed_and_removed(put: StorePointer, server: S3Server) -> None:  # noqa: F811
    (entry,) = list_stores(put.store_root)
    assert (entry.key, entry.num_cases) == (put.key, 8)
    remove_store(put.store_root, put.key)
    assert list_stores(put.store_root) == []


def test_the_command_shows_and_removes(kept: StorePointer) -> None:
    listed = CliRunner().invoke(app, ["store", "list", "--store-root", kept.store_root])
    assert kept.key in listed.output
    removed = CliRunner().invoke(app, ["store", "remove", kept.key, "--store-root", kept.store_root])
    assert removed.exit_code == 0, removed.output
    assert "8 cases" in removed.output
    empty = CliRunner().invoke(app, ["store", "list", "--store-root", kept.store_root])
    assert "no store under" in empty.output
