"""Networks: STL, HPS, MTAN and CTAN, one architecture a module, on one backbone.

All share encoder widths, decoders and heads, so that only the sharing differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctan.config import NetworkConfig
from ctan.errors import ConfigError
from ctan.networks.backbone import Network
from ctan.networks.count import count_macs, count_parameters
from ctan.networks.ctan import CrossTaskAttention
from ctan.networks.hps import HardParameterSharing
from ctan.networks.mtan import MultiTaskAttention
from ctan.networks.stl import SingleTask
from ctan.tasks import Task

NETWORKS: dict[str, type[Network]] = {
    "stl": SingleTask,
    "hps": HardParameterSharing,
    "mtan": MultiTaskAttention,
    "ctan": CrossTaskAttention,
}


def build_network(arch: str, tasks: Sequence[Task], in_channels: int, config: NetworkConfig) -> Network:
    """Build an untrained network from torch's global random state.

    Args:
        arch: one of `NETWORKS`.
        tasks: what is predicted.
        in_channels: of the image.
        config: widths, depth and options.

    Raises:
        ConfigError: for an unknown architecture.
    """
    if arch not in NETWORKS:
        raise ConfigError(f"arch: unknown architecture {arch!r}; allowed: {', '.join(NETWORKS)}")
    return NETWORKS[arch](tasks, in_channels, config)


__all__ = ["NETWORKS", "Network", "build_network", "count_macs", "count_parameters"]
