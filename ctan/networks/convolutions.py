"""Convolutions that keep away from oneDNN's faults and, in 3D and fp32 on a CPU, from PyTorch's slow path.

PyTorch (2.13, `use_mkldnn` in aten/src/ATen/native/Convolution.cpp) hands a float32 convolution of one case to oneDNN
only when channels times the first two axes are more than 20480, and a 1x1 convolution of one thread never. In 3D what
is left unrolls the volume into a matrix 27 times its size and leaves the channels-last format. Here such layers are
written as what oneDNN takes: sums of the same products. Under autocast the library chooses oneDNN by itself; in 2D what
is left is no slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CHANNEL_BLOCK = 16  # channels that oneDNN computes at once, the most of its kernels
_LARGE_ENOUGH = 20480  # channels x first two axes of one case, above which PyTorch asks oneDNN
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}
_DECONVOLUTIONS: dict[int, Callable[..., Tensor]] = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def in_parts(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return the convolution of one case, computed as a batch of parts along its first spatial axis.

    The parts overlap by what the kernel sees beyond them, so that no output is computed twice, and lie one after the
    other in a channels-last result.

    Args:
        x: (1, C, S).
        weight: (C', C, k, ...), the same size along every axis.
        bias: (C',).
        stride: of every axis.
        padding: zeros on each side of every axis.
    """
    kernel = weight.shape[2]
    num_planes = (x.shape[2] + 2 * padding - kernel) // stride + 1
    num_parts = _smallest_divisor(num_planes)
    step = num_planes // num_parts * stride
    parts: Tensor = _Parts.apply(x, num_parts, step, step - stride + kernel, padding)
    inner = (0, *[padding] * (x.ndim - 3))
    return _joined(_CONVOLUTIONS[x.ndim - 2](parts, weight, bias, stride, inner))


class _Parts(torch.autograd.Function):
    """Overlapping parts (N, C, size, ...) of a case (1, C, S) along its first spatial axis, zeros outside the case.

    As slices and `cat` it is the same function with twice the copies, and a gradient as large as the case for each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, num_parts: int, step: int, size: int, padding: int) -> Tensor:
        places = [_place(part * step - padding, size, x.shape[2]) for part in range(num_parts)]
        ctx.places, ctx.shape = places, x.shape
        parts = _empty_channels_last(x, num_parts, x.shape[1], size, *x.shape[3:])
        for part, (start, end, before) in zip(parts, places, strict=True):
            part[:, :before] = 0
            part[:, before : before + end - start] = x[0, :, start:end]
            part[:, before + end - start :] = 0
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        total = _empty_channels_last(gradients[0], *ctx.shape)
        done = 0
        for gradient, (start, end, before) in zip(gradients[0], ctx.places, strict=True):
            shared = max(0, min(done, end) - start)  # planes that the parts before have seen too
            total[0, :, start : start + shared] += gradient[:, before : before + shared]
            total[0, :, done:start] = 0  # that no part has seen
            total[0, :, start + shared : end] = gradient[:, before + shared : before + end - start]
            done = max(done, end)
        total[0, :, done:] = 0
        return total, None, None, None, None


def _place(start: int, size: int, most: int) -> tuple[int, int, int]:
    """Return the planes of a case, from and to, that a part of `size` planes sees, and how many zeros come before."""
    return max(0, start), min(start + size, most), max(0, -start)


def _empty_channels_last(like: Tensor, num: int, channels: int, *sizes: int) -> Tensor:
    return like.new_empty(num, *sizes, channels).movedim(-1, 1)


def deconvolved_in_parts(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the transposed convolution of one case whose stride is its kernel's size, see `in_parts`.

    Args:
        x: (1, C, S).
        weight: (C, C', k, ...).
        bias: (C',).
    """
    num_parts = _smallest_divisor(x.shape[2])
    parts = x.movedim(1, -1).reshape(num_parts, -1, *x.shape[3:], x.shape[1]).movedim(-1, 1)
    return _joined(_DECONVOLUTIONS[x.ndim - 2](parts, weight, bias, weight.shape[2]))


def _smallest_divisor(number: int) -> int:
    """Return the smallest divisor from 2 on; 1 of 1."""
    return next((divisor for divisor in range(2, number + 1) if number % divisor == 0), 1)


def _joined(parts: Tensor) -> Tensor:
    """Return parts of the first spatial axis as one case, a view of channels-last parts."""
    return parts.movedim(1, -1).reshape(1, -1, *parts.shape[3:], parts.shape[1]).movedim(-1, 1)


def as_matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> Tensor:
    """Return a 1x1 convolution (B, C', S) as a product over the channels of every voxel, in channels-last format."""
    if max(stride) > 1:
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    return functional.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def _slow_in_library(x: Tensor) -> bool:
    """Whether PyTorch asks no oneDNN for a convolution with a larger kernel than 1x1."""
    return len(x) == 1 and x.shape[1:4].numel() <= _LARGE_ENOUGH


def _is_plain_volume(x: Tensor) -> bool:
    """Whether a layer is computed in 3D, on a CPU with oneDNN, in the number format of its weights.

    A network that is exported or compiled is another program's to compute, for any number of cases: it stays plain.
    """
    if torch.compiler.is_compiling():
        return False
    in_weights_format = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return in_weights_format and x.ndim == 5 and torch.backends.mkldnn.is_available()


class _Convolution:
    """Convolution that PyTorch computes fast and right on x86 processors; the function is the library's.

    Two faults of oneDNN (3.12, in PyTorch 2.13) are avoided:

    - 3D, bf16, fewer planes than the kernel is deep: the gradient of the weights is partly never written (two planes
      and a 3x3x3 kernel; `findings/bf16-gradient-of-two-planes.sh`). Such layers, the smallest of all, compute in
      float32.
    - 1x1, stride 2, channels last, fewer channels than a block: the gradient of the weights writes past its buffer
      (uxlfoundation/oneDNN issue 6035). Taking every second voxel first is the same function.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    in_channels: int
    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)  # type: ignore[misc]
        dims = len(self.kernel_size)
        if dims == 3 and x.shape[2] < self.kernel_size[0]:
            with torch.autocast("cpu", enabled=False):
                return self._convolve(x.to(self.weight.dtype))
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:
            if _is_plain_volume(x):
                return as_matrix_product(x, self.weight, self.bias, self.stride)
            if self.stride[0] > 1 and self.in_channels < _CHANNEL_BLOCK:
                every = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
                return _CONVOLUTIONS[len(self.kernel_size)](x[every], self.weight, self.bias)
        elif _is_plain_volume(x) and _slow_in_library(x):
            return in_parts(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))
        return super().forward(x)  # type: ignore[misc]


class _Deconvolution:
    """Transposed convolution whose stride is its kernel's size, fast in fp32 on a CPU."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and _is_plain_volume(input) and _slow_in_library(input):
            return deconvolved_in_parts(input, self.weight, self.bias)
        return super().forward(input, output_size)  # type: ignore[misc]


class Conv2d(_Convolution, nn.Conv2d):
    """Pictures."""


class Conv3d(_Convolution, nn.Conv3d):
    """Volumes."""


class Deconv2d(_Deconvolution, nn.ConvTranspose2d):
    """Pictures."""


class Deconv3d(_Deconvolution, nn.ConvTranspose3d):
    """Volumes."""
