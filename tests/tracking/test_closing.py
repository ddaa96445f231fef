"""Runs of trainings that were stopped or killed do not stay RUNNING, and those at work are left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctan.tracking.closing import close_runs
from ctan.tracking.lineage import OWNER_MARK, PIPELINE_RUN
from ctan.tracking.owner import Owner
from ctan.tracking.server import tracking_uri
from tests.helpers.tracking import make_database

KILLED = """
import os, signal, sys
from ctan.tracking.owner import Owner
owner = Owner(sys.argv[1])
owner.take(print)
owner.note_run(sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def client(own_workspace: Path, empty_database: Path) -> Any:
    import mlflow

    shutil.copytree(empty_database, own_workspace, dirs_exist_ok=True)
    return mlflow.MlflowClient(tracking_uri())


def running(client: Any, folder: Path | None, pipeline_run: str = "local/now") -> str:
    tags = {PIPELINE_RUN: pipeline_run} | ({OWNER_MARK: str(folder)} if folder else {})
    return client.create_run("0", tags=tags).info.run_id


def status(client: Any, run_id: str) -> str:
    return client.get_run(run_id).info.status


def test_a_killed_training_is_closed_and_one_at_work_is_not(client: Any, tmp_path: Path) -> None:
    """Before, the run of a training that was killed before its first checkpoint stayed RUNNING for ever."""
    killed = running(client, tmp_path / "killed")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), killed]
    assert subprocess.run(command, env=os.environ).returncode == -signal.SIGKILL
    at_work = running(client, tmp_path / "at-work")
    owner = Owner(tmp_path / "at-work")
    owner.take(print)
    owner.note_run(at_work)
    elsewhere = running(client, tmp_path / "on-another-machine")
    foreign = client.create_run("0").info.run_id  # no training of ours

    assert close_runs() == [killed]
    names = {killed: "KILLED", at_work: "RUNNING", elsewhere: "RUNNING", foreign: "RUNNING"}
    assert {run_id: status(client, run_id) for run_id in names} == names
    owner.release()
    assert close_runs() == [at_work]


def test_of_a_pipeline_run_that_ended_all_are_closed_but_one_that_another_goes_on_with(
    client: Any, tmp_path: Path
) -> None:
    mine, unmarked = running(client, tmp_path / "gone"), running(client, None)
    other = running(client, None, "local/another")
    taken = running(client, tmp_path / "shared")
    owner = Owner(tmp_path / "shared")
    owner.take(print)
    owner.note_run(taken)
    assert sorted(close_runs("local/now")) == sorted([mine, unmarked])
    assert [status(client, run_id) for run_id in (taken, other)] == ["RUNNING", "RUNNING"]
    owner.release()
