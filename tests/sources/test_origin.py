"""What a run starts from: pinned once, and changed whenever data, settings or code are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ctan.errors import ConfigError, DataError
from ctan.settings import load_config
from ctan.sources import open_source
from ctan.sources.origin import Origin, read_origin
from tests.helpers.dvc import Repository, git

pytest_plugins = ["tests.helpers.s3"]

SMOKE = load_config("smoke")
RAW = {"train-pats/pt_1/ct.csv": b"1\n"}
FIRST = {"a.csv": b"1\n", "b/c.csv": b"2\n"}
SECOND = FIRST | {"b/d.csv": b"3\n"}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make repositories")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    repository = Repository(tmp_path / "team-data")
    repository.first = repository.commit(FIRST, "v1")
    return repository


@needs_git
def test_a_branch_is_pinned_to_its_commit_so_that_it_may_move_on(repository: Any) -> None:
    before = Origin.of(f"dvc:{repository.folder}@main", SMOKE)
    commit = git(repository.folder, "rev-parse", "HEAD").strip()
    second = repository.commit(SECOND, "v2")
    after = Origin.of(f"dvc:{repository.folder}@main", SMOKE)
    assert (before.data_version, after.data_version) == (repository.first, second)
    assert before.source == f"dvc:{repository.folder}@{commit}:data/kbp"
    assert Origin.of(before.source, SMOKE).data_version == repository.first
    tags = before.tags()
    assert (tags["data_commit"], tags["data_revision"], tags["data_path"]) == (commit, "main", "data/kbp")
    assert (tags["data_md5"], tags["data_version"]) == (repository.first, repository.first)
    with open_source(before.source, None) as folder:  # type: ignore[arg-type] - a folder of files needs no data set
        assert (folder / "b" / "c.csv").read_bytes() == b"2\n"


@needs_git
def test_a_pulled_folder_has_the_version_that_its_checkout_pins_until_a_file_changes(repository: Any) -> None:
    folder = write(repository.folder / "data" / "kbp", FIRST)
    pulled = Origin.of(str(folder), SMOKE)
    assert (pulled.source, pulled.data_version) == (str(folder), repository.first)
    assert pulled.pinned["commit"] == git(repository.folder, "rev-parse", "HEAD").strip()
    (folder / "a.csv").write_bytes(b"changed\n")
    write(folder, RAW)
    changed = Origin.of(str(folder), SMOKE)
    assert changed.data_version.startswith("files:")
    assert not changed.pinned


@needs_git
def test_what_a_file_manager_leaves_in_a_checkout_is_not_another_version_but_a_folder_behind_a_link_is(
    repository: Any, tmp_path: Path
) -> None:
    folder = write(repository.folder / "data" / "kbp", FIRST)
    (folder / "b" / ".DS_Store").write_bytes(b"windows and icons")
    assert Origin.of(str(folder), SMOKE).data_version == repository.first
    write(tmp_path / "more", RAW)
    (folder / "train-pats").symlink_to(tmp_path / "more" / "train-pats")
    linked = Origin.of(str(folder), SMOKE)  # the reader goes there, DVC's hash does not tell
    assert linked.data_version.startswith("files:")
    assert not linked.pinned


def test_a_folder_without_a_file_to_read_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no OpenKBP patients, expected train-pats/pt_<n>/ct.csv"):
        Origin.of(str(tmp_path), SMOKE)
    (tmp_path / "train-pats" / "pt_1").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no file that openkbp reads, so that nothing names this data"):
        Origin.of(str(tmp_path), SMOKE)


def test_phantoms_are_named_by_their_numbers_however_they_are_written() -> None:
    full = Origin.of("phantom:train=12,validation=4,seed=0", SMOKE)
    assert Origin.of("phantom", SMOKE) == full == Origin.of("phantom: seed=0", SMOKE)
    assert Origin.of("phantom:seed=1", SMOKE).data_version != full.data_version


@pytest.mark.usefixtures("credentials")
def test_objects_in_s3_are_another_version_when_their_bytes_are(
    s3_server: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    s3_server.put(bucket, {"raw/a": b"1", "raw/b": b"2"})
    before = Origin.of(f"s3://{bucket}/raw", SMOKE)
    assert before.data_version.startswith("s3:")
    s3_server.put(bucket, {"raw/a": b"1", "raw/.DS_Store": b"", "raw/.ctan-download.jsonl": b""})
    assert Origin.of(f"s3://{bucket}/raw", SMOKE) == before
    s3_server.put(bucket, {"raw/a": b"3"})
    assert Origin.of(f"s3://{bucket}/raw", SMOKE).data_version != before.data_version


def test_a_setting_changes_the_hash_of_the_settings_and_nothing_else() -> None:
    before = Origin.of("phantom", SMOKE)
    after = Origin.of("phantom", load_config("smoke", ["training.epochs=3"]))
    assert before.settings_hash != after.settings_hash
    assert (before.data_version, before.code_hash) == (after.data_version, after.code_hash)


def test_what_is_not_there_is_said_before_anything_else_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*nowhere' is not a folder; give the folder of raw files"):
        Origin.of(str(tmp_path / "nowhere"), SMOKE)
    with pytest.raises(ConfigError, match="cannot read 'cases=3'"):
        Origin.of("phantom:cases=3", SMOKE)


def test_it_survives_the_way_through_json_and_a_file(tmp_path: Path) -> None:
    origin = Origin("dvc:https://host/it's@abc:d", "0f.dir", "5e", "c0", {"commit": "abc"})
    assert Origin.from_json(origin.to_json()) == origin
    origin.save(tmp_path)
    assert read_origin(tmp_path) == origin


@pytest.mark.parametrize("text", ["", "[]", '{"source": "x"}', '{"source": '])
def test_another_file_in_its_place_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text(text)
    with pytest.raises(
        DataError, match=r"origin.json: not (valid JSON|what the step `resolve` writes).*; run `ctan data ingest` again"
    ):
        read_origin(tmp_path)


def test_a_folder_of_an_earlier_version_of_ctan_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"origin.json: cannot be read .*; run `ctan data ingest` again"):
        read_origin(tmp_path)
