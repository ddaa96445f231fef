"""What must hold of a manifest: said by data sets and kinds of task, checked by `ctan.validation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
