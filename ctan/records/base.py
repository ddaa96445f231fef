"""What all records have in common: a file name, a format version, and one way to be written and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from ctan.cases.spec import Description
from ctan.errors import CtanError, DataError
from ctan.files import read_json, sha256_of_file, write_json
from ctan.seals import SEAL, sealed, unsealed
from ctan.tasks import Task, task_from_json


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]  # NaN and infinity, which JSON does not know, are null
Scores = dict[str, dict[str, Number]]  # task -> metric -> value


def _task(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return task_from_json(dict(value))
    except (KeyError, TypeError, CtanError) as error:
        raise ValueError(f"{value.get('name', '?')!r} is not a task that this ctan knows ({error})") from error


SavedTask = Annotated[InstanceOf[Task], BeforeValidator(_task), PlainSerializer(lambda task: task.to_json())]


class Record(Description):
    """A JSON file that a step leaves for later ones, maybe of a later ctan.

    Attributes:
        file: its name.
        version: of the format; a file without one has version 1.
        what: it is, for messages.
        advice: what to do when it cannot be used.
        beside: names of files in its folder that it vouches for.
        files: their SHA-256, as they were when the record was saved.
    """

    file: ClassVar[str]
    version: ClassVar[int] = 1
    what: ClassVar[str]
    advice: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()

    files: Mapping[str, str] = {}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the record of a folder.

        Raises:
            DataError: when folder or file is missing, or the file is something else or of a later format.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {cls.advice}")
        path = folder / cls.file
        value = read_json(path, cls.advice)
        if isinstance(value, Mapping) and "files" in value and SEAL not in value:  # earlier releases wrote neither
            raise DataError(f"{path}: was changed after it was written (its hash is gone); {cls.advice}")
        return cls.from_json(value, str(path))

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read what `to_json` returned, now or in an earlier release.

        Args:
            value: the content.
            where: file it comes from, for errors.

        Raises:
            DataError: when it is something else or of a later format.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: expected {cls.what}, found {type(value).__name__}; {cls.advice}")
        value = unsealed(value, where, "restore it or write it anew", required=False)
        version = value.get("format_version", 1)
        if version not in range(1, cls.version + 1):
            raise DataError(
                f"{where}: format version {version!r}, this ctan reads 1 to {cls.version}; use the ctan that wrote it"
            )
        return cls.checked(cls.upgraded(value, version, where), cls.what, where, cls.advice)

    @classmethod
    def upgraded(cls, value: Mapping[str, Any], version: int, where: str) -> Mapping[str, Any]:
        """Return a value of an earlier format in the present one.

        Raises:
            DataError: when it is not of that format.
        """
        del version, where
        return value

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return self.model_dump(mode="json")

    def save(self, folder: Path) -> None:
        """Write the record to a folder, atomically, after the files that it vouches for.

        The order of names is kept, which in settings has a meaning.
        """
        found = {name: sha256_of_file(folder / name) for name in self.beside if (folder / name).is_file()}
        value = self.model_copy(update={"files": {**self.files, **found}}).to_json()
        write_json(folder / self.file, sealed(value))

    def check_file(self, folder: Path, name: str) -> Path:
        """Return the path of a file beside the record; what earlier releases wrote is not vouched for.

        Raises:
            DataError: when it is not the file that was there when the record was saved.
        """
        path = folder / name
        expected = self.files.get(name)
        if expected is not None and path.is_file() and sha256_of_file(path) != expected:
            raise DataError(
                f"{path}: not the file that {self.file} was written with (its SHA-256 differs): damaged, or of another "
                f"run; {self.advice}"
            )
        return path

    @classmethod
    def vouched(cls, folder: Path, name: str) -> Path:
        """Do the same for a file of a folder, where the record lies in it."""
        return cls.load(folder).check_file(folder, name) if (folder / cls.file).is_file() else folder / name
