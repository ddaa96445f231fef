"""Versions of raw data: resolved from git, fetched through DVC, checked byte by byte."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctan.errors import ConfigError, DataError
from ctan.sources.dvc import parse_dvc_config
from ctan.sources.versions import (
    DataVersion,
    fetch_version,
    folder_md5,
    open_version,
    resolve_version,
)
from tests.helpers.dvc import Repository, git, md5
from tests.helpers.small import files_of

pytest_plugins = ["tests.helpers.s3"]

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make repositories"),
    pytest.mark.usefixtures("no_credentials"),
]
FIRST = {"train-pats/pt_1/ct.csv": b"1,2\n", "train-pats/pt_1/dose.csv": b"3,4\r\n", "voxel.csv": b"5\n"}
SECOND = FIRST | {"train-pats/pt_2/ct.csv": b"6\n", "voxel.csv": b"7\n"}


@pytest.fixture
def repository(tmp_path):
    repository = Repository(tmp_path / "team-data")
    repository.first = repository.commit(FIRST, "v1")
    repository.second = repository.commit(SECOND, "v2")
    return repository


def test_a_revision_is_resolved_to_the_bytes_it_pins(repository):
    version = resolve_version(f"dvc:{repository.folder}@v1")
    head = git(repository.folder, "rev-parse", "v1").strip()
    assert version == DataVersion(
        repository.first, "data/kbp", str(repository.folder), "v1", head, remote="../data-store"
    )
    assert resolve_version(f"dvc:{repository.folder}@main:data/kbp").md5 == repository.second
    assert resolve_version(f"dvc:{repository.folder}@{head[:10]}").md5 == repository.first


def test_a_branch_that_moves_is_another_version_at_the_next_run(repository):
    before = resolve_version(f"dvc:{repository.folder}@main")
    third = repository.commit(FIRST | {"new.csv": b"8"}, "v3")
    assert resolve_version(f"dvc:{repository.folder}@main").md5 == third != before.md5


def test_both_revisions_are_fetched_although_the_store_has_moved_on(repository, tmp_path):
    for tag, files in (("v1", FIRST), ("v2", SECOND)):
        folder = fetch_version(resolve_version(f"dvc:{repository.folder}@{tag}"), tmp_path / "out" / tag)
        assert files_of(folder) == files
        assert all(os.access(path, os.W_OK) for path in folder.rglob("*"))
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["v1", "v2"]  # nothing else is left


def test_a_url_is_cloned_and_fetched_without_a_git_command(repository, tmp_path, monkeypatch):
    spec = f"dvc:file://{repository.folder}@v1"
    monkeypatch.setenv("PATH", "/nonexistent")
    with open_version(spec, tmp_path / "cache") as folder:
        assert files_of(folder) == FIRST
    monkeypatch.setattr("ctan.sources.versions.pull", None)  # the second time nothing is pulled
    with open_version(spec, tmp_path / "cache") as folder:
        assert files_of(folder) == FIRST


def test_a_commit_of_a_url_is_found_in_its_history(repository):
    commit = git(repository.folder, "rev-parse", "v1").strip()
    assert resolve_version(f"dvc:file://{repository.folder}@{commit}").md5 == repository.first


def test_a_remote_beside_the_repository_serves_a_folder_but_not_a_url(tmp_path):
    config = "[core]\n    remote = shared\n['remote \"shared\"']\n    url = ../../store\n"
    repository = Repository(tmp_path / "team-data", "../store", config)
    repository.commit(FIRST, "v1")
    assert files_of(fetch_version(resolve_version(f"dvc:{repository.folder}@v1"), tmp_path / "out")) == FIRST
    with pytest.raises(DataError, match=r"its remote ../../store is a folder outside the repository"):
        fetch_version(resolve_version(f"dvc:file://{repository.folder}@v1"), tmp_path / "other")


def outside(tmp_path):
    repository = Repository(
        tmp_path / "repo", "../store", "[core]\n remote = s\n['remote \"s\"']\n url = ../../store\n verify = false\n"
    )
    repository.commit(FIRST, "v1")
    return repository


def test_a_damaged_object_is_refused_and_named(tmp_path):
    repository = outside(tmp_path)
    repository.object(md5(b"3,4\r\n")).write_bytes(b"3,5\r\n")
    with pytest.raises(DataError, match=r"^train-pats/pt_1/dose.csv: its MD5 is \w+, version .* object is damaged"):
        fetch_version(resolve_version(f"dvc:{repository.folder}@v1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_damaged_object_inside_the_repository_is_refused_too(repository, tmp_path):
    repository.object(md5(b"7\n")).write_bytes(b"9\n")
    git(repository.folder, "commit", "--quiet", "--all", "--message", "damage")
    with pytest.raises(DataError, match=r"^voxel.csv: its MD5 is"):
        fetch_version(resolve_version(f"dvc:{repository.folder}@main"), tmp_path / "out")


def test_an_object_that_was_not_pushed_is_named(tmp_path):
    repository = outside(tmp_path)
    repository.object(md5(b"5\n")).unlink()
    with pytest.raises(DataError, match=r"^voxel.csv: cannot be fetched from its remote .*was `dvc push` forgotten"):
        fetch_version(resolve_version(f"dvc:{repository.folder}@v1"), tmp_path / "out")


def test_a_list_of_files_that_was_changed_is_refused(tmp_path):
    repository = outside(tmp_path)
    version = resolve_version(f"dvc:{repository.folder}@v1")
    path = repository.object(version.md5)
    path.write_bytes(path.read_bytes().replace(b"voxel.csv", b"other.csv"))
    with pytest.raises(DataError, match=r"the remote's list of files is not the one that was pinned"):
        fetch_version(version, tmp_path / "out")


def test_a_folder_with_other_files_is_not_touched(repository, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.csv").write_bytes(b"x")
    with pytest.raises(DataError, match=r"out: holds other files than version"):
        fetch_version(resolve_version(f"dvc:{repository.folder}@v1"), tmp_path / "out")
    assert files_of(tmp_path / "out") == {"mine.csv": b"x"}


def test_a_hash_alone_is_looked_for_in_the_remote_of_the_environment(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("CTAN_DVC_REMOTE", str(repository.store))
    version = resolve_version(f"md5:{repository.second}")
    assert version == DataVersion(repository.second, remote=str(repository.store))
    assert files_of(fetch_version(version, tmp_path / "out")) == SECOND


def test_a_hash_alone_is_looked_for_in_the_remote_of_the_checkout(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.folder / "data-store")
    assert files_of(fetch_version(resolve_version(f"md5:{repository.second}"), tmp_path / "out")) == SECOND
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no remote is known; set CTAN_DVC_REMOTE"):
        resolve_version(f"md5:{repository.second}")


@pytest.mark.parametrize("spec", ["dvc:", "dvc:repo", "dvc:repo@", "md5:123.dir", "md5:" + "g" * 32, "git:x@y"])
def test_another_form_is_refused(spec):
    with pytest.raises(ConfigError, match=r"expected dvc:REPOSITORY@REVISION\[:PATH\]"):
        resolve_version(spec)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as caught:
        resolve_version("dvc:https://me:hunter2@host/repo@main")
    assert "password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_does_not_exist_is_named_without_absolute_paths(repository, tmp_path):
    for spec, message in {
        f"dvc:{repository.folder}@v9": r"cannot read revision 'v9' of team-data",
        f"dvc:{repository.folder}@v1:data/other": r"does not pin 'data/other'; its .* and dvc.lock pin data/kbp",
        f"dvc:{tmp_path}/nothing@v1": r"'nothing' is neither a folder nor the URL of a git repository",
        f"dvc:file://{tmp_path}/nothing@v1": r"cannot read revision 'v1' of file:",
    }.items():
        with pytest.raises(DataError, match=message):
            resolve_version(spec)


def test_several_data_sets_in_several_files_are_told_apart(repository):
    other = f"{md5(b'[]')}.dir"
    (repository.folder / "data").mkdir()
    pin = {"outs": [{"path": "stoic", "md5": other, "hash": "md5"}, {"path": "x.csv", "md5": md5(b""), "hash": "md5"}]}
    (repository.folder / "data" / "stoic.dvc").write_text(yaml.safe_dump(pin))
    old = {"outs": [{"path": "old", "md5": other}]}
    (repository.folder / "old.dvc").write_text(yaml.safe_dump(old))
    git(repository.folder, "add", "--all")
    git(repository.folder, "commit", "--quiet", "--message", "more")
    at = f"dvc:{repository.folder}@main"
    assert resolve_version(f"{at}:data/stoic").md5 == other
    assert resolve_version(f"{at}:data/kbp/").md5 == repository.second
    for spec, message in {
        at: r"pins not exactly one data set; name one with :PATH; .* pin data/kbp, data/stoic, data/x.csv, old|pin .*",
        f"{at}:data/x.csv": "is a single file",
        f"{at}:old": "pinned by DVC 2",
    }.items():
        with pytest.raises(DataError, match=message):
            resolve_version(spec)


def test_the_hash_of_a_folder_is_that_of_dvc(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, body in {"b.txt": b"1", "a/z.txt": b"2", "a.txt": b"3", "a/ü.txt": b"4"}.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    from dvc.repo import Repo

    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.add(str(tmp_path / "folder"))
    (out,) = yaml.safe_load((tmp_path / "folder.dvc").read_text())["outs"]
    assert folder_md5(tmp_path / "folder") == out["md5"]


def test_this_projects_own_phantoms_are_a_version(tmp_path):
    if not (ROOT / "data.dvc").exists():
        pytest.skip("not a checkout")
    copy = tmp_path / "copy"
    (copy / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / "data.dvc", copy)
    shutil.copy(ROOT / ".dvc" / "config", copy / ".dvc")
    shutil.copy(ROOT / ".gitattributes", copy)
    shutil.copytree(ROOT / "data-store", copy / "data-store")
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "x")
    pinned = next(out for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"] if "openkbp" in out["path"])
    with open_version(f"dvc:file://{copy}@main:data/openkbp") as folder:
        assert folder_md5(folder) == pinned["md5"]
        assert len(files_of(folder)) == pinned["nfiles"]
    assert not folder.exists()


# --- a remote in S3


def dvc(folder, *arguments):
    run = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def team(bucket, s3_server, tmp_path, credentials):
    """A team's repository, made by the commands of docs/data.md."""
    folder = tmp_path / "team"
    for name, body in FIRST.items():
        path = folder / "data" / "clinic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "remote", "add", "--default", "clinic", f"s3://{bucket}/dvc")
    dvc(folder, "remote", "modify", "clinic", "endpointurl", s3_server.endpoint)
    dvc(folder, "remote", "modify", "clinic", "region", "us-east-1")
    dvc(folder, "add", "data/clinic")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Pin the clinic's data")
    dvc(folder, "push")
    return folder


def test_no_credentials_are_said(in_s3, bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match=rf"cannot be fetched from s3://{bucket}/dvc.* Unable to locate credentials"):
        fetch_version(in_s3, tmp_path / "out")


@pytest.mark.slow
def test_a_team_pins_its_data_in_s3_and_gets_it_back(team, bucket, tmp_path):
    version = resolve_version(f"dvc:file://{team}@main:data/clinic")
    assert version.remote == f"s3://{bucket}/dvc"
    assert files_of(fetch_version(version, tmp_path / "out")) == FIRST


def pin_in_s3(bucket, server, folder, options=""):
    """Make a repository with its remote in S3 and return its version."""
    config = f"[core]\n remote = s\n['remote \"s\"']\n url = s3://{bucket}/dvc\n{options}"
    repository = Repository(folder, "../store", config)
    repository.commit(FIRST, "v1")
    server.put(bucket, {f"dvc/{name}": body for name, body in files_of(repository.store).items()})
    return resolve_version(f"dvc:{repository.folder}@v1")


@pytest.fixture
def in_s3(bucket, s3_server, tmp_path, credentials):
    return pin_in_s3(bucket, s3_server, tmp_path / "team", f" endpointurl = {s3_server.endpoint}\n")


def test_a_version_is_fetched_from_s3(in_s3, tmp_path):
    assert files_of(fetch_version(in_s3, tmp_path / "out")) == FIRST


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"])
def test_the_endpoint_of_the_remote_comes_from_the_environment(name, bucket, s3_server, tmp_path, monkeypatch):
    version = pin_in_s3(bucket, s3_server, tmp_path / "team")
    monkeypatch.setenv(name, s3_server.endpoint)
    assert files_of(fetch_version(version, tmp_path / "out")) == FIRST


def test_a_damaged_object_in_s3_is_refused_and_named(in_s3, bucket, s3_server, tmp_path):
    name = md5(b"1,2\n")
    s3_server.put(bucket, {f"dvc/files/md5/{name[:2]}/{name[2:]}": b"1,3\n"})
    with pytest.raises(DataError, match=r"^train-pats/pt_1/ct.csv: its MD5 is"):
        fetch_version(in_s3, tmp_path / "out")


def test_wrong_credentials_are_said(in_s3, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(
        DataError, match=rf"cannot be fetched from s3://{bucket}/dvc.* no access; check the credentials"
    ):
        fetch_version(in_s3, tmp_path / "out")


def test_the_sections_of_a_configuration_are_read_as_dvc_writes_them():
    text = "[core]\n    remote = a b\n['remote \"a b\"']\n    url = s3://x/y, z\n    # comment\n    verify = true\n"
    assert parse_dvc_config(text) == {
        "core": {"remote": "a b"},
        'remote "a b"': {"url": "s3://x/y, z", "verify": "true"},
    }
