"""Sparse volumes as CSV: the header `,data`, then rows `flat index,value`; the value of a mask is empty.

Files as pandas writes them, indices increasing, go through a kernel: compiled where numba is installed (`ctan[fast]`),
else one of array libraries, which takes about twice the time a patient and returns the same. Whatever the kernel does
not understand goes through plain Python, line by line, which either reads it or says what is wrong where.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError
from ctan.reading import plain_number

try:
    from ctan.datasets.openkbp.compiled import scatter_mask as _scatter_mask
    from ctan.datasets.openkbp.compiled import scatter_values as _scatter_values
except ModuleNotFoundError:
    from ctan.datasets.openkbp.whole_files import scatter_mask as _scatter_mask  # type: ignore[assignment]
    from ctan.datasets.openkbp.whole_files import scatter_values as _scatter_values  # type: ignore[assignment]

_HEADER = b",data"


def read_mask(content: bytes, num_voxels: int) -> npt.NDArray[np.bool_]:
    """Return a mask, (num_voxels,) bool.

    Raises:
        DataError: for an empty file, a wrong header, a value, an index that is out of range or occurs twice, or a
            truncated last line.
    """
    mask = np.zeros(num_voxels, np.bool_)
    start = _check_frame(content)
    if not _scatter_mask(np.frombuffer(content, np.uint8), start, mask):
        mask[:] = False
        for index, value, line in _rows(content, num_voxels):
            if value:
                raise DataError(f"line {line}: a mask has no values, found {value!r}")
            mask[index] = True
    return mask


def read_values(
    content: bytes, num_voxels: int, dtype: Any, low: float = -math.inf, high: float = math.inf
) -> npt.NDArray[Any]:
    """Return values, (num_voxels,) of `dtype`, clipped to `low..high`, 0 where the file has no row.

    Raises:
        DataError: as `read_mask`, and for a value that is missing, not a number or not finite.
    """
    values = np.zeros(num_voxels, dtype)
    largest = float(np.finfo(dtype).max if values.dtype.kind == "f" else np.iinfo(dtype).max)
    start = _check_frame(content)
    if not _scatter_values(np.frombuffer(content, np.uint8), start, low, high, values):
        values[:] = 0
        for index, text, line in _rows(content, num_voxels):
            value = min(max(_number(text, line), low), high)
            if value > largest:
                raise DataError(f"line {line}: {text[:40]!r} is larger than {np.dtype(dtype)} can hold")
            values[index] = value
    return values


def _check_frame(content: bytes) -> int:
    """Check header and last line; return where the rows begin."""
    header, _, rows = content.partition(b"\n") if len(content) < 1000 else (content[: content.find(b"\n")], b"", b"x")
    if header.rstrip(b"\r") != _HEADER:
        raise DataError(f"expected the header ',data', found {header[:40].decode('utf-8', 'replace')!r}")
    if not rows:
        raise DataError("empty, not a single voxel")
    if content[-1:] != b"\n":
        last = content[-80:].rpartition(b"\n")[2].decode("utf-8", "replace")
        raise DataError(f"truncated, the last line {last!r} does not end")
    return len(header) + 1


def _rows(content: bytes, num_voxels: int) -> list[tuple[int, str, int]]:
    """Return (index, text of the value, line number) of every row, strictly."""
    try:
        lines = content.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not a text file (byte {error.start} is not ASCII)") from error
    seen: set[int] = set()
    rows = []
    for number, line in enumerate((line.removesuffix("\r") for line in lines[1:]), start=2):
        text, comma, value = line.partition(",")
        if not comma or not text.removeprefix("-").isdigit():
            raise DataError(f"line {number}: expected 'index,value', found {line[:40]!r}")
        index = int(text)
        if not 0 <= index < num_voxels:
            raise DataError(f"line {number}: index {index} out of range 0..{num_voxels - 1}")
        if index in seen:
            raise DataError(f"line {number}: duplicate index {index}")
        seen.add(index)
        rows.append((index, value, number))
    return rows


def _number(text: str, line: int) -> float:
    value = plain_number(text)
    if not math.isfinite(value):
        raise DataError(f"line {line}: expected a finite number, found {text[:40]!r}")
    return value
