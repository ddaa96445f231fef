"""Where raw files come from: `open_source` gives the folder that a source names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import ConfigError, DataError
from ctan.workspace import workspace

if TYPE_CHECKING:
    from ctan.datasets.base import Dataset

_PHANTOM_DEFAULTS = {"train": 12, "validation": 4, "seed": 0}
_FETCHED = "s3://bucket/prefix, dvc:REPOSITORY@REVISION, dicomweb:https://host/dicom-web?QUERY"
_PHANTOM_HELP = "phantoms such as phantom:train=12,validation=4,seed=0 (every part may be left out)"


@contextmanager
def open_source(source: str, dataset: Dataset) -> Iterator[Path]:
    """Yield the folder of raw files that `source` names.

    Args:
        source: a folder; `s3://bucket/prefix` or a version that DVC pins (`dvc:REPOSITORY@REVISION[:PATH]`,
            `md5:<hex>.dir`) or studies of a DICOMweb server (`dicomweb:https://host/dicom-web?PatientID=...`),
            fetched into the workspace and checked; or `phantom:train=12,validation=4,seed=0`, which
            is written to a temporary folder: the same bytes wherever it runs.
        dataset: whose raw format it is.

    Raises:
        DataError: when there is no such folder, bucket or version, or its bytes are not those.
        ConfigError: when the source is not understood.
    """
    if source.startswith("s3://"):
        from ctan.sources.s3 import open_s3_source

        with open_s3_source(source, workspace() / "raw") as folder:
            yield folder
    elif source.startswith(("dvc:", "md5:")):
        from ctan.sources.versions import open_version

        with open_version(source, workspace() / "raw") as folder:
            yield folder
    elif source.startswith("dicomweb:"):
        from ctan.sources.dicomweb import open_dicomweb

        with open_dicomweb(source, workspace() / "raw") as folder:
            yield folder
    elif is_phantom(source):
        numbers = parse_phantom(source)
        with tempfile.TemporaryDirectory(prefix="ctan-phantom-") as folder_name:
            folder = Path(folder_name)
            dataset.write_phantoms(folder, numbers["train"], numbers["validation"], numbers["seed"])
            yield folder
    else:
        yield source_folder(source)


def is_phantom(source: str) -> bool:
    """Say whether a source is written when it is opened."""
    return source == "phantom" or source.startswith("phantom:")


def source_folder(source: str) -> Path:
    """Return the folder that a source names.

    Raises:
        DataError: when there is none.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"source: {source!r} is not a folder; give the folder of raw files, {_FETCHED}, or {_PHANTOM_HELP}"
        )
    return folder


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


__all__ = ["is_phantom", "open_source", "parse_phantom", "source_folder"]
