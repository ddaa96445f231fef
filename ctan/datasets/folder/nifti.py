"""NIfTI volumes (`.nii`, `.nii.gz`), read strictly and alike zipped or not.

Programs disagree about files whose qform and sform differ, whose sform is sheared, or whose unit is not mm, and follow
one rule for `.nii` and another for `.nii.gz`. So the header is read here; what is ambiguous is refused or settled by a
setting.
Source of the format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.config import ReadingConfig
from ctan.datasets.folder.grid import MAX_MISFIT_MM, Grid, Matrix, displacement_mm
from ctan.errors import DataError
from ctan.reading import check_voxels

# field -> (offset in bytes, type, numbers), of version 1 and of version 2
_FIELDS: dict[int, dict[str, tuple[int, str, int]]] = {
    348: {
        "dim": (40, "i2", 8),
        "datatype": (70, "i2", 1),
        "pixdim": (76, "f4", 8),
        "vox_offset": (108, "f4", 1),
        "slope": (112, "f4", 1),
        "inter": (116, "f4", 1),
        "units": (123, "u1", 1),
        "qform": (252, "i2", 1),
        "sform": (254, "i2", 1),
        "quatern": (256, "f4", 3),
        "qoffset": (268, "f4", 3),
        "srow": (280, "f4", 12),
    },
    540: {
        "dim": (16, "i8", 8),
        "datatype": (12, "i2", 1),
        "pixdim": (104, "f8", 8),
        "vox_offset": (168, "i8", 1),
        "slope": (176, "f8", 1),
        "inter": (184, "f8", 1),
        "units": (500, "i4", 1),
        "qform": (344, "i4", 1),
        "sform": (348, "i4", 1),
        "quatern": (352, "f8", 3),
        "qoffset": (376, "f8", 3),
        "srow": (400, "f8", 12),
    },
}
# field -> (offset, bytes), of what is about the voxels or their origin: greatest and smallest value shown, text
_LEFT_EMPTY = {
    348: {"cal_max": (124, 4), "cal_min": (128, 4), "descrip": (148, 80), "aux_file": (228, 24)},
    540: {"cal_max": (192, 8), "cal_min": (200, 8), "descrip": (240, 80), "aux_file": (320, 24)},
}
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unit of length: unknown, metres, mm, microns
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])

Matrices = Literal["refuse", "qform", "sform"]


@dataclass(frozen=True)
class _Header:
    """The fields that matter; numbers as they stand in the file."""

    fields: dict[str, npt.NDArray[Any]]
    order: str  # "<" or ">"

    def number(self, name: str) -> float:
        return float(self.fields[name][0])

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = (int(size) for size in self.fields["dim"][1:4])
        return x, y, z


def read_nifti(
    content: bytes, matrices: Matrices = "refuse", limits: ReadingConfig | None = None
) -> tuple[npt.NDArray[np.float32], Grid]:
    """Read a 3D volume.

    Args:
        content: bytes of the file, zipped or not.
        matrices: which of two contradicting matrices counts.
        limits: bounds of sizes that the settings give; None for the default ones.

    Returns:
        (z, y, x) values, scaled as the header says; and their grid.

    Raises:
        DataError: what was expected and what was found, without the file's name.
    """
    limits = limits or ReadingConfig()
    content = _unzipped(content, limits.max_inflated_bytes)
    header = _header(content)
    shape = header.shape
    grid = Grid.of(shape, _affine(header, matrices))
    kind = int(header.number("datatype"))
    if kind not in _TYPES:
        raise DataError(f"expected voxels that are single numbers, found NIfTI datatype {kind} (colour or complex?)")
    dtype = np.dtype(header.order + _TYPES[kind])
    check_voxels(shape, math.prod(shape) * dtype.itemsize, limits)
    start, needed = int(header.number("vox_offset")), math.prod(shape) * dtype.itemsize
    if start < 0 or len(content) - start < needed:
        voxels = " x ".join(map(str, shape))
        raise DataError(f"truncated: {voxels} voxels are {needed:,} bytes, found {max(0, len(content) - start):,}")
    raw = np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape[::-1])
    slope, inter = header.number("slope"), header.number("inter")
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(inter)) or (slope, inter) == (1, 0):
        return raw.astype(np.float32), grid
    return (raw * slope + inter).astype(np.float32), grid


def with_voxels(content: bytes, voxels: npt.NDArray[Any], description: str, limits: ReadingConfig) -> bytes:
    """Return a file with the header of another one and other voxels; extensions are left out.

    Args:
        content: bytes of the other file, zipped or not.
        voxels: (z, y, x), of the same shape.
        description: of at most 79 ASCII characters.
        limits: bounds of sizes that the settings give.

    Returns:
        The file, not zipped.
    """
    content = _unzipped(content, limits.max_inflated_bytes)
    header = _header(content)
    size = 348 if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") else 540
    changed = bytearray(content[:size] + bytes(4))  # no extensions follow
    dtype = np.dtype(header.order + voxels.dtype.str[1:])
    numbers: dict[str, float] = {"slope": 1, "inter": 0, "vox_offset": len(changed) + (-len(changed) % 16)}
    numbers["datatype"] = next(code for code, name in _TYPES.items() if np.dtype(name) == voxels.dtype)
    for name, value in numbers.items():
        offset, kind, _ = _FIELDS[size][name]
        field = np.array([value], np.dtype(header.order + kind)).tobytes()
        changed[offset : offset + len(field)] = field
    for name, (offset, length) in _LEFT_EMPTY[size].items():
        changed[offset : offset + length] = bytes(length)
        if name == "descrip":
            changed[offset : offset + len(description)] = description.encode("ascii")
    offset = _FIELDS[size]["datatype"][0] + 2
    changed[offset : offset + 2] = np.array([8 * dtype.itemsize], np.dtype(header.order + "i2")).tobytes()
    padding = bytes(int(numbers["vox_offset"]) - len(changed))
    return bytes(changed) + padding + np.ascontiguousarray(voxels).astype(dtype).tobytes()


def _unzipped(content: bytes, most_bytes: int) -> bytes:
    """Return what a file is unpacked to, as it is when it is not packed; never more than is allowed."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(most_bytes + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"truncated or damaged ({error})") from error
    if len(unpacked) > most_bytes:
        raise DataError(f"more than {most_bytes:,} bytes unpacked, data.reading.max_inflated_bytes allows no more")
    return unpacked


def _header(content: bytes) -> _Header:
    """Return the header of a single-file NIfTI with three axes."""
    first = content[:4]
    by_size = {int.from_bytes(first, order): mark for order, mark in (("little", "<"), ("big", ">"))}  # type: ignore[arg-type]
    size = next((size for size in by_size if size in _FIELDS), 0)
    if not size or len(content) < size:
        raise DataError("not a NIfTI file: the header is missing or damaged")
    at, magic = _MAGIC[size]
    if not content[at:].startswith(magic):
        raise DataError("not a NIfTI file that holds its voxels itself (Analyze, or a pair of .hdr and .img?)")
    order = by_size[size]
    fields = {
        name: np.frombuffer(content, order + kind if kind != "u1" else kind, count, offset)
        for name, (offset, kind, count) in _FIELDS[size].items()
    }
    sizes = [int(n) for n in fields["dim"]]
    if not 3 <= sizes[0] <= 7 or any(n > 1 for n in sizes[4 : sizes[0] + 1]):
        raise DataError(
            f"expected three axes, found {sizes[0]} ({' x '.join(map(str, sizes[1 : max(1, min(sizes[0], 7)) + 1]))}): "
            "channels and points in time are files of their own"
        )
    return _Header(fields, order)


def _affine(header: _Header, matrices: Matrices) -> Matrix:
    """Return the (3, 4) matrix from voxel numbers to mm along (left, posterior, superior)."""
    unit = int(header.number("units")) & 7
    if unit not in _MM:
        raise DataError(f"unknown unit of length {unit}, expected metres, mm or microns")
    found: dict[str, Matrix] = {}
    if header.number("qform") > 0:
        found["qform"] = _RAS_TO_LPS @ _qform(header) * _MM[unit]
    if header.number("sform") > 0:
        found["sform"] = _RAS_TO_LPS @ header.fields["srow"].astype(np.float64).reshape(3, 4) * _MM[unit]
    if not found:
        raise DataError("neither qform nor sform: where left and right are is not known; write the file with one")
    if len(found) == 1:
        return next(iter(found.values()))
    apart = displacement_mm(header.shape, found["qform"], found["sform"])
    if apart <= MAX_MISFIT_MM and matrices == "refuse":
        return found["qform"]
    if matrices == "refuse":
        raise DataError(
            f"qform and sform put voxels up to {apart:.3g} mm apart (allowed {MAX_MISFIT_MM:g} mm), and programs "
            "disagree which counts; decide with --set data.options.nifti_matrix=qform (or sform)"
        )
    return found[matrices]


def _qform(header: _Header) -> Matrix:
    """Return the (3, 4) matrix of quaternion, voxel edges and offset."""
    b, c, d = (float(value) for value in header.fields["quatern"])
    rest = 1 - (b * b + c * c + d * d)
    if rest < -1e-5 or not math.isfinite(rest):
        raise DataError(f"qform: ({b:g}, {c:g}, {d:g}) is not a quaternion of length 1")
    a = math.sqrt(max(rest, 0))
    scale = 1 / math.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a * scale, b * scale, c * scale, d * scale
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    factor, *edges = (float(value) for value in header.fields["pixdim"][:4])
    lengths = np.array(edges) * np.array([1, 1, -1 if factor < 0 else 1])
    return np.column_stack([rotation * lengths, header.fields["qoffset"].astype(np.float64)])
