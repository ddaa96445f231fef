"""Cross-stitch networks: Misra, Shrivastava, Gupta, Hebert, CVPR 2016."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ctan.config import NetworkConfig, Settings
from ctan.networks import Network
from ctan.networks.backbone import Encoder, make_heads, norm_for, stage_widths
from ctan.tasks import Task


class CrossStitchOptions(Settings):
    """Options of the architecture, `network.options.cross_stitch`."""

    keep: float = Field(0.9, gt=0, le=1, description="share of its own features that a task starts with")


class CrossStitchUnit(nn.Module):
    """Mix the tasks' features channel by channel: `x'^t = sum_u a[t, u] * x^u`.

    A row of `a` starts with `keep` for the task itself, and the rest in equal parts for the others.
    """

    def __init__(self, num_tasks: int, width: int, keep: float) -> None:
        super().__init__()
        start = torch.full((num_tasks, num_tasks), (1 - keep) / max(1, num_tasks - 1))
        start.fill_diagonal_(keep if num_tasks > 1 else 1.0)
        self.mix = nn.Parameter(start[..., None].repeat(1, 1, width))  # (T, T, C)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each task's mixture, (B, C, S) each, from every task's features."""
        mix = self.mix.to(features[0].dtype).reshape(*self.mix.shape, *[1] * (features[0].ndim - 2))
        mixed = []
        for row in mix:
            total = row[0] * features[0]
            for weight, feature in zip(row[1:], features[1:], strict=True):
                total = total + weight * feature
            mixed.append(total)
        return mixed


class CrossStitch(Network):
    """An encoder and a decoder or head per task; a cross-stitch unit after every encoder stage."""

    Options = CrossStitchOptions
    options: CrossStitchOptions

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__(tasks, in_channels, config, options)
        norm = norm_for(tasks, config)
        self.encoders = nn.ModuleDict({task.name: Encoder(in_channels, norm, config) for task in tasks})
        self.units = nn.ModuleList(
            CrossStitchUnit(len(tasks), width, self.options.keep) for width in stage_widths(config)
        )
        self.heads = make_heads(tasks, norm, config)

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """Predict every task; skips and bottom are the task's own mixtures."""
        features = [x] * len(self.task_names)
        skips: dict[str, list[Tensor]] = {name: [] for name in self.task_names}
        for depth, unit in enumerate(self.units):
            stages = [cast(Encoder, self.encoders[name])[depth] for name in self.task_names]
            features = unit([stage(own)[1] for stage, own in zip(stages, features, strict=True)])
            for name, mixed in zip(self.task_names, features, strict=True):
                skips[name].append(mixed)
        return {name: self.heads[name](skips[name], skips[name][-1]) for name in self.task_names}
