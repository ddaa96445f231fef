"""A network that sees patches: it predicts larger images in windows, and learns with coarser outputs."""

from __future__ import annotations

import pytest
import torch

from ctan.cases.windows import window_places, window_weights
from ctan.config import RunConfig
from ctan.errors import ConfigError
from ctan.networks import Network, count_macs
from tests.helpers.networks import CHANNELS, DENSE, DIAGNOSIS, build, image, shake

PATCH = (8, 16, 16)


def shaken(arch: str, **changes: object) -> Network:
    network = build(arch, **changes)
    shake(network)
    return network


@pytest.mark.parametrize("arch", ["stl", "hps", "mtan", "ctan"])
def test_a_large_image_is_predicted_in_windows_of_what_the_network_learned_from(arch: str) -> None:
    network, whole = shaken(arch, patch_shape=PATCH), shaken(arch)
    x = image()
    with torch.no_grad():
        found, window = network(x), network(x[:, :, :8])
        assert torch.equal(window["dose"], whole(x[:, :, :8])["dose"])
        weights = torch.from_numpy(window_weights(PATCH))
        expected, total = torch.zeros_like(found["dose"]), torch.zeros(16, 16, 16)
        for place in window_places((16, 16, 16), PATCH):
            expected[(..., *place)] += whole(x[(slice(None), slice(None), *place)])["dose"] * weights
            total[place] += weights
    assert len(list(window_places((16, 16, 16), PATCH))) == 3
    torch.testing.assert_close(found["dose"], expected / total)
    assert count_macs(network, (1, CHANNELS, 16, 16, 16)) == 3 * count_macs(network, (1, CHANNELS, *PATCH))


def test_what_tasks_exchange_is_shown_of_the_middle() -> None:
    network = shaken("ctan", patch_shape=PATCH)
    with torch.no_grad():
        found, middle = network.exchanged(image()), network.exchanged(image()[:, :, 4:12])
    assert found is not None
    assert middle is not None
    assert found.stages == middle.stages


def test_windows_are_blended_in_float32_whatever_the_network_computes_in() -> None:
    network = shaken("hps", patch_shape=PATCH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(image())["dose"].dtype == torch.float32


def test_a_diagnosis_is_not_made_from_patches() -> None:
    with pytest.raises(ConfigError, match=r"network.patch_shape: diagnosis is told of the whole image"):
        build("ctan", (*DENSE, DIAGNOSIS), patch_shape=PATCH)


@pytest.mark.parametrize("shape", [[16, 16], [16, 16, 20], [16, 16, 8]])
def test_a_patch_that_does_not_fit_the_network_is_refused(shape: list[int]) -> None:
    values = {"network": {"patch_shape": shape, "num_stages": 4}}
    with pytest.raises(ValueError, match=r"network.patch_shape .*: expected 3 multiples of 8 from 16 on"):
        RunConfig.model_validate(values)


@pytest.mark.parametrize("arch", ["stl", "hps", "mtan", "ctan"])
def test_deep_supervision_has_an_output_a_level_in_training_and_changes_no_prediction(arch: str) -> None:
    network, plain = build(arch, num_stages=4, deep_supervision=9), build(arch, num_stages=4)
    x = image()
    weights = {name: value for name, value in network.state_dict().items() if "coarser" not in name}
    plain.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(network(x)["dose"], plain(x)["dose"])
        assert network.take_coarser() == {"contouring": [], "dose": []}
    outputs = network.train()(x)
    coarser = network.take_coarser()
    assert [raw.shape for raw in coarser["contouring"]] == [outputs["contouring"].shape] * 2
    assert network.take_coarser() == {"contouring": [], "dose": []}
    (coarser["dose"][1].square().mean()).backward()
    reached = [name for name, p in network.named_parameters() if p.grad is not None and "coarser_outputs" in name]
    assert all("dose" in name and ".1." in name for name in reached)
    assert len(reached) == 2


def test_deep_supervision_needs_a_decoder_a_task() -> None:
    with pytest.raises(ValueError, match=r"network.deep_supervision: .*decoder_attention"):
        build("mtan", deep_supervision=1, decoder_attention=True)


@pytest.mark.parametrize("arch", ["stl", "hps", "mtan", "ctan"])
def test_activations_computed_again_give_the_same_gradients_bit_for_bit(arch: str) -> None:
    found = []
    for again in (False, True):
        network = shaken(arch).train()
        if again:
            network.recompute_activations()
        sum(output.square().mean() for output in network(image(batch=2)).values()).backward()
        found.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
