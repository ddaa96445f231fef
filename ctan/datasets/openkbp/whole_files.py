"""Kernels that parse and scatter a sparse volume with the array libraries alone, for where numba is not installed.

Masks are read by numpy, values by Arrow's CSV parser. That one is more lenient than the format (blanks, `inf`,
hexadecimal numbers), so that it only gets files of plain digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

_PLAIN = b"0123456789.,\n"
_COMMA, _NEWLINE, _ZERO = b",\n0"
_MOST_DIGITS = 9  # as many as int32 holds
_MOST_DECIMALS = 15  # of a value before the point: what is longer may be too large for the array


def scatter_mask(text: npt.NDArray[np.uint8], start: int, mask: npt.NDArray[np.bool_]) -> bool:
    """Set `mask` at every row's index; False for text that is out of the ordinary, with nothing set."""
    blocks, last = [], -1
    for width in range(1, _MOST_DIGITS + 1):  # indices that increase never get shorter: rows of a width lie together
        index = _block(text[start:], width)
        if len(index):
            if index[0] <= last or not _increasing(index, len(mask)):
                return False
            blocks.append(index)
            start, last = start + len(index) * (width + 2), int(index[-1])
    if start != len(text):
        return False
    for index in blocks:
        mask[index] = True
    return True


def _block(text: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.int32]:
    """Return the indices of the leading rows `index,` that have `width` digits."""
    rows = text[: len(text) // (width + 2) * (width + 2)].reshape(-1, width + 2)
    if not len(rows) or rows[0, width] != _COMMA:  # the next width then: a row of this one begins where it fits
        return np.zeros(0, np.int32)
    good = (rows[:, width] == _COMMA) & (rows[:, width + 1] == _NEWLINE)
    index = np.zeros(len(rows), np.int32)
    for column in range(width):
        digit = rows[:, column] - np.uint8(_ZERO)  # wraps: whatever is no digit is above 9
        good &= digit <= 9
        index *= 10
        index += digit
    return index if good.all() else index[: good.argmin()]


def scatter_values(text: npt.NDArray[np.uint8], start: int, low: float, high: float, values: npt.NDArray[Any]) -> bool:
    """Set `values` at every row's index, clipped; False for text out of the ordinary, with nothing set."""
    table = _table(text[start:].tobytes())
    if table is None or not _increasing(table["index"].to_numpy(), len(values)):
        return False
    found = table["value"].to_numpy().clip(low, high)
    if not found.max() < 10**_MOST_DECIMALS:
        return False
    values[table["index"].to_numpy()] = found
    return True


def _table(rows: bytes) -> pa.Table | None:
    """Return index (int32) and value (float64) of rows `index,value`; None when a row is out of the ordinary."""
    if rows.translate(None, _PLAIN):
        return None
    columns = {"index": pa.int32(), "value": pa.float64()}
    try:
        return csv.read_csv(
            pa.BufferReader(rows),
            csv.ReadOptions(use_threads=False, column_names=list(columns)),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=columns, null_values=[], check_utf8=False),
        )
    except pa.ArrowInvalid:
        return None


def _increasing(index: npt.NDArray[np.int32], num_voxels: int) -> bool:
    return bool(index[-1] < num_voxels and (index[1:] > index[:-1]).all())
