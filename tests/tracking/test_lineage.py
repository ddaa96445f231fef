"""The chain from raw data to a registered model, written as tags and read back both ways."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctan.errors import ConfigError, TrackingError
from ctan.provenance import git_commit
from ctan.records import ModelRecord
from ctan.reproduce import _source_of
from ctan.sources.origin import Origin
from ctan.tracking.lineage import image_reference, lineage_tags
from ctan.tracking.trace import Node, trace
from tests.helpers.promotion import NAME, Site

pytest_plugins = ["tests.helpers.promotion"]

PINNED = {"repository": "https://git.example.org/team/data", "revision": "main", "commit": "c0ffee", "path": "kbp"}
ORIGIN = Origin("dvc:https://git.example.org/team/data@c0ffee:kbp", "a" * 32 + ".dir", "5" * 64, "c" * 64, PINNED)
NEWER = dataclasses.replace(ORIGIN, data_version="b" * 32 + ".dir")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    ORIGIN.save(tmp_path / "manifest")
    return tmp_path / "manifest"


def test_a_run_on_a_cluster_carries_the_address_of_its_pipeline_run(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.org/pipeline/")
    tags = lineage_tags(manifest, "1b2c")
    assert tags["pipeline_run"] == "1b2c"
    assert tags["pipeline_run_url"] == "https://kubeflow.example.org/pipeline/#/runs/details/1b2c"
    assert tags["data_version"] == ORIGIN.data_version
    assert tags["data_commit"] == "c0ffee"


def test_a_placeholder_that_the_backend_left_is_replaced_by_the_label_of_the_pod(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "pipeline_run" not in lineage_tags(manifest, "{{$.pipeline_job_uuid}}")
    monkeypatch.setenv("KFP_RUN_ID", "1b2c")
    assert lineage_tags(manifest, "{{$.pipeline_job_uuid}}")["pipeline_run"] == "1b2c"
    assert lineage_tags(manifest, "3d4e")["pipeline_run"] == "3d4e"


def test_a_run_here_carries_the_name_of_its_folder_and_no_address(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.org/pipeline/")
    monkeypatch.setenv("CTAN_LOCAL_RUN", "2026-01-02-030405")
    tags = lineage_tags(manifest, "an id that kfp made up")
    assert tags["pipeline_run"] == "local/2026-01-02-030405"
    assert "pipeline_run_url" not in tags
    monkeypatch.delenv("CTAN_LOCAL_RUN")
    assert "pipeline_run" not in lineage_tags(manifest)


def test_an_image_is_named_only_by_what_runs_in_one(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTAN_IMAGE", "registry.example.org/ctan@sha256:1")
    assert image_reference() is None  # a plain process of the same compiled pipeline
    assert "image" not in lineage_tags(manifest)
    monkeypatch.setenv("CTAN_GIT_COMMIT", "f00d")
    assert lineage_tags(manifest)["image"] == "registry.example.org/ctan@sha256:1"
    assert git_commit() == "f00d"


def test_a_training_that_a_later_pipeline_run_uses_again_keeps_its_own_and_notes_the_later(site: Site) -> None:
    first = ORIGIN.tags() | {"pipeline_run": "one"}
    run_id = json.loads((site.train(0, lineage=first) / "model.json").read_text())["run_id"]
    for later in ("two", "three", "three"):
        site.train(0, lineage=NEWER.tags() | {"pipeline_run": later}, run_id=run_id)
    tags = site.client.get_run(run_id).data.tags
    assert (tags["pipeline_run"], tags["later_pipeline_runs"]) == ("one", "two, three")
    assert tags["data_version"] == ORIGIN.data_version


@pytest.fixture
def chain(site: Site) -> dict[str, str]:
    """Two trainings in pipeline run `one`, the first registered; a third on newer data in `two`, registered too."""
    one, two = ORIGIN.tags() | {"pipeline_run": "one"}, NEWER.tags() | {"pipeline_run": "two"}
    models = [site.train(0, lineage=one), site.train(1, "stl", lineage=one), site.train(2, lineage=two)]
    site.promote(models[0], dose=4.0, lineage=one)
    site.promote(models[2], dose=5.0, lineage=two)
    runs = [json.loads((model / "model.json").read_text())["run_id"] for model in models]
    return {"ctan": f"runs:/{runs[0]}", "stl": f"runs:/{runs[1]}", "newer": f"runs:/{runs[2]}"}


def test_a_folder_that_dvc_pinned_is_reproduced_from_its_version_as_the_folder_moves_on() -> None:
    from_folder = dataclasses.replace(ORIGIN, source="/srv/team-data/kbp").tags()
    assert _source_of(from_folder) == "dvc:https://git.example.org/team/data@c0ffee:kbp"
    assert _source_of(dataclasses.replace(ORIGIN, source="phantom:seed=1", pinned={}).tags()) == "phantom:seed=1"
    assert _source_of({}) == ""


def test_what_is_not_as_it_was_on_the_machine_is_named() -> None:
    """Before: "134 tensors differ", and not why."""
    from ctan.datasets import get_dataset
    from ctan.reproduce import _remarks, _threads
    from tests.helpers.records import model_record
    from tests.helpers.tracking import TASKS, small_config

    def trained_on(**machine: str) -> ModelRecord:
        return model_record("ctan", get_dataset("openkbp").spec, TASKS, small_config(), machine=machine)

    was, now = trained_on(threads="4", instructions="AVX512", processor="A"), trained_on(threads="4", processor="B")
    assert list(_remarks(was, now, {})) == ["processor was A, is now B"]
    assert list(_remarks(was, was, {})) == []
    assert "threads and processor of its training are not known" in next(iter(_remarks(trained_on(), now, {})))

    import torch

    before = torch.get_num_threads()
    with _threads(str(before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def kinds(node: Node) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in nodes(node):
        found.setdefault(one.kind, []).append(one.name)
    return found


def test_a_champion_is_followed_back_to_the_commit_of_its_data(chain: dict[str, str]) -> None:
    found = trace(f"models:/{NAME}@champion").subject
    assert kinds(found) == {
        "version": [f"models:/{NAME}/1"],
        "training": [chain["ctan"]],
        "pipeline run": ["one"],
        "code": [git_commit()],
        "settings": kinds(found)["settings"],
        "store": ["k" * 64],
        "data": [ORIGIN.data_version],
    }
    assert found.facts["alias"] == "champion"
    assert found.facts["decision"] == "promoted"
    (data,) = [node for node in nodes(found) if node.kind == "data"]
    assert data.facts == {
        "source": ORIGIN.source,
        "repository": "https://git.example.org/team/data",
        "revision": "main",
        "commit": "c0ffee",
        "path": "kbp",
    }


def test_its_data_are_followed_forwards_to_all_that_was_made_of_them(chain: dict[str, str]) -> None:
    forwards = trace(f"models:/{NAME}/1").forwards
    assert forwards is not None
    assert kinds(forwards) == {
        "data": [ORIGIN.data_version],
        "pipeline run": ["one"],
        "training": [chain["ctan"], chain["stl"]],
        "version": [f"models:/{NAME}/1"],
    }
    assert [node.name for node in nodes(forwards) if node.here] == [f"models:/{NAME}/1"]


def test_a_version_carries_its_chain_itself_when_its_run_was_collected(chain: dict[str, str], site: Site) -> None:
    """Before, `ctan lineage` died with "has no such run" though the model could still be loaded."""
    run_id = chain["ctan"].removeprefix("runs:/")
    before = trace(f"models:/{NAME}/1")
    site.client.delete_run(run_id)
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", site.client.tracking_uri, "--run-ids", run_id]
    subprocess.run(gc, check=True, capture_output=True)
    found = trace(f"models:/{NAME}/1")
    assert kinds(found.subject) == kinds(before.subject)
    facts = {node.kind: node.facts for node in nodes(found.subject)}
    assert facts["training"] == {"what": "ctan, fold 0, seed 0", "status": "its run is not in MLflow any more"}
    assert facts["data"] == {node.kind: node.facts for node in nodes(before.subject)}["data"]
    assert before.forwards is not None
    assert found.forwards is not None
    assert sorted(kinds(found.forwards)["version"]) == sorted(kinds(before.forwards)["version"])


def test_the_chain_can_be_entered_at_every_link(chain: dict[str, str]) -> None:
    training = trace(chain["newer"])
    assert training.subject.kind == "training"
    assert training.forwards is not None
    assert kinds(training.forwards)["version"] == [f"models:/{NAME}/2"]
    pipeline = trace("pipeline:one")
    assert kinds(pipeline.subject) == {"pipeline run": ["one"], "data": [ORIGIN.data_version]}
    assert pipeline.forwards is not None
    assert [node.name for node in nodes(pipeline.forwards) if node.here] == ["one"]
    data = trace(f"data:{NEWER.data_version}")
    assert data.forwards is not None
    assert kinds(data.forwards)["pipeline run"] == ["two"]


@pytest.mark.parametrize(
    ("reference", "error", "said"),
    [
        ("champion", ConfigError, "expected models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID"),
        ("models:/ctan-openkbp", ConfigError, "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/ctan-openkbp/7", TrackingError, "not registered at sqlite:///.*; registered models: ctan-openkbp"),
        ("models:/ctan-other@champion", TrackingError, "registered models: ctan-openkbp"),
        ("runs:/0123", TrackingError, "has no such run"),
        ("pipeline:nine", TrackingError, "no training at .* carries this"),
        ("data:it's", TrackingError, "no training at .* carries this"),
    ],
)
def test_what_is_not_there_is_said(reference: str, error: type[Exception], said: str, site: Site) -> None:
    site.promote(site.train(0))
    with pytest.raises(error, match=said):
        trace(reference)


def test_the_command_prints_both_trees_or_json(chain: dict[str, str]) -> None:
    command = [str(Path(sys.executable).with_name("ctan")), "lineage", f"models:/{NAME}@champion"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    back, forwards = shown.split("What came of this version of the data")
    for text in (f"models:/{NAME}/1", "alias champion", chain["ctan"], "pipeline run one", "commit c0ffee"):
        assert text in back
    assert f"version models:/{NAME}/1 <- this" in forwards
    assert chain["stl"] in forwards
    both = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120).stdout)
    assert both["subject"]["name"] == f"models:/{NAME}/1"
    assert both["forwards"]["name"] == ORIGIN.data_version
