"""What all tests share: nothing is written beside the sources, no usage statistics, no tracking server of the user."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from ctan.config import RunConfig
from ctan.settings import load_config
from ctan.store import StorePointer
from ctan.telemetry import disable_telemetry

disable_telemetry()
settings.register_profile("ctan", deadline=None)  # no test fails because the machine is busy
settings.load_profile("ctan")
LONG = ("journeys", "examples", "training", "cluster")  # whole runs and trainings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes: shared out by files, it would keep one process busy alone at the end."""
    folders = [item.path.parent.name for item in items]
    places = [LONG.index(folder) if folder in LONG else len(LONG) for folder in folders]
    items[:] = [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]


@pytest.fixture(autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a workspace of its own and keep the user's services out."""
    workspace = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("CTAN_WORKSPACE", str(workspace))
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        "CTAN_PARENT_RUN",
        "MLFLOW_EXPERIMENT_NAME",
        "CTAN_DEBUG",
        "CTAN_GIT_COMMIT",
        "CTAN_IMAGE",
        "CTAN_LOCAL_RUN",
        "KF_PIPELINES_UI_ENDPOINT",
        "KFP_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    return workspace


@pytest.fixture(scope="session")
def tiny_config() -> RunConfig:
    """The smoke profile on a grid and network that train in a second, computed alike on every machine."""
    return load_config(
        "smoke",
        {
            "training.precision": "fp32",
            "preprocess.grid_shape": [16, 24, 24],
            "preprocess.grid_spacing_mm": [16.0, 16.0, 16.0],
            "network.base_width": 4,
        },
    )


@pytest.fixture(scope="session")
def tiny_pointer(tiny_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> StorePointer:
    """A store of six training and two evaluation phantoms."""
    from ctan.intake.build import preprocess
    from ctan.intake.ingest import ingest

    folder = tmp_path_factory.mktemp("tiny")
    source = "phantom:train=6,validation=2,seed=1"
    ingest(source, folder / "manifest", tiny_config, num_workers=0)
    return preprocess(source, folder / "manifest", str(folder / "store"), tiny_config, num_workers=1)
