"""Trained models: written, loaded and asked, from a folder and from the registry."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctan import plugins
from ctan.cases import StoredCase
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.reader import OpenKBP
from ctan.errors import ConfigError, DataError
from ctan.inference import load_network
from ctan.inputs import Inputs, network_input
from tests.helpers.tracking import GRID, small_config, small_network, write_model

SPEC = get_dataset("openkbp").spec
STRUCTURES = SPEC.structures


def stored_case(seed: int = 0) -> StoredCase:
    rng = np.random.default_rng(seed)
    return StoredCase(
        case_id="pt_1",
        group_id="pt_1",
        split="validation",
        fold=-1,
        image={"ct": rng.integers(0, 2500, GRID).astype(np.int16)},
        masks=rng.random((len(STRUCTURES), *GRID)) > 0.8,
        known=np.ones(len(STRUCTURES), bool),
        dose=rng.random(GRID, np.float32) * 70,
        possible_dose=rng.random(GRID) > 0.5,
        dose_known=np.ones(GRID, bool),
        target_distance=rng.integers(-20, 100, GRID).astype(np.int8),
        spacing_mm=(8.0, 8.0, 8.0),
        labels={},
        prescription_gy=70.0,
    )


@pytest.fixture
def config() -> RunConfig:
    return small_config()


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """What a version is recognised by is the hash of its file."""
    written = {
        (write_model(tmp_path / str(i), small_config(), "stl") / "model.safetensors").read_bytes() for i in range(8)
    }
    assert len(written) == 1


@pytest.mark.parametrize("arch", ["stl", "hps", "mtan", "ctan"])
def test_a_loaded_model_predicts_what_the_saved_network_does(tmp_path: Path, config: RunConfig, arch: str) -> None:
    model = load_network(write_model(tmp_path / "model", config, arch))
    predicted = model.predict(stored_case())

    with torch.no_grad():
        raw = small_network(config, arch, seed=0)(
            torch.from_numpy(network_input(stored_case(), SPEC, Inputs.of(config.data)))[None]
        )
    np.testing.assert_array_equal(predicted["contours"], torch.sigmoid(raw["contours"][0]).numpy())
    np.testing.assert_array_equal(predicted["dose"], raw["dose"][0].clamp_min(0).numpy() * 70)
    assert {name: array.shape for name, array in predicted.items()} == {"contours": (3, *GRID), "dose": (1, *GRID)}
    assert all(array.dtype == np.float32 for array in predicted.values())
    assert predicted["dose"].std() > 0.1
    assert not model.network.training


def test_the_folder_holds_safetensors_and_json_and_nothing_else(tmp_path: Path, config: RunConfig) -> None:
    folder = write_model(tmp_path / "model", config)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    write_model(folder, config, seed=1)  # training again replaces both
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert load_network(folder).record.seed == 1


def test_a_test_time_flip_makes_the_prediction_symmetric_up_to_paired_structures(
    tmp_path: Path, config: RunConfig
) -> None:
    model = load_network(write_model(tmp_path / "model", config), test_time_flip=True)
    image = network_input(stored_case(), SPEC, Inputs.of(config.data))[None]
    straight = model.predict_batch(image)
    mirrored = model.predict_batch(image[..., ::-1, :].copy())  # axis 1 of (D, H, W) is left-right
    brainstem, right, left = 0, 1, 2
    swapped = mirrored["contours"][:, [brainstem, left, right]][..., ::-1, :]
    np.testing.assert_allclose(straight["contours"], swapped, atol=1e-6)
    np.testing.assert_allclose(straight["dose"], mirrored["dose"][..., ::-1, :], atol=1e-4)
    plain = replace(model, test_time_flip=False).predict_batch(image)
    assert np.abs(plain["dose"] - straight["dose"]).max() > 1e-4


def test_the_flip_follows_the_models_settings_unless_told_otherwise(tmp_path: Path) -> None:
    config = small_config(evaluation={"test_time_flip": True})
    folder = write_model(tmp_path / "model", config)
    assert load_network(folder).test_time_flip
    assert not load_network(folder, test_time_flip=False).test_time_flip


def test_flipping_oracle_inputs_swaps_the_paired_organs_among_the_channels() -> None:
    oracle, organs = Inputs("oracle"), SPEC.organs
    order = oracle.mirrored_channels(SPEC)
    assert len(order) == network_input(stored_case(), SPEC, oracle).shape[0] == oracle.num_channels(SPEC)
    assert order[:3] == [0, 1, 2]
    moved = {organs[i]: organs[channel - 3] for i, channel in enumerate(order[3:]) if channel != i + 3}
    assert moved == {"LeftParotid": "RightParotid", "RightParotid": "LeftParotid"}


def test_the_mask_of_a_network_is_there_without_a_dose_and_an_older_one_is_as_it_was_trained() -> None:
    """It was cut from the RTDOSE, which a patient whose dose is to be predicted does not have."""
    case = stored_case()
    unplanned = replace(case, dose=np.zeros(0, np.float32), dose_known=np.zeros(0, bool))
    seen = network_input(case, SPEC, Inputs())
    np.testing.assert_array_equal(seen[2], case.possible_dose)
    np.testing.assert_array_equal(network_input(unplanned, SPEC, Inputs()), seen)
    cut = replace(case, dose_known=case.possible_dose & (np.arange(GRID[0]) < 4)[:, None, None])
    np.testing.assert_array_equal(network_input(cut, SPEC, Inputs()), seen)
    np.testing.assert_array_equal(network_input(cut, SPEC, Inputs(mask="known"))[2], cut.dose_known)
    with pytest.raises(DataError, match="pt_1: has no dose, and the model was trained by a ctan that cut one of its"):
        network_input(unplanned, SPEC, Inputs(mask="known"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder.*ctan train"):
        load_network(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, config: RunConfig, name: str) -> None:
    folder = write_model(tmp_path / "model", config)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: .*ctan train"):
        load_network(folder)


def without_hashes(value: dict) -> dict:
    """Return a record as it was before records held hashes of themselves and of the files beside them."""
    return {name: inner for name, inner in value.items() if name not in ("sha256", "files")}


def as_older_releases_wrote_it(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(without_hashes(json.loads(path.read_text()))))


def test_truncated_weights_are_refused(tmp_path: Path, config: RunConfig) -> None:
    path = write_model(tmp_path / "model", config) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors: not the file that model\.json was written with"):
        load_network(tmp_path / "model")
    as_older_releases_wrote_it(tmp_path / "model")
    with pytest.raises(DataError, match=r"model\.safetensors: damaged or truncated"):
        load_network(tmp_path / "model")


def test_weights_of_another_architecture_are_refused_and_say_what_differs(tmp_path: Path, config: RunConfig) -> None:
    folder = write_model(tmp_path / "model", config, "ctan")
    hps = write_model(tmp_path / "hps", config, "hps")
    (hps / "model.safetensors").replace(folder / "model.safetensors")
    as_older_releases_wrote_it(folder)
    with pytest.raises(DataError, match=r"not the weights of the 'ctan' network.*lacks .*Keep both files"):
        load_network(folder)


def test_weights_of_another_width_are_refused(tmp_path: Path, config: RunConfig) -> None:
    folder = write_model(tmp_path / "model", config)
    wider = small_config(network={"num_stages": 2, "base_width": 8, "max_width": 16})
    (write_model(tmp_path / "wider", wider) / "model.safetensors").replace(folder / "model.safetensors")
    as_older_releases_wrote_it(folder)
    with pytest.raises(DataError, match=r"tensors of another shape"):
        load_network(folder)


def test_a_damaged_description_is_refused_and_says_what_is_wrong(tmp_path: Path, config: RunConfig) -> None:
    path = write_model(tmp_path / "model", config) / "model.json"
    text = path.read_text()

    def refused(value: object, match: str) -> None:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        with pytest.raises(DataError, match=match):
            load_network(tmp_path / "model")

    value = without_hashes(json.loads(text))
    refused(text[:-20], r"model\.json: not valid JSON")
    refused([], r"model\.json: expected the description of a trained model, found list; .*ctan train")
    refused({"arch": "ctan"}, r"lacks dataset, fold, seed, tasks")
    refused({"format_version": 3, "arch": "ctan"}, r"lacks fold, seed, spec, inputs")
    refused(value | {"format_version": 5}, r"format version 5, this ctan reads 1 to 4; use the ctan that wrote it")
    refused(value | {"network": value["network"] | {"no_such_field": 1}}, r"network\.no_such_field: Extra inputs")
    refused(value | {"tasks": [{"kind": "telepathy", "name": "mind"}]}, r"'mind' is not a task that this ctan knows")
    path.write_text(text)
    assert load_network(tmp_path / "model").record.arch == "ctan"


def test_settings_that_only_training_used_may_be_renamed(tmp_path: Path, config: RunConfig) -> None:
    """All settings are recorded, but nothing of them is needed to ask a model."""
    folder = write_model(tmp_path / "model", config)
    before = load_network(folder).predict(stored_case())
    value = without_hashes(json.loads((folder / "model.json").read_text()))
    training = value["config"]["training"]
    training["epochs_of_another_name"] = training.pop("epochs")
    value["config"]["schema_version"] = 99
    (folder / "model.json").write_text(json.dumps(value))
    after = load_network(folder).predict(stored_case())
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_model_answers_the_same_whatever_becomes_of_its_data_sets_reader(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", config)
    before = load_network(folder).predict(stored_case())

    edited = SPEC.model_copy(
        update={"image": SPEC.image.model_copy(update={"mean": (0.0,), "std": (1.0,), "high": 99.0})}
    )
    monkeypatch.setattr(OpenKBP, "spec", edited)
    assert get_dataset("openkbp").spec.image.high == 99.0
    assert not np.array_equal(
        network_input(stored_case(), edited, Inputs()), network_input(stored_case(), SPEC, Inputs())
    )
    after_an_edit = load_network(folder).predict(stored_case())

    found = plugins._found
    monkeypatch.setattr(plugins, "_found", lambda group: {} if group == plugins.DATASETS else found(group))
    with pytest.raises(ConfigError, match="unknown 'openkbp'"):
        get_dataset("openkbp")
    without_it = load_network(folder).predict(stored_case())
    for name in before:
        assert np.array_equal(before[name], after_an_edit[name])
        assert np.array_equal(before[name], without_it[name])
