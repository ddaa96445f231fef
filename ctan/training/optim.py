"""Optimiser, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ctan.config import TrainingConfig


def make_optimizer(network: nn.Module, weighting: nn.Module, config: TrainingConfig) -> AdamW:
    """Return AdamW; no weight decay on norms, biases (all parameters of one axis) and task weights."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1] + list(weighting.parameters()), "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, fused=True)


def make_schedule(optimizer: AdamW, num_steps: int, config: TrainingConfig) -> LambdaLR:
    """Return linear warm-up over `warmup_fraction` of `num_steps`, then a cosine to `min_learning_rate`."""
    num_warmup = max(1, round(config.warmup_fraction * num_steps))
    floor = config.min_learning_rate / config.learning_rate

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        done = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


class MovingAverage(AveragedModel):
    """The exponential moving average of the weights, decay `min(largest_decay, (1 + n) / (10 + n))` at update n.

    The number of updates stays in host memory: PyTorch's own class asks the device for it in every step.
    """

    def __init__(self, network: nn.Module, largest_decay: float) -> None:
        super().__init__(network)
        self.largest_decay = largest_decay

    @torch.no_grad()
    def update_parameters(self, network: nn.Module) -> None:
        """Take the present weights into the average; buffers as they are."""
        n = int(self.n_averaged)
        share = 1 - min(self.largest_decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(list(self.module.parameters()), list(network.parameters()), share)
        for averaged, current in zip(self.module.buffers(), network.buffers(), strict=True):
            averaged.copy_(current)
        self.n_averaged += 1


def make_ema(network: nn.Module, config: TrainingConfig) -> MovingAverage:
    """Return the moving average of the weights."""
    return MovingAverage(network, config.ema_decay)


def clip_gradients(parts: Iterable[list[nn.Parameter]], largest_norm: float) -> None:
    """Clip the gradient norm of each independent part: single-task networks do not share a norm."""
    for part in parts:
        nn.utils.clip_grad_norm_(part, largest_norm)
