"""A folder's path may hold a person's name: it is recorded as a hash, and known again on this machine only."""

import json
import re

import pytest

from ctan import steps
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.reproduce import _source_of
from ctan.sources.origin import Origin
from ctan.sources.places import recalled, recorded, remember


def test_a_path_is_recorded_as_a_hash(tmp_path, monkeypatch, capsys):
    """MLflow, the ledger and logs held `/clinic/Dr Miller/Doe^John`."""
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    folder = tmp_path / "Dr Miller" / "Doe^John"
    get_dataset("openkbp").write_phantoms(folder, 1, 1, 0)
    config = RunConfig()
    source, _, origin = steps.resolve(str(folder), config)
    assert source == str(folder)  # later steps have to open it
    tags = Origin.from_json(origin).tags()
    assert re.fullmatch(r"folder:[0-9a-f]{16}", tags["data_source"])
    for text in (json.dumps(tags), *capsys.readouterr()):
        assert "Miller" not in text
        assert "Doe" not in text
    assert _source_of(tags) == str(folder)
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "another machine's"))
    assert _source_of(tags) == ""


def test_a_local_repository_is_recorded_as_a_hash_and_found_again(tmp_path, monkeypatch):
    """The path of a DVC repository stood in MLflow's tags."""
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    repository = tmp_path / "Dr Miller" / "repo"
    for address in (str(repository), f"file://{repository}"):
        name = recorded(f"dvc:{address}@c0ffee:data/kbp")
        assert re.fullmatch(r"dvc:folder:[0-9a-f]{16}@c0ffee:data/kbp", name)
        assert recorded(name) == name
        assert recalled(name) == ""
    remember(f"dvc:{repository}@main:data/kbp")
    assert recalled(name) == f"dvc:{repository}@c0ffee:data/kbp"
    for address in ("git@host.org:team/repo", "https://host.org/team/repo", "ssh://git@host/repo"):
        assert recorded(f"dvc:{address}@main") == f"dvc:{address}@main"


def test_origin_json_holds_no_path_of_this_machine(tmp_path, monkeypatch):
    """It held the folder of the raw files and that of the table of sides."""
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    folder, manifest = tmp_path / "Dr Miller" / "raw", tmp_path / "manifest"
    get_dataset("openkbp").write_phantoms(folder, 1, 1, 0)
    pinned = {"repository": str(tmp_path / "repo"), "remote": str(tmp_path / "remote"), "commit": "c0ffee"}
    found = Origin.of(str(folder), RunConfig())
    origin = Origin(**vars(found) | {"pinned": pinned, "sides": {"root": str(tmp_path / "store"), "hash": "0"}})
    manifest.mkdir()
    origin.save(manifest)
    assert str(tmp_path) not in (manifest / "origin.json").read_text()
    again = Origin.load(manifest)
    assert again.source == str(folder), "this machine still knows it"
    assert again.tags() == origin.tags()
    assert str(tmp_path) not in json.dumps(again.tags())
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "another machine's"))
    assert Origin.load(manifest).source == recorded(str(folder))


def test_names_of_data_sets_and_those_that_are_listed_may_be_recorded(monkeypatch):
    assert re.fullmatch(r"folder:[0-9a-f]{16}/openkbp", recorded("/clinic/Dr Miller/openkbp"))
    assert re.fullmatch(r"folder:[0-9a-f]{16}", recorded("/clinic/Dr Miller/trial7"))
    monkeypatch.setenv("CTAN_SOURCE_NAMES", "trial7,trial8")
    assert re.fullmatch(r"folder:[0-9a-f]{16}/trial7", recorded("/clinic/Dr Miller/trial7"))


def test_a_relative_path_is_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    assert recorded("a/b") == recorded(str(tmp_path / "a" / "b"))
    remember("a/b")
    assert recalled(recorded("a/b")) == str(tmp_path / "a" / "b")


@pytest.mark.parametrize("source", ["phantom", "phantom:train=1", "s3://bucket/x", "dvc:https://h/r@main", "md5:0.dir"])
def test_what_is_no_folder_is_recorded_as_it_is(source):
    assert recorded(source) == source
    assert recalled(source) == source
