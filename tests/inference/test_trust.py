"""Calibrated probabilities, and whether a new case could be one that was learned from: at the rates that are said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctan.cases import StoredCase
from ctan.cases.geometry import Geometry
from ctan.datasets import get_dataset
from ctan.inference import load_network
from ctan.inference.fingerprint import BOTTLENECK, MEASURES, Seen, embedded, fingerprint, in_words, judge, measures
from ctan.inference.load import LoadedModel
from ctan.metrics import calibration_error, fit_temperature
from ctan.metrics.novelty import most_unusual, unusually_large
from ctan.records import Calibration, ModelRecord
from ctan.tasks import Classification
from tests.helpers.tracking import GRID, small_config, write_model

SPEC = get_dataset("openkbp").spec
NATIVE = (32, 48, 48)


def case(rng: np.random.Generator, targets: tuple[str, ...] = tuple(SPEC.targets)) -> tuple[StoredCase, Geometry]:
    """Return a patient: a ball of tissue with a bone in it and targets, in a room of air."""
    z, y, x = np.indices(GRID)
    size = rng.normal(4.5, 0.2)
    radius = np.sqrt(((z - 3.5) * 1.4) ** 2 + (y - 5.5) ** 2 + (x - 5.5) ** 2)
    body = radius < size
    image = np.where(body, rng.normal(1050, 5) + rng.normal(0, 10, GRID), 0)
    image[radius < 1.5] += rng.normal(400, 20)
    masks = np.zeros((len(SPEC.structures), *GRID), bool)
    for number, name in enumerate(targets):
        masks[SPEC.structures.index(name)] = radius < rng.normal(1.6 + 0.6 * number, 0.15)
    spacing = float(rng.normal(2.0, 0.05))
    stored = StoredCase(
        case_id="case",
        group_id="case",
        split="train",
        fold=0,
        image={"ct": np.clip(np.rint(image), 0, 4095).astype(np.int16)},
        masks=masks,
        known=np.ones(len(SPEC.structures), bool),
        dose=np.zeros(0, np.float32),
        possible_dose=body,
        dose_known=np.zeros(0, bool),
        target_distance=np.zeros(GRID, np.int8),
        spacing_mm=(8.0, 8.0, 8.0),
        labels={},
        prescription_gy=70.0,
    )
    ratio = 8.0 / spacing
    corner = tuple((native - size * ratio) / 2 for native, size in zip(NATIVE, GRID, strict=True))
    return stored, Geometry(NATIVE, (spacing,) * 3, GRID, (8.0, 8.0, 8.0), corner)


def shifted_scanner(stored: StoredCase, geometry: Geometry) -> tuple[StoredCase, Geometry]:
    image = stored.image["ct"]
    return replace(stored, image={"ct": np.where(image > 724, image + 60, image).astype(np.int16)}), geometry


def other_spacing(stored: StoredCase, geometry: Geometry) -> tuple[StoredCase, Geometry]:
    return stored, replace(geometry, native_spacing_mm=(2.0, 2.0, 4.0))


def missing_target(stored: StoredCase, geometry: Geometry) -> tuple[StoredCase, Geometry]:
    masks = stored.masks.copy()
    masks[SPEC.structures.index("PTV63")] = False
    return replace(stored, masks=masks), geometry


def noise(stored: StoredCase, geometry: Geometry) -> tuple[StoredCase, Geometry]:
    image = stored.image["ct"]
    noisy = image + np.random.default_rng(5).normal(0, 60, GRID)
    return replace(stored, image={"ct": np.where(image > 724, noisy, image).astype(np.int16)}), geometry


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A network with the fingerprint of 60 cases that it learned from and 60 that it did not."""
    plain = load_network(write_model(tmp_path_factory.mktemp("model") / "m", small_config()))
    rng = np.random.default_rng(1)
    known = fingerprint(plain, (Seen(*case(rng), number >= 60) for number in range(120)), 60)
    return replace(plain, record=plain.record.model_copy(update={"fingerprint": known}))


def test_one_case_in_twenty_of_the_same_kind_is_called_unusual(model: LoadedModel) -> None:
    rng = np.random.default_rng(2)
    judged = [judge(model, *case(rng)) for _ in range(200)]
    assert all(set(found) == {MEASURES, BOTTLENECK} for found in judged)
    alarms = sum(any(one.outside for one in found.values()) for found in judged)
    assert alarms <= 20, "5% of 200 are 10; more than 20 has a probability of 2 in 1,000"
    assert alarms >= 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (shifted_scanner, "value 50%"),
        (other_spacing, "spacing 2 (mm) is 4"),
        (missing_target, "has PTV63 is 0, in training 1"),
        (noise, "roughness"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_unlike_the_training_cases_is_found_and_named(model: LoadedModel, change: object, word: str) -> None:
    rng = np.random.default_rng(3)
    judged = [judge(model, *change(*case(rng))) for _ in range(40)]
    found = [one for one in judged if any(view.outside for view in one.values())]
    assert len(found) >= 38
    assert sum(word in " ".join(in_words(one)) for one in found) >= 36


def test_the_commonest_value_is_that_of_soft_tissue_whatever_else_a_patient_is_made_of() -> None:
    stored, geometry = case(np.random.default_rng(0))
    image, found = stored.image["ct"], []
    for share in (0.0, 0.2, 0.4):
        fat = (image > 724) & (np.random.default_rng(1).random(GRID) < share)
        with_fat = replace(stored, image={"ct": np.where(fat, 920, image).astype(np.int16)})
        found.append(measures(with_fat, geometry, SPEC))
    assert np.ptp([one["value 25%"] for one in found]) > 100
    assert np.ptp([one["commonest value"] for one in found]) < 6 < 1030 < found[0]["commonest value"] < 1070


def test_a_model_without_a_fingerprint_says_nothing(model: LoadedModel) -> None:
    older = replace(model, record=model.record.model_copy(update={"fingerprint": None}))
    assert judge(older, *case(np.random.default_rng(0))) == {}


def test_the_bottleneck_is_the_mean_of_the_deepest_features(model: LoadedModel) -> None:
    import torch

    from ctan.inputs import network_input
    from ctan.networks.backbone import Encoder

    stored, _ = case(np.random.default_rng(0))
    (encoder,) = [module for module in model.network.modules() if isinstance(module, Encoder)]
    with torch.no_grad():
        _, deepest = encoder(torch.from_numpy(network_input(stored, model.spec, model.inputs)[None]))
    expected = deepest[-1][0].flatten(1).mean(1).numpy()
    np.testing.assert_allclose(embedded(model, stored), expected, rtol=1e-5, atol=1e-7)


def test_the_fingerprint_survives_the_file_and_older_files_have_none(tmp_path: Path, model: LoadedModel) -> None:
    model.record.save(tmp_path)
    assert ModelRecord.load(tmp_path).fingerprint == model.record.fingerprint
    value = model.record.to_json()
    del value["fingerprint"], value["calibration"]
    older = ModelRecord.from_json(value | {"format_version": 3}, "model.json")
    assert (older.fingerprint, dict(older.calibration), older.inputs) == (None, {}, model.record.inputs)


# ---- the statistics


@pytest.mark.parametrize("n", [10, 25, 39, 120])
@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
def test_false_alarms_stay_at_the_level_or_at_what_few_cases_allow(n: int, heavy: bool) -> None:
    """Over 400 samples of 15 correlated features."""
    rng = np.random.default_rng(n)

    def draw(number: int) -> np.ndarray:
        shared = rng.normal(size=(number, 1))
        return rng.standard_t(3, size=(number, 15)) if heavy else 0.6 * shared + rng.normal(size=(number, 15))

    alarms = sum(most_unusual(draw(n), draw(1)[0], np.full(15, 1e-3), 0.05).p <= 0.05 for _ in range(400))
    allowed = max(0.05, 1 / (n + 1)) if heavy else 0.05
    assert alarms <= 400 * allowed + 3 * np.sqrt(400 * allowed * (1 - allowed))


def test_with_too_few_cases_nothing_is_said() -> None:
    assert most_unusual(np.zeros((7, 2)), np.array([9.0, 9.0]), np.ones(2), 0.05) is None
    assert unusually_large(np.ones(7), 9.0, 0.05) is None


def test_a_constant_feature_is_not_called_unusual_for_a_rounding() -> None:
    sample = np.full((50, 1), 2.0)
    rounded = most_unusual(sample, np.array([2.0001]), np.array([0.01]), 0.05)
    assert abs(rounded.deviations[0]) < 0.1
    assert most_unusual(sample, np.array([2.5]), np.array([0.01]), 0.05).p == pytest.approx(1 / 51)


# ---- calibration


def test_a_temperature_makes_overconfident_probabilities_true() -> None:
    rng = np.random.default_rng(0)

    def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
        logits = 2 * rng.normal(size=(number, 4))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return 2.5 * logits, np.array([rng.choice(4, p=share) for share in shares])

    fitted = fit_temperature(*drawn(2000))
    assert fitted.temperature == pytest.approx(2.5, rel=0.1)
    logits, labels = drawn(2000)  # others

    def error(temperature: float) -> float:
        scaled = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
        shares = scaled / scaled.sum(axis=1, keepdims=True)
        return calibration_error(shares.max(axis=1), shares.argmax(axis=1) == labels, 10)

    assert error(fitted.temperature) < 0.04 < 0.1 < error(1.0)


def test_a_handful_of_cases_that_are_all_right_does_not_make_a_network_sure() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]] * 2
    assert 0.5 < fit_temperature(logits, np.array([0, 1, 2, 0])).temperature < 1
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) is None


def test_cases_without_the_label_are_left_out(model: LoadedModel) -> None:
    task = Classification("diagnosis", ("a", "b"))
    stored, _ = case(np.random.default_rng(0))
    cases = [replace(stored, labels={"diagnosis": "a"}), stored]
    assert task.fitted_temperature(np.array([[3.0, 0.0], [0.0, 3.0]], np.float32), cases).num_cases == 1


def test_a_temperature_of_the_record_divides_the_logits(tmp_path: Path) -> None:
    import torch

    from tests.helpers.prediction import untrained_model

    plain = load_network(untrained_model(tmp_path / "m", "ham10000", [32, 32], None), test_time_flip=False)
    known = Calibration(temperature=2.0, num_cases=9, log_loss=(1, 1), calibration_error=(0, 0))
    sure = replace(plain, record=plain.record.model_copy(update={"calibration": {"diagnosis": known}}))
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    logits = torch.from_numpy(plain.raw_arrays(image)["diagnosis"])
    found = sure.predict_batch(image)
    np.testing.assert_allclose(found["diagnosis"], (logits / 2).softmax(1).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(found["lesion"], plain.predict_batch(image)["lesion"])
