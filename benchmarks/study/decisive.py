"""Which settings a result stands for, so that it still counts when later versions bring further settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctan.config import RunConfig
from ctan.networks import with_options
from ctan.training.checkpoint import NOT_DECISIVE

Flat = dict[str, Any]  # dotted field -> value


def decisive(config: RunConfig, arch: str) -> Flat:
    """Return the settings that decide what a training of an architecture gives and how it is scored."""
    found = config.model_dump(
        mode="json",
        include={
            "data": {"dataset", "inputs", "signed_distance", "options"},
            "preprocess": {"grid_shape", "grid_spacing_mm"},
            "network": True,
            "training": True,
            "evaluation": {"test_time_flip"},
        },
    )
    found["network"]["options"] = with_options(arch, config.network).model_dump(mode="json")["options"]
    for name in NOT_DECISIVE:
        del found["training"][name]
    return _flat(found)


def is_still(recorded: Mapping[str, Any], now: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    """Say whether a result is what a training would give now.

    Args:
        recorded: its `decisive` settings when it was trained.
        now: those that are asked for.
        default: those of settings that say nothing. What `recorded` does not know must be at its default; what is not
            there any more decides nothing.
    """
    return all(
        recorded[name] == value if name in recorded else default.get(name) == value for name, value in now.items()
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Flat:
    found: Flat = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    return found
