"""Settings of earlier versions, brought to the present form.

A file of settings says its `schema_version`; one without any may be of the first version or written today: each
migration changes only what it finds in the old form.
"""

from __future__ import annotations

from typing import Any

from ctan.config import SETTINGS_VERSION
from ctan.errors import ConfigError

# Options of single architectures stood among the settings of all (version 1): option -> (default, who has it).
_OPTIONS_IN_NETWORK: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mask_reduction": (4, ("mtan", "ctan")),
    "mask_down": ("stride", ("mtan", "ctan")),
    "decoder_attention": (False, ("mtan",)),
    "ctae": (True, ("ctan",)),
    "ctae_exchange": ("add", ("ctan",)),
    "ctae_residual": (True, ("ctan",)),
    "ctab": (True, ("ctan",)),
    "ctab_heads": (4, ("ctan",)),
    "ctab_pos": ("none", ("ctan",)),
    "ctab_self": (False, ("ctan",)),
    "ctab_ffn": (False, ("ctan",)),
}


def migrate_settings(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return settings in the present form.

    Args:
        values: as read from YAML or JSON.
        where: they come from, for messages.

    Raises:
        ConfigError: when they were written by a later ctan.
    """
    version = values.get("schema_version", 1)
    if not isinstance(version, int) or not 1 <= version <= SETTINGS_VERSION:
        raise ConfigError(
            f"{where}: schema_version {version!r}; this ctan reads 1 to {SETTINGS_VERSION}, use the ctan that wrote it"
        )
    values = {name: value for name, value in values.items() if name != "schema_version"}
    values = _without_bootstrap(_dicom_to_options(values))
    network = values.get("network")
    return {**values, "network": migrate_network(network)} if isinstance(network, dict) else values


def migrate_network(network: dict[str, Any]) -> dict[str, Any]:
    """Return settings of networks with each architecture's own under `options`; what was the default is left out."""
    old = {name: value for name, value in network.items() if name in _OPTIONS_IN_NETWORK}
    present = network.get("options", {})
    if not old or not isinstance(present, dict) or not all(isinstance(own, dict) for own in present.values()):
        return network
    options = {arch: dict(own) for arch, own in present.items()}
    for name, value in old.items():
        default, archs = _OPTIONS_IN_NETWORK[name]
        for arch in archs if value != default else ():
            options.setdefault(arch, {}).setdefault(name, value)
    return {name: value for name, value in network.items() if name not in old} | {"options": options}


def _without_bootstrap(values: dict[str, Any]) -> dict[str, Any]:
    """`evaluation.num_bootstrap` (version 1) was a number of resamples: intervals no longer take any."""
    scored = values.get("evaluation")
    if not isinstance(scored, dict) or "num_bootstrap" not in scored:
        return values
    return {**values, "evaluation": {name: value for name, value in scored.items() if name != "num_bootstrap"}}


def _dicom_to_options(values: dict[str, Any]) -> dict[str, Any]:
    """`data.dicom` (version 1) held the settings of one data set, whichever was used: now `data.options`."""
    data = values.get("data")
    if not isinstance(data, dict) or "dicom" not in data:
        return values
    left = {name: value for name, value in data.items() if name != "dicom"}
    if left.get("dataset") == "prostate" and isinstance(data["dicom"], dict):
        left["options"] = {**data["dicom"], **left.get("options", {})}
    return {**values, "data": left}
