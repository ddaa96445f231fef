"""Networks: STL, HPS, MTAN and CTAN, one architecture a module, on one backbone.

All share encoder widths, decoders and heads, so that only the sharing differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctan import plugins
from ctan.config import NetworkConfig
from ctan.networks.backbone import Network
from ctan.networks.count import count_macs, count_parameters
from ctan.tasks import Task


def build_network(arch: str, tasks: Sequence[Task], in_channels: int, config: NetworkConfig) -> Network:
    """Build an untrained network from torch's global random state.

    Args:
        arch: its name, of ctan's own or of another package (`ctan.plugins`).
        tasks: what is predicted.
        in_channels: of the image.
        config: widths, depth and options.

    Raises:
        ConfigError: for an unknown architecture.
    """
    made: type[Network] = plugins.load(plugins.NETWORKS, arch, "arch")
    return made(tasks, in_channels, config)


__all__ = ["Network", "build_network", "count_macs", "count_parameters"]
