"""A supervised training that is killed at random moments ends with the weights of one that never was, bit for bit."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ctan.config import RunConfig
from ctan.records import ModelRecord
from ctan.store import StorePointer
from ctan.supervise import supervised
from ctan.tracking.server import connect
from ctan.training import train
from tests.helpers.ranks import ROOT

KILLS = int(os.environ.get("CTAN_KILLS", "2"))  # 50 in `make test-hard`
SECONDS = 2.0  # of a training, from its owner's mark on; kills fall into all of it


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    changes = {
        "epochs": 6,
        "batch_size": 2,
        "rotate_probability": 0.5,
        "translate_voxels": 2,
        "task_weighting": "dwa",
        "tuning_every": 1,
        "checkpoint_minutes": 0.0,
        "max_restarts": 2 * KILLS,
    }
    return tiny_config.model_copy(update={"training": tiny_config.training.model_copy(update=changes)})


def weights(model_dir: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_file(model_dir / "model.safetensors").items()}


class Killer(threading.Thread):
    """Kills the supervisor's child, a number of times, each at a random moment after it took the training over."""

    def __init__(self, checkpoints: Path, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.checkpoints, self.left, self.random = checkpoints, number, random.Random(seed)
        self.done = threading.Event()

    def run(self) -> None:
        killed: set[int] = set()
        while self.left and not self.done.is_set():
            for child in psutil.Process().children():
                if child.pid not in killed and self._trains(child.pid):
                    time.sleep(self.random.uniform(0, SECONDS))
                    killed.add(child.pid)
                    if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                        child.kill()
                        self.left -= 1
            time.sleep(0.02)

    def _trains(self, pid: int) -> bool:
        for mark in self.checkpoints.glob("*/owner-*.json"):
            try:
                if json.loads(mark.read_text())["process"].split("/")[-2] == str(pid):
                    return True
            except (OSError, ValueError):
                continue
        return False


def run(config: RunConfig, pointer: StorePointer, folder: Path, said: list[str], **given: Any) -> Any:
    arguments = {
        "pointer": pointer,
        "arch": "ctan",
        "fold": 0,
        "seed": 0,
        "config": config,
        "checkpoint_root": folder / "checkpoints",
        "model_dir": folder / "model",
    }
    return supervised("ctan.training:train", arguments | given, config.training.max_restarts, said.append)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights_bit_for_bit(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, own_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "whole" / "checkpoints", tmp_path / "whole" / "model")
    said: list[str] = []
    killer = Killer(tmp_path / "killed" / "checkpoints", KILLS, seed=7)
    killer.start()
    summary = run(config, tiny_pointer, tmp_path / "killed", said)
    killer.done.set()
    killer.join()
    assert said, "no kill hit the training"
    assert weights(tmp_path / "killed" / "model") == weights(tmp_path / "whole" / "model")
    run_ = connect().get_run(summary.run_id)
    assert run_.info.status == "FINISHED"
    assert run_.data.tags["restarts"] == str(len(said))
    assert "SIGKILL" in run_.data.tags["restart_reasons"]


@pytest.mark.slow
def test_portions_are_part_of_the_record_and_followed_when_a_training_is_done_again(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, own_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"epochs": 2, "checkpoint_minutes": 60.0, "task_weighting": "uncertainty"}
    config = config.model_copy(update={"training": config.training.model_copy(update=short)})
    changes = ((0, 1, 1),)
    roots = {name: tmp_path / name for name in ("first", "again", "whole")}
    monkeypatch.setenv("CTAN_MEMORY_HALVINGS", "1")
    found = train(tiny_pointer, "ctan", 0, 0, config, roots["first"] / "c", roots["first"] / "model")
    record = ModelRecord.load(roots["first"] / "model")
    assert record.micro_batches == ((0, 0, 1),)
    assert connect().get_run(found.run_id).data.tags["micro_batches"] == "[(0, 0, 1)]"
    monkeypatch.delenv("CTAN_MEMORY_HALVINGS")
    follow = {"micro_batches": record.micro_batches}
    train(tiny_pointer, "ctan", 0, 0, config, roots["again"] / "c", roots["again"] / "model", **follow)
    assert weights(roots["again"] / "model") == weights(roots["first"] / "model")
    train(tiny_pointer, "ctan", 0, 0, config, roots["whole"] / "c", roots["whole"] / "model", micro_batches=changes)
    assert ModelRecord.load(roots["whole"] / "model").micro_batches == changes
    first, other = (load_file(roots[name] / "model" / "model.safetensors") for name in ("first", "whole"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=5e-3)
