"""Hard parameter sharing (HPS): one encoder for all tasks, a decoder or head per task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ctan.config import NetworkConfig, Settings
from ctan.networks.backbone import Encoder, Network, make_heads, norm_for
from ctan.tasks import Task


class HardParameterSharing(Network):
    """Every head reads the shared features `p_i`."""

    version = 1

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__(tasks, in_channels, config, options)
        norm = norm_for(tasks, config)
        self.encoder = Encoder(in_channels, norm, config)
        self.heads = make_heads(tasks, norm, config)

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        _, p = self.encoder(x)
        return {name: self.heads[name](p, p[-1]) for name in self.task_names}
