"""`ctan doctor` on this machine: what is found is what is here, and each thing that is amiss says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctan.cli import app
from ctan.doctor import here as module
from ctan.doctor.finding import examined
from ctan.doctor.here import here
from ctan.limits import cores

QUICK = ("_torch", "_docker", "_dvc")  # of which each takes seconds; tried once


@pytest.fixture
def quick(own_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUICK:
        monkeypatch.setattr(module, name, lambda: iter(()))
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "MLFLOW_TRACKING_URI", "CTAN_DEID_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(own_workspace / "none"))


def states(about: str) -> dict[str, str]:
    return {finding.text: finding.state for finding in here() if finding.about == about}


@pytest.mark.slow
def test_everything_is_looked_at_and_the_command_ends_well_here(own_workspace: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    for about in ("Python", "PyTorch", "GPU", "Docker", "DVC", "MLflow", "Kubeflow Pipelines", "shared memory"):
        assert f"  {about}: " in done.output
    assert f"cores: {cores()}" in done.output
    assert "embedded" in done.output


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_is_a_problem_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("KFP_ENDPOINT", "http://127.0.0.1:1")
    ((text, state),) = states("MLflow").items()
    assert state == "problem"
    assert "does not answer" in text
    assert "correct MLFLOW_TRACKING_URI" in text
    assert list(states("Kubeflow Pipelines").values()) == ["problem"]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


@pytest.mark.usefixtures("quick")
def test_nothing_that_is_not_needed_is_a_problem() -> None:
    found = {finding.about: finding for finding in here()}
    assert found["Kubeflow Pipelines"].state == "note"
    assert found["de-identification"].state == "note"
    assert found["MLflow"].state == "fine"


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_workspace_that_cannot_be_written_to_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "closed" / "workspace"))
    assert list(states("workspace").values()) == ["problem"]


def test_a_check_that_breaks_keeps_no_other_from_being_made() -> None:
    (finding,) = examined("a thing", lambda: iter([1 // 0]))  # type: ignore[list-item]
    assert (finding.state, finding.about) == ("skipped", "a thing")
    assert "ZeroDivisionError" in finding.text
