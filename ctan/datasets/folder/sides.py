"""Pairs of left and right structures, told by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ctan.cases.sides import side_of

_OPPOSITE = {"left": "right", "lt": "rt", "l": "r"}


def _words(name: str) -> list[str]:
    """Split a name into words and what lies between: `femurLeft_2` -> femur, Left, _, 2."""
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+", name)


def mirrored_pairs(structures: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the (left, right) structures whose names differ in the side alone.

    Args:
        structures: such as `FemurLeft`, `femur_right`, `Kidney_L`.
    """
    by_name = {name.lower(): name for name in structures}
    found = []
    for name in structures:
        if side_of(name) == "left":
            opposite = "".join(_OPPOSITE.get(word.lower(), word.lower()) for word in _words(name))
            if by_name.get(opposite, name) != name:
                found.append((name, by_name[opposite]))
    return tuple(found)


def unpaired(structures: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the structures that have a side in their name but no partner among the pairs."""
    paired = {name for pair in pairs for name in pair}
    return [name for name in structures if side_of(name) and name not in paired]
