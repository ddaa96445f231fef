"""The example network is installed as any package is, then trained, compared and asked; no file of ctan is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.small import files_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cross_stitch"
TINY = [
    "preprocess.grid_shape=[16, 16, 16]",
    "preprocess.grid_spacing_mm=[24, 24, 24]",
    "network.num_stages=2",
    "network.base_width=4",
    "evaluation.num_figure_cases=1",
]
_ASK = """
import sys; from pathlib import Path; import numpy as np; from ctan.inference import load_network
model = load_network(Path(sys.argv[1]))
image = np.random.default_rng(0).random((1, model.record.in_channels, *model.record.grid.shape), np.float32)
np.savez(sys.argv[2], keep=model.network.options.keep, **model.predict_batch(image))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example, installed by pip from a copy: building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("cross-stitch")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True)
    return folder / "site"


def run(command: list[str], site: Path | None, workspace: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python with the example on the path, or without it."""
    paths = [str(site)] if site else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CTAN_WORKSPACE": str(workspace)}
    return subprocess.run([sys.executable, *command], env=environment, text=True, capture_output=True, cwd=ROOT)


def ctan(*arguments: str) -> list[str]:
    return ["-c", "from ctan.cli import main; main()", *arguments]


def sources() -> dict[str, bytes]:
    """The files of ctan, without what Python and numba keep beside them."""
    return {name: content for name, content in files_of(ROOT / "ctan").items() if "__pycache__" not in name}


def settings(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def test_its_options_are_settings_like_any_other(installed: Path, tmp_path: Path) -> None:
    wrong = run(ctan("config", *settings("network.options.cross_stitch.kep=0.5")), installed, tmp_path)
    assert wrong.returncode != 0
    message = " ".join(wrong.stderr.split())
    assert "network.options.cross_stitch.kep: unknown setting; did you mean 'keep'? allowed: keep" in message
    absent = run(ctan("config", *settings("network.options.cross_stitch.keep=0.5")), None, tmp_path)
    assert absent.returncode != 0
    assert "network.options: unknown 'cross_stitch'; allowed: ctan, hps, mtan, stl" in " ".join(absent.stderr.split())


@pytest.mark.slow
def test_it_is_trained_compared_and_promoted_like_the_built_in_ones(installed: Path, tmp_path: Path) -> None:
    before = sources()
    overrides = [*TINY, "architectures=[stl, cross_stitch]", "network.options.cross_stitch.keep=0.75"]
    source = ["--source", "phantom:train=5,validation=1,seed=0", "--epochs", "1"]
    done = run(ctan("run", *source, *settings(*overrides)), installed, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sources() == before

    (comparison,) = tmp_path.glob("runs/*/comparison.json")
    compared = json.loads(comparison.read_text())
    assert [entry["arch"] for entry in compared["architectures"]] == ["stl", "cross_stitch"]
    assert compared["architectures"][1]["scores"]["evaluation"]["dose"]["dose_score"]["value"] > 0
    folders = {
        json.loads(path.read_text())["arch"]: path.parent for path in tmp_path.glob("runs/**/train/model/model.json")
    }
    record = json.loads((folders["cross_stitch"] / "model.json").read_text())
    assert record["network"]["options"] == {"cross_stitch": {"keep": 0.75}}

    asked = run(["-c", _ASK, str(folders["cross_stitch"]), str(tmp_path / "answer.npz")], installed, tmp_path)
    assert asked.returncode == 0, asked.stderr
    with np.load(tmp_path / "answer.npz") as answer:
        assert answer["keep"] == 0.75
        assert set(answer.files) == {"keep", "contouring", "dose"}
        assert answer["contouring"].std() > 0
    alone = run(["-c", _ASK, str(folders["cross_stitch"]), str(tmp_path / "answer.npz")], None, tmp_path)
    assert "unknown 'cross_stitch'; allowed: ctan, hps, mtan, stl" in alone.stderr
