"""Structures of one side of the body, told by their names."""

from __future__ import annotations

import re

from ctan.cases.spec import DataSpec

# `LeftLung`, `LungLeft`, `Lung_L`, `LungL`; upper or lower case where something separates the words
_SIDES = {
    "left": re.compile(r"(?i:(^|[_.+-])(left|lt|l)([_.+-]|$))|[a-z0-9](Left|Lt|L)([A-Z_.+-]|$)|^Left[A-Z]"),
    "right": re.compile(r"(?i:(^|[_.+-])(right|rt|r)([_.+-]|$))|[a-z0-9](Right|Rt|R)([A-Z_.+-]|$)|^Right[A-Z]"),
}


def side_of(structure: str) -> str:
    """Return `"left"` or `"right"` for the name of a structure of one side, such as `LungLeft`; else an empty text."""
    found = [side for side, pattern in _SIDES.items() if pattern.search(structure)]
    return found[0] if len(found) == 1 else ""


def unpaired(spec: DataSpec) -> list[str]:
    """Return the organs of one side that a left-right flip would give the other side's label."""
    paired = {name for pair in spec.mirrored_pairs for name in pair}
    if spec.augmentation.left_right_axis is None:
        return []
    return [name for name in spec.organs if side_of(name) and name not in paired]
