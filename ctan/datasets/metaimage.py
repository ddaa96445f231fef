"""MetaImage volumes in one file (`.mha`): a text header, then the voxels. Read strictly, in one pass, slice by slice.

ITK reads a file whose compressed voxels are damaged without an error (the volume then holds whatever lay in memory),
accepts a negative spacing, and follows a header to other files. So the few header fields that matter and the zlib
stream, whose checksum is verified, are read here; orienting the volume is left to ITK.
Source of the format: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError
from ctan.reading import check_voxels, is_sane_spacing, open_file, plain_number

if TYPE_CHECKING:
    import SimpleITK

    from ctan.config import ReadingConfig

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
# Fields that move or change the voxels, unless they have this value.
_WITHOUT_EFFECT = {"HeaderSize": 0.0, "ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
_MAX_HEADER_LINES, _MAX_LINE = 1000, 10_000
_BLOCK = 1 << 20  # bytes read at once
_MAX_RATIO = 1040  # zlib cannot make anything smaller than by 1032
_ANY_HEADER = zlib.MAX_WBITS | 32  # zlib or gzip, as ITK


@dataclass(frozen=True)
class Header:
    """What the header says.

    Attributes:
        shape: voxels along (z, y, x).
        spacing_mm: voxel edges along (x, y, z).
        direction: 3 x 3 direction cosines, row by row, as SimpleITK has them (columns are the axes x, y, z).
        dtype: of the voxels in the file.
        compressed: whether they are a zlib stream.
        fields: every field as text.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    direction: tuple[float, ...]
    dtype: np.dtype[Any]
    compressed: bool
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Volume:
    """A file that was read whole.

    Attributes:
        header: of the file.
        image: the voxels, as `convert` made them, with spacing and orientation; the origin is left at 0.
        sha256: of the bytes of the file.
    """

    header: Header
    image: SimpleITK.Image
    sha256: str


def read_mha(
    path: Path,
    convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    dtype: npt.DTypeLike,
    limits: ReadingConfig,
) -> Volume:
    """Read a 3D volume of one channel.

    Args:
        path: the file.
        convert: makes what is kept of a slice (y, x), so that the volume never lies in memory in a wider type; raises
            `DataError` for values that make no sense.
        dtype: of what `convert` returns.
        limits: bounds that the settings give.

    Raises:
        DataError: what was expected and what was found, without the file's name.
        OSError: when the file cannot be read to its end.
    """
    with open_file(path, limits) as (stream, size):
        source = _Source(stream)
        header = _header(_fields(source))
        _check_size(header, size - source.position, limits)
        voxels = np.empty(header.shape, dtype)
        planes = _inflated(source, header) if header.compressed else _raw(source, header)
        for number, content in enumerate(planes):
            try:
                voxels[number] = convert(np.frombuffer(content, header.dtype).reshape(header.shape[1:]))
            except DataError as error:
                raise DataError(f"slice {number} of {header.shape[0]}: {error}") from error
        return Volume(header, _image(header, voxels), source.sha256())


def _image(header: Header, voxels: npt.NDArray[Any]) -> SimpleITK.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(header.spacing_mm)
    image.SetDirection(header.direction)
    return image


class _Source:
    """A file that is read once, from its first to its last byte, and hashed on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest, self.position = stream, hashlib.sha256(), 0

    def _seen(self, content: bytes) -> bytes:
        self._digest.update(content)
        self.position += len(content)
        return content

    def line(self) -> bytes:
        return self._seen(self._stream.readline(_MAX_LINE))

    def read(self, num_bytes: int) -> bytes:
        return self._seen(self._stream.read(num_bytes))

    def sha256(self) -> str:
        return self._digest.hexdigest()


def _fields(source: _Source) -> dict[str, str]:
    """Return the header's fields; voxels follow the line `ElementDataFile`. ITK itself writes blank lines."""
    fields: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number in range(1, _MAX_HEADER_LINES + 1):
        line = source.line()
        if line.isspace() and line.endswith(b"\n"):
            continue
        name, equals, value = (part.strip() for part in line.decode("latin-1").partition("="))
        if not equals or not line.endswith(b"\n"):
            found = repr(line[:40].decode("latin-1")) if line else "the end of the file"
            raise DataError(f"header: expected 'name = value' in line {number}, found {found}")
        if name in lines:
            raise DataError(f"header: {name} stands in line {lines[name]} and in line {number}, expected it once")
        fields[name], lines[name] = value, number
        if name == "ElementDataFile":
            return fields
    raise DataError(f"header: no ElementDataFile in the first {_MAX_HEADER_LINES} lines")


def _header(fields: Mapping[str, str]) -> Header:
    _expect(fields, "NDims", "3")
    _expect(fields, "ElementDataFile", "LOCAL")
    _expect(fields, "BinaryData", "True")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise DataError(f"header: expected one channel, found {fields['ElementNumberOfChannels']} (a colour image?)")
    x, y, z = _numbers(fields, "DimSize", 3)
    if not all(size >= 2 and size.is_integer() for size in (x, y, z)):
        raise DataError(f"header: expected DimSize of at least 2 voxels along every axis, found {fields['DimSize']!r}")
    spacing = _numbers(fields, "ElementSpacing", 3)
    if not is_sane_spacing(spacing):
        raise DataError(f"header: expected three positive ElementSpacing in mm, found {fields['ElementSpacing']!r}")
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise DataError(f"header: expected ElementType to be one of {', '.join(_TYPES)}, found {kind or 'none'}")
    for name, plain in _WITHOUT_EFFECT.items():
        if name in fields and plain_number(fields[name]) != plain:
            raise DataError(f"header: expected {name} to be {plain:g} or absent, found {fields[name]!r}")
    orders = {_is_true(fields, name) for name in _BYTE_ORDERS if name in fields}
    if len(orders) > 1:
        raise DataError(f"header: {' and '.join(_BYTE_ORDERS)} contradict each other")
    big_endian = orders == {True}
    return Header(
        shape=(int(z), int(y), int(x)),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        direction=_direction(fields),
        dtype=np.dtype(_TYPES[kind]).newbyteorder(">" if big_endian else "<"),
        compressed=_is_true(fields, "CompressedData"),
        fields=fields,
    )


def _expect(fields: Mapping[str, str], name: str, value: str) -> None:
    if fields.get(name, "").lower() != value.lower():
        raise DataError(f"header: expected {name} = {value}, found {fields.get(name) or 'none'}")


def _is_true(fields: Mapping[str, str], name: str) -> bool:
    """Return a field that is True or False; False when it is absent."""
    text = fields.get(name, "False")
    if text.lower() not in _BOOLEANS:
        raise DataError(f"header: expected {name} to be True or False, found {text!r}")
    return _BOOLEANS[text.lower()]


def _numbers(fields: Mapping[str, str], name: str, count: int) -> list[float]:
    numbers = [plain_number(text) for text in fields.get(name, "").split()]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise DataError(f"header: expected {count} numbers for {name}, found {fields.get(name) or 'none'}")
    return numbers


def _direction(fields: Mapping[str, str]) -> tuple[float, ...]:
    """Return the direction cosines; the header lists the axes one after the other, SimpleITK in columns."""
    matrix = np.array(_numbers(fields, "TransformMatrix", 9)).reshape(3, 3)
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3):
        raise DataError(f"header: expected TransformMatrix to be a rotation, found {fields['TransformMatrix']!r}")
    return tuple(float(value) for value in matrix.T.ravel())


def _check_size(header: Header, num_bytes: int, limits: ReadingConfig) -> None:
    """Compare the header with the bytes that follow it and with the bounds, before memory is taken for the voxels."""
    needed = math.prod(header.shape) * header.dtype.itemsize
    check_voxels(header.shape[::-1], needed, limits)
    voxels = " x ".join(str(size) for size in reversed(header.shape))
    if not header.compressed:
        if needed != num_bytes:
            state = "truncated" if num_bytes < needed else "too long"
            raise DataError(f"{state}: {voxels} voxels are {needed} bytes, found {num_bytes}")
        return
    announced = header.fields.get("CompressedDataSize", str(num_bytes))
    if announced != str(num_bytes):
        raise DataError(f"truncated or damaged: CompressedDataSize is {announced} bytes, found {num_bytes}")
    if needed > _MAX_RATIO * num_bytes:
        raise DataError(f"truncated: {voxels} voxels are {needed} bytes, impossible from {num_bytes} compressed ones")


def _raw(source: _Source, header: Header) -> Iterator[bytes]:
    """Yield the bytes of every slice."""
    size = header.shape[1] * header.shape[2] * header.dtype.itemsize
    for _ in range(header.shape[0]):
        content = source.read(size)
        if len(content) != size:
            raise DataError("truncated while it was read")
        yield content


def _inflated(source: _Source, header: Header) -> Iterator[bytes]:
    """Yield the bytes of every slice from a zlib stream, and see that it ends there with the right checksum."""
    size = header.shape[1] * header.shape[2] * header.dtype.itemsize
    stream = zlib.decompressobj(_ANY_HEADER)
    pending = b""

    def inflate(num_bytes: int) -> bytes:
        nonlocal pending
        content = b""
        while len(content) < num_bytes and not stream.eof:
            block = pending or source.read(_BLOCK)
            try:
                piece = stream.decompress(block, num_bytes - len(content))
            except zlib.error as error:
                raise DataError(f"compressed voxels are damaged ({error})") from error
            if not block and not piece:
                raise DataError("truncated: the compressed voxels do not end")
            pending = stream.unconsumed_tail
            content += piece
        return content

    for number in range(header.shape[0]):
        content = inflate(size)
        if len(content) != size:
            raise DataError(f"truncated: compressed voxels end in slice {number} of {header.shape[0]}")
        yield content
    if inflate(1) or stream.unused_data or source.read(1):
        raise DataError(f"too long: more compressed voxels than {header.shape[0]} slices")
