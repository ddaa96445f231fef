"""Single-task learning (STL): a network of its own for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from ctan.config import NetworkConfig, Settings
from ctan.networks.backbone import Network
from ctan.networks.hps import HardParameterSharing
from ctan.tasks import Task


class SingleTask(Network):
    """One encoder and one decoder or head per task; nothing is shared."""

    version = 1

    def __init__(
        self, tasks: Sequence[Task], in_channels: int, config: NetworkConfig, options: Settings | None = None
    ) -> None:
        super().__init__(tasks, in_channels, config, options)
        if config.norm == "instance" and any(task.head == "image" for task in tasks):
            config = config.model_copy(update={"norm": "group"})  # as in the networks it is compared with
        self.networks = nn.ModuleDict({task.name: HardParameterSharing([task], in_channels, config) for task in tasks})

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        return {name: cast(Network, self.networks[name]).predict(x)[name] for name in self.task_names}

    def independent_parts(self) -> list[list[nn.Parameter]]:
        return [list(network.parameters()) for network in self.networks.values()]
