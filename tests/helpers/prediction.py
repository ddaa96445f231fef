"""Models that were never trained, for tests of what is done with their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ctan.datasets import get_dataset
from ctan.inference import save_network
from ctan.networks import build_network
from ctan.settings import load_config
from ctan.tasks import tasks_of
from tests.helpers.records import model_record

_SMALL: dict[str, Any] = {
    "network.base_width": 4,
    "network.num_stages": 2,
    "network.foreground_prior": 0.5,
    "training.precision": "fp32",
}


def untrained_model(folder: Path, dataset: str, grid: list[int], spacing: list[float] | None, **changes: Any) -> Path:
    """Write a model of a data set with random weights.

    Args:
        folder: to write to.
        dataset: data set.
        grid: voxels of the working grid.
        spacing: their edges in mm.
        changes: `overrides` of its settings, `source` that describes the data set, and fields of its record.
    """
    overrides = {"data.dataset": dataset, "preprocess.grid_shape": grid, "preprocess.grid_spacing_mm": spacing}
    config = load_config("smoke", _SMALL | overrides | changes.pop("overrides", {}), changes.pop("source", ""))
    spec = get_dataset(config.data).spec
    tasks = tasks_of(spec)
    record = model_record("hps", spec, tasks, config, **changes)
    torch.manual_seed(record.seed)
    network = build_network("hps", tasks, record.in_channels, record.network)
    save_network(folder, network.state_dict(), record)
    return folder
