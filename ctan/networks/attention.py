"""The soft masks of MTAN and CTAN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctan.config import NetworkConfig
from ctan.networks.blocks import Norm, conv


class SoftMask(nn.Module):
    """`sigmoid(norm(conv1x1(ReLU(norm(conv1x1(x))))))`, middle channels `width / mask_reduction`."""

    def __init__(self, num_in: int, width: int, norm: Norm, config: NetworkConfig) -> None:
        super().__init__()
        middle = max(1, width // config.mask_reduction)
        self.layers = nn.Sequential(
            conv(config.spatial_dims, num_in, middle, 1),
            norm(middle),
            nn.ReLU(inplace=True),
            conv(config.spatial_dims, middle, width, 1),
            norm(width),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the mask in (0, 1), (B, width, S), seen from the concatenated inputs."""
        return torch.sigmoid(self.layers(torch.cat(list(inputs), dim=1) if len(inputs) > 1 else inputs[0]))
