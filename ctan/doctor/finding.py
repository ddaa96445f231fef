"""What was found about one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ctan.errors import CtanError

State = Literal["fine", "note", "problem", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        about: the thing.
        state: `problem` stops a run; `note` is worth knowing; `skipped` could not be looked at.
        text: what was found.
        advice: what to do; empty where there is nothing to do.
    """

    about: str
    state: State
    text: str
    advice: str = ""


Check = Callable[[], Iterator[Finding]]


def examined(about: str, check: Check) -> list[Finding]:
    """Return what a check finds; one that breaks is itself a finding, and keeps no other from being made."""
    try:
        return list(check())
    except CtanError as error:
        return [Finding(about, "skipped", str(error))]
    except Exception as error:
        text = f"could not be looked at ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else '-'})"
        return [Finding(about, "skipped", text)]
