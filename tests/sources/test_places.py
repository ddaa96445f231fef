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
