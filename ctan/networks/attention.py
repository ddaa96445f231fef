"""The soft masks of MTAN and CTAN, and the options both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ctan.config import Settings
from ctan.networks.blocks import Norm, conv


class MaskOptions(Settings):
    """Options of architectures with soft masks."""

    mask_reduction: int = Field(4, ge=1, description="middle channels of the masks are C divided by this")
    mask_down: Literal["stride", "pool"] = Field(
        "stride", description="how f_i halves the grid; pool after the convolution is as published"
    )


class SoftMask(nn.Module):
    """`sigmoid(norm(conv1x1(ReLU(norm(conv1x1(x))))))`, middle channels `width / reduction`."""

    def __init__(self, dims: int, num_in: int, width: int, norm: Norm, reduction: int) -> None:
        super().__init__()
        middle = max(1, width // reduction)
        self.layers = nn.Sequential(
            conv(dims, num_in, middle, 1),
            norm(middle),
            nn.ReLU(inplace=True),
            conv(dims, middle, width, 1),
            norm(width),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the mask in (0, 1), (B, width, S), seen from the concatenated inputs."""
        return torch.sigmoid(self.layers(torch.cat(list(inputs), dim=1) if len(inputs) > 1 else inputs[0]))
