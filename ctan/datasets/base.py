"""What every data set module provides, and `Case`, the one form raw data takes after reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ctan.config import ValidationConfig
from ctan.tasks import Task

SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST = "train", "validation", "test"
POSSIBLE_DOSE_MASK = "possible_dose_mask"


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
        images: the data set's image by name, see `ImageSpec`. Volumes are (posterior, left, inferior), pictures
            (row, column); `"ct"` is (D, H, W) uint16, 0..4095, HU is about value - 1024; `"rgb"` is (3, H, W) uint8.
        masks: name -> bool array; contoured structures and `"possible_dose_mask"`. A structure that was not
            contoured has no entry.
        doses: `"dose"` -> float32 Gy; empty where the data set has none.
        labels: name -> class label of image-level tasks; a label that is not known has no entry.
        facts: further columns of the manifest, see `Dataset.facts`; what is not known has no entry.
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
    facts: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return next(iter(self.images.values())).shape[-len(self.spacing_mm) :]


@dataclass(frozen=True)
class ImageSpec:
    """The image every case of a data set has, and how a network sees it.

    A network's input is `(clip(value, low, high) - mean) / std`, channel by channel.

    Attributes:
        name: key in `Case.images`.
        dtype: of the raw values in the store, `"uint16"` or `"uint8"`.
        num_channels: with more than one, arrays have a leading channel axis.
        low, high: window of values.
        mean, std: one number, or one a channel.
        outside: raw value outside the image.
        unit: of the raw values, for tables and plots.
    """

    name: str
    dtype: Literal["uint16", "uint8"]
    num_channels: int
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outside: int
    unit: str


# CT as stored: HU + 1024 clipped to 0..4095; the network sees (clip(v, 0, 2524) - 1024) / 1000.
CT = ImageSpec("ct", "uint16", 1, low=0, high=2524, mean=(1024,), std=(1000,), outside=0, unit="HU + 1024")


@dataclass(frozen=True)
class Augmentation:
    """Which random changes leave a case of the data set plausible; how often is a setting (`TrainingConfig`).

    Attributes:
        flip_axes: axes that may be mirrored, counted from the first spatial one.
        left_right_axis: the axis whose mirroring swaps paired structures; None where sides do not matter.
        rotate_plane: the two axes of rotations; None for none.
        rotate_step_degrees: rotations are multiples of this; 0: any angle.
        max_rotate_degrees: largest angle.
        max_scale: largest change of size, such as 0.1.
        colour: random brightness, contrast and colour balance.
    """

    flip_axes: tuple[int, ...] = ()
    left_right_axis: int | None = None
    rotate_plane: tuple[int, int] | None = None
    rotate_step_degrees: float = 0.0
    max_rotate_degrees: float = 180.0
    max_scale: float = 0.0
    colour: bool = False


@dataclass(frozen=True)
class Expectation:
    """One thing that must hold of a manifest.

    Attributes:
        name: short and unique, such as `"spacing"`.
        sentence: what is expected, in words.
        unit: of the observed values.
        type: name of the class in `great_expectations.expectations`.
        arguments: of that class.
        about_cases: False when it is about the table as a whole.
    """

    name: str
    sentence: str
    unit: str
    type: str
    arguments: Mapping[str, Any]
    about_cases: bool = True


def between(name: str, column: str, low: float | None, high: float | None, unit: str, sentence: str) -> Expectation:
    """Return the expectation that the values of a column lie in a range (None: no bound; null values pass)."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Expectation(name, sentence, unit, "ExpectColumnValuesToBeBetween", arguments)


class Dataset(Protocol):
    """One raw format. A new data set is one module that offers this and a line in `ctan.datasets.DATASETS`.

    Its class is made from the settings of the data set (`DataConfig`). It may also say which files it reads
    (`ListsFiles`); the version of a folder is then made of these, otherwise of all files whose names have no dot ahead.
    """

    name: str
    spatial_dims: Literal[2, 3]
    image: ImageSpec
    structures: tuple[str, ...]  # every structure a case may have, organs at risk first, then targets
    targets: Mapping[str, float]  # target structure -> prescribed dose in Gy
    has_dose: bool  # every case has `doses["dose"]` and `masks["possible_dose_mask"]`
    labels: Mapping[str, tuple[str, ...]]  # image-level label -> its classes
    facts: Mapping[str, Literal["string", "float64"]]  # further columns of the manifest, such as age
    strata: tuple[str, ...]  # columns of the manifest (`label_<name>` or facts) that folds are balanced by
    keeps_native: bool  # the store keeps native images, to score against and to draw
    whole_image: bool  # the working grid shows the whole image, resized, instead of a part around the patient
    augmentation: Augmentation
    licence: str  # and source, in a line; printed with contact sheets

    def tasks(self) -> tuple[Task, ...]:
        """Return the tasks to learn."""

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the cases of a folder in a stable order. `split` is empty when there is no official split.

        Raises:
            DataError: when the folder is missing or holds no case, or a table about all cases is damaged.
        """

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say what a person should know about this copy as a whole, a sentence each; usually nothing."""

    def read(self, raw: RawCase) -> Case:
        """Read one case, strictly.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return what must hold of this data set's manifest beyond what holds of all."""

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write small synthetic cases in exactly this raw format, the same bytes for the same arguments.

        Args:
            output_dir: folder to write into.
            num_train: cases of the training split.
            num_validation: cases of the validation split; without an official split the numbers are added up.
            seed: another seed gives other cases.
            defects: names of things to spoil, one in a case each, for tests.
        """


File = Path | os.DirEntry[str]  # both know their `stat`; an entry of a folder costs a third of a path


@runtime_checkable
class ListsFiles(Protocol):
    """What a data set may offer besides, so that a folder's version depends on what is read of it and nothing else."""

    tables: tuple[str, ...]  # files about all cases, below the raw folder: small, edited by hand, always read anew

    def files(self, raw_dir: Path) -> Iterable[File]:
        """List every file of `raw_dir` but the tables that decides what `find` and `read` return.

        Quick, without opening files; in any order; paths begin with `raw_dir`. A folder that holds no case gives none.
        """


@runtime_checkable
class RecognisesFiles(ListsFiles, Protocol):
    """A `ListsFiles` that knows its files by their content, whatever they are called."""

    def is_read(self, path: Path) -> bool:
        """Say whether `read` makes use of one of `files`; asked once for each content."""
