"""What every data set module provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ctan.cases import Augmentation, Case, ImageSpec, RawCase
from ctan.config import ValidationConfig
from ctan.tasks import Task


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

    Its class is made from the settings of the data set (`DataConfig`).
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
