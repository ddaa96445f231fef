"""A data set of another package is installed and run, with no file of the project touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_class_pictures"
CTAN = str(Path(sys.executable).with_name("ctan"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the package beside the environment, not into it, and return the variables that add it."""
    place, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(EXAMPLE, source)  # setuptools leaves a build folder beside what it builds
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(place), str(source)], check=True, timeout=300)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH", ""))))}


def ctan(arguments: list[str], environment: dict[str, str], timeout: int = 900) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    return subprocess.run([CTAN, *arguments], capture_output=True, text=True, env=env, timeout=timeout)


@pytest.mark.slow
def test_an_installed_data_set_is_listed_and_without_it_unknown(installed: dict[str, str]) -> None:
    listed = ctan(["data", "list"], installed)
    assert "two-class-pictures two-class-pictures Two-class pictures" in " ".join(listed.stdout.split())
    assert "two-class-pictures" not in ctan(["data", "list"], {}).stdout


@pytest.mark.slow
def test_an_installed_data_set_goes_from_raw_files_to_a_registered_model(
    installed: dict[str, str], own_workspace: Path
) -> None:
    arguments = [
        "run",
        "--dataset",
        "two-class-pictures",
        "--source",
        "phantom:train=14,validation=6,seed=0",
        "--promote",
    ]
    arguments += ["--profile", "smoke", "--epochs", "1", "--arch", "hps", "--set", "data.num_folds=2"]
    arguments += ["--set", "network.base_width=4"]
    ran = ctan(arguments, installed)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    (run_dir,) = (own_workspace / "runs").iterdir()
    comparison = json.loads((run_dir / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["dataset"] == "two-class-pictures"
    (entry,) = comparison["architectures"]
    assert 0 <= entry["scores"]["evaluation"]["finding"]["auc"]["value"] <= 1
    decision = json.loads((run_dir / "decision.json").read_text(encoding="utf-8"))
    assert decision["model_name"] == "ctan-two-class-pictures-phantom"
    assert decision["version"]
