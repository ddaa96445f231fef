"""One file for other programs: it answers as the model, or is not written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.inference import load_network
from ctan.inference.export import export
from ctan.inference.load import LoadedModel
from ctan.prediction.exported import export_model
from ctan.records import Calibration
from tests.helpers.prediction import untrained_model
from tests.helpers.tracking import GRID, small_config, write_model


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """CTAN with exchange and attention that matter: two dense tasks in three dimensions."""
    return load_network(write_model(tmp_path_factory.mktemp("model") / "m", small_config(), "ctan"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_model(tmp_path_factory.mktemp("model") / "ham", "ham10000", [32, 32], None)


def images(number: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(number, 3, *GRID)).astype(np.float32))


def asked(path: Path, image: np.ndarray) -> list[np.ndarray]:
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        return runtime.InferenceSession(str(path)).run(None, {"image": image})
    with torch.no_grad():
        return [one.numpy() for one in torch.export.load(path).module()(torch.from_numpy(image))]


@pytest.mark.parametrize(("form", "ending"), [("torch-export", ".pt2"), ("onnx", ".onnx")])
def test_a_file_answers_as_the_model_for_any_number_of_cases(
    tmp_path: Path, volumes: LoadedModel, form: str, ending: str
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="install ctan[export]")
    path = tmp_path / f"model{ending}"
    written = export(volumes, path, form, images(2))
    assert max(written.differences.values()) < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "one file, its weights inside"
    for number in (1, 3):
        batch = np.stack(images(number))
        expected = volumes.predict_batch(batch)
        for name, found in zip(expected, asked(path, batch), strict=True):
            np.testing.assert_allclose(found, expected[name], atol=1e-4 * np.ptp(expected[name]))


def test_a_picture_model_is_exported_with_its_calibration_and_says_how_it_is_asked(
    tmp_path: Path, pictures: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="install ctan[export]")
    loaded = load_network(pictures)
    known = Calibration(temperature=3.0, num_cases=9, log_loss=(1, 1), calibration_error=(0, 0))
    loaded.record.model_copy(update={"calibration": {"diagnosis": known}}).save(pictures)
    written = export_model(str(pictures), "onnx", tmp_path / "m.onnx", 1, "phantom:train=2,validation=1,seed=0")
    assert written.num_cases == 3
    image = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    calibrated = load_network(pictures, test_time_flip=False).predict_batch(image)
    lesion, diagnosis = asked(tmp_path / "m.onnx", image)
    np.testing.assert_allclose(diagnosis, calibrated["diagnosis"], atol=1e-5)
    np.testing.assert_allclose(lesion, calibrated["lesion"], atol=1e-4)
    properties = {one.key: one.value for one in onnx.load(tmp_path / "m.onnx").metadata_props}
    described = json.loads(properties["model.json"])
    assert described["spec"] == json.loads(json.dumps(get_dataset(DataConfig(dataset="ham10000")).spec.to_json()))
    assert described["calibration"]["diagnosis"]["temperature"] == 3.0


def test_a_file_that_answers_otherwise_is_not_written(tmp_path: Path, volumes: LoadedModel) -> None:
    """A network that draws random numbers: no file of it can answer alike."""

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = volumes.network

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: raw + torch.randn_like(raw) for name, raw in self.network(image).items()}

    with pytest.raises(DataError, match=r"answers otherwise than the model: .*0.0001 is allowed; not written"):
        export(replace(volumes, network=Noisy()), tmp_path / "model.pt2", "torch-export", images(1))
    assert list(tmp_path.iterdir()) == []
