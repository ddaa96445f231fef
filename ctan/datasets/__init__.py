"""Data sets: one module a raw format. `get_dataset` finds them, `open_source` gives their raw files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctan.datasets.base import Case, Dataset, RawCase
from ctan.datasets.openkbp import OpenKBP
from ctan.errors import ConfigError, DataError

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (OpenKBP(),)}

_PHANTOM_DEFAULTS = {"train": 12, "validation": 4, "seed": 0}
_PHANTOM_HELP = "phantoms such as phantom:train=12,validation=4,seed=0 (every part may be left out)"


def get_dataset(name: str) -> Dataset:
    """Return the data set of that name.

    Raises:
        ConfigError: listing the known names.
    """
    if name not in DATASETS:
        raise ConfigError(f"dataset: unknown {name!r}; allowed: {', '.join(DATASETS)}")
    return DATASETS[name]


@contextmanager
def open_source(source: str, dataset: Dataset) -> Iterator[Path]:
    """Yield the folder of raw files that `source` names.

    Args:
        source: a folder, or `phantom:train=12,validation=4,seed=0`, which is written to a temporary folder: the same
            bytes wherever it runs.
        dataset: whose raw format it is.

    Raises:
        DataError: when the folder does not exist.
        ConfigError: when the phantom's numbers are not understood.
    """
    if not source.startswith("phantom:") and source != "phantom":
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise DataError(f"source: {source!r} is not a folder; give the folder of raw files, or {_PHANTOM_HELP}")
        yield folder
        return
    numbers = parse_phantom(source)
    with tempfile.TemporaryDirectory(prefix="ctan-phantom-") as folder_name:
        folder = Path(folder_name)
        dataset.write_phantoms(folder, numbers["train"], numbers["validation"], numbers["seed"])
        yield folder


def parse_phantom(source: str) -> dict[str, int]:
    """Return the numbers of a phantom source: `train`, `validation` (cases) and `seed`.

    Raises:
        ConfigError: naming the part that is not understood.
    """
    numbers = dict(_PHANTOM_DEFAULTS)
    for part in filter(None, source.partition(":")[2].split(",")):
        name, _, value = (text.strip() for text in part.partition("="))
        least = 0 if name == "seed" else 1
        if name not in numbers or not value.isdecimal() or int(value) < least:
            raise ConfigError(f"source: cannot read {part!r} in {source!r}; expected {_PHANTOM_HELP}")
        numbers[name] = int(value)
    return numbers


__all__ = ["DATASETS", "Case", "Dataset", "RawCase", "get_dataset", "open_source", "parse_phantom"]
