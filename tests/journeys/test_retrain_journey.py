"""Retraining as cron calls it, on a version that DVC pins: killed, gone on, found unchanged, reproduced, renewed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctan.datasets import get_dataset
from ctan.sources.places import recorded
from tests.helpers.dvc import Repository, git
from tests.helpers.small import SMALL, files_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git to make repositories"),
]

CTAN = str(Path(sys.executable).with_name("ctan"))
PARAMETERS = ["dataset=openkbp", 'architectures=["stl"]', "epochs=1", f"overrides={json.dumps(SMALL)}"]


@pytest.fixture
def team(tmp_path: Path) -> Any:
    """A repository that pins raw phantoms."""
    team = Repository(tmp_path / "team-data")

    def pin(seed: int) -> str:
        folder = tmp_path / f"raw-{seed}"
        get_dataset("openkbp").write_phantoms(folder, 6, 2, seed)
        md5: str = team.commit(files_of(folder), f"seed-{seed}")
        return md5

    team.pin = pin
    return team


def client() -> Any:
    from ctan.tracking.server import connect

    return connect()


def run(*arguments: str, code: int = 0) -> str:
    ran = subprocess.run([CTAN, *arguments], capture_output=True, text=True, timeout=600)
    assert ran.returncode == code, ran.stdout[-4000:] + ran.stderr[-4000:]
    return ran.stdout if code == 0 else ran.stderr


def run_and_kill(*arguments: str, when: Callable[[str], bool]) -> list[str]:
    """Kill the command (SIGKILL) as soon as it prints such a line; return what it printed until then."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([CTAN, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if when(line):
                process.kill()
                return lines
    raise AssertionError("".join(lines))


def test_retraining_follows_the_pinned_version_and_survives_being_killed(team: Any) -> None:
    first = team.pin(0)
    command = ["retrain", f"dvc:{team.folder}@main", *PARAMETERS]

    run_and_kill(*command, when=lambda line: line.startswith("== train"))
    assert client().search_model_versions("") == []

    assert "Promotion" in run(*command)
    (version,) = client().search_model_versions("name='ctan-openkbp'")
    commit = git(team.folder, "rev-parse", "HEAD").strip()
    assert (version.tags["data_version"], version.tags["data_commit"]) == (first, commit)
    repository = recorded(str(team.folder))
    assert repository.startswith("folder:")
    assert version.tags["data_source"] == f"dvc:{repository}@{commit}:data/kbp"
    assert version.tags["data_repository"] == repository
    assert version.tags["pipeline_run"].startswith("local/")
    assert client().get_run(version.run_id).data.tags["data_commit"] == commit

    said = run(*command)
    assert (
        f"ctan-openkbp stays: version 1, which did not become champion, comes from the same data {first[:12]}" in said
    )
    assert len(client().search_model_versions("")) == 1

    said = run("reproduce", "models:/ctan-openkbp/1")
    assert "models:/ctan-openkbp/1 trained again: the same weights, byte by byte" in said
    assert f"commit {commit}" in run("lineage", "models:/ctan-openkbp/1")

    said = run("reproduce", "models:/ctan-openkbp/1", "--source", "phantom:train=6,validation=2,seed=5", code=1)
    assert "the 8 cases of phantom:train=6,validation=2,seed=5 are not those it was trained on" in said

    second = team.pin(1)
    lines = run_and_kill(*command, when=lambda line: "train again" in line)
    assert lines[-1].strip() == f"train again: changed since version 1: data {first[:12]} -> {second[:12]}"
