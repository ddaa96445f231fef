"""NIfTI files written byte by byte, so that tests decide on every field of the header."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_TYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16}


def write_nifti(
    path: Path,
    array: np.ndarray,
    edges: Sequence[float] = (2.0, 2.0, 2.0),
    *,
    qform: np.ndarray | None = None,
    sform: np.ndarray | None = None,
    unit: int = 2,
    scale: tuple[float, float] = (1.0, 0.0),
    dims: Sequence[int] | None = None,
) -> Path:
    """Write an array (z, y, x); matrices are (3, 4) from voxels to RAS mm, a qform may only shift and mirror x and y.

    Without a matrix the file has a qform along the axes with its origin at 0.
    """
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    sizes = list(dims or array.shape[::-1])
    struct.pack_into(f"<{len(sizes) + 1}h", header, 40, len(sizes), *sizes)
    struct.pack_into("<2h", header, 70, _TYPES[array.dtype.str[1:]], 8 * array.dtype.itemsize)
    struct.pack_into("<4f", header, 76, 1, *edges)
    struct.pack_into("<3f", header, 108, 352, *scale)
    header[123] = unit
    if qform is None and sform is None:
        qform = np.column_stack([np.diag(edges), [0, 0, 0]])
    if qform is not None:
        struct.pack_into("<h", header, 252, 1)
        turned = (qform[0, 0] < 0, qform[1, 1] < 0)
        assert turned in ((False, False), (True, True))
        struct.pack_into("<3f", header, 256, 0, 0, 1 if turned[0] else 0)  # half a turn about z
        struct.pack_into("<3f", header, 268, *qform[:, 3])
    if sform is not None:
        struct.pack_into("<h", header, 254, 1)
        struct.pack_into("<12f", header, 280, *sform.ravel())
    header[344:348] = b"n+1\0"
    content = bytes(header) + array.astype(array.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
