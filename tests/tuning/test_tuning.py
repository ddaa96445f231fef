"""`ctan tune`: what is proposed, stopped, gone on with, and the profile it ends in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.settings import load_config
from ctan.store import StorePointer, open_store
from ctan.tuning import Searched, Tuned, default_space, tune
from ctan.tuning import search as tuning
from ctan.tuning.search import Watch

SPACE = (
    Searched.parse("training.learning_rate=1e-4..1e-1"),
    Searched.parse("training.task_weighting=[equal, dwa]"),
    Searched.parse("training.translate_voxels=0..4"),
)


def test_a_range_and_a_list_are_read() -> None:
    assert Searched.parse("training.learning_rate=1e-4..1e-2") == Searched("training.learning_rate", (), 1e-4, 1e-2)
    whole = Searched.parse("training.translate_voxels = 0..8")
    assert whole == Searched("training.translate_voxels", (), 0, 8)
    assert isinstance(whole.low, int)
    assert Searched.parse("network.base_width=[8, 16]").choices == (8, 16)


@pytest.mark.parametrize("text", ["training.learning_rate", "training.learning_rate=2..1", "network.base_width=[8]"])
def test_what_is_neither_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected FIELD=LOW..HIGH or FIELD=\[A, B, ...\]"):
        Searched.parse(text)


def test_unless_it_is_said_what_the_data_allow_is_searched(tiny_pointer: StorePointer, tiny_config: RunConfig) -> None:
    config = tiny_config.model_copy(update={"network": tiny_config.network.model_copy(update={"base_width": 16})})
    found = {searched.field: searched for searched in default_space(config, open_store(tiny_pointer).spec)}
    assert found["network.base_width"].choices == (8, 16, 24)
    assert "training.rotate_probability" in found
    assert "training.colour_probability" not in found, "a CT has no colours"
    assert found["training.learning_rate"].low < config.training.learning_rate < found["training.learning_rate"].high


@pytest.fixture
def search(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Tuned]:
    """Search with trainings whose error is known: least at a learning rate of 0.01 and with DWA."""
    tried: list[dict[str, Any]] = []

    def trained(*given: Any) -> float | None:
        *_, config, place, name, trial, _ = given
        settings = config.training
        tried.append({"rate": settings.learning_rate, "weighting": settings.task_weighting})
        if search.interrupt_at == len(tried):  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        if settings.learning_rate > search.too_high:  # type: ignore[attr-defined]
            raise DataError("the loss became nan")
        error = abs(math.log10(settings.learning_rate) + 2) + (settings.task_weighting != "dwa")
        watch = Watch(place.folder, name, trial._trial_id)
        return None if any(watch(epoch, error + 1 / epoch) for epoch in range(1, 5)) else error

    monkeypatch.setattr(tuning, "_train", trained)

    def search(root: str = "a", trials: int = 12, **given: Any) -> Tuned:
        space = given.pop("space", SPACE)
        said: list[str] = []
        found = tune(tiny_pointer, "ctan", 0, 0, tiny_config, tmp_path / root, trials, space, say=said.append, **given)
        search.said = said  # type: ignore[attr-defined]
        return found

    search.interrupt_at, search.too_high, search.tried = 0, 1.0, tried  # type: ignore[attr-defined]
    return search


def test_the_best_settings_become_a_profile_that_a_run_takes(search: Any, tmp_path: Path) -> None:
    tuned = search(profile=tmp_path / "tuned.yaml")
    assert tuned.error == pytest.approx(
        min(abs(math.log10(one["rate"]) + 2) + (one["weighting"] != "dwa") for one in search.tried)
    )
    assert tuned.num_pruned > 0, "what is worse than the median is stopped"
    assert any("worse than the median" in line for line in search.said)
    config = load_config(str(tmp_path / "tuned.yaml"))
    assert config.training.learning_rate == pytest.approx(tuned.values["training.learning_rate"])
    assert config.training.task_weighting == tuned.values["training.task_weighting"] == "dwa"
    text = (tmp_path / "tuned.yaml").read_text()
    assert "whose error is therefore too good" in text
    assert isinstance(yaml.safe_load(text)["training"]["learning_rate"], float)


def test_a_search_that_was_interrupted_goes_on_with_its_trial_and_tries_what_one_in_one_go_tries(
    search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search("whole")
    in_one_go = list(search.tried)
    search.tried.clear()
    search.interrupt_at = 7
    with pytest.raises(KeyboardInterrupt):
        search("parts")
    monkeypatch.setattr(tuning, "is_gone", lambda _: True)  # as seen from the process that comes after
    search.interrupt_at = 0
    again = search("parts")
    assert search.tried[6] == search.tried[7], "the trial that was cut short"
    assert search.tried[:6] + search.tried[7:] == in_one_go
    assert (again.error, again.values, again.num_trials) == (whole.error, whole.values, 12)
    assert search("parts").num_trials == 12, "enough: nothing more is trained"


def test_alone_a_search_takes_the_trial_of_another_pod_for_cut_short(
    search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        search(trials=3)
    search.interrupt_at = 0
    monkeypatch.setattr(tuning, "is_gone", lambda _: None)  # it ran where that cannot be seen from here
    assert search(trials=3, alone=True).num_trials == 3
    assert search.tried[1] == search.tried[2]
    assert len(search.tried) == 4


def test_a_trial_of_a_process_that_lives_is_left_to_it(search: Any) -> None:
    search.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        search(trials=3)
    search.interrupt_at = 0
    assert search(trials=3).num_trials == 3
    assert len(search.tried) == 3


def test_a_trial_that_fails_is_told_and_passed_over(search: Any) -> None:
    search.too_high = 0.02
    tuned = search()
    assert tuned.num_failed > 0
    assert any("failed: the loss became nan" in line for line in search.said)
    assert tuned.values["training.learning_rate"] <= 0.02


def test_when_all_fail_the_search_ends_with_their_reason(search: Any) -> None:
    search.too_high = 0.0
    with pytest.raises(DataError, match="the loss became nan"):
        search()
    assert len(search.tried) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.learning_rat=1e-4..1e-2", "learning_rat"),
        ("training.task_weighting=[equal, other]", "task_weighting"),
        ("training.flip_probability=0.5..1.5", "flip_probability"),
    ],
)
def test_a_setting_or_value_that_is_not_allowed_is_refused_before_anything_is_trained(
    search: Any, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(space=(Searched.parse(text),))
    assert search.tried == []


@pytest.mark.slow
def test_trials_are_trainings_below_one_run_and_leave_nothing_behind(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    from ctan.tracking.server import connect, prepare

    short = tiny_config.training.model_copy(update={"epochs": 2})
    tiny_config = tiny_config.model_copy(update={"training": short})
    space = (Searched.parse("training.learning_rate=[1e-3, 3e-3]"),)
    tuned = tune(tiny_pointer, "hps", 0, 0, tiny_config, tmp_path, 2, space)
    prepare()
    client = connect()
    experiment = client.get_experiment_by_name("ctan-openkbp")
    runs = client.search_runs([experiment.experiment_id])
    trials = {run.data.tags.get("tuning_trial"): run for run in runs}
    assert {"0", "1"} <= set(trials)
    parents = {trials[number].data.tags["mlflow.parentRunId"] for number in ("0", "1")}
    assert len(parents) == 1
    (study,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(path.name for path in study.iterdir()) == ["profile.yaml", "study.journal"]
    best = str(tuned.trial - 1)
    assert client.get_metric_history(trials[best].info.run_id, "tuning/error")[-1].value == pytest.approx(tuned.error)


@pytest.mark.slow
def test_a_training_that_is_stopped_ends_its_run_and_may_be_gone_on_with(
    tiny_pointer: StorePointer, tiny_config: RunConfig, tmp_path: Path
) -> None:
    from ctan.errors import StoppedError
    from ctan.training import train

    config = tiny_config.model_copy(
        update={"training": tiny_config.training.model_copy(update={"epochs": 3, "tuning_every": 1})}
    )
    given = (tiny_pointer, "hps", 0, 0, config, tmp_path / "c", tmp_path / "m")
    with pytest.raises(StoppedError, match="stopped after epoch 2"):
        train(*given, watch=lambda epoch, _: epoch == 2)
    summary = train(*given)
    assert summary.epochs == 3
