"""Incoming cases against those that were learned from: planted shifts are found, with no more alarms than are said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ctan.cases.working import to_working
from ctan.cli import app
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.files import read_json
from ctan.inference import load_network
from ctan.inference.fingerprint import Seen, fingerprint
from ctan.prediction.drift import compare, drift
from ctan.records import ModelRecord
from ctan.tracking.retraining import REASONS, Situation
from tests.helpers.prediction import untrained_model

NUM = 20


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Phantom pictures: those that were learned from, others of the same kind, and those made darker."""
    folder = tmp_path_factory.mktemp("pictures")
    found = {}
    for seed, name in enumerate(("known", "alike", "darker")):
        get_dataset("ham10000").write_phantoms(folder / "all" / name, NUM, 0, seed=seed)
        found[name] = folder / name
        found[name].mkdir()
        for path in (folder / "all" / name).glob("*/*.jpg"):
            shutil.copy(path, found[name])
    for path in found["darker"].iterdir():
        with Image.open(path) as picture:
            dark = picture.point([round(0.7 * value) for value in range(256)] * 3)
        dark.save(path, quality=95)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, Path]) -> Path:
    """A network of random weights with the fingerprint of 20 pictures."""
    folder = untrained_model(tmp_path_factory.mktemp("model") / "ham", "ham10000", [32, 32], None)
    loaded = load_network(folder)
    reader = get_dataset(DataConfig(dataset="ham10000"), "predict")
    grid = loaded.record.grid
    cases = [to_working(reader.read(raw), loaded.spec, grid.shape, None) for raw in reader.find(pictures["known"])]
    seen = [Seen(*case, held_out=number >= NUM) for number, case in enumerate(cases * 2)]
    record = ModelRecord.load(folder).model_copy(update={"fingerprint": fingerprint(loaded, seen, NUM)})
    record.save(folder)
    return folder


def test_darker_pictures_have_drifted_and_others_have_not(
    tmp_path: Path, model: Path, pictures: dict[str, Path]
) -> None:
    assert not drift(str(model), str(pictures["alike"]), read_ahead=False).drifted
    result = CliRunner().invoke(
        app,
        [
            "drift",
            str(model),
            str(pictures["darker"]),
            "--page",
            str(tmp_path / "d.html"),
            "--json",
            str(tmp_path / "d"),
        ],
    )
    assert result.exit_code == 3, result.output
    found = read_json(tmp_path / "d", "")
    assert found["drifted"]
    named = {feature["name"]: feature for feature in found["features"] if feature["drifted"]}
    assert "value 50% of channel 0" in named
    brighter = named["value 50% of channel 0"]
    assert brighter["now"] == pytest.approx(0.7 * brighter["then"], rel=0.05)
    assert "log extent 0" not in named
    page = (tmp_path / "d.html").read_text()
    assert "value 50% of channel 0" in page
    assert "drifted" in page
    json.dumps(found, allow_nan=False)


def test_a_threshold_leaves_out_what_is_sure_and_small() -> None:
    rng = np.random.default_rng(0)
    then, now = {"value": rng.normal(size=4000)}, {"value": rng.normal(0.2, size=4000)}
    (sure,), (small,) = compare(then, now, 0.0), compare(then, now, 0.3)
    assert (sure.drifted, small.drifted) == (True, False)
    assert sure.distance == pytest.approx(0.08, abs=0.03)  # of two normal distributions 0.2 apart: 2 Phi(0.1) - 1


@pytest.mark.parametrize("number", [10, 60])
def test_one_comparison_in_twenty_of_the_same_kind_is_called_drift(number: int) -> None:
    """Over 200 draws of 15 features, one of them there or not."""
    rng = np.random.default_rng(number)

    def draw(size: int) -> dict[str, np.ndarray]:
        shared = rng.normal(size=size)
        values = {f"value {n}": shared + rng.normal(size=size) for n in range(14)}
        return values | {"has PTV": (rng.random(size) < 0.7).astype(float)}

    alarms = sum(any(feature.drifted for feature in compare(draw(100), draw(number), 0.0)) for _ in range(200))
    assert alarms <= 20, "5% of 200 are 10; more than 20 has a probability of 2 in 1,000"


def test_a_target_that_is_missing_more_often_is_found() -> None:
    (found,) = compare({"has PTV": np.ones(60)}, {"has PTV": np.repeat([1.0, 0.0], 10)}, 0.0)
    assert (found.drifted, found.distance) == (True, 0.5)


def test_what_cannot_be_told_is_said(tmp_path: Path, model: Path, pictures: dict[str, Path]) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(pictures["alike"].iterdir())[:3]:
        shutil.copy(path, few)
    with pytest.raises(DataError, match="3 cases could be read; at least 8 are needed"):
        drift(str(model), str(few), read_ahead=False)
    older = tmp_path / "older"
    shutil.copytree(model, older)
    ModelRecord.load(older).model_copy(update={"fingerprint": None}).save(older)
    with pytest.raises(DataError, match="does not say what it learned from"):
        drift(str(older), str(few), read_ahead=False)


def test_drift_is_a_reason_to_train_again_where_somebody_looks() -> None:
    class Version:
        version = "3"

    asked: list[str] = []

    def drifted(reference: str) -> str:
        asked.append(reference)
        return "drift: image"

    nobody = Situation("ctan-ham10000", None, Version(), ())
    looked = replace(nobody, drift=drifted)
    assert (REASONS[-1](nobody), REASONS[-1](looked)) == (None, "drift: image")
    assert REASONS[-1](replace(looked, champion=None)) is None
    assert asked == ["models:/ctan-ham10000/3"]
