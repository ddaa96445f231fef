"""Where patches of a training case lie, and that a network learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctan.config import RunConfig
from ctan.inference import load_network
from ctan.store import StorePointer, open_store
from ctan.tasks import tasks_of
from ctan.training import train
from ctan.training.data import TrainingCases, Wanted, num_loaders
from ctan.training.patches import choose_patch, cut_out
from tests.helpers.ranks import ALONE, Scenario


def changed(config: RunConfig, network: dict, training: dict) -> RunConfig:
    return config.model_copy(
        update={
            "network": config.network.model_copy(update=network),
            "training": config.training.model_copy(update=training),
        }
    )


def half(config: RunConfig) -> tuple[int, ...]:
    step = config.network.io_stride * 2 ** (config.network.num_stages - 1)
    return tuple(max(2 * step, size // 2 // step * step) for size in config.preprocess.grid_shape)


def test_patches_with_a_structure_in_their_middle_are_as_often_as_asked_for(
    tiny_pointer: StorePointer, tiny_config: RunConfig
) -> None:
    store, shape = open_store(tiny_pointer), half(tiny_config)
    case = store.load(store.case_ids(split="train")[0])
    grid = case.masks.shape[1:]
    rng = np.random.default_rng(0)
    middles = []
    for share in (0.0, 1.0):
        places = [choose_patch(case, shape, share, rng) for _ in range(60)]
        for place in places:
            assert [s.stop - s.start for s in place] == list(shape)
            assert all(s.start >= 0 and s.stop <= size for s, size in zip(place, grid, strict=True))
        middles.append(np.mean([cut_out(case, place).masks[case.known].any(axis=(1, 2, 3)).any() for place in places]))
    assert middles[1] == 1
    assert len({tuple(s.start for s in choose_patch(case, shape, 0.0, rng)) for _ in range(20)}) > 5
    unknown = np.zeros_like(case.known)
    assert choose_patch(type(case)(**{**vars(case), "known": unknown}), shape, 1.0, rng)


def test_an_item_is_a_part_of_the_whole_case_with_its_targets(
    tiny_pointer: StorePointer, tiny_config: RunConfig
) -> None:
    store = open_store(tiny_pointer)
    still = {"flip_probability": 0.0, "rotate_probability": 0.0, "translate_voxels": 0}
    ids, tasks = store.case_ids(split="train"), tasks_of(store.spec)
    whole = TrainingCases(store, ids, tasks, changed(tiny_config, {}, still), 3)[Wanted(1, 0)]
    shape = half(tiny_config)
    cases = TrainingCases(store, ids, tasks, changed(tiny_config, {"patch_shape": shape}, still), 3)
    item = cases[Wanted(1, 0)]
    assert item["image"].shape[1:] == shape
    assert np.array_equal(item["image"], cases[Wanted(1, 0)]["image"]), "a function of (seed, epoch, case)"
    windows = np.lib.stride_tricks.sliding_window_view(whole["image"], item["image"].shape)
    (at,) = np.argwhere((windows == item["image"]).all(axis=(-4, -3, -2, -1)))
    place = tuple(slice(start, start + size) for start, size in zip(at[1:], shape, strict=True))
    assert np.array_equal(
        item["targets"]["contouring"]["masks"], whole["targets"]["contouring"]["masks"][(..., *place)]
    )
    assert np.array_equal(item["targets"]["dose"]["dose"], whole["targets"]["dose"]["dose"][(..., *place)])


def test_a_network_trained_on_patches_predicts_whole_cases(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    network = {"patch_shape": half(tiny_config), "deep_supervision": 1}
    config = changed(tiny_config, network, {"epochs": 2, "tuning_every": 1, "recompute_activations": True})
    summary = train(tiny_pointer, "ctan", 0, 0, config, tmp_path / "c", tmp_path / "m")
    assert summary.best_tuning_error is not None
    store = open_store(tiny_pointer)
    case = store.load(store.case_ids(split="validation")[0])
    found = load_network(tmp_path / "m").predict(case)
    assert found["dose"].shape[1:] == case.dose.shape
    assert np.isfinite(found["dose"]).all()


@pytest.mark.parametrize(
    ("wanted", "gpu", "num_processes", "expected"),
    [(3, False, 1, 3), ("auto", False, 1, 0), ("auto", True, 1, 8), ("auto", True, 4, 3), ("auto", True, 16, 1)],
)
def test_cores_that_are_left_over_beside_a_gpu_load_cases(
    wanted: int, gpu: bool, num_processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("ctan.training.data.cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_processes))
    assert num_loaders(wanted) == expected


@pytest.mark.parametrize("portion", [0, 1])
def test_the_loss_of_a_task_is_the_weighted_mean_over_its_levels(portion: int) -> None:
    scenario = Scenario("hps", num_cases=2, changes={"num_stages": 3, "deep_supervision": 1})
    step, batch = scenario.step(ALONE), scenario.batch([0, 1])
    losses = step.in_portions(batch, portion) if portion else step.forward(batch)
    with torch.no_grad():
        outputs = step.network(batch["image"])
        (coarser,) = step.network.take_coarser()["dose"]
        (task,) = (task for task in step.tasks if task.name == "dose")
        fine, coarse = (task.loss(raw, batch["targets"]["dose"]) for raw in (outputs["dose"], coarser))
    torch.testing.assert_close(losses["dose"].detach(), (fine + coarse / 2) / 1.5)
