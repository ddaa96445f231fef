"""Checkpoints in a real S3 server, and the whole journey with nothing but a bucket between two machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ctan import steps
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.store import StorePointer
from ctan.training import train
from ctan.training.console import Console
from tests.helpers.s3 import Proxy, S3Server
from tests.helpers.small import SMALL, train_and_kill
from tests.helpers.storage import SOURCE, objects_of

pytest_plugins = ["tests.helpers.storage"]
pytestmark = pytest.mark.slow

CTAN = str(Path(sys.executable).with_name("ctan"))


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    changes = {
        "epochs": 3,
        "checkpoint_minutes": 0,
        "translate_voxels": 2,
        "rotate_probability": 0.5,
        "task_weighting": "dwa",
    }
    return tiny_config.model_copy(update={"training": tiny_config.training.model_copy(update=changes)})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Move to another machine: another workspace, the same tracking database."""

    def move(name: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / name))

    return move


def weights(model_dir: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(model_dir / "model.safetensors").items()}


def test_a_training_killed_on_one_machine_goes_on_on_another_with_the_same_weights(
    put: StorePointer,
    built: StorePointer,
    config: RunConfig,
    root: str,
    tmp_path: Path,
    machine: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    train(built, "hps", 0, 0, config, tmp_path / "local", tmp_path / "uninterrupted")

    machine("first")
    train_and_kill(put, "hps", config, f"{root}/checkpoints", tmp_path / "killed")

    machine("second")
    capsys.readouterr()
    summary = train(put, "hps", 0, 0, config, f"{root}/checkpoints", tmp_path / "resumed")
    assert re.search(r"resumed after \d epochs", capsys.readouterr().err)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "uninterrupted")

    (data,) = MlflowClient().get_run(summary.run_id).inputs.dataset_inputs
    assert (data.dataset.source_type, json.loads(data.dataset.source)) == ("s3", {"uri": put.address})


def test_a_server_that_is_away_costs_no_training_and_gets_the_last_checkpoint_later(
    built: StorePointer,
    config: RunConfig,
    root: str,
    tmp_path: Path,
    machine: Callable[[str], None],
    proxy: Proxy,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The proxy cuts every connection once training has begun."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    config = config.model_copy(update={"training": config.training.model_copy(update={"checkpoint_minutes": 1000})})

    def cut(*_: object) -> None:
        proxy.cuts = [0] * 1000

    with monkeypatch.context() as patch:
        patch.setattr("ctan.training.checkpoints._LAST_TRIES", 1)
        patch.setattr(Console, "step", cut)
        machine("first")
        train(built, "hps", 0, 0, config, f"{root}/checkpoints", tmp_path / "model")
    assert "and goes with the next start here (s3://" in capsys.readouterr().err
    proxy.cuts = []
    assert not [name for name in objects_of(server, f"{root}/checkpoints") if name.endswith(".pt")]
    train(built, "hps", 0, 0, config, f"{root}/checkpoints", tmp_path / "first-again")
    assert "already trained, 3 epochs" in capsys.readouterr().err
    machine("second")
    train(built, "hps", 0, 0, config, f"{root}/checkpoints", tmp_path / "elsewhere")
    assert "already trained, 3 epochs" in capsys.readouterr().err
    assert weights(tmp_path / "elsewhere") == weights(tmp_path / "first-again") == weights(tmp_path / "model")


def test_a_checkpoint_removed_from_the_bucket_is_forgotten_and_a_damaged_one_not_used(
    built: StorePointer,
    config: RunConfig,
    root: str,
    tmp_path: Path,
    server: S3Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 1, "checkpoint_minutes": 1000})}
    )
    arguments: Any = (built, "hps", 0, 0, config, f"{root}/checkpoints", tmp_path / "model")
    train(*arguments)
    (name,) = [name for name in objects_of(server, root) if name.endswith(".pt")]
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    server.client.delete_object(Bucket=bucket, Key=f"{prefix}/{name}")
    capsys.readouterr()
    train(*arguments)
    assert "already trained" not in capsys.readouterr().err
    server.client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=objects_of(server, root)[name][:1000])
    train(*arguments)
    said = capsys.readouterr().err
    assert f"{name.rpartition('/')[2]}: damaged or cut short" in said
    assert "already trained" not in said
    with pytest.raises(DataError, match=r"s3://no-such-bucket/.*there is no such bucket"):
        train(*arguments[:5], "s3://no-such-bucket/x", tmp_path / "model")


def run_until(command: list[str], wanted: str) -> str:
    """Run a command until it says something, then kill it; return what it said."""
    said = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if wanted in line:
                process.kill()
                return said
    raise AssertionError(said)


def train_and_promote(root: str, folder: Path) -> None:
    """Go from raw files to a registered model in this process, which is much quicker than one process a step."""
    config = steps.resolve_config("smoke", architectures=["stl"], epochs=1, overrides=SMALL)
    source, settings, origin = steps.resolve(SOURCE, config)
    names = ("manifest", "store.json", "model", "evaluation", "comparison", "report.html", "best", "decision.json")
    manifest, pointer, model, evaluation, comparison, report, best, decision = (str(folder / name) for name in names)
    steps.ingest(settings, origin, manifest, num_workers=0)
    steps.preprocess(source, manifest, pointer, root, num_workers=1)
    steps.train(pointer, manifest, "stl", 0, 0, model, f"{root}/checkpoints")
    steps.evaluate(pointer, manifest, model, evaluation)
    steps.compare(pointer, manifest, [evaluation], comparison, report, best)
    steps.promote(pointer, manifest, comparison, best, decision)


def test_two_machines_share_nothing_but_a_bucket(
    root: str, server: S3Server, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    """The first one trains and promotes; on the second one `ctan run` finds the store and the training."""
    machine("first")
    train_and_promote(root, tmp_path)
    (entry,) = objects_of(server, f"{root}/ledger")["ctan-openkbp-phantom.jsonl"].decode().splitlines()
    (store,) = {path.split("/")[0] for path in objects_of(server, f"{root}/stores")}
    assert json.loads(entry)["store_key"] == store

    machine("second")
    command = [CTAN, "run", "--source", SOURCE, "--arch", "stl", "--epochs", "1"]
    command += ["--store-root", root, "--checkpoint-root", f"{root}/checkpoints"]
    command += [word for setting in SMALL for word in ("--set", setting)]
    said = run_until(command, "already trained, 1 epochs")
    assert f"store {store} exists already, nothing to do" in said
