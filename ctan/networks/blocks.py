"""Building blocks for 2D and 3D: normalisation, residual blocks, resampling.

`B` batch, `C` channels, `S` spatial axes (`HW` or `DHW`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ctan.config import NetworkConfig
from ctan.networks.convolutions import Conv2d, Conv3d, Deconv2d, Deconv3d

Norm = Callable[[int], nn.Module]
_CONVS: dict[int, type[Conv2d] | type[Conv3d]] = {2: Conv2d, 3: Conv3d}
_DECONVS: dict[int, type[Deconv2d] | type[Deconv3d]] = {2: Deconv2d, 3: Deconv3d}
_NUM_GROUPS = 8


def _plainly_strided(x: Tensor) -> Tensor:
    """Return a tensor (N, C, S), copied where PyTorch would not see by its strides that its channels are last.

    The first stride says nothing of one case, and is small after a transposition or `x[None]`.
    """
    if len(x) != 1 or x.stride(0) >= x[0].numel():
        return x
    return x.clone(memory_format=_channels_last(x) if _is_channels_last(x) else torch.contiguous_format)


def _channels_last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=_channels_last(x))


def _with_right_gradient(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the batch norm of a tensor whose gradient is right.

    In the gradient of one case that is contiguous PyTorch (2.13, CPU) takes channels last with a small first stride for
    contiguous and reads other values (`findings/batch-norm-gradient-of-one-case.sh`).
    """
    x = _plainly_strided(x)
    y = norm(x)
    if y.requires_grad and len(y) == 1 and not _is_channels_last(x):
        y.register_hook(_plainly_strided)
    return y


class InstanceNorm(nn.Module):
    """Affine instance normalisation of (B, C, S), statistics in float32.

    On a CPU the library's kernel leaves the channels-last format; batch normalisation of one case at a time is the
    same function and stays in it.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():  # one case at a time would fix the batch
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        cases = [_with_right_gradient(self._of_one, case) for case in x.split(1)]
        return cases[0] if len(cases) == 1 else torch.cat(cases)

    def _of_one(self, case: Tensor) -> Tensor:
        return functional.batch_norm(case, None, None, self.weight, self.bias, training=True, eps=self.eps)


class _BatchNorm:
    def forward(self, x: Tensor) -> Tensor:
        return _with_right_gradient(super().forward, x)  # type: ignore[misc]


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Pictures."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Volumes."""


_BATCH_NORMS: dict[int, type[BatchNorm2d] | type[BatchNorm3d]] = {2: BatchNorm2d, 3: BatchNorm3d}


def make_norm(config: NetworkConfig, has_image_head: bool) -> Norm:
    """Return the normalisation layer's constructor.

    Instance norm right before global pooling makes the pooled features constant, so that group norm takes its place
    wherever a task has an image-level head.
    """
    if config.norm == "batch":
        return _BATCH_NORMS[config.spatial_dims]
    if config.norm == "group" or has_image_head:
        return lambda channels: nn.GroupNorm(_num_groups(channels), channels)
    return InstanceNorm


def _num_groups(channels: int) -> int:
    return next(groups for groups in range(min(_NUM_GROUPS, channels), 0, -1) if channels % groups == 0)


def conv(dims: int, num_in: int, num_out: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Module:
    """Return a convolution with He initialisation and padding that keeps the size at stride 1."""
    layer = _CONVS[dims](num_in, num_out, kernel, stride, kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`."""

    def __init__(self, dims: int, num_in: int, num_out: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(dims, num_in, num_out, 3, stride), norm(num_out)
        self.conv2, self.norm2 = conv(dims, num_out, num_out), norm(num_out)
        plain = num_in == num_out and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Sequential(conv(dims, num_in, num_out, 1, stride), norm(num_out))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Stage(nn.Module):
    """One encoder stage: two residual blocks; returns `u` (after the first) and `p` (after the last)."""

    recompute = False

    def __init__(self, dims: int, num_in: int, num_out: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.first = ResidualBlock(dims, num_in, num_out, norm, stride)
        self.last = ResidualBlock(dims, num_out, num_out, norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return recomputed(self._compute, x) if self.recompute and self.training else self._compute(x)

    def _compute(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.first(x)
        return u, self.last(u)


def recomputed(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """Call a function without random numbers and keep of it what went in: it is called again on the way back."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def make_upsample(kind: str, dims: int, num_in: int, num_out: int) -> nn.Module:
    """Return what doubles the grid and changes the channels: `deconv`, or `nearest`/`trilinear` and a convolution."""
    if kind == "deconv":
        layer = _DECONVS[dims](num_in, num_out, 2, 2, bias=False)
        nn.init.normal_(layer.weight, std=(2 / num_in) ** 0.5)  # each output voxel sees num_in inputs
        return layer
    mode = {"nearest": "nearest", "trilinear": "trilinear" if dims == 3 else "bilinear"}[kind]
    upsample = nn.Upsample(scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else False)
    return nn.Sequential(conv(dims, num_in, num_out, 1), upsample)


def make_downsample(kind: str, dims: int, num_in: int, num_out: int, norm: Norm) -> nn.Module:
    """Return `f`: 3x3 convolution, norm, ReLU, halving the grid by `stride` or, as published, by max `pool` after."""
    if kind == "stride":
        return nn.Sequential(conv(dims, num_in, num_out, 3, 2), norm(num_out), nn.ReLU(inplace=True))
    pool = (nn.MaxPool2d if dims == 2 else nn.MaxPool3d)(2)
    return nn.Sequential(conv(dims, num_in, num_out), norm(num_out), nn.ReLU(inplace=True), pool)


def space_to_depth(x: Tensor) -> Tensor:
    """Move every 2x2(x2) block into channels: (B, C, S) to (B, 2^dims * C, S/2)."""
    dims = x.ndim - 2
    halves = list(chain.from_iterable((size // 2, 2) for size in x.shape[2:]))
    blocks = x.reshape(*x.shape[:2], *halves)
    order = [0, *range(3, 3 + 2 * dims, 2), 1, *range(2, 2 + 2 * dims, 2)]
    return blocks.permute(order).reshape(x.shape[0], -1, *(size // 2 for size in x.shape[2:]))


def depth_to_space(x: Tensor) -> Tensor:
    """Undo `space_to_depth`: (B, 2^dims * C, S) to (B, C, 2 S)."""
    dims = x.ndim - 2
    channels = x.shape[1] // 2**dims
    blocks = x.reshape(x.shape[0], *[2] * dims, channels, *x.shape[2:])
    order = [0, dims + 1, *chain.from_iterable((dims + 2 + axis, 1 + axis) for axis in range(dims))]
    return blocks.permute(order).reshape(x.shape[0], channels, *(2 * size for size in x.shape[2:]))
