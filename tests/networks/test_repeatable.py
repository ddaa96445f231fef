"""Equal steps have equal, finite, right gradients, whatever the memory held before, in bf16 and in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ctan.networks import build_network
from ctan.networks.blocks import conv
from ctan.precision import Precision, autocast
from tests.helpers.networks import CHANNELS, DENSE, image, small

CPU = torch.device("cpu")


def leave_nan_in_freed_memory() -> None:
    """A kernel that reads what it did not write must not find zeros there by chance."""
    for size in (1_000, 20_000, 200_000):
        blocks = [torch.full((size,), torch.nan) for _ in range(3)]
        del blocks


def gradients(module: nn.Module, x: Tensor, precision: Precision) -> list[Tensor]:
    """Return the gradients of every parameter after one step on fixed targets."""
    module.zero_grad(set_to_none=True)
    leave_nan_in_freed_memory()
    with autocast(CPU, precision):
        outputs = module(x)
    generator = torch.Generator().manual_seed(1)
    values = outputs.values() if isinstance(outputs, dict) else [outputs]
    loss = torch.stack([(y.float() * torch.randn(y.shape, generator=generator)).mean() for y in values]).sum()
    leave_nan_in_freed_memory()
    loss.backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [4, 8, 12, 16])
@pytest.mark.parametrize("dims", [2, 3])
def test_equal_steps_have_equal_finite_gradients(dims: int, width: int, precision: Precision) -> None:
    torch.manual_seed(0)
    config = small(dims, base_width=width, max_width=2 * width, io_stride=2)  # the deepest stage has 2 voxels an axis
    network = build_network("ctan", DENSE, CHANNELS, config)
    first, *others = [gradients(network, image(dims), precision) for _ in range(3)]
    assert len(first) > 50
    assert all(bool(gradient.isfinite().all()) for gradient in first)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("dims", "shape"), [(2, (4, 6)), (3, (1, 4, 6)), (3, (2, 4, 6)), (3, (2, 3, 3)), (3, (4, 2, 2))]
)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("channels", [4, 16, 24])
def test_gradients_of_a_convolution_are_those_of_double_precision(
    channels: int, kernel: int, stride: int, dims: int, shape: tuple[int, ...], precision: Precision
) -> None:
    if stride == 2 and any(size % 2 for size in shape):
        pytest.skip("networks halve even grids only")
    torch.manual_seed(0)
    layer = conv(dims, channels, 8, kernel, stride)
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    x = torch.randn(2, channels, *shape).contiguous(memory_format=last)
    (found,) = gradients(layer, x, precision)
    plain = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, 8, kernel, stride, kernel // 2, bias=False).double()
    plain.load_state_dict(layer.state_dict())
    (expected,) = gradients(plain, x.double(), "fp32")
    error = (found - expected).norm() / expected.norm()
    assert error < (1e-5 if precision == "fp32" else 2e-2)
