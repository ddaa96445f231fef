"""Data sets: one package a raw format. `get_dataset` finds them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from ctan.config import DataConfig
from ctan.datasets.base import Dataset
from ctan.errors import ConfigError

DATASETS: dict[str, str | Callable[[DataConfig], Dataset]] = {
    "openkbp": "ctan.datasets.openkbp.reader:OpenKBP",
    "prostate": "ctan.datasets.prostate.reader:Prostate",
    "ham10000": "ctan.datasets.ham10000.reader:HAM10000",
    "stoic": "ctan.datasets.stoic.reader:STOIC",
}  # name -> what makes it from its settings, or module:class of that


def get_dataset(config: DataConfig | str) -> Dataset:
    """Return the data set that the settings name.

    Args:
        config: settings of the data set, or its name for the default ones.

    Raises:
        ConfigError: listing the known names.
    """
    name = config if isinstance(config, str) else config.dataset
    if name not in DATASETS:
        raise ConfigError(f"dataset: unknown {name!r}; allowed: {', '.join(DATASETS)}")
    settings = DataConfig.model_validate({"dataset": name}) if isinstance(config, str) else config
    make = DATASETS[name]
    if isinstance(make, str):
        module, _, cls = make.partition(":")
        return cast(Dataset, getattr(import_module(module), cls)(settings))
    return make(settings)


__all__ = ["DATASETS", "Dataset", "get_dataset"]
