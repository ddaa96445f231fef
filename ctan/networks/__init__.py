"""Networks: STL, HPS, MTAN and CTAN, one architecture a module, on one backbone.

All share encoder widths, decoders and heads, so that only the sharing differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError

from ctan import plugins
from ctan.config import NetworkConfig, Settings
from ctan.config_errors import explain
from ctan.errors import ConfigError
from ctan.networks.backbone import Exchange, Network
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
        ConfigError: for an unknown architecture, or options that it does not have.
    """
    return _made(arch)(tasks, in_channels, config, options_of(arch, config))


def options_of(arch: str, config: NetworkConfig) -> Settings:
    """Return an architecture's own options in full.

    Raises:
        ConfigError: for an unknown architecture; naming the option that it does not have, and those it has.
    """
    options = _made(arch).Options
    try:
        return options.model_validate(config.options.get(arch, {}))
    except ValidationError as error:
        raise ConfigError(explain(error, options, f"network.options.{arch}")) from error


def with_options(arch: str, config: NetworkConfig) -> NetworkConfig:
    """Return the settings of one architecture alone, with its own options in full: what builds it again for ever."""
    own = options_of(arch, config).model_dump(mode="json")
    return config.model_copy(update={"options": {arch: own} if own else {}})


def _made(arch: str) -> type[Network]:
    return cast(type[Network], plugins.load(plugins.NETWORKS, arch, "arch"))


__all__ = ["Exchange", "Network", "build_network", "count_macs", "count_parameters", "options_of", "with_options"]
