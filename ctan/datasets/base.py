"""What every data set module provides, and `Case`, the one form raw data takes after reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctan.config import DataConfig
from ctan.tasks import Task

SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST = "train", "validation", "test"


@dataclass(frozen=True)
class RawCase:
    """Where a case's raw files lie. The path never leaves the machine: no manifest or message holds it whole."""

    case_id: str
    group_id: str
    split: str
    path: Path


@dataclass(frozen=True)
class Case:
    """One case at native resolution. All arrays share one grid; axes and spacing are in the same order.

    Attributes:
        case_id: unique within the data set, such as `"pt_1"`.
        group_id: patient or lesion; never in two splits.
        split: `"train"`, `"validation"` or `"test"`; empty when the data set has no official split.
        spacing_mm: voxel edge per axis.
        images: name -> intensities, such as `"ct"`: (128, 128, 128) uint16, 0..4095, HU is about value - 1024.
        masks: name -> bool array; contoured structures and `"possible_dose_mask"`. A structure that was not
            contoured has no entry.
        doses: name -> float32 Gy.
        labels: name -> class label of image-level tasks.
        sha256: of the raw bytes (`ctan.files.sha256_of_digests`).
    """

    case_id: str
    group_id: str
    split: str
    spacing_mm: tuple[float, ...]
    images: Mapping[str, npt.NDArray[Any]]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    doses: Mapping[str, npt.NDArray[np.float32]]
    sha256: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return next(iter(self.images.values())).shape


class Dataset(Protocol):
    """One raw format. A new data set is one module that offers this and a line in `ctan.datasets.DATASETS`."""

    name: str
    structures: tuple[str, ...]  # every structure a case may have, organs at risk first, then targets
    targets: Mapping[str, float]  # target structure -> prescribed dose in Gy

    def tasks(self, config: DataConfig) -> tuple[Task, ...]:
        """Return the tasks to learn."""

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the cases of a folder in a stable order.

        Raises:
            DataError: when the folder is missing or holds no case.
        """

    def read(self, raw: RawCase) -> Case:
        """Read one case, strictly.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """

    def write_phantoms(self, output_dir: Path, num_train: int, num_validation: int, seed: int) -> None:
        """Write small synthetic cases in exactly this raw format, the same bytes for the same arguments."""
