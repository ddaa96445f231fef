"""Left and right in the names of structures."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIDES = {"left": "right", "links": "rechts", "lt": "rt", "l": "r"}
_OTHERS = {side: other for pair in _SIDES.items() for side, other in (pair, pair[::-1])}


def _words(name: str) -> list[str]:
    """Split a name into words and what lies between: `femurLeft_2` -> femur, Left, _, 2."""
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+", name)


def _opposite(name: str) -> str | None:
    """Return the name of the structure on the other side in small letters, None for a name without a side."""
    words = [word.lower() for word in _words(name)]
    sided = [index for index, word in enumerate(words) if word in _OTHERS]
    if len(sided) != 1:
        return None
    words[sided[0]] = _OTHERS[words[sided[0]]]
    return "".join(words)


def mirrored_pairs(structures: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the (left, right) structures whose names differ in the side alone.

    Args:
        structures: such as `FemurLeft`, `femur_right`, `Kidney_L`.
    """
    by_name = {name.lower(): name for name in structures}
    found = []
    for name in structures:
        words = {word.lower() for word in _words(name)}
        opposite = _opposite(name)
        if opposite in by_name and words & set(_SIDES):
            found.append((name, by_name[opposite]))
    return tuple(found)


def unpaired(structures: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the structures that have a side in their name but no partner among the pairs."""
    paired = {name for pair in pairs for name in pair}
    return [name for name in structures if _opposite(name) is not None and name not in paired]
