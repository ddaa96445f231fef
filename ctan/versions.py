"""Explicit versions of the code that decides results.

Names of stores, checkpoints and origins are made of these numbers, of settings and of data, never of source text: a
comment, a progress bar or another data set's reader changes no name. Raise a number when the same input may give
another output; `tests/project/test_versions.py` fails when the code behind a number changed and nobody decided.

Data sets, architectures and kinds of task carry a `version` of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ctan import plugins
from ctan.files import sha256_of_json
from ctan.variants import architecture_of

if TYPE_CHECKING:
    from ctan.config import RunConfig
    from ctan.datasets.base import Dataset
    from ctan.tasks import Task

DICOM = 5  # ctan/dicom: from DICOM files to arrays, the rasteriser of contours included
METAIMAGE = 1  # ctan/datasets/metaimage.py: from .mha to arrays
PICTURES = 1  # ctan/datasets/pictures.py: from PNG and JPEG to arrays
PACKER = 3  # from a case to its rows in a store
BACKBONE = 1  # what all architectures are built of
TRAINING = 4  # from a store to weights
VALIDATION = 3  # which cases pass
SCORING = 3  # from predictions to scores

Versions = dict[str, int]


def of_store(dataset: Dataset) -> Versions:
    """Return what decides the content of a store besides data and settings."""
    return {f"dataset {dataset.name}": dataset.version, **dataset.uses, "packer": PACKER}


def of_training(arch: str, tasks: Sequence[Task]) -> Versions:
    """Return what decides the weights of one training besides the store and settings."""
    kinds = {f"task {task.kind}": task.version for task in tasks}
    return {"training": TRAINING, "backbone": BACKBONE, f"network {arch}": _network(arch), **kinds}


def of_scoring(tasks: Sequence[Task]) -> Versions:
    """Return what decides scores besides model and store."""
    return {"scoring": SCORING, **{f"task {task.kind}": task.version for task in tasks}}


def of_run(dataset: Dataset, tasks: Sequence[Task], config: RunConfig) -> Versions:
    """Return all of them for one run, from raw files to scores."""
    trained: Versions = {}
    for item in config.architectures:
        trained |= of_training(architecture_of(item), tasks)
    return of_store(dataset) | {"validation": VALIDATION} | trained | of_scoring(tasks)


def sha256_of(versions: Mapping[str, int]) -> str:
    """Return the hash of versions."""
    return sha256_of_json(dict(versions))


def _network(arch: str) -> int:
    """Return an architecture's version; read from its source, for importing torch takes seconds."""
    return plugins.declared_version(plugins.NETWORKS, arch, "architectures")
