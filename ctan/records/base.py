"""What all records have in common: a file name, a format version, and one way to be written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import BeforeValidator

from ctan.cases.spec import Description
from ctan.errors import DataError
from ctan.files import read_json, write_text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]  # NaN and infinity, which JSON does not know, are null
Scores = dict[str, dict[str, Number]]  # task -> metric -> value


class Training(Protocol):
    """Whatever says which training it is of."""

    @property
    def arch(self) -> str:
        """Architecture."""

    @property
    def fold(self) -> int:
        """Fold that tuned."""

    @property
    def seed(self) -> int:
        """Seed of weights, order and augmentation."""


class Record(Description):
    """A JSON file that a step leaves for later ones, maybe of a later ctan.

    Attributes:
        file: its name.
        version: of the format; a file without one has version 1.
        what: it is, for messages.
        advice: what to do when it cannot be used.
    """

    file: ClassVar[str]
    version: ClassVar[int] = 1
    what: ClassVar[str]
    advice: ClassVar[str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the record of a folder.

        Raises:
            DataError: when folder or file is missing, or the file is something else or of a later format.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {cls.advice}")
        path = folder / cls.file
        return cls.from_json(read_json(path, cls.advice), str(path))

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
        """Write the record to a folder, atomically; the order of names is kept, which in settings has a meaning."""
        write_text(folder / self.file, json.dumps(self.to_json(), indent=2) + "\n")
