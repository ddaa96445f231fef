"""Optimiser, learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ctan.config import TrainingConfig

Tensors = list[Tensor] | tuple[Tensor, ...]


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


def make_ema(network: nn.Module, config: TrainingConfig) -> AveragedModel:
    """Return the exponential moving average of the weights, decay `min(ema_decay, (1 + n) / (10 + n))` at update n."""

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(config.ema_decay, (1 + n) / (10 + n)))

    return AveragedModel(network, multi_avg_fn=average)


def clip_gradients(parts: Iterable[list[nn.Parameter]], largest_norm: float) -> None:
    """Clip the gradient norm of each independent part: single-task networks do not share a norm."""
    for part in parts:
        nn.utils.clip_grad_norm_(part, largest_norm)
