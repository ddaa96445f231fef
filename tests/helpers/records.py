"""Records as training writes them, with facts that were made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctan.cases import DataSpec
from ctan.config import RunConfig
from ctan.inputs import Inputs
from ctan.networks import with_options
from ctan.records import Grid, ModelRecord
from ctan.tasks import Task

_FACTS: dict[str, Any] = {
    "fold": 0,
    "seed": 0,
    "precision": "fp32",
    "device": "cpu",
    "num_parameters": 1,
    "macs_per_case": 1,
    "epochs": 1,
    "step_seconds": 0.1,
    "store_key": "k" * 64,
    "data_hash": "d" * 64,
    "code_hash": "e" * 64,
    "run_id": "",
}


def model_record(arch: str, spec: DataSpec, tasks: Sequence[Task], config: RunConfig, **facts: Any) -> ModelRecord:
    """Return the record of a model that was trained with these settings.

    Args:
        arch: architecture.
        spec: the data.
        tasks: what it predicts.
        config: settings.
        facts: fields of the record.
    """
    inputs = Inputs.of(config.data)
    made = {
        "arch": arch,
        "spec": spec,
        "inputs": inputs,
        "tasks": tuple(tasks),
        "in_channels": inputs.num_channels(spec),
        "network": with_options(arch, config.network),
        "grid": Grid.of(config.preprocess),
        "compute_precision": config.training.precision,
        "test_time_flip": config.evaluation.test_time_flip,
        "config_hash": config.hash(),
        "config": config.model_dump(mode="json"),
    }
    return ModelRecord(**(_FACTS | made | facts))


def content_of(path: Path) -> dict[str, Any]:
    """Return what the file of a record says, without hashes of it and of its neighbours."""
    value: dict[str, Any] = json.loads(path.read_text())
    return {name: inner for name, inner in value.items() if name not in ("sha256", "files")}


def change_record(path: Path, **changes: Any) -> None:
    """Write a record as an earlier release would have: with other values, and no hashes."""
    path.write_text(json.dumps(content_of(path) | changes))
