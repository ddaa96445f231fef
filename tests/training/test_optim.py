"""Optimiser groups, schedule, moving average and clipping against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ctan.config import TrainingConfig
from ctan.training.optim import clip_gradients, make_ema, make_optimizer, make_schedule
from ctan.training.weighting import UncertaintyWeighting


def test_norms_biases_and_task_weights_are_not_decayed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True))
    weighting = UncertaintyWeighting(["a", "b"])
    decayed, plain = make_optimizer(network, weighting, TrainingConfig(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [p.shape for p in decayed["params"]] == [network[0].weight.shape]
    assert plain["weight_decay"] == 0
    assert {id(p) for p in plain["params"]} == {
        id(network[0].bias),
        id(network[1].weight),
        id(network[1].bias),
        id(weighting.log_variance),
    }


def test_the_schedule_warms_up_then_follows_a_cosine_to_the_floor() -> None:
    config = TrainingConfig(learning_rate=1e-2, min_learning_rate=1e-4, warmup_fraction=0.1)
    network = nn.Linear(2, 2)
    optimizer = make_optimizer(network, nn.Identity(), config)
    schedule = make_schedule(optimizer, 100, config)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([1e-2 * (i + 1) / 10 for i in range(10)])
    assert rates[55] == pytest.approx(1e-4 + (1e-2 - 1e-4) * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert rates[100] == pytest.approx(1e-4)


def test_the_moving_average_warms_up_its_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    ema = make_ema(network, TrainingConfig(ema_decay=0.5))
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0, -3.0, 8.0, 1.5, 2.5, 9.0, 3.0]):
        network.weight.data.fill_(value)
        ema.update_parameters(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_each_independent_part_is_clipped_by_its_own_norm() -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4])
    clip_gradients([[a], [b]], 1.0)
    assert a.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)
    assert b.grad.tolist() == pytest.approx([0.3, 0.4])
