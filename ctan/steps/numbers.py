"""Numbers of a step that KFP and MLflow show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Metrics = dict[str, float]


def numbers_of(values: Mapping[str, Any], prefix: str = "") -> Metrics:
    """Return the finite numbers of a nested mapping, flat, with names that KFP and MLflow both take."""
    flat: Metrics = {}
    for key, value in values.items():
        name = f"{prefix}{key}".rstrip(".")  # the total among the losses has no name of its own
        if isinstance(value, Mapping):
            flat |= numbers_of(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
            flat[name] = float(value)
    return flat
