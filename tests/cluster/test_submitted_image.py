"""The image that a pipeline is submitted with: one that the cluster can pull, or a word about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import Endpoint
from ctan.cluster.image import RELEASE, VARIABLE, choose_image, with_image
from ctan.cluster.render import render
from ctan.cluster.values import Values
from ctan.errors import ConfigError
from tests.helpers.compiled import COMPILED

HERE = Endpoint("http://localhost:8080", "http://localhost:8080")
ELSEWHERE = Endpoint("https://kubeflow.example.org/pipeline", "https://kubeflow.example.org/pipeline")
DIGEST = "registry.example.org/ctan@sha256:" + "0a" * 32


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompiledPipeline:
    """The committed pipeline, in a checkout without a release."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    path = tmp_path / "pipelines" / "ctan.yaml"
    path.write_bytes(COMPILED.read_bytes())
    return CompiledPipeline.read(path)


def release(folder: Path, reference: str) -> None:
    (folder / RELEASE).parent.mkdir()
    (folder / RELEASE).write_text(json.dumps({"image": {"reference": reference}}), encoding="utf-8")


@pytest.mark.parametrize("address", ["http://localhost:8080", "http://127.0.0.1:3000", "http://[::1]:8080"])
def test_the_committed_tag_is_sent_to_a_cluster_on_this_machine_with_a_warning(
    pipeline: CompiledPipeline, address: str
) -> None:
    image = choose_image(pipeline, Endpoint(address, address))
    assert image.reference is None
    assert image.note.startswith("warning: image ctan:0.1.0 is in no registry. ")
    assert "port-forward" in image.note
    assert "set CTAN_IMAGE=registry.example.org/ctan:TAG" in image.note


@pytest.mark.parametrize("endpoint", [ELSEWHERE, Endpoint(None, "http://ml-pipeline.kubeflow.svc.cluster.local:8888")])
def test_the_committed_tag_is_refused_elsewhere(pipeline: CompiledPipeline, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=r"image ctan:0\.1\.0 is in no registry.*set CTAN_IMAGE="):
        choose_image(pipeline, endpoint)


def test_the_environment_comes_before_the_release(
    pipeline: CompiledPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, DIGEST)
    assert choose_image(pipeline, ELSEWHERE).reference == DIGEST
    assert str(RELEASE) in choose_image(pipeline, ELSEWHERE).note
    monkeypatch.setenv(VARIABLE, "registry.example.org/ctan:2")
    assert choose_image(pipeline, ELSEWHERE).reference == "registry.example.org/ctan:2"


def test_a_release_is_found_beside_the_pipeline_from_any_folder(
    pipeline: CompiledPipeline,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release(tmp_path, DIGEST)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert choose_image(pipeline, ELSEWHERE).reference == DIGEST


def test_a_release_that_was_pushed_nowhere_is_no_image_to_pull(pipeline: CompiledPipeline, tmp_path: Path) -> None:
    release(tmp_path, "ctan:0.1.0")
    with pytest.raises(ConfigError, match="is in no registry"):
        choose_image(pipeline, ELSEWHERE)


def test_what_a_values_file_or_the_pipeline_itself_names_is_left_alone(
    pipeline: CompiledPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "registry.example.org/ctan:2")
    values = Values(image=DIGEST)
    image = choose_image(pipeline, ELSEWHERE, values)
    assert (image.reference, image.note) == (None, "")
    assert with_image(values, image) is values
    rendered = CompiledPipeline.parse(render(COMPILED.read_text(encoding="utf-8"), values))
    assert choose_image(rendered, ELSEWHERE).reference is None


def test_a_chosen_image_keeps_the_other_settings(pipeline: CompiledPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, DIGEST)
    values = with_image(Values(parallelism=3), choose_image(pipeline, HERE))
    assert values == Values(parallelism=3, image=DIGEST)


@pytest.mark.parametrize("content", ["{", "{}", '{"image": "x"}', '{"image": {"reference": "a b"}}'])
def test_a_malformed_image_names_its_source(
    pipeline: CompiledPipeline, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, DIGEST)
    (tmp_path / RELEASE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"release\.json"):
        choose_image(pipeline, HERE)
    monkeypatch.setenv(VARIABLE, "no image")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: expected an image"):
        choose_image(pipeline, HERE)
