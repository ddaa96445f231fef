"""Folders that describe themselves go through `ctan run`: phantoms, a real nnU-Net folder, pictures with a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.folders import needs_data, real_nnunet, real_pictures

pytestmark = pytest.mark.slow
CTAN = str(Path(sys.executable).with_name("ctan"))
TINY = ["--profile", "smoke", "--epochs", "1", "--arch", "hps", "--set", "data.num_folds=2"]
TINY += ["--set", "network.base_width=4"]
TINY += ["--set", "planning.max_grid_voxels=20000", "--set", "planning.step_voxels=40000"]


def run(source: str, workspace: Path) -> dict:
    """Run a folder through the pipeline; return the comparison, with what was decided under `decision`."""
    command = [CTAN, "run", "--dataset", "folder", "--source", source, "--promote", *TINY]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    (run_dir,) = (workspace / "runs").iterdir()
    for page in ("report.html", "validation.html", "contact-sheet.html"):
        assert "<img" in (run_dir / page).read_text(encoding="utf-8")
    decision = json.loads((run_dir / "decision.json").read_text(encoding="utf-8"))
    return json.loads((run_dir / "comparison.json").read_text(encoding="utf-8")) | {"decision": decision}


def tasks_of(comparison: dict) -> set[str]:
    (entry,) = comparison["architectures"]
    return set(entry["scores"]["evaluation"])


def test_mr_with_contours_and_a_class_from_phantoms(tmp_path: Path, own_workspace: Path) -> None:
    folder = tmp_path / "lobes"
    subprocess.run(
        [CTAN, "data", "phantom", str(folder), "--dataset", "folder", "--train", "8", "--validation", "2"],
        check=True,
        timeout=120,
    )
    described = yaml.safe_load((folder / "dataset.yaml").read_text())
    (folder / "dataset.yaml").write_text(yaml.safe_dump({k: v for k, v in described.items() if k != "numbers"}))
    comparison = run(str(folder), own_workspace)
    assert tasks_of(comparison) == {"contouring", "larger"}
    assert (comparison["dataset"], comparison["decision"]["model_name"]) == ("lobes", "ctan-lobes-phantom")


def test_phantoms_with_a_number_to_predict(own_workspace: Path) -> None:
    assert tasks_of(run("phantom:train=8,validation=2", own_workspace)) == {"contouring", "larger", "volume"}


@needs_data
def test_a_real_ct_in_an_nnunet_folder(tmp_path: Path, own_workspace: Path) -> None:
    comparison = run(str(real_nnunet(tmp_path / "Dataset901_Pelvis", num_cases=6)), own_workspace)
    assert comparison["dataset"] == "Dataset901_Pelvis"
    assert tasks_of(comparison) == {"contouring"}


@needs_data
def test_real_pictures_with_masks_and_a_table(tmp_path: Path, own_workspace: Path) -> None:
    comparison = run(str(real_pictures(tmp_path / "skin", 40)), own_workspace)
    assert (comparison["dataset"], tasks_of(comparison)) == ("skin", {"contouring", "diagnosis"})
