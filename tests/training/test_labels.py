"""Labels kept back: nested by patient, learnt by nobody, and only where a setting says so."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.records import ModelRecord
from ctan.store import StorePointer, open_store
from ctan.tasks import Classification, DoseRegression, Regression, Segmentation, Task, tasks_of
from ctan.training import train
from ctan.training.data import TrainingCases
from ctan.training.labels import fitted_to, kept_back


def sharing(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def test_a_smaller_share_is_part_of_a_larger_one(tiny_pointer: StorePointer, tiny_config: RunConfig) -> None:
    store = open_store(tiny_pointer)
    ids, tasks = store.case_ids(split="train"), tasks_of(store.spec)
    hidden = [
        kept_back(store, ids, tasks, sharing(tiny_config, label_share={"dose": share}))["dose"]
        for share in (1e-6, 0.3, 0.6, 1.0)
    ]
    assert [len(ids) - len(one) for one in hidden] == sorted(len(ids) - len(one) for one in hidden)
    assert all(less >= more for less, more in pairwise(hidden))
    assert len(hidden[0]) == len(ids) - 1
    assert not hidden[-1]


def test_a_share_of_a_task_that_is_not_there_is_named(tiny_pointer: StorePointer, tiny_config: RunConfig) -> None:
    store = open_store(tiny_pointer)
    wrong = sharing(tiny_config, label_share={"dosis": 0.5})
    with pytest.raises(ConfigError, match="no task dosis; they have contouring, dose"):
        kept_back(store, store.case_ids(), tasks_of(store.spec), wrong)


@pytest.mark.parametrize("name", ["contouring", "dose"])
def test_nothing_is_learnt_from_what_is_kept_back(
    tiny_pointer: StorePointer, tiny_config: RunConfig, name: str
) -> None:
    store = open_store(tiny_pointer)
    ids, tasks = store.case_ids(split="train"), tasks_of(store.spec)
    shown = TrainingCases(store, ids, tasks, tiny_config, 0)[0]["targets"]
    hidden = TrainingCases(store, ids, tasks, tiny_config, 0, {name: frozenset(ids)})[0]["targets"]
    part = {"contouring": "known", "dose": "mask"}
    for task, key in part.items():
        assert shown[task][key].any()
        assert hidden[task][key].any() == (task != name)


KINDS: tuple[tuple[Task, dict[str, np.ndarray]], ...] = (
    (Segmentation("masks", ("a",)), {"masks": np.ones((1, 4, 4), bool), "known": np.ones(1, bool)}),
    (DoseRegression("dose"), {"dose": np.ones((1, 4, 4), np.float32), "mask": np.ones((1, 4, 4), bool)}),
    (Classification("label", ("a", "b")), {"label": np.asarray(1), "known": np.asarray(True)}),
    (Regression("age", "years"), {"number": np.asarray(1.0, np.float32), "known": np.asarray(True)}),
)


@pytest.mark.parametrize(("task", "target"), KINDS, ids=lambda one: one.kind if isinstance(one, Task) else "")
def test_every_kind_says_what_an_unlabelled_case_is(task: Task, target: dict[str, np.ndarray]) -> None:
    known = "mask" if task.kind == "dose" else "known"
    assert not task.unknown(target)[known].any()
    assert target[known].all(), "the case itself is left as it is"


def test_weights_of_classes_come_from_the_labels_that_are_learnt() -> None:
    class Labels:
        def labels(self, ids: list[str]) -> list[dict[str, str]]:
            return [{"label": "a" if case_id in "123" else "b"} for case_id in ids]

        def numbers(self, ids: list[str]) -> list[dict[str, float]]:
            return [{} for _ in ids]

    task = Classification("label", ("a", "b"))
    whole = fitted_to(Labels(), list("1234"), [task], {})[0]  # type: ignore[arg-type]
    part = fitted_to(Labels(), list("1234"), [task], {"label": frozenset("12")})[0]  # type: ignore[arg-type]
    assert whole.class_weights == pytest.approx((2 / 3, 2.0))
    assert part.class_weights == (1.0, 1.0)


def test_a_task_whose_labels_are_all_but_kept_back_leaves_its_own_network_as_it_is(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    """Single networks: contouring's learns as before, whatever dose may see; the model's record says the share."""
    found = {}
    for share in (1.0, 1e-6):
        config = sharing(tiny_config, label_share={"dose": share}, epochs=1)
        train(tiny_pointer, "stl", 0, 0, config, tmp_path / f"checkpoints{share}", tmp_path / f"{share}")
        found[share] = load_file(tmp_path / f"{share}" / "model.safetensors")
        assert ModelRecord.load(tmp_path / f"{share}").config["training"]["label_share"] == {"dose": share}
    own = [name for name in found[1.0] if "contouring" in name]
    others = [name for name in found[1.0] if "dose" in name]
    assert own
    assert any(not found[1.0][name].equal(found[1e-6][name]) for name in others)
    assert all(found[1.0][name].equal(found[1e-6][name]) for name in own)
