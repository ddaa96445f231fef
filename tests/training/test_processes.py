"""Trainings in two processes: killed, resumed by two or by one, and compared with one that was never killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.evaluation import evaluate
from ctan.records import CASES_FILE, DVH_FILE, EvaluationRecord
from ctan.store import StorePointer
from ctan.tracking.server import connect, prepare
from ctan.training import train
from tests.helpers.evaluation import write_network
from tests.helpers.ranks import ROOT

TRAIN = """
import sys
from pathlib import Path
from ctan.settings import config_from_yaml
from ctan.store import StorePointer, open_store
from ctan.tracking.server import connect, prepare
from ctan.training import train
pointer, config, checkpoints, model = map(Path, sys.argv[1:])
train(StorePointer.load(pointer), "ctan", 0, 0, config_from_yaml(config), checkpoints, model)
"""
SECONDS = 30  # for both to end once one is killed: both die at once, the rest is this machine's own load


def with_training(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    """Three epochs of two steps: three cases, then the one or two that are left."""
    changes = {
        "translate_voxels": 2,
        "rotate_probability": 0.5,
        "epochs": 3,
        "batch_size": 3,
        "task_weighting": "dwa",
        "tuning_every": 1,
        "gradient_cosine": True,
        "num_processes": 2,
        "checkpoint_minutes": 0.0,
    }
    return with_training(tiny_config, **changes)


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(model_dir / "model.safetensors")


def started(pointer: StorePointer, config: RunConfig, folder: Path, checkpoints: Path, model: Path) -> Popen[str]:
    """Start a training in a process of its own."""
    pointer.save(folder / "pointer.json")
    (folder / "config.yaml").write_text(config.to_yaml())
    places = map(str, (folder / "pointer.json", folder / "config.yaml", checkpoints, model))
    command = [sys.executable, "-c", TRAIN, *places]
    return Popen(command, stderr=PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def second_process(parent: int) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process(parent).children(recursive=True)
        if "ctan.launch" in child.cmdline() and child.environ().get("RANK") == "1"
    ]
    return found


@pytest.mark.slow
def test_killing_one_process_ends_both_and_two_or_one_go_on_from_the_checkpoint(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "a", tmp_path / "uninterrupted")
    assert summary.epochs == 3
    said = capfd.readouterr().err
    assert [said.count(f"epoch {epoch}/3") for epoch in (1, 2, 3)] == [1, 1, 1]  # one console
    prepare()
    client = connect()
    runs = client.search_runs([client.get_run(summary.run_id).info.experiment_id])
    assert [run.data.tags["num_processes"] for run in runs] == ["2"]  # and one run

    with started(tiny_pointer, config, tmp_path, tmp_path / "b", tmp_path / "killed") as p:
        assert p.stderr is not None
        lines = []
        for line in p.stderr:
            lines.append(line)
            if "epoch 1/3" in line:
                everyone = [*psutil.Process(p.pid).children(recursive=True)]
                second_process(p.pid).send_signal(signal.SIGKILL)
                killed = time.monotonic()
        assert p.wait() == 1
        assert time.monotonic() - killed < SECONDS
    assert not [one for one in everyone if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert "process 1 of 2 was ended by SIGKILL" in lines[-1]
    assert not (tmp_path / "killed").exists()
    shutil.copytree(tmp_path / "b", tmp_path / "c")

    expected = weights(tmp_path / "uninterrupted")
    train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "b", tmp_path / "two")
    found = weights(tmp_path / "two")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    capfd.readouterr()

    one = with_training(config, num_processes="auto")
    train(tiny_pointer, "ctan", 0, 0, one, tmp_path / "c", tmp_path / "one")
    assert "resumed after" in capfd.readouterr().err
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)
    histories = [pq.read_table(tmp_path / name / "history.parquet").to_pylist() for name in ("one", "uninterrupted")]
    assert [row["task"] for row in histories[0]] == [row["task"] for row in histories[1]]
    for a, b in zip(*histories, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["weight"] == pytest.approx(b["weight"], rel=1e-3)


@pytest.mark.slow
def test_processes_that_are_told_to_stop_finish_the_step_save_and_mark_the_run(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    config = with_training(config, epochs=500, checkpoint_minutes=1000)
    with started(tiny_pointer, config, tmp_path, tmp_path / "c", tmp_path / "m") as p:
        assert p.stderr is not None
        for line in p.stderr:
            if "epoch 1/500" in line:
                everyone = [*psutil.Process(p.pid).children(recursive=True)]
                p.terminate()
        assert p.wait(SECONDS) == 143
    assert not [one for one in everyone if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    (saved,) = (tmp_path / "c").rglob("?.pt")
    run_id = torch.load(saved, weights_only=True)["state"]["run_id"]
    prepare()
    assert connect().get_run(run_id).info.status == "KILLED"
    assert not (tmp_path / "m").exists()


def test_more_processes_than_cases_a_step_are_refused_before_anything_starts(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"training\.num_processes: 2 processes for a training\.batch_size of 1"):
        train(tiny_pointer, "hps", 0, 0, with_training(config, batch_size=1), tmp_path / "c", tmp_path / "m")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same_tables(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    model = write_network(tmp_path / "model", tiny_pointer, tiny_config)
    tables, pictures, scores = [], [], []
    for number in (1, 2, 3):
        settings = tiny_config.evaluation.model_copy(update={"num_processes": number})
        folder = tmp_path / str(number)
        evaluate(tiny_pointer, model, folder, tiny_config.model_copy(update={"evaluation": settings}))
        tables.append([(folder / name).read_bytes() for name in (CASES_FILE, DVH_FILE)])
        pictures.append((folder / "figures.npz").read_bytes())
        scores.append((EvaluationRecord.load(folder).scores, EvaluationRecord.load(folder).num_cases))
    cases = pq.read_table(tmp_path / "1" / CASES_FILE)["case_id"].unique()
    assert len(cases) % 2 or len(cases) % 3  # a count that does not divide
    assert tables[0] == tables[1] == tables[2]
    assert pictures[0] == pictures[1] == pictures[2]
    assert scores[0] == scores[1] == scores[2]
