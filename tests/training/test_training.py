"""Training: resumes bit for bit, refuses foreign checkpoints, stops early, and writes what the house expects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate

from ctan.config import RunConfig
from ctan.errors import ConfigError, CtanError, DataError
from ctan.networks import build_network
from ctan.precision import autocast, resolve_precision
from ctan.records import ModelRecord
from ctan.store import Store, StorePointer, open_store
from ctan.tasks import tasks_of
from ctan.training import train
from ctan.training.checkpoint import CheckpointKey
from ctan.training.console import Console
from ctan.training.data import TrainingCases, Wanted, hold
from ctan.training.optim import clip_gradients, make_ema, make_optimizer, make_schedule
from ctan.training.weighting import WEIGHTINGS
from tests.helpers.small import train_and_kill


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    """Three epochs with every kind of randomness that training has."""
    changes = {"translate_voxels": 2, "rotate_probability": 0.5, "epochs": 3, "task_weighting": "dwa"}
    return tiny_config.model_copy(update={"training": tiny_config.training.model_copy(update=changes)})


def with_training(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def weights(model_dir: Path) -> dict[str, bytes]:
    tensors = load_file(model_dir / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_a_run_killed_between_two_epochs_and_resumed_ends_with_the_same_weights(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "a", tmp_path / "uninterrupted")

    train_and_kill(tiny_pointer, "ctan", config, tmp_path / "b", tmp_path / "killed")
    summary = train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "b", tmp_path / "resumed")
    assert summary.epochs == 3
    assert weights(tmp_path / "resumed") == weights(tmp_path / "uninterrupted")
    histories = [pq.read_table(tmp_path / name / "history.parquet") for name in ("resumed", "uninterrupted")]
    assert histories[0].equals(histories[1])


def test_a_run_stopped_within_an_epoch_goes_on_with_the_next_step(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_training(config, checkpoint_minutes=0, epochs=2)
    train(tiny_pointer, "hps", 0, 0, config, tmp_path / "a", tmp_path / "uninterrupted")
    steps: list[tuple[int, int]] = []

    def stop_at_third_step(_: Console, epoch: int, step: int, __: object) -> None:
        steps.append((epoch, step))
        if len(steps) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Console, "step", stop_at_third_step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_pointer, "hps", 0, 0, config, tmp_path / "b", tmp_path / "stopped")
    train(tiny_pointer, "hps", 0, 0, config, tmp_path / "b", tmp_path / "resumed")
    assert weights(tmp_path / "resumed") == weights(tmp_path / "uninterrupted")


def test_one_process_trains_as_a_plain_loop_does_bit_for_bit(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    """The losses, gradients and order of several processes cost one process not a bit."""
    config = with_training(config, batch_size=3, num_processes=1)
    train(tiny_pointer, "ctan", 0, 7, config, tmp_path / "c", tmp_path / "m")

    settings, store = config.training, open_store(tiny_pointer)
    cases = TrainingCases(store, store.case_ids(split="train", not_fold=0), tasks_of(store.spec), config, 7)
    torch.manual_seed(7)
    network = build_network("ctan", cases.tasks, cases[Wanted(0, 0)]["image"].shape[0], config.network)
    weighting = WEIGHTINGS[settings.task_weighting]([task.name for task in cases.tasks])
    batches = [range(start, min(start + 3, len(cases))) for start in range(0, len(cases), 3)]
    average, optimizer = make_ema(network, settings), make_optimizer(network, weighting, settings)
    schedule = make_schedule(optimizer, settings.epochs * len(batches), settings)
    for epoch in range(settings.epochs):
        order, sums = np.random.default_rng([7, epoch]).permutation(len(cases)), dict.fromkeys(weighting.weights(), 0.0)
        for batch in batches:
            items = default_collate([cases[Wanted(epoch, int(order[place]))] for place in batch])
            with autocast(torch.device("cpu"), resolve_precision(settings.precision, torch.device("cpu"))):
                outputs = network.train()(items["image"])
            losses = {task.name: task.loss(outputs[task.name], items["targets"][task.name]) for task in cases.tasks}
            optimizer.zero_grad()
            weighting(losses).backward()
            clip_gradients(network.independent_parts(), settings.gradient_clip)
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            sums = {name: value + losses[name].item() for name, value in sums.items()}
        weighting.end_epoch({name: value / len(batches) for name, value in sums.items()})
    expected = average.module.state_dict()
    assert weights(tmp_path / "m") == {name: value.numpy().tobytes() for name, value in expected.items()}


def test_what_runs_after_a_training_computes_with_the_smallest_numbers_again(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    train(tiny_pointer, "hps", 0, 0, with_training(config, epochs=1), tmp_path / "c", tmp_path / "model")
    assert float("1e-320") * 2 == float("2e-320")
    assert (torch.full((1000,), 1e-40) * 2).min() > 0


def test_cases_that_fit_into_memory_are_read_once_and_change_nothing(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, read = Store.load, list[str]()
    monkeypatch.setattr(Store, "load", lambda *given: read.append(given[1]) or load(*given))
    numbers = {}
    for share in (0.25, 0.0):
        read.clear()
        settings = with_training(config, cases_in_memory=share)
        train(tiny_pointer, "hps", 0, 0, settings, tmp_path / f"c{share}", tmp_path / f"m{share}")
        store = open_store(tiny_pointer)
        numbers[share] = [read.count(case_id) for case_id in store.case_ids(split="train", not_fold=0)]
    assert weights(tmp_path / "m0.25") == weights(tmp_path / "m0.0")
    fewer = [more - once for more, once in zip(numbers[0.0], numbers[0.25], strict=True)]
    assert fewer[0] == config.training.epochs, "the first is read to see whether all fit"
    assert set(fewer[1:]) == {config.training.epochs - 1}


def test_cases_are_held_only_when_all_of_them_fit(tiny_pointer: StorePointer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tiny_pointer)
    ids = store.case_ids(split="train")
    one = sum(
        a.nbytes
        for a in (*store.load(ids[0]).image.values(), *vars(store.load(ids[0])).values())
        if hasattr(a, "nbytes")
    )
    monkeypatch.setattr("ctan.training.data.memory_bytes", lambda: 4 * one * len(ids))
    assert list(hold(store, ids, 0.25)) == ids
    assert hold(store, ids, 0.24) == {}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert hold(store, ids, 0.25) == {}
    assert list(hold(store, ids, 0.5)) == ids


def test_a_finished_training_is_not_repeated(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_training(config, epochs=1)
    first = train(tiny_pointer, "hps", 0, 0, config, tmp_path / "c", tmp_path / "one")
    second = train(tiny_pointer, "hps", 0, 0, config, tmp_path / "c", tmp_path / "two")
    assert "already trained" in capsys.readouterr().err
    assert second.run_id == first.run_id
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_checkpoint_of_another_architecture_is_refused(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    config = with_training(config, epochs=1)
    root = tmp_path / "c"
    train(tiny_pointer, "hps", 0, 0, config, root, tmp_path / "m")
    tasks = tasks_of(open_store(tiny_pointer).spec)
    keys = {arch: CheckpointKey.of(tiny_pointer, arch, tasks, 0, 0, config) for arch in ("hps", "ctan")}
    folders = {arch: root / key.folder for arch, key in keys.items()}
    shutil.copytree(folders["hps"], folders["ctan"])
    with pytest.raises(DataError, match="another training: arch 'hps' instead of 'ctan'"):
        train(tiny_pointer, "ctan", 0, 0, config, root, tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_changed_settings_start_afresh(tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path) -> None:
    for rate in (1e-3, 2e-3):
        changed = with_training(config, epochs=1, learning_rate=rate)
        train(tiny_pointer, "hps", 0, 0, changed, tmp_path / "c", tmp_path / str(rate))
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert weights(tmp_path / "0.001") != weights(tmp_path / "0.002")


def test_unknown_architecture_and_fold_are_named(tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arch: unknown 'unet'; allowed: ctan, hps, mtan, stl"):
        train(tiny_pointer, "unet", 0, 0, config, tmp_path / "c", tmp_path / "m")
    with pytest.raises(ConfigError, match=r"fold: 9 is not in 0\.\."):
        train(tiny_pointer, "hps", 9, 0, config, tmp_path / "c", tmp_path / "m")
    assert not (tmp_path / "c").exists()


def test_early_stopping_keeps_the_weights_that_were_best_on_the_tuning_cases(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_training(config, epochs=6, early_stopping_patience=2, tuning_every=0)
    measured = iter([0.9, 0.5, 0.6, 0.7, 0.1, 0.1])
    num_tuning = len(open_store(tiny_pointer).case_ids(split="train", fold=0))
    errors = [error for error in measured for _ in range(num_tuning)]  # one a tuning case, the same for both tasks
    for task in ("Segmentation", "DoseRegression"):
        sequence = iter(errors)
        monkeypatch.setattr(f"ctan.tasks.{task}.error", lambda *_, sequence=sequence: next(sequence))
    summary = train(tiny_pointer, "hps", 0, 0, config, tmp_path / "c", tmp_path / "m")
    assert (summary.epochs, summary.best_epoch, summary.best_tuning_error) == (4, 2, pytest.approx(0.5))
    saved = torch.load(next((tmp_path / "c").rglob("?.pt")), weights_only=True)["state"]
    assert weights(tmp_path / "m") == {name: t.numpy().tobytes() for name, t in saved["best"][2].items()}
    assert weights(tmp_path / "m") != {
        name.removeprefix("module."): t.numpy().tobytes() for name, t in saved["ema"].items() if "." in name
    }
    rows = pq.read_table(tmp_path / "m" / "history.parquet").to_pylist()
    assert [row["loss"] for row in rows if row["task"] == "tuning"] == pytest.approx([0.9, 0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("arch", "weighting"), [("stl", "equal"), ("mtan", "equal"), ("mtan", "uncertainty"), ("mtan", "pcgrad")]
)
def test_the_loss_falls_and_model_json_tells_where_it_came_from(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, arch: str, weighting: str
) -> None:
    config = with_training(config, epochs=4, learning_rate=5e-3, rotate_probability=0, task_weighting=weighting)
    summary = train(tiny_pointer, arch, 0, 0, config, tmp_path / "c", tmp_path / "m")
    rows = pq.read_table(tmp_path / "m" / "history.parquet").to_pylist()
    for task in ("contouring", "dose"):
        losses = [row["loss"] for row in rows if row["task"] == task]
        assert len(losses) == 4
        assert losses[-1] < losses[0]
    described = json.loads((tmp_path / "m" / "model.json").read_text())
    assert described["arch"] == arch
    assert described["store_key"] == tiny_pointer.key
    assert described["config"] == config.model_dump(mode="json")
    assert described["run_id"] == summary.run_id
    assert described["num_parameters"] == summary.num_parameters > 0


def test_a_model_knows_whom_it_has_seen_and_names_nobody(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path
) -> None:
    train(tiny_pointer, "stl", 0, 0, config, tmp_path / "checkpoints", tmp_path / "model")
    seen, store = ModelRecord.load(tmp_path / "model").seen, open_store(tiny_pointer)
    assert seen is not None
    training = {store.group_id(case_id) for case_id in store.case_ids(split="train")}
    others = {store.group_id(case_id) for case_id in store.case_ids(split="validation")}
    assert len(training) == 6
    assert all(map(seen.holds, training)), "those of the tuning fold chose the epoch: they count as seen"
    assert not any(map(seen.holds, others))
    assert not any(group in " ".join(seen.hashes) for group in training | others)


@pytest.mark.parametrize("arch", ["stl", "ctan"])
def test_the_cosine_of_the_gradients_is_recorded_where_tasks_share_weights_and_changes_nothing(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, arch: str
) -> None:
    from mlflow import MlflowClient

    summary = None
    for name, measured in (("without", False), ("with", True)):
        settings = with_training(config, epochs=2, gradient_cosine=measured)
        summary = train(tiny_pointer, arch, 0, 0, settings, tmp_path / "c", tmp_path / name)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    history = MlflowClient().get_metric_history(summary.run_id, "gradient_cosine/contouring/dose")
    assert [metric.step for metric in history] == ([] if arch == "stl" else [1, 2])
    assert all(-1 <= metric.value <= 1 for metric in history)


def test_a_learning_rate_that_explodes_is_explained(
    tiny_pointer: StorePointer, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctan.tasks.DoseRegression.loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(CtanError, match=r"the loss became nan at case \S+ in epoch 1: try a smaller"):
        train(tiny_pointer, "hps", 0, 0, config, tmp_path / "c", tmp_path / "m")
