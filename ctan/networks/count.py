"""Size and cost of a network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Return how many trainable parameters the network has."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Return the multiply-accumulates of one forward pass: convolutions, matrix products and attention.

    Computed on PyTorch's meta device: nothing is allocated.

    Args:
        network: on any device; it is not changed.
        input_shape: (B, C, S).
    """
    from torch.utils.flop_counter import FlopCounterMode

    on_meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(torch.empty(*input_shape, device="meta"))
    return counter.get_total_flops() // 2
