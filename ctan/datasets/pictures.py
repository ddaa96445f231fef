"""Pictures and masks from the bytes of JPEG and PNG files, strictly: what decoders fill up silently is refused.

libjpeg makes grey of what is missing, Pillow leaves missing rows of a PNG black, and both turn nothing by its EXIF
orientation. Here a picture comes as viewers show it, and a mask is read by its *colour*, whatever the kind of PNG:
402 official masks of HAM10000 have a palette that inverts the index.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.config import ReadingConfig
from ctan.errors import DataError
from ctan.reading import check_voxels

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_EDGE, MAX_EDGE = 64, 10_000  # pixels
TURNED = "the picture is turned or mirrored as its EXIF orientation says"
_ORIENTATION = 0x0112  # EXIF
_PROBE = bytes(range(1, 255, 3)) * 8  # bits that no picture ends with; no 0xff, which would begin a marker
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_RESTARTS_AND_STUFFING = (0x00, *range(0xD0, 0xD8))
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples a pixel
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def decode_picture(content: bytes, limits: ReadingConfig) -> tuple[npt.NDArray[np.uint8], bool]:
    """Return a colour JPEG as (3, height, width), and whether it was turned by its EXIF orientation.

    Raises:
        DataError: for another format, a size out of bounds, a picture that is not in colour, or one that is not whole.
    """
    picture = _open(content, "JPEG")
    if not all(MIN_EDGE <= edge <= MAX_EDGE for edge in picture.size):
        width, height = picture.size
        raise DataError(f"{width} x {height} pixels, expected edges between {MIN_EDGE} and {MAX_EDGE:,}")
    check_voxels(picture.size, 3 * picture.width * picture.height, limits)
    end = _check_scans(content)
    if picture.mode != "RGB":
        raise DataError(f"expected a colour picture (RGB), found {_channels(picture.mode)}")
    with _broken(picture):
        pixels = np.asarray(picture)
        # Bits after the last pixel change nothing, unless pixels are missing and are made of them.
        probe = np.asarray(_open(content[:end] + _PROBE + content[end:], "JPEG"))
    if not np.array_equal(pixels, probe):
        raise DataError("truncated, the JPEG has fewer pixels than it says")
    pixels, turned = _upright(picture, pixels)
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), turned


def decode_mask(content: bytes, shape: tuple[int, ...], limits: ReadingConfig) -> npt.NDArray[np.bool_]:
    """Return a mask, (height, width), True where the PNG is white.

    One bit to 16 bits a sample, grey or a palette, and colour or transparency that says nothing: equal channels, opaque
    everywhere. Every pixel is black or white.

    Args:
        content: of the file.
        shape: that the mask must have, (height, width).
        limits: bounds that the settings give.

    Raises:
        DataError: for another format, size or colour, or a file that is not whole.
    """
    picture = _open(content, "PNG")
    if sorted(picture.size) != sorted(shape):
        raise _other_size(picture.size, shape)
    check_voxels(picture.size, 8 * picture.width * picture.height, limits)
    _check_rows(content)
    with _broken(picture):
        values = _grey(picture)
    white = 65535 if values.dtype.itemsize > 1 else 255
    found = np.unique(values)
    if not np.isin(found, (0, white)).all():
        hint = "; it was saved with losses or resized" if found.size > 2 else ""
        few = ", ".join(map(str, found[:5])) + (", ..." if found.size > 5 else "")
        raise DataError(f"expected the values 0 and {white}, found {few}{hint}")
    mask = np.ascontiguousarray(_upright(picture, values)[0] == white)
    if mask.shape != shape:
        raise _other_size(mask.shape[::-1], shape)
    return mask


def _other_size(size: tuple[int, ...], shape: tuple[int, ...]) -> DataError:
    (width, height), (rows, columns) = size, shape
    return DataError(
        f"the mask has {width} x {height} pixels, its image {columns} x {rows}; "
        f"they do not belong together, or one was resized"
    )


def _grey(picture: Image) -> npt.NDArray[Any]:
    """Return the grey value of every pixel; colour and transparency must not say anything."""
    kind = picture.mode
    if kind in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA"):
        values = np.asarray(picture)
        if (values[..., -1] != 255).any():
            raise DataError(f"expected an opaque mask, found transparent pixels in {_channels(kind)}")
        values = values[..., :-1]
    elif picture.mode in ("1", "L", "RGB") or picture.mode.startswith("I"):
        values = np.asarray(picture)
        values = values * np.uint8(255) if values.dtype == bool else values
    else:
        raise DataError(f"expected a mask in black and white, found {_channels(kind)}")
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise DataError(f"expected a mask in black and white, found colours in {_channels(kind)}")
    return values[..., 0]


def _upright(picture: Image, pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], bool]:
    """Return pixels (height, width, ...) as viewers show them, and whether that changed them."""
    with _broken(picture):
        orientation = picture.getexif().get(_ORIENTATION, 1)
    if orientation not in range(2, 9):  # others are not defined, and viewers ignore them
        return pixels, False
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels, True


def _open(content: bytes, expected: str) -> Image:
    """Return a picture whose pixels are not decoded yet; its format is checked."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # sizes are checked by the callers
            picture = PIL.Image.open(io.BytesIO(content))
    except Exception as error:  # damaged files raise whatever the plug-in meets
        raise DataError(f"not a picture that can be read, expected a {expected}") from error
    if picture.format != expected:
        raise DataError(f"expected a {expected}, found a {picture.format}")
    return picture


@contextmanager
def _broken(picture: Image) -> Iterator[None]:
    """Turn what a decoder raises into an error about the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"broken {picture.format}: {error}") from error


def _channels(mode: str) -> str:
    words = {
        "L": "one grey channel",
        "1": "black and white",
        "P": "a palette",
        "RGB": "RGB",
        "RGBA": "RGB and transparency",
        "LA": "grey and transparency",
    }
    return f"{words.get(mode, 'another kind of picture')} (mode {mode})"


# JPEG


def _check_scans(content: bytes) -> int:
    """Return where the end marker of a JPEG is.

    Raises:
        DataError: when there is none, or scans lack a component or (progressive) bits of it.
    """
    truncated = DataError(f"truncated, the JPEG has no end marker after {len(content):,} bytes")
    position, frame = 2, b""
    # component -> for each coefficient the bits that are still missing; 99: all
    missing: dict[int, list[int]] = {}
    while True:
        position = content.find(b"\xff", position)
        if not 0 <= position < len(content) - 1:
            raise truncated
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _RESTARTS_AND_STUFFING or marker == 0x01:
            position += 2
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        if length < 2 or len(segment) != length - 2:
            raise truncated
        if marker in (*_BASELINE, _PROGRESSIVE) and len(segment) >= 6:
            frame = bytes([marker]) + segment
            missing = {component: [99] * 64 for component in segment[6::3]}
        if marker == 0xDA:
            _count_scan(segment, missing)
        position += 2 + length
    if not frame:
        raise DataError("expected a baseline or progressive JPEG, found another kind, or none of its frame header")
    needed = [bits for left in missing.values() for bits in (left if frame[0] == _PROGRESSIVE else left[:1])]
    if any(needed):
        raise DataError("truncated, scans of the JPEG are missing")
    return position


def _count_scan(segment: bytes, missing: dict[int, list[int]]) -> None:
    """Note what a scan holds: components, the range of coefficients, and down to which bit."""
    number = segment[0] if segment else 0
    if len(segment) != 4 + 2 * number:
        raise DataError("broken JPEG: the header of a scan has another length than it says")
    first, last, bits = segment[-3], segment[-2], segment[-1] & 15
    for component in segment[1 : 1 + 2 * number : 2]:
        if component in missing:
            for coefficient in range(first, min(last, 63) + 1):
                missing[component][coefficient] = bits


# PNG


def _check_rows(content: bytes) -> None:
    """Refuse a PNG whose rows are not all there, or with damaged parts; Pillow leaves missing rows black.

    Raises:
        DataError: with what was expected and found.
    """
    header, data = b"", []
    for kind, body in _chunks(content):
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            data.append(body)
    if len(header) != 13:
        raise DataError("broken PNG: no header of 13 bytes")
    needed = _num_row_bytes(header)
    stream = zlib.decompressobj()
    try:
        found = len(stream.decompress(b"".join(data), needed + 1))
    except zlib.error as error:
        raise DataError(f"broken PNG: {error}") from error
    if found != needed or not stream.eof:
        state = "more" if found > needed else f"{found:,}"
        raise DataError(f"truncated or too long, the PNG's rows are {needed:,} bytes, found {state}")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and body of every part up to the end marker."""
    position = 8
    while True:
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        body = content[position + 8 : position + 8 + length]
        checksum = content[position + 8 + length : position + 12 + length]
        if len(checksum) != 4:
            raise DataError(f"truncated, the PNG has no end marker after {len(content):,} bytes")
        if zlib.crc32(kind + body) != struct.unpack(">I", checksum)[0]:
            raise DataError(f"broken PNG: the checksum of {kind!r} is wrong")
        if kind == b"IEND":
            return
        yield kind, body
        position += 12 + length


def _num_row_bytes(header: bytes) -> int:
    """Return the bytes of all rows, each with the byte that names its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES.get(colour, 0)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total
