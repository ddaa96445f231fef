"""Text that was drawn into a picture: names, dates, measures of a machine. Found by its looks, nothing is read.

Text is a row of small shapes of one colour, of like height, on one baseline, close together, and neither solid nor thin
as hairs, scales and bubbles are. False alarms and hits are measured by `benchmarks/burned_in.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REMARK = "the picture seems to hold text that was drawn into it, perhaps a name or a date: look at it"

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue: ITU-R BT.601
_CONTRAST, _SAME_INK = 40, 35  # grey levels from the surroundings; from the ink's own level
_LEAST_HEIGHT, _MOST_HEIGHT_SHARE = 5, 0.2  # pixels; of the picture
_LEAST_GLYPHS = 4
_MOST_EDGE = 640  # pixels: larger pictures are looked at smaller


@dataclass(frozen=True)
class _Glyph:
    top: int
    left: int
    height: int
    width: int
    fill: float  # share of its box that is ink


def holds_text(picture: npt.NDArray[np.uint8]) -> bool:
    """Say whether a picture is likely to hold text.

    Args:
        picture: (channels, height, width) of 3 channels or 1, or (height, width).
    """
    values = picture if picture.ndim == 3 else picture[None]
    step = -(-max(values.shape[1:]) // _MOST_EDGE)
    inks = _inks(values[:, ::step, ::step].astype(np.float32))
    return any(_longest_row(_glyphs(ink)) >= _LEAST_GLYPHS for ink in inks)


def _inks(values: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield where a picture is clearly brighter or darker than around, and of one level: light, dark, coloured ink."""
    from scipy import ndimage

    planes = [(values[0], 1), (values[0], -1)]
    if len(values) == 3:
        luma = np.tensordot(_LUMA, values, 1)
        planes = [(luma, 1), (luma, -1), *((channel, -1) for channel in values)]
    size = 2 * max(8, min(values.shape[1:]) // 12) + 1
    for plane, sign in planes:
        strong = sign * (plane - ndimage.uniform_filter(plane, size)) > _CONTRAST
        if strong.sum() >= _LEAST_GLYPHS * _LEAST_HEIGHT:
            level = np.percentile(plane[strong], 90 if sign > 0 else 10)
            yield strong & (sign * (plane - level) > -_SAME_INK)


def _glyphs(ink: npt.NDArray[np.bool_]) -> list[_Glyph]:
    """Return the connected shapes that may be letters, from left to right."""
    from scipy import ndimage

    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if _LEAST_HEIGHT <= height <= _MOST_HEIGHT_SHARE * len(ink) and width <= 2 * height:
            fill = float((labels[rows, columns] == number).mean())
            found.append(_Glyph(rows.start, columns.start, height, width, fill))
    return sorted(found, key=lambda glyph: glyph.left)


def _longest_row(glyphs: list[_Glyph]) -> int:
    """Return the number of letters of the longest row that looks like writing."""
    longest = 0
    for index, first in enumerate(glyphs):
        row, end = [first], first.left + first.width
        for glyph in glyphs[index + 1 :]:
            if glyph.left - end > 0.9 * first.height:
                break
            if glyph.left >= end - 0.2 * first.height and _is_beside(first, glyph):
                row.append(glyph)
                end = glyph.left + glyph.width
        wide = sum(glyph.width >= 0.35 * glyph.height for glyph in row)  # a scale's marks are not
        open_ones = sum(0.12 <= glyph.fill < 0.8 for glyph in row)  # bubbles are solid, hairs are thin
        half = len(row) // 2
        if wide >= max(3, half) and open_ones >= max(2, half):
            longest = max(longest, len(row))
    return longest


def _is_beside(first: _Glyph, other: _Glyph) -> bool:
    """Whether two shapes stand on one baseline and are of like height."""
    apart = abs(other.top + other.height - first.top - first.height)
    return apart <= max(1, 0.15 * first.height) and 0.6 <= other.height / first.height <= 1.67
