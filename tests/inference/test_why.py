"""What answers hang on, held to what the methods promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctan.inference import load_network
from ctan.inference.load import LoadedModel
from ctan.inference.trust import mean_exchange
from ctan.inference.why import exchanged, saliency, why, without_details
from ctan.inputs import network_input
from tests.helpers.prediction import untrained_model
from tests.helpers.tracking import small_config, write_model
from tests.inference.test_trust import case


@pytest.fixture(scope="module")
def ctan(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_network(write_model(tmp_path_factory.mktemp("model") / "m", small_config(), "ctan"))


def test_integrated_gradients_sum_to_the_difference_of_the_logit(tmp_path: Path) -> None:
    """The method's axiom of completeness."""
    model = load_network(untrained_model(tmp_path / "m", "ham10000", [32, 32], None))
    y, x = np.indices((32, 32))
    lesion = ((y - 14) ** 2 + (x - 18) ** 2 < 50) * np.random.default_rng(0).normal(2, 0.5, (32, 32))
    image = np.stack([0.8 - lesion, 0.5 - 0.5 * lesion, 0.3 + 0.1 * lesion]).astype(np.float32)
    found = saliency(model, image, "diagnosis")
    logits, nothing = (model.raw_arrays(one[None])["diagnosis"][0] for one in (image, without_details(image)))
    chosen = logits.argmax()
    assert found.shape == (32, 32)
    assert found.sum() == pytest.approx(logits[chosen] - nothing[chosen], rel=0.1)


def test_the_dose_owed_to_a_target_is_what_changes_when_it_is_not_shown(ctan: LoadedModel) -> None:
    stored, _ = case(np.random.default_rng(0))
    found = why(ctan, stored)
    masks = stored.masks.copy()
    index = ctan.spec.structures.index("PTV70")
    masks[index] = False
    change = ctan.predict(stored)["dose"] - ctan.predict(replace(stored, masks=masks))["dose"]
    assert found.targets["PTV70"] == pytest.approx(np.abs(change[0][stored.possible_dose]).mean(), rel=1e-5)
    assert found.targets["PTV70"] > 0
    np.testing.assert_allclose(found.target_maps["PTV70"], change[0], atol=1e-5)
    assert found.saliency == {}


def test_what_tasks_take_from_each_other_is_that_of_the_network(ctan: LoadedModel) -> None:
    """Without its crossings and the bottleneck's output a network takes nothing; the attention is a distribution."""
    stored, _ = case(np.random.default_rng(0))
    image = network_input(stored, ctan.spec, ctan.inputs)
    found = exchanged(ctan, image)
    assert found is not None
    pairs = {"contours<-dose", "dose<-contours"}
    assert len(found.stages) == 2
    assert all(set(stage) == pairs and min(stage.values()) > 0 for stage in found.stages)
    assert {pair: attention.sum() for pair, attention in found.attention.items()} == pytest.approx(
        dict.fromkeys(pairs, 1.0), abs=1e-5
    )
    assert all(0 < value <= 1 for value in found.entropy.values())
    kept = mean_exchange([found, found])
    for pair, attention in found.attention.items():  # from the front: columns are the patient's left, rows inferior
        assert np.array(kept.attention[pair]) == pytest.approx(attention.sum(axis=0).T, abs=1e-6)
        assert np.sum(kept.attention[pair]) == pytest.approx(1, abs=1e-4)

    silent = load_network_like(ctan)
    for exchange in silent.network.exchanges:
        for crossing in exchange.crossings.values():
            torch.nn.init.zeros_(crossing[1].weight)
            torch.nn.init.zeros_(crossing[1].bias)
    quiet = exchanged(silent, image)
    assert quiet is not None
    assert all(set(stage.values()) == {0.0} for stage in quiet.stages)


def test_looking_everywhere_alike_has_the_entropy_of_one(ctan: LoadedModel) -> None:
    stored, _ = case(np.random.default_rng(0))
    blind = load_network_like(ctan)
    for layer in blind.network.bottleneck.query.values():
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    found = exchanged(blind, network_input(stored, ctan.spec, ctan.inputs))
    assert found is not None
    assert list(found.entropy.values()) == pytest.approx([1.0, 1.0], abs=1e-5)


def test_an_architecture_without_exchange_says_nothing(tmp_path: Path) -> None:
    model = load_network(write_model(tmp_path / "m", small_config(), "hps"))
    stored, _ = case(np.random.default_rng(0))
    assert exchanged(model, network_input(stored, model.spec, model.inputs)) is None


def load_network_like(model: LoadedModel) -> LoadedModel:
    """Return a copy whose weights may be changed."""
    from copy import deepcopy

    return replace(model, network=deepcopy(model.network))
