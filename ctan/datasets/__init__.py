"""Data sets: one package a raw format, found by its entry point. `get_dataset` makes one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from ctan import plugins
from ctan.config import DataConfig
from ctan.datasets.base import Dataset, Purpose
from ctan.errors import ConfigError, DataError


def get_dataset(config: DataConfig | str, purpose: Purpose = "train") -> Dataset:
    """Return the data set that the settings name.

    Args:
        config: settings of the data set, or its name for the default ones.
        purpose: what its cases are read for.

    Raises:
        ConfigError: listing the known names, or naming a setting that the data set does not have.
    """
    name = config if isinstance(config, str) else config.dataset
    made = plugins.load(plugins.DATASETS, name, "data.dataset")
    return cast(Dataset, made(DataConfig(dataset=name) if isinstance(config, str) else config, purpose))


def is_described_by_source(name: str) -> bool:
    """Return whether a data set's settings are made from its source, see `Dataset.options_from`.

    Raises:
        ConfigError: listing the known names.
    """
    made: type[Dataset] = plugins.load(plugins.DATASETS, name, "data.dataset")
    return made.options_from.__func__ is not Dataset.options_from.__func__  # type: ignore[attr-defined]


@contextmanager
def naming_another(name: str, folder: Path) -> Iterator[None]:
    """Let an error about a folder that is not of a data set's format say whose format it looks like.

    Args:
        name: the data set that was named.
        folder: of raw files.

    Raises:
        DataError: as raised inside, with the hint.
    """
    try:
        yield
    except DataError as error:
        fits = []
        for one in plugins.names(plugins.DATASETS):
            with suppress(ConfigError):  # another package's, which is broken: not what this is about
                made: type[Dataset] = plugins.load(plugins.DATASETS, one, "data.dataset")
                fits += [one] if any(any(folder.glob(sign)) for sign in made.signs) else []
        if not fits or name in fits:
            raise
        raise DataError(
            f"{error}. It looks like the format of {' or '.join(fits)}: give --dataset {fits[0]}"
        ) from error


__all__ = ["Dataset", "get_dataset", "is_described_by_source", "naming_another"]
