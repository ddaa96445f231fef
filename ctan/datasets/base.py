"""What a data set brings: one class a raw format, found by its entry point (`ctan.plugins`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from ctan.cases import Case, DataSpec, Prediction, RawCase
from ctan.cases.expectation import Expectation, between
from ctan.config import DataConfig, NoOptions, Settings, ValidationConfig
from ctan.config_errors import explain
from ctan.datasets.listing import File, files_below
from ctan.datasets.outputs import Asked, Record, write_plain, write_table
from ctan.errors import ConfigError

__all__ = ["Dataset", "Expectation", "NoOptions", "between"]  # what a reader needs, in one place
Purpose = Literal["train", "predict"]


class Dataset(ABC):
    """One raw format: how its cases are described, found and read. All else has defaults.

    Another package adds one by the entry point `[project.entry-points."ctan.datasets"] name = "module:Class"`.

    Attributes:
        name: as in the entry point.
        version: of the reader. Raise it when the same raw files give another case: stores are made anew.
        uses: versions of shared code that the reader is built on, by name.
        to_train, to_predict: parts that a case must have, in the format's own words (`"dose.csv"`, `"RTSTRUCT"`), to be
            learned from, and to be predicted. The reader asks `missing` for those of its purpose, and leaves out what
            it does not need and does not find.
        Options: the data set's own settings, `data.options`.
        not_decisive: those of them that change nothing about a case, such as where a key lies.
        tables: files about all cases, below the raw folder: small, edited by hand, always read anew.
        signs: patterns of paths below a raw folder, any of which shows that it is of this format: for a hint where
            another data set was named.
        looks_inside: whether the data set knows its files by their content (`is_read`), whatever they are called.
        reads_volumes: `find` takes plain volumes (NIfTI) to predict; else any model of volumes is asked by their own
            reader, `ctan.datasets.folder.plain`.
        masks_may_be_empty: a structure may be known not to be there; else an empty mask is a fault of its case.
        profiles: what a packaged profile (`"smoke"`, `"cpu"`, `"gpu"`, `"gpu-short"`, which is like `"gpu"`; `"*"` for
            all) sets otherwise for this data set, in the form of a settings file.

    Args:
        config: settings; None for the default ones.
        purpose: what cases are read for. To predict, `find` also takes a single file or a single case's folder, asks
            for no table, split or label, and `read` makes a case without the truth.

    Raises:
        ConfigError: when `data.options` are not settings of this data set.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    uses: ClassVar[Mapping[str, int]] = {}
    to_train: ClassVar[tuple[str, ...]] = ()
    to_predict: ClassVar[tuple[str, ...]] = ()
    not_decisive: ClassVar[frozenset[str]] = frozenset()
    Options: ClassVar[type[Settings]] = NoOptions
    tables: ClassVar[tuple[str, ...]] = ()
    signs: ClassVar[tuple[str, ...]] = ()
    looks_inside: ClassVar[bool] = False
    reads_volumes: ClassVar[bool] = False
    masks_may_be_empty: ClassVar[bool] = False
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: DataConfig | None = None, purpose: Purpose = "train") -> None:
        self.config = config or DataConfig(dataset=self.name)
        self.purpose: Purpose = purpose
        try:
            self.options = self.Options.model_validate(self.config.options)
        except ValidationError as error:
            raise ConfigError(explain(error, self.Options, "data.options")) from error

    @property
    def decisive_options(self) -> dict[str, Any]:
        """The settings of its own that decide what a case is, all with their values."""
        return self.options.model_dump(mode="json", exclude=set(self.not_decisive))

    @property
    def pseudonyms(self) -> str:
        """What tells one key of pseudonyms from another without revealing it; empty where ids are the files' own.

        With another key everybody looks new: the table of sides refuses it.
        """
        return ""

    @property
    def needed(self) -> tuple[str, ...]:
        """The parts that a case must have for what it is read for."""
        return self.to_train if self.purpose == "train" else self.to_predict

    def missing(self, found: Container[str]) -> list[str]:
        """Return the needed parts that are not among those found."""
        return [part for part in self.needed if part not in found]

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The description of the data."""

    @abstractmethod
    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the cases of a folder in a stable order. `split` is empty when there is no official split.

        Raises:
            DataError: when the folder is missing or holds no case, or a table about all cases is damaged.
        """

    @abstractmethod
    def read(self, raw: RawCase) -> Case:
        """Read one case, strictly.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """

    def files(self, raw_dir: Path) -> Iterable[File]:
        """List every file of `raw_dir` but the tables that decides what `find` and `read` return.

        What the version of a folder is made of, so that nothing else changes it: by default all files whose names have
        no dot ahead. Quick, without opening files; in any order; paths begin with `raw_dir`. A folder that holds no
        case gives none.
        """
        return files_below(raw_dir)

    def is_read(self, path: Path) -> bool:
        """Say whether `read` makes use of one of `files`; asked, once for each content, where `looks_inside`."""
        del path
        return True

    @classmethod
    def options_from(cls, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return `data.options` as they are once the source is known; usually unchanged.

        A data set that is described by its own folder overrides this: the settings of a run are then made with the
        source opened, and carry what it says to every process.

        Args:
            folder: of raw files.
            options: as given.

        Raises:
            DataError: when the folder does not say what is needed.
        """
        del folder
        return dict(options)

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say what a person should know about this copy as a whole, a sentence each; usually nothing."""
        del raw_dir
        return []

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return what must hold of this data set's manifest beyond what holds of all."""
        del limits
        return []

    def parts(self, raw: RawCase) -> Iterable[Path]:
        """List the files that `read` makes the case of: what says whether a prediction of it is up to date."""
        return [raw.path] if raw.path.is_file() else [Path(file) for file in files_below(raw.path)]

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write the prediction of one case in the format that the case came in, in its own geometry.

        By default masks and maps become PNG, of volumes NIfTI on the case's own axes, without their place in space.

        Args:
            raw: the case's files.
            case: as `read` returned it.
            prediction: arrays on the grid of the case.
            asked: which model was asked, and how.
            folder: exists and is empty.

        Raises:
            CaseError: when the case's files do not say what the format needs.
        """
        del raw, asked
        write_plain(case, prediction, folder)

    def gather(self, records: Sequence[Record], folder: Path) -> None:
        """Write what is about all predicted cases; by default labels and numbers, `predictions.csv`.

        Args:
            records: of the cases.
            folder: holds a folder a case, by its id.
        """
        write_table(records, folder)

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

        Raises:
            ConfigError: when the data set has no phantoms.
        """
        raise ConfigError(f"the data set {self.name!r} has no phantoms; give --source DIR, a folder of raw files")
