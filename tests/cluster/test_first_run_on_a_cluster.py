"""A first run on a cluster that has neither a shared volume nor a tracking server: no step sees what another one kept.

Every step finds an empty workspace, as in a pod of its own; only artifacts and parameters are handed on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctan import steps
from ctan.cases import DataSpec
from ctan.errors import DataError
from ctan.settings import load_config
from ctan.store import StorePointer
from tests.helpers.small import SMALL

SETTINGS = [*SMALL, "training.epochs=1", 'architectures=["stl"]']
SOURCE = "phantom:train=6,validation=2,seed=0"


POD = """
import json, sys
from ctan import steps
print("returned", json.dumps(getattr(steps, sys.argv[1])(*json.loads(sys.argv[2]))))
"""


@pytest.mark.slow
def test_every_step_gets_by_with_what_it_is_handed(tmp_path: Path, own_workspace: Path) -> None:
    manifest, validated, pointer = (str(tmp_path / name) for name in ("manifest", "validated", "store.json"))
    model, evaluation, comparison = (str(tmp_path / name) for name in ("model", "evaluation", "comparison"))
    best, decision = str(tmp_path / "best"), str(tmp_path / "decision.json")
    said = ""

    def in_a_pod(step: str, *arguments: object) -> dict[str, float]:
        nonlocal said
        shutil.rmtree(own_workspace)
        own_workspace.mkdir()
        command = [sys.executable, "-c", POD, step, json.dumps(arguments)]
        environment = os.environ | {"CTAN_GIT_COMMIT": "f00d"}  # as in the image
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said += ran.stdout + ran.stderr
        (returned,) = [line for line in ran.stdout.splitlines() if line.startswith("returned ")]
        found: dict[str, float] = json.loads(returned.removeprefix("returned "))
        return found

    _, settings, origin = steps.resolve(SOURCE, load_config("smoke", SETTINGS))
    steps.ingest(settings, origin, manifest, num_workers=0)
    steps.validate(manifest, validated, str(tmp_path / "validation.html"))
    steps.preprocess(SOURCE, validated, pointer, num_workers=1)
    in_a_pod("train", pointer, validated, "stl", 0, 0, model)
    scores = in_a_pod("evaluate", pointer, validated, model, evaluation)
    in_a_pod("compare", pointer, validated, [evaluation], comparison, str(tmp_path / "report.html"), best)
    in_a_pod("promote", pointer, validated, comparison, best, decision)

    assert said.count("packing it again") == 4
    assert scores["evaluation.dose.dose_score"] > 0
    assert "warning: results are not added to run" in said
    decided = json.loads(Path(decision).read_text())
    assert (decided["promoted"], decided["version"]) == (False, None)
    assert "set MLFLOW_TRACKING_URI for all steps" in decided["reason"]


def test_a_store_that_would_become_another_one_is_refused(tmp_path: Path) -> None:
    config = load_config("smoke", SETTINGS)
    _, settings, origin = steps.resolve(SOURCE, config)
    steps.ingest(settings, origin, str(tmp_path / "manifest"), num_workers=0)
    steps.validate(str(tmp_path / "manifest"), str(tmp_path / "validated"), str(tmp_path / "validation.html"))
    other = StorePointer(
        str(tmp_path / "store"),
        "k" * 16,
        "d" * 64,
        "openkbp",
        "c" * 64,
        8,
        DataSpec.load(tmp_path / "validated").sha256,
    )
    other.save(tmp_path / "store.json")
    with pytest.raises(
        DataError, match=r"what phantom:train=6.* is made into here is another one .*give all steps one"
    ):
        steps.train(str(tmp_path / "store.json"), str(tmp_path / "validated"), "stl", 0, 0, str(tmp_path / "model"))
