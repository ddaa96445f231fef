"""The tutorials do what they say: every block of their commands is run, one after the other, as somebody would type it.

Those that train take a minute or more each: one of them is drawn by seed in `make test`, all are run in
`make test-hard` (CTAN_TUTORIALS=all).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp"]

ROOT = Path(__file__).parents[2]
PAGES = {page.stem.removeprefix("tutorial-"): page for page in sorted((ROOT / "docs").glob("tutorial-*.md"))}
CHEAP = ("cluster", "offline")
SEED = 5
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)


def drawn() -> list[str]:
    """The tutorials to run here."""
    long = [name for name in PAGES if name not in CHEAP]
    return [*CHEAP, *(long if os.environ.get("CTAN_TUTORIALS") == "all" else random.Random(SEED).sample(long, 1))]


def run(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of a page in a folder that holds what a checkout holds."""
    for part in ("infra", "pipelines"):
        (folder / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "examples", folder / "examples")  # pip leaves files beside the sources
    site = folder / "site"  # what the page installs, in place of the environment of the tests
    installing = {"PIP_TARGET": str(site), "PYTHONPATH": str(site), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "CTAN_WORKSPACE": str(folder / "workspace"), "HOME": str(folder)}
    blocks = _BLOCK.findall(PAGES[name].read_text(encoding="utf-8"))
    assert blocks
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=folder,
        env=os.environ | own | installing | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


SAID = {
    "dicom": ("predicted/", "RTDOSE.dcm", "RTSTRUCT.dcm"),
    "nnunet": ("LobeLeft.nii",),
    "plugs": ("two-class-pictures", "cross_stitch"),
    "review": ("stays", "cases are too few for a decision"),
    "cluster": ("runs/details/run-0", "runs/details/run-1", "ctan-retrain"),
    "offline": ("8 train, 2 validation", "10 cases passed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn())
def test_the_commands_of_a_tutorial_run_one_after_the_other(name: str, tmp_path: Path, kfp_server: KfpServer) -> None:
    done = run(name, tmp_path, KFP_ENDPOINT=kfp_server.url)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for word in SAID[name]:
        assert word in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert (len(kfp_server.runs) > 1) == (name == "cluster")


def test_every_tutorial_is_run_and_says_something() -> None:
    assert set(SAID) == set(PAGES)
    assert all(len(_BLOCK.findall(page.read_text("utf-8"))) > 0 for page in PAGES.values())


def test_a_command_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "tutorial-wrong.md"
    page.write_text("```bash\ntrue\n```\n\n```bash\nctan data show no-such-folder a\necho went on\n```\n")
    monkeypatch.setitem(PAGES, "wrong", page)
    (tmp_path / "checkout").mkdir()
    done = run("wrong", tmp_path / "checkout")
    assert done.returncode == 1
    assert "went on" not in done.stdout
