"""Settings: profiles, overrides, and errors that name the field and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ctan.config import DEFAULT_ARCHITECTURES, RunConfig
from ctan.errors import ConfigError
from ctan.intake.planning import plan
from ctan.parameters import PROFILES
from ctan.settings import config_from_yaml, load_config, read_config, resolve_config


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_survives_yaml(profile: str, tmp_path: Path) -> None:
    config = load_config(profile)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert config.profile == profile
    assert config_from_yaml(path) == config


def test_a_profile_that_is_like_another_differs_in_what_it_says() -> None:
    long, short = (load_config(name, {"data.dataset": "openkbp"}) for name in ("gpu", "gpu-short"))
    assert (long.network.io_stride, short.network.io_stride) == (1, 2)
    assert (long.training.epochs, short.training.epochs) == (200, 80)
    assert (long.network.num_stages, short.network.num_stages) == (6, 5)
    of_gpu = {"base_width": 32, "max_width": 320, "foreground_prior": 0.01}
    assert short.network.model_dump().items() >= of_gpu.items()
    assert short.training.batch_size == long.training.batch_size == 2
    assert short.training.num_workers == "auto"


def test_settings_as_yaml_hold_every_field_and_can_be_used_as_a_profile(tmp_path: Path) -> None:
    def fields(settings: BaseModel, prefix: str = "") -> set[str]:
        found = set()
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            found |= fields(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name}
        return found

    mappings = ("data.options", "network.options", "promotion.task_margins_percent", "promotion.subgroups")
    mappings += ("training.label_share",)

    def leaves(values: dict, prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            found |= (
                leaves(value, f"{prefix}{name}.")
                if isinstance(value, dict) and prefix + name not in mappings
                else {prefix + name}
            )
        return found

    config = load_config("cpu", ["training.epochs=3"])
    assert leaves(yaml.safe_load(config.to_yaml())) == fields(config)

    mine = tmp_path / "mine.yaml"
    mine.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(str(mine)).training == config.training


def test_a_profile_file_starts_from_the_packaged_profile_it_names(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("profile: smoke\ntraining: {epochs: 7}\n", encoding="utf-8")
    config, smoke = load_config(str(path)), load_config("smoke")
    assert config.training.epochs == 7
    assert config.training.learning_rate == smoke.training.learning_rate
    assert config.preprocess == smoke.preprocess
    assert config.profile == "short"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=3", ["training.epoch", "unknown", "did you mean 'epochs'", "learning_rate"]),
        ("trainin.epochs=3", ["trainin", "unknown", "did you mean 'training'"]),
        ("training.epochs=0", ["training.epochs", "greater than or equal to 1", "found 0"]),
        ("training.epochs=many", ["training.epochs", "integer", "'many'"]),
        ("architectures=[unet]", ["architectures", "unknown 'unet'", "allowed: ctan, hps, mtan, stl"]),
        ("architectures=[]", ["architectures", "at least 1 item"]),
        ("architectures=[ctan, ctan]", ["architectures lists a value twice"]),
        ("folds=[5]", ["folds", "5 is not in 0..4"]),
        ("data.inputs=mri", ["data.inputs", "'ct', 'ct+targets' or 'oracle'", "'mri'"]),
        ("training.epochs", ["expected FIELD=VALUE"]),
        ("training.epochs.more=1", ["training.epochs.more", "not a group"]),
        ("preprocess.grid_shape=[30, 48, 48]", ["preprocess.grid_shape", "divisible by 8"]),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_the_field_and_what_is_allowed(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", [override])
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_profile_is_an_error_that_lists_the_profiles() -> None:
    with pytest.raises(ConfigError, match="unknown 'fast'; allowed: smoke, cpu, gpu"):
        load_config("fast")


def test_a_missing_profile_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(str(tmp_path / "none.yaml"))


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().training.epochs = 3  # type: ignore[misc]


def test_the_hash_tells_settings_apart_by_section() -> None:
    one, other = load_config("smoke"), load_config("smoke", ["training.epochs=9"])
    assert one.hash() != other.hash()
    assert one.hash("training") != other.hash("training")
    assert one.hash("preprocess", "data") == other.hash("preprocess", "data")


def test_empty_pipeline_parameters_leave_the_profile_as_it_is() -> None:
    assert resolve_config("cpu") == load_config("cpu")


def test_every_pipeline_parameter_reaches_its_setting_and_overrides_win() -> None:
    config = resolve_config(
        "smoke",
        dataset="openkbp",
        architectures=["hps", "ctan"],
        folds=[1, 2],
        seeds=[3],
        epochs=5,
        batch_size=2,
        learning_rate=1e-5,
        task_weighting="dwa",
        inputs="ct",
        max_train_cases=6,
        max_evaluation_cases=2,
        model_name="it's: mine",
        promote=False,
        overrides=["training.batch_size=4", "training.ema_decay=0.5"],
    )
    assert config.architectures == ("hps", "ctan")
    assert (config.folds, config.seeds) == ((1, 2), (3,))
    assert (config.training.epochs, config.training.batch_size) == (5, 4)
    assert config.training.learning_rate == 1e-5
    assert (config.training.task_weighting, config.training.ema_decay) == ("dwa", 0.5)
    assert (config.data.inputs, config.data.max_train_cases, config.data.max_evaluation_cases) == ("ct", 6, 2)
    assert config.model_name == "it's: mine"
    assert config.promotion.enabled is False


def test_numbers_that_went_through_kfp_as_floats_are_whole_again() -> None:
    config = resolve_config("smoke", folds=[1.0], seeds=[0.0], epochs=5.0)  # type: ignore[list-item, arg-type]
    assert plan(config)[0] == {"arch": "stl", "fold": "1", "seed": "0"}


def test_a_single_step_can_change_settings_without_losing_the_name_of_the_profile(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(load_config("smoke").to_yaml(), encoding="utf-8")
    assert read_config(tmp_path) == load_config("smoke")
    assert read_config(tmp_path, ["training.epochs=9"]) == load_config("smoke", ["training.epochs=9"])


@pytest.mark.parametrize(
    "override",
    [
        "preprocess.grid_shape=[32, 32, 32]",  # model.json said 32 x 32 x 32 of a store of 48 x 64 x 64, without a word
        "preprocess.grid_spacing_mm=[9, 9, 9]",
        "data.max_train_cases=3",
        "data.split_seed=7",
        "data.num_folds=9",
    ],
)
def test_a_single_step_cannot_change_what_the_store_was_made_with(tmp_path: Path, override: str) -> None:
    (tmp_path / "config.yaml").write_text(load_config("smoke").to_yaml(), encoding="utf-8")
    field = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"--set {field}.*: decides what manifest and store hold"):
        read_config(tmp_path, [override])
    assert read_config(tmp_path, [f"{field}={json.dumps(value_of(load_config('smoke'), field))}"])  # the same is fine


def value_of(config: RunConfig, field: str) -> Any:
    section, name = field.split(".")
    return getattr(config, section).model_dump(mode="json")[name]


def test_a_single_step_may_change_what_networks_see(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(load_config("smoke").to_yaml(), encoding="utf-8")
    assert read_config(tmp_path, ["data.inputs=ct"]).data.inputs == "ct"


def test_the_plan_holds_every_combination_once_with_strings_only() -> None:
    items = plan(load_config("smoke", ["folds=[0, 1]", "seeds=[0, 7]"]))
    assert len(items) == len({tuple(item.values()) for item in items}) == len(DEFAULT_ARCHITECTURES) * 4
    assert [item["arch"] for item in items[:4]] == list(DEFAULT_ARCHITECTURES)
    assert all(isinstance(value, str) for item in items for value in item.values())
