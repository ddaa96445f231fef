"""One model of every released format and data set: it still loads, and answers what its own release answered.

`tests/data/models/<release>/<data set>/` holds a model that that release trained, a case, and every second voxel of
what the release predicted for it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctan import plugins
from ctan.cases import StoredCase
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError, DataError
from ctan.inference import load_network
from ctan.inference.pyfunc import _load_pyfunc
from ctan.inputs import Inputs, network_input
from ctan.records import ModelRecord

MODELS = Path(__file__).parents[1] / "data" / "models"
FOLDERS = sorted(path.parent for path in MODELS.glob("*/*/model.json"))
RELEASE_0_1 = MODELS / "0.1"


def case_of(folder: Path) -> StoredCase:
    with np.load(folder / "case.npz") as kept:
        arrays = dict(kept)
    return StoredCase(
        case_id="case",
        group_id="case",
        split="validation",
        fold=-1,
        labels={},
        image={name.removeprefix("image_"): array for name, array in arrays.items() if name.startswith("image_")},
        spacing_mm=tuple(arrays["spacing_mm"].tolist()),
        prescription_gy=float(arrays["prescription_gy"]),
        possible_dose=arrays["dose_mask"] if folder.name == "openkbp" else ~arrays["dose_mask"],
        dose_known=arrays["dose_mask"],
        **{name: arrays[name] for name in ("masks", "known", "dose", "target_distance")},
    )


def assert_as_released(folder: Path, predicted: dict[str, np.ndarray]) -> None:
    with np.load(folder / "expected.npz") as expected:
        assert set(expected.files) == set(predicted)
        for name in expected.files:
            every_second = predicted[name][(slice(None), *[slice(None, None, 2)] * (predicted[name].ndim - 1))]
            assert expected[name].std() > 1e-3, "a constant would prove nothing"
            # Processors and libraries add float32 numbers in other orders: a few units of the largest one's last place.
            last_digits = 5e-6 * np.abs(expected[name]).max()
            np.testing.assert_allclose(every_second, expected[name], rtol=1e-4, atol=last_digits, err_msg=name)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_released_model_answers_what_its_release_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the reader of its data set, too."""
    found = plugins._found
    monkeypatch.setattr(plugins, "_found", lambda group: {} if group == plugins.DATASETS else found(group))
    with pytest.raises(ConfigError):
        get_dataset(folder.name)
    model = load_network(folder)
    assert model.record.compute_precision == "fp32"
    assert_as_released(folder, model.predict(case_of(folder)))


def test_every_data_set_of_release_0_1_is_there() -> None:
    assert {path.name for path in FOLDERS if path.parent == RELEASE_0_1} == {"openkbp", "prostate", "ham10000", "stoic"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_released_model_out_of_mlflow_comes_through_the_same_door(folder: Path) -> None:
    """What MLflow calls when it loads a model that a release logged."""
    case, record = case_of(folder), ModelRecord.load(folder)
    image = network_input(case, record.spec, record.inputs)[None]
    predicted = _load_pyfunc(str(folder)).predict({"image": image})
    straight = load_network(folder).predict_batch(image)
    assert all(np.array_equal(predicted[name], straight[name]) for name in straight)


def test_a_released_model_written_again_is_of_the_present_format_and_answers_the_same(tmp_path: Path) -> None:
    folder = RELEASE_0_1 / "openkbp"
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    ModelRecord.load(folder).save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["format_version"] == 4
    assert_as_released(folder, load_network(tmp_path).predict(case_of(folder)))


def test_what_a_model_of_0_1_did_not_say_of_its_inputs_comes_from_its_settings() -> None:
    openkbp, prostate = (ModelRecord.load(RELEASE_0_1 / name) for name in ("openkbp", "prostate"))
    assert (openkbp.inputs, prostate.inputs) == (
        Inputs("ct+targets", True, levels="data"),
        Inputs("ct+targets", True, mask="known", levels="data"),  # of 0.1 was cut from the dose grid
    )
    assert openkbp.in_channels == openkbp.inputs.num_channels(openkbp.spec) == 4
    assert openkbp.test_time_flip


@pytest.mark.parametrize(("dataset", "mask"), [("openkbp", "possible"), ("prostate", "known")])
def test_a_model_of_format_2_sees_the_mask_that_it_was_trained_with(dataset: str, mask: str) -> None:
    value = ModelRecord.load(RELEASE_0_1 / dataset).to_json()
    value["format_version"] = 2
    del value["inputs"]["mask"], value["inputs"]["levels"]
    inputs = ModelRecord.from_json(value, "model.json").inputs
    assert (inputs.mask, inputs.levels) == (mask, "data")


def test_planning_data_of_0_1_had_the_structures_that_its_settings_named() -> None:
    value = json.loads((RELEASE_0_1 / "prostate" / "model.json").read_text())
    # model.json of 0.1 sorted the names of settings, so that only the tasks know the order of the structures.
    dicom = {"structures": {"Bladder": ["b"], "Rectum": ["r"], "Target": ["t"], "Apex": ["a"]}, "targets": ["Target"]}
    options = {"prescription_gy": 60.0, "mirrored_pairs": []}
    value["config"]["data"]["dicom"] |= dicom | options
    value["tasks"][0] |= {"structures": ["Rectum", "Bladder", "Apex"], "mirrored_pairs": []}
    spec = ModelRecord.from_json(value, "model.json").spec
    assert spec.structures == ("Rectum", "Bladder", "Apex", "Target")
    assert spec.organs == ("Rectum", "Bladder", "Apex")
    assert spec.targets == {"Target": 60.0}
    in_order = {name: dicom["structures"][name] for name in spec.structures}
    now = get_dataset(DataConfig(dataset="prostate", options=dicom | options | {"structures": in_order})).spec
    assert spec == now, "a store packed today can be scored by a model of 0.1"


@pytest.mark.parametrize("name", ["arch", "dataset", "config", "tasks"])
def test_a_model_of_0_1_that_lacks_something_is_refused(name: str) -> None:
    value = json.loads((RELEASE_0_1 / "stoic" / "model.json").read_text())
    del value[name]
    with pytest.raises(DataError, match=f"model.json: .*lacks {name}; expected the folder that `ctan train` writes"):
        ModelRecord.from_json(value, "model.json")


def test_a_model_of_0_1_of_a_data_set_that_0_1_did_not_have_is_refused() -> None:
    value = json.loads((RELEASE_0_1 / "stoic" / "model.json").read_text()) | {"dataset": "mine"}
    with pytest.raises(DataError, match=r"model.json: release 0.1 had no data set 'mine'"):
        ModelRecord.from_json(value, "model.json")


def test_settings_of_0_1_are_put_back_in_order_for_training_again() -> None:
    record = ModelRecord.load(RELEASE_0_1 / "prostate")
    contouring = record.tasks[0]
    assert tuple(record.config["data"]["dicom"]["structures"]) == (*contouring.structures, "PTV")
