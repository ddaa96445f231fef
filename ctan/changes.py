"""Plans that are shown before they are carried out: a list of changes, a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One line of a plan.

    Attributes:
        what: a sentence.
        do: carries it out, and may be called again after it was killed half-way; None for what is only said.
    """

    what: str
    do: Callable[[], object] | None = None

    def __str__(self) -> str:
        return self.what


def carry_out(changes: Iterable[Change]) -> None:
    """Do what a plan says, in order; killed half-way, the rest is in the next plan."""
    for change in changes:
        if change.do is not None:
            change.do()
