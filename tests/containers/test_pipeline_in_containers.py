"""The compiled pipeline, as committed, with every step in a container of the image."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ctan.cluster.compiled import compiled_pipeline
from tests.helpers.containers import Ran, run_in_containers, writable_by_all

# What kfp warns about is by design: names and resources mean something on a cluster only.
pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect")

USER_ID = 1000
TRAININGS = ["stl, fold 0, seed 0", "ctan, fold 0, seed 0"]
SMALLEST = {
    "source": "phantom:train=6,validation=2,seed=0",
    "architectures": ["stl", "ctan"],
    "epochs": 1,
    "overrides": [
        "preprocess.grid_shape=[16,24,24]",
        "preprocess.grid_spacing_mm=[16.0,16.0,16.0]",
        "network.base_width=4",
    ],
}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """How the containers are run: as on a cluster under `restricted`, on the host's network to reach MLflow."""
    from docker.types import Mount

    folders = {name: writable_by_all(tmp_path / name) for name in ("store", "checkpoints")}
    return {
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "host",
        "mounts": [Mount(f"/mnt/{name}", str(folder), type="bind") for name, folder in folders.items()],
    }


def test_every_step_runs_in_its_container_and_the_best_model_becomes_champion(
    image: str, tmp_path: Path, options: dict[str, Any], mlflow_server: str
) -> None:
    root, ran = writable_by_all(tmp_path / "outputs"), list[Ran]()
    folders = {"store_root": "/mnt/store", "checkpoint_root": "/mnt/checkpoints"}
    options["environment"] = {"MLFLOW_TRACKING_URI": mlflow_server, "OMP_NUM_THREADS": "1"}
    run_in_containers(compiled_pipeline(), SMALLEST | folders, root, ran, **options)

    assert Counter(container.step.partition(" ")[0] for container in ran) == {
        "resolve": 1,
        "ingest": 1,
        "validate": 1,
        "gate": 1,
        "preprocess": 1,
        "plan": 1,
        "train": 2,
        "evaluate": 2,
        "compare": 1,
        "promote": 1,
        "close": 1,
    }
    for step in ("train", "evaluate"):
        assert {one.step for one in ran if one.step.startswith(step)} == {f"{step} {what}" for what in TRAININGS}
    image_id = subprocess.check_output(["docker", "image", "inspect", "-f", "{{.Id}}", image], text=True).strip()
    for container in ran:
        assert container.exit_code == 0, container
        assert "ctan step: done" in container.output, container.step
        assert container.image_id == image_id, container.step
        assert container.user == "1000:1000", container.step
        assert container.read_only, container.step

    written = [path for folder in (root, tmp_path / "store", tmp_path / "checkpoints") for path in folder.rglob("*")]
    files = [path for path in written if path.is_file()]
    assert len(files) > 20
    assert {path.stat().st_uid for path in files} == {USER_ID}, "only the image's user wrote"

    comparison = json.loads(_only(root, "compare/comparison/comparison.json").read_text(encoding="utf-8"))
    assert [entry["arch"] for entry in comparison["architectures"]] == ["stl", "ctan"]
    assert comparison["num_evaluation_cases"] == 2
    report = _only(root, "compare/report").read_text(encoding="utf-8")
    assert "<img" in report
    decision = json.loads(_only(root, "promote/decision").read_text(encoding="utf-8"))
    assert decision["version"] == "1"
    _check_server(mlflow_server, comparison, decision)
    _check_lineage(mlflow_server, image)


def _only(root: Path, output: str) -> Path:
    (path,) = [path for path in root.glob(f"**/{output}") if path.is_file()]
    return path


def _check_server(address: str, comparison: dict[str, Any], decision: dict[str, Any]) -> None:
    """The server holds what the containers sent: finished runs, the registered model with its weights, the alias."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    runs = [client.get_run(model["run_id"]) for model in comparison["models"]]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert {run.data.params["training.epochs"] for run in runs} == {"1"}
    version = client.get_model_version("ctan-openkbp-phantom", "1")
    assert version.run_id == comparison["models"][comparison["best"]["model_index"]]["run_id"]
    aliased = client.get_registered_model("ctan-openkbp-phantom").aliases
    assert aliased.get("champion") == decision["champion_after"] == ("1" if decision["promoted"] else None)


def _check_lineage(address: str, image: str) -> None:
    """Version and run name image, commit, data version and the pipeline's run."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    version = client.get_model_version("ctan-openkbp-phantom", "1")
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    commit = subprocess.check_output(["docker", "image", "inspect", "-f", label, image], text=True).strip()
    for tags in (version.tags, client.get_run(version.run_id).data.tags):
        assert (tags["image"], tags["git_commit"]) == (image, commit)
        assert tags["data_version"] == SMALLEST["source"]
        assert tags["pipeline_run"]
        assert not tags["pipeline_run"].startswith("{{")


def test_a_step_that_fails_fails_the_run_and_stops_it(image: str, tmp_path: Path, options: dict[str, Any]) -> None:
    root, ran = writable_by_all(tmp_path / "outputs"), list[Ran]()
    with pytest.raises(RuntimeError, match="resolve"):
        run_in_containers(compiled_pipeline(), SMALLEST | {"profile": "no-such-profile"}, root, ran, **options)
    container, last = ran
    assert (container.exit_code, last.exit_code) == (1, 0)  # the last step closes a run however it ended
    assert "ctan.errors.ConfigError" in container.output
    assert "no-such-profile" in container.output
