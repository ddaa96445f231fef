"""Structures of one side of the body: told by their names, and whether they lie there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ctan.cases.spec import DataSpec
from ctan.errors import DataError

Mask = npt.NDArray[np.bool_]

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


def check_sides(structures: Mapping[str, Mask], pairs: Sequence[tuple[str, str]], body: Mask | None) -> tuple[str, ...]:
    """Compare left structures of a volume with their partners on the right, those alone with the body; return remarks.

    Args:
        structures: (posterior, left, inferior) of each that is contoured; empty ones lie nowhere.
        pairs: (left, right) structures.
        body: the same axes; None: it cannot be told, and nothing is said of a structure alone.

    Raises:
        DataError: when a left structure lies to the right of its partner.
    """
    remarks = []
    for left, right in pairs:
        drawn = [name for name in (left, right) if name in structures and structures[name].any()]
        if len(drawn) > 1:
            if (apart := _across(structures[left]) - _across(structures[right])) <= 0:
                raise DataError(
                    f"{left} lies {-apart:.0f} voxels to the patient's right of {right}; the names of the two are "
                    f"exchanged, or the image is mirrored: correct it where it was drawn, or the pair (left, right) "
                    f"where the data are described (data.options.mirrored_pairs, dataset.yaml)"
                )
            continue
        if body is None:
            continue
        for name in drawn:
            apart, is_left = _across(structures[name]) - _across(body), name == left
            if apart != 0 and is_left != (apart > 0):
                other = "right" if is_left else "left"
                remarks.append(f"{name} lies in the patient's {other} half of the body; check its name")
    return tuple(remarks)


def _across(mask: Mask) -> float:
    """Return the mean index along the axis that grows to the patient's left."""
    counts = mask.sum(axis=(0, 2), dtype=np.int64)
    return float(counts @ np.arange(counts.size)) / max(1, int(counts.sum()))
