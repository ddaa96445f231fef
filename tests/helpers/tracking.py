"""Small real models and pointers for the tests of tracking, promotion and inference."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.inference import save_network
from ctan.inputs import Inputs
from ctan.networks import build_network
from ctan.store import StorePointer
from ctan.tasks import DoseRegression, Segmentation, Task
from ctan.tracking import prepare
from tests.helpers.records import model_record

GRID = (8, 12, 12)
TASKS: tuple[Task, ...] = (
    Segmentation(
        "contours",
        structures=("Brainstem", "RightParotid", "LeftParotid"),
        mirrored_pairs=(("LeftParotid", "RightParotid"),),
    ),
    DoseRegression("dose"),
)


def small_config(**sections: dict[str, object]) -> RunConfig:
    """Return settings of a network that is built and asked in milliseconds."""
    values: dict[str, object] = {
        "profile": "test",
        "preprocess": {"grid_shape": GRID, "grid_spacing_mm": (8.0, 8.0, 8.0)},
        "network": {"num_stages": 2, "base_width": 4, "max_width": 8},
        "training": {"precision": "fp32"},
        "evaluation": {"num_figure_cases": 5},
    }
    return RunConfig.model_validate(values | sections)


def make_database(workspace: Path) -> Path:
    """Fill a workspace with an empty tracking database, to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("CTAN_WORKSPACE", str(workspace))
        prepare()
    return workspace


def pointer_at(store_root: Path, data_hash: str = "d" * 64) -> StorePointer:
    return StorePointer(str(store_root), "k" * 64, data_hash, "openkbp", "c" * 64, 12)


def small_network(config: RunConfig, arch: str, seed: int) -> nn.Module:
    """Return a network whose every part matters: also the exchange layers, which start at zero."""
    torch.manual_seed(seed)
    network = build_network(arch, TASKS, 3, config.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
            if parameter.shape == (1,):  # the bias of the dose head: mostly positive doses
                parameter.fill_(3.0)
    return network.eval()


def write_model(
    model_dir: Path, config: RunConfig, arch: str = "ctan", seed: int = 0, run_id: str = "", fold: int = 0
) -> Path:
    """Write a network the way training does."""
    network = small_network(config, arch, seed)
    facts = {"fold": fold, "seed": seed, "run_id": run_id, "inputs": Inputs(), "in_channels": 3}
    record = model_record(arch, get_dataset("openkbp").spec, TASKS, config, **facts)
    save_network(model_dir, network.state_dict(), record)
    return model_dir
