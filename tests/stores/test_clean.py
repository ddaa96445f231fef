"""`ctan clean` removes what is old and unused, says so first, and leaves what anything refers to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctan.changes import carry_out
from ctan.clean import plan
from ctan.cli import app
from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.sources import buckets
from ctan.store import StorePointer, open_store
from ctan.store.shelf import files_in
from ctan.tracking.server import connect, prepare
from tests.helpers.s3 import S3Server
from tests.helpers.storage import put  # noqa: F401 - a fixture

pytest_plugins = ["tests.helpers.storage"]


def age(folder: Path, days: float) -> None:
    """Let all files and folders be so many days old."""
    when = time.time() - days * 86_400
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (when, when))


def lines(days: float = 30.0, store_root: str = "", checkpoint_root: str = "") -> list[str]:
    return [str(change) for change in plan(store_root, checkpoint_root, days)]


@pytest.fixture
def home(own_workspace: Path, tiny_config: RunConfig) -> tuple[Path, StorePointer, StorePointer]:
    """A workspace with two stores that share shards, two checkpoints and two runs, all 40 days old."""
    pointers = []
    for name, source in (
        ("one", "phantom:train=6,validation=2,seed=1"),
        ("two", "phantom:train=7,validation=2,seed=1"),
    ):
        folder = own_workspace / "runs" / name
        ingest(source, folder / "manifest", tiny_config, num_workers=0)
        root = str(own_workspace / "store")
        pointers.append(preprocess(source, folder / "manifest", root, tiny_config, num_workers=1))
        checkpoint = own_workspace / "checkpoints" / f"stl-fold0-seed0-{name}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "a.pt").write_bytes(b"weights")
    age(own_workspace, 40)
    return own_workspace, pointers[0], pointers[1]


def test_what_is_old_and_unused_goes_and_what_is_referred_to_stays(
    home: tuple[Path, StorePointer, StorePointer],
) -> None:
    folder, used, unused = home
    prepare()
    client = connect()
    client.create_registered_model("ctan-openkbp")
    client.create_model_version("ctan-openkbp", "file:///nowhere", tags={"store_key": used.key})
    (folder / "checkpoints" / "stl-fold0-seed0-two" / "owner-000001.json").write_text("{}")  # somebody trains
    (folder / "runs" / "two" / "new").touch()
    age_of_sides = folder / "store" / "sides"
    age_of_sides.mkdir()
    (age_of_sides / "openkbp-seed0.json").write_text("{}")
    age(age_of_sides, 400)

    before = {path for path in folder.rglob("*") if path.is_file()}
    said = lines()
    assert {path for path in folder.rglob("*") if path.is_file()} >= before, "a plan removes nothing"
    assert [line.split(":")[0].split(",")[0] for line in said] == [
        f"store {unused.key}",
        "checkpoint stl-fold0-seed0-one",
        "run one",
    ]
    carry_out(plan())
    assert lines() == []
    store = open_store(used)
    assert all(store.reference(case_id).doses["dose"].max() > 50 for case_id in store.case_ids())
    assert not unused.folder.exists()
    assert (age_of_sides / "openkbp-seed0.json").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["stl-fold0-seed0-two"]
    assert [path.name for path in (folder / "runs").iterdir()] == ["two"]


def test_the_store_of_a_training_that_began_lately_stays(home: tuple[Path, StorePointer, StorePointer]) -> None:
    _, used, unused = home
    prepare()
    connect().create_run("0", tags={"store_key": used.key})
    assert [line.split(":")[0] for line in lines() if line.startswith("store")] == [f"store {unused.key}"]


def test_nothing_younger_than_asked_for_is_touched(home: tuple[Path, StorePointer, StorePointer]) -> None:
    assert lines(days=50) == []
    with pytest.raises(ConfigError, match="expected a positive number of days, found 0"):
        plan(days=0)


def test_shards_of_slices_that_were_never_committed_go_when_they_are_old(
    home: tuple[Path, StorePointer, StorePointer],
) -> None:
    folder, used, unused = home
    for pointer in (used, unused):
        for path in sorted(pointer.folder.iterdir()):
            path.unlink()
        pointer.folder.rmdir()
    number = len(files_in(folder / "store" / "shards"))
    (said,) = [line for line in lines() if "shards" in line]
    assert said.startswith(f"{number} files of shards that no store lists, ")
    new = next((folder / "store" / "shards" / "working").iterdir())
    os.utime(new)
    carry_out(plan())
    assert {name for name in files_in(folder / "store" / "shards") if name.startswith("working")} == {
        f"working/{new.name}"
    }


def test_stores_in_a_bucket_are_cleared_up_too(put: StorePointer, server: S3Server) -> None:  # noqa: F811
    objects_before = set(buckets.list_objects(put.store_root))
    assert lines(store_root=put.store_root) == []
    (said,) = lines(days=1e-9, store_root=put.store_root)
    assert said.startswith(f"store {put.key}: 8 cases")
    assert set(buckets.list_objects(put.store_root)) == objects_before
    carry_out(plan(put.store_root, days=1e-9))
    assert buckets.list_objects(put.store_root) == {}


def test_the_command_says_first_and_does_it_with_yes(home: tuple[Path, StorePointer, StorePointer]) -> None:
    folder, _, _ = home
    said = CliRunner().invoke(app, ["clean"])
    assert said.exit_code == 0, said.output
    assert "would run one: " in said.output
    assert "nothing was changed; --yes does it" in said.output
    assert (folder / "runs" / "one").exists()
    done = CliRunner().invoke(app, ["clean", "--yes"])
    assert "done  run one: " in done.output
    assert CliRunner().invoke(app, ["clean"]).output == "nothing to remove\n"
