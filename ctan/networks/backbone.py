"""What all four architectures share: encoder, decoders, heads, and the contract of a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ctan.cases.windows import window_places, window_weights
from ctan.config import NetworkConfig, NoOptions, Settings
from ctan.errors import ConfigError
from ctan.networks.blocks import (
    Norm,
    ResidualBlock,
    Stage,
    conv,
    depth_to_space,
    make_norm,
    make_upsample,
    recomputed,
    space_to_depth,
)
from ctan.tasks import Task


def stage_widths(config: NetworkConfig) -> list[int]:
    """Return the channels of each stage: `w_i = min(w_1 2^(i-1), w_max)`."""
    return [min(config.base_width * 2**i, config.max_width) for i in range(config.num_stages)]


def norm_for(tasks: Sequence[Task], config: NetworkConfig) -> Norm:
    """Return the normalisation of a network for these tasks."""
    return make_norm(config, any(task.head == "image" for task in tasks))


class Encoder(nn.ModuleList):
    """The shared trunk: `num_stages` stages, every one but the first halves the grid."""

    def __init__(self, in_channels: int, norm: Norm, config: NetworkConfig) -> None:
        widths = stage_widths(config)
        num_in = [in_channels * config.io_stride**config.spatial_dims, *widths[:-1]]
        super().__init__(
            Stage(config.spatial_dims, channels, width, norm, stride=1 if i == 0 else 2)
            for i, (channels, width) in enumerate(zip(num_in, widths, strict=True))
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return `u_i` and `p_i` of every stage; (B, w_i, S / 2^(i-1)) each."""
        us, ps = [], []
        for stage in self:
            u, x = stage(x)
            us.append(u)
            ps.append(x)
        return us, ps


class DecoderLevel(nn.Module):
    """Upsample, concatenate the skip, residual block."""

    recompute = False

    def __init__(self, num_below: int, width: int, norm: Norm, config: NetworkConfig) -> None:
        super().__init__()
        self.up = make_upsample(config.upsample, config.spatial_dims, num_below, width)
        self.block = ResidualBlock(config.spatial_dims, 2 * width, width, norm)

    def forward(self, below: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Return the upsampled features and the block's output, (B, width, S) each."""
        return (
            recomputed(self._compute, below, skip) if self.recompute and self.training else self._compute(below, skip)
        )

    def _compute(self, below: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        up = self.up(below)
        return up, self.block(torch.cat([up, skip], dim=1))


class DecoderTrunk(nn.ModuleList):
    """Decoder levels, the deepest first."""

    def __init__(self, norm: Norm, config: NetworkConfig) -> None:
        widths = stage_widths(config)
        super().__init__(
            DecoderLevel(below, width, norm, config) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, skips: Sequence[Tensor], bottom: Tensor) -> list[Tensor]:
        """Return the features of every level, the first at the resolution of the first skip, (B, w_1, S)."""
        levels = [bottom]
        for level, skip in zip(self, reversed(skips[:-1]), strict=True):
            levels.append(level(levels[-1], skip)[1])
        return levels[::-1]


class DenseOutput(nn.Module):
    """1x1 convolution to the task's outputs, at the resolution of the network's input."""

    def __init__(self, task: Task, config: NetworkConfig) -> None:
        super().__init__()
        self.io_stride = config.io_stride
        num_outputs = task.num_outputs * config.io_stride**config.spatial_dims
        self.conv = conv(config.spatial_dims, stage_widths(config)[0], num_outputs, 1, bias=True)
        _start(self.conv, task, config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return depth_to_space(x) if self.io_stride == 2 else x


def _start(layer: nn.Module, task: Task, config: NetworkConfig) -> None:
    if task.starts_rare:
        odds = config.foreground_prior / (1 - config.foreground_prior)
        nn.init.constant_(cast(Tensor, layer.bias), math.log(odds))
        return
    nn.init.constant_(cast(Tensor, layer.bias), config.map_prior)
    with torch.no_grad():
        cast(Tensor, layer.weight).mul_(config.map_gain)


class DenseHead(nn.Module):
    """U-Net decoder and output of one dense task; in training, with deep supervision, outputs of coarser levels too.

    Attributes:
        coarser: raw outputs of the last call's coarser levels at full resolution, the finest first.
    """

    def __init__(self, task: Task, norm: Norm, config: NetworkConfig) -> None:
        super().__init__()
        self.task_name, self.coarser = task.name, list[Tensor]()
        self.trunk = DecoderTrunk(norm, config)
        self.output = DenseOutput(task, config)
        self.coarser_outputs = nn.ModuleList()
        for width in stage_widths(config)[1:-1][: config.deep_supervision]:
            layer = conv(config.spatial_dims, width, task.num_outputs, 1, bias=True)
            _start(layer, task, config)
            self.coarser_outputs.append(layer)

    def forward(self, skips: Sequence[Tensor], bottom: Tensor) -> Tensor:
        return self.read(self.trunk(skips, bottom))

    def read(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the raw output from the features of every level of the decoder, see `DecoderTrunk`."""
        finest, *coarser = levels
        output: Tensor = self.output(finest)
        self.coarser = []
        if self.training:
            mode = "bilinear" if output.ndim == 4 else "trilinear"
            for layer, features in zip(self.coarser_outputs, coarser, strict=False):
                raw = functional.interpolate(layer(features), output.shape[2:], mode=mode, align_corners=False)
                self.coarser.append(raw)
        return output


class ImageHead(nn.Module):
    """Global average and max pool of the deepest features, dropout, linear."""

    def __init__(self, task: Task, config: NetworkConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(2 * stage_widths(config)[-1], task.num_outputs)

    def forward(self, skips: Sequence[Tensor], bottom: Tensor) -> Tensor:
        x = bottom.flatten(2)
        return self.linear(self.dropout(torch.cat([x.mean(2), x.amax(2)], dim=1)))


def make_head(task: Task, norm: Norm, config: NetworkConfig) -> nn.Module:
    """Return the decoder or head of a task; it reads `(skips of every stage, bottom)`."""
    return DenseHead(task, norm, config) if task.head == "dense" else ImageHead(task, config)


def make_heads(tasks: Sequence[Task], norm: Norm, config: NetworkConfig) -> nn.ModuleDict:
    """Return a head for every task, by name."""
    return nn.ModuleDict({task.name: make_head(task, norm, config) for task in tasks})


@dataclass(frozen=True)
class Exchange:
    """What tasks take from each other, for one image.

    Attributes:
        stages: from the first to the deepest: `"task<-other"` -> norm of what the task receives over the norm of its
            own view.
        entropy: `"task<-other"` -> mean entropy of the attention in the bottleneck, in proportion to looking everywhere
            alike: 0 for one place, 1 for all; empty without attention.
        attention: `"task<-other"` -> (bottleneck grid) where a task looks in the other's features, mean over its places
            and heads; sums to 1.
    """

    stages: tuple[Mapping[str, float], ...]
    entropy: Mapping[str, float]
    attention: Mapping[str, npt.NDArray[np.float32]]


class Network(nn.Module):
    """Base of the architectures: `network(image) -> {task name: raw output}`.

    Another package adds one by the entry point `[project.entry-points."ctan.networks"] name = "module:Class"`.

    Attributes:
        Options: the architecture's own settings, `network.options.<name>`.

    Args:
        tasks: what is predicted, at least one, names unique.
        in_channels: of the image.
        config: widths, depth and what else all architectures share.
        options: the architecture's own settings; None for the default ones.
    """

    version: ClassVar[int] = 1  # raise it when the same settings, weights and input give another output
    Options: ClassVar[type[Settings]] = NoOptions
    options: Settings

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__()
        names = [task.name for task in tasks]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a network needs tasks with unique names, got {names}")
        self.task_names, self.in_channels, self.config = tuple(names), in_channels, config
        self.options = options or self.Options()
        of_images = [task.name for task in tasks if task.head != "dense"]
        if config.patch_shape and of_images:
            raise ConfigError(
                f"network.patch_shape: {', '.join(of_images)} is told of the whole image, which a patch does not show; "
                f"leave it out"
            )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict every task.

        Args:
            image: (B, in_channels, S); every axis divisible by `io_stride * 2^(num_stages - 1)`.

        Returns:
            raw outputs in the order of the tasks: (B, num_outputs, S) for dense tasks, (B, num_outputs) for others.

        Raises:
            ValueError: when the image does not fit.
        """
        self._check(image)
        patch = self.config.patch_shape
        if patch and not self.training and any(size > most for size, most in zip(image.shape[2:], patch, strict=True)):
            return self._in_windows(image, patch)
        return self._at_once(image)

    def _at_once(self, image: Tensor) -> dict[str, Tensor]:
        x = space_to_depth(image) if self.config.io_stride == 2 else image
        if image.device.type == "cpu":  # one memory format end to end: oneDNN's bf16 convolutions want channels last
            x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
        return self.predict(x)

    def _in_windows(self, image: Tensor, patch: Sequence[int]) -> dict[str, Tensor]:
        """Return the outputs of overlapping windows, blended in float32 whatever the network computes in."""
        shape = image.shape[2:]
        window = [min(sizes) for sizes in zip(shape, patch, strict=True)]
        weights = torch.from_numpy(window_weights(window)).to(image.device, image.dtype)
        total, sums = image.new_zeros(shape), dict[str, Tensor]()
        for place in window_places(shape, window):
            outputs = self._at_once(image[(slice(None), slice(None), *place)])
            total[place] += weights
            for name, output in outputs.items():
                if name not in sums:
                    sums[name] = image.new_zeros(*output.shape[:2], *shape)
                sums[name][(slice(None), slice(None), *place)] += output.to(image.dtype) * weights
        return {name: value / total for name, value in sums.items()}

    def central_patch(self, image: Tensor) -> Tensor:
        """Return what the network sees at once in the middle of an image (B, C, S)."""
        for axis, most in enumerate(self.config.patch_shape or (), start=2):
            size = min(most, image.shape[axis])
            image = image.narrow(axis, (image.shape[axis] - size) // 2, size)
        return image

    def take_coarser(self) -> dict[str, list[Tensor]]:
        """Return the raw outputs of the coarser levels in the last call, by task, and forget them."""
        found = {}
        for module in self.modules():
            if isinstance(module, DenseHead):
                found[module.task_name], module.coarser = module.coarser, []
        return found

    def recompute_activations(self) -> None:
        """Keep no activations inside of stages and decoder levels in training: they are computed again."""
        for module in self.modules():
            if isinstance(module, Stage | DecoderLevel):
                module.recompute = True

    @abstractmethod
    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """Predict from the image after space-to-depth."""

    def exchanged(self, image: Tensor) -> Exchange | None:
        """Return what the tasks take from each other for one image (1, in_channels, S); None where they share all."""
        del image
        return None

    def independent_parts(self) -> list[list[nn.Parameter]]:
        """Return the parameters by parts, each clipped by its own gradient norm: what tasks share, then each head.

        Clipped together, a task with large gradients would make the steps of another's decoder small.
        """
        heads = self._modules.get("heads")
        own = [list(head.parameters()) for head in heads.children()] if heads is not None else []
        taken = {id(parameter) for part in own for parameter in part}
        return [[p for p in self.parameters() if id(p) not in taken], *own]

    def _check(self, image: Tensor) -> None:
        divisor = self.config.io_stride * 2 ** (self.config.num_stages - 1)
        dims = self.config.spatial_dims
        expected = f"(B, {self.in_channels}, {', '.join([f'multiple of {divisor}'] * dims)})"
        fits = image.ndim == dims + 2 and image.shape[1] == self.in_channels
        if not fits or any(size % divisor for size in image.shape[2:]):
            raise ValueError(f"the network expects an image {expected}, found {tuple(image.shape)}")
