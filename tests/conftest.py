"""What all tests share: nothing is written beside the sources, no usage statistics, no tracking server of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctan.telemetry import disable_telemetry

disable_telemetry()


@pytest.fixture(autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a workspace of its own and keep the user's services out."""
    workspace = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("CTAN_WORKSPACE", str(workspace))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "CTAN_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return workspace
