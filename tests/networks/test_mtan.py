"""MTAN against the equations, recomputed from its weights with plain functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers.networks import DENSE, build, has_gradient, image, shake


def instance_norm(x: Tensor, norm: torch.nn.Module) -> Tensor:
    return functional.instance_norm(x, weight=norm.weight, bias=norm.bias)


def mask_by_hand(mask: torch.nn.Module, seen: Tensor) -> Tensor:
    """sigmoid(norm(conv1x1(ReLU(norm(conv1x1(seen))))))"""
    conv1, norm1, _, conv2, norm2 = mask.layers
    hidden = instance_norm(functional.conv3d(seen, conv1.weight), norm1).relu()
    return instance_norm(functional.conv3d(hidden, conv2.weight), norm2).sigmoid()


@pytest.mark.parametrize("down", ["stride", "pool"])
def test_masks_follow_the_equations(down: str) -> None:
    network = build("mtan", mask_down=down).double()
    shake(network)
    with torch.no_grad():
        us, ps = network.encoder(image().double())
        for task in DENSE:
            expected = [mask_by_hand(network.masks[task.name][0], us[0]) * ps[0]]
            for i in (1, 2):
                conv, norm = network.downs[i - 1][:2]
                stride = 2 if down == "stride" else 1
                f = instance_norm(functional.conv3d(expected[-1], conv.weight, stride=stride, padding=1), norm).relu()
                f = f if down == "stride" else functional.max_pool3d(f, 2)
                expected.append(mask_by_hand(network.masks[task.name][i], torch.cat([us[i], f], 1)) * ps[i])
            for ours, by_hand in zip(network.attend(us, ps, task.name), expected, strict=True):
                assert torch.allclose(ours, by_hand, atol=1e-10)


def test_heads_read_the_masked_features_of_their_task() -> None:
    network = build("mtan")
    shake(network)
    with torch.no_grad():
        masked = network.attend(*network.encoder(image()), "dose")
        assert torch.allclose(network(image())["dose"], network.heads["dose"](masked, masked[-1]), atol=1e-6)


def test_the_way_down_is_shared_and_masks_are_not() -> None:
    network = build("mtan").train()
    network(image())["dose"].square().mean().backward()
    assert has_gradient(network.downs)
    assert has_gradient(network.encoder)
    assert has_gradient(network.masks["dose"])
    assert not has_gradient(network.masks["contouring"])


def test_masks_lie_between_zero_and_one() -> None:
    network = build("mtan")
    shake(network)
    u, p = (x[0] for x in network.encoder(image()))
    mask = network.masks["dose"][0]([u])
    assert mask.shape == p.shape
    assert 0 < mask.min() < mask.max() < 1


def test_the_middle_of_a_mask_is_reduced() -> None:
    for reduction in (2, 4):
        network = build("mtan", mask_reduction=reduction)
        assert network.masks["dose"][2].layers[0].weight.shape[0] == 8 // reduction


@pytest.mark.parametrize("dims", [2, 3])
def test_decoder_attention_shares_one_decoder(dims: int) -> None:
    network = build("mtan", dims=dims, decoder_attention=True).train()
    outputs = network(image(dims))
    assert {name: output.shape[2:] for name, output in outputs.items()} == {t.name: (16,) * dims for t in DENSE}
    outputs["dose"].square().mean().backward()
    assert has_gradient(network.shared_decoder.trunk)
    assert has_gradient(network.shared_decoder.masks["dose"])
    assert not has_gradient(network.shared_decoder.masks["contouring"])
