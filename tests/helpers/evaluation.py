"""Real small networks, untrained, for the tests of evaluation and comparison."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.inference import save_network
from ctan.inputs import Inputs
from ctan.networks import build_network
from ctan.store import StorePointer
from ctan.tasks import tasks_of
from ctan.training.history import write_history
from tests.helpers.records import model_record

DATASET = get_dataset("openkbp")


def write_network(
    folder: Path,
    pointer: StorePointer,
    config: RunConfig,
    arch: str = "ctan",
    fold: int = 0,
    seed: int = 0,
    tasks: tuple[str, ...] = ("contouring", "dose"),
    fill: float | None = None,
    **changes: object,
) -> Path:
    """Write an untrained network of the tiny store the way training does.

    Args:
        folder: receives the model.
        pointer: the store it belongs to.
        config: its settings.
        arch: architecture.
        fold: its tuning cases.
        seed: of its weights.
        tasks: names of the tasks it predicts.
        fill: value of every parameter, random when None.
        changes: fields of the record to replace.
    """
    torch.manual_seed(seed)
    predicted = tuple(task for task in tasks_of(DATASET.spec) if task.name in tasks)
    network = build_network(arch, predicted, Inputs.of(config.data).num_channels(DATASET.spec), config.network)
    if fill is not None:
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, fill)
    facts = {
        "fold": fold,
        "seed": seed,
        "store_key": pointer.key,
        "data_hash": pointer.data_hash,
        "run_id": f"run-{arch}-{seed}",
        "macs_per_case": 10**9,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    record = model_record(arch, DATASET.spec, predicted, config, **facts).model_copy(update=changes)
    save_network(folder, network.state_dict(), record)
    rows = [{"epoch": 1, "task": name, "loss": 1.0, "weight": 1.0, "learning_rate": 1e-3} for name in ("", *tasks)]
    write_history(folder / "history.parquet", rows)
    return folder


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
