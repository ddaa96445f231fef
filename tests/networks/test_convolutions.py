"""Layers that PyTorch computes slowly are computed as what oneDNN takes: the same numbers, and the way is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from ctan.networks import build_network, convolutions
from ctan.networks.blocks import InstanceNorm, conv, make_upsample
from ctan.networks.convolutions import as_matrix_product, deconvolved_in_parts, in_parts
from ctan.precision import autocast
from tests.helpers.networks import CHANNELS, DENSE, image, shake, small

LIBRARY: dict[int, Callable[..., Tensor]] = {2: nn.functional.conv2d, 3: nn.functional.conv3d}
DECONVOLUTION: dict[int, Callable[..., Tensor]] = {2: nn.functional.conv_transpose2d, 3: nn.functional.conv_transpose3d}


def results(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Return what a function gives and its gradients by every input, for a fixed gradient of the output."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    gradient = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return [y, *torch.autograd.grad(y, leaves, gradient)]


def check_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.parametrize("shape", [(6, 5), (8, 4, 6), (7, 4, 5), (9, 3, 4), (3, 4, 5), (2, 4, 6), (1, 4, 4)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2), (5, 1)])
def test_in_parts_a_convolution_is_the_library_s_to_1e_12(shape: tuple[int, ...], kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    dims, padding = len(shape), kernel // 2
    x = torch.randn(1, 3, *shape, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, *[kernel] * dims, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = results(lambda x, w, b: LIBRARY[dims](x, w, b, stride, padding), x, weight, bias)
    check_equal(results(lambda x, w, b: in_parts(x, w, b, stride, padding), x, weight, bias), expected)


@pytest.mark.parametrize("shape", [(6, 5), (1, 3), (4, 3, 2), (5, 2, 3), (1, 2, 3)])
def test_in_parts_a_transposed_convolution_is_the_library_s_to_1e_12(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dims = len(shape)
    x = torch.randn(1, 3, *shape, dtype=torch.float64)
    weight, bias = torch.randn(3, 4, *[2] * dims, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = results(lambda x, w, b: DECONVOLUTION[dims](x, w, b, 2), x, weight, bias)
    check_equal(results(deconvolved_in_parts, x, weight, bias), expected)


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_as_a_matrix_product_a_1x1_convolution_is_the_library_s_to_1e_12(shape: tuple[int, ...], stride: int) -> None:
    torch.manual_seed(0)
    dims = len(shape)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, *[1] * dims, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = results(lambda x, w, b: LIBRARY[dims](x, w, b, stride), x, weight, bias)
    check_equal(results(lambda x, w, b: as_matrix_product(x, w, b, [stride] * dims), x, weight, bias), expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")
@pytest.mark.parametrize("batch", [1, 2])
def test_in_fp32_no_convolution_of_a_volume_takes_the_slow_path(batch: int) -> None:
    network = build_network("ctan", DENSE, CHANNELS, small())
    given = image(batch=batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.stack([y.square().mean() for y in network(given).values()]).sum().backward()
    names = {event.name for event in profile.events()}
    assert "aten::mkldnn_convolution" in names
    assert {name for name in names if "slow" in name} == set()


@pytest.mark.parametrize("arch", ["stl", "ctan"])
def test_activations_of_volumes_stay_channels_last_from_end_to_end(arch: str) -> None:
    network, left = build_network(arch, DENSE, CHANNELS, small()), []

    def note(module: nn.Module, _: object, y: Tensor) -> None:
        if not y.is_contiguous(memory_format=torch.channels_last_3d):
            left.append(module)

    layers = [m for m in network.modules() if isinstance(m, InstanceNorm | nn.Conv3d | nn.ConvTranspose3d)]
    for layer in layers:
        layer.register_forward_hook(note)
    network(image())
    assert len(layers) > 50
    assert left == []


@pytest.mark.parametrize("upsample", ["deconv", "nearest"])
def test_a_whole_network_has_the_library_s_gradients_to_1e_12(upsample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("ctan", DENSE, CHANNELS, small(upsample=upsample)).double()
    shake(network)

    def gradients() -> Tensor:
        network.zero_grad()
        torch.stack([y.square().mean() for y in network(image().double()).values()]).sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    found = gradients()
    monkeypatch.setattr(convolutions, "_is_plain_volume", lambda x: False)
    expected = gradients()
    assert not torch.equal(found, expected)  # another order of the sums
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_under_bfloat16_the_library_chooses() -> None:
    layer, x = conv(3, 4, 8), torch.randn(1, 4, 6, 6, 6)
    up = make_upsample("deconv", 3, 4, 8)
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.equal(layer(x), nn.functional.conv3d(x, cast(Tensor, layer.weight), padding=1))
        assert torch.equal(up(x), nn.functional.conv_transpose3d(x, cast(Tensor, up.weight), stride=2))
