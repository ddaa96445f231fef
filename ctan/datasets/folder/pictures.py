"""Pictures of a folder: PNG and JPEG, read as they are stored."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ctan.config import ReadingConfig
from ctan.errors import DataError
from ctan.reading import check_voxels, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_ORIENTATION = 0x0112  # EXIF tag; 1: as it is stored
_JPEG_SCAN, _JPEG_END, _PNG_END = b"\xff\xda", b"\xff\xd9", b"IEND"
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)

Exif = Literal["refuse", "turn", "ignore"]


@dataclass(frozen=True)
class Picture:
    """A file that was read whole: (height, width) or (3, height, width) values, and the hash of its bytes."""

    values: npt.NDArray[Any]
    sha256: str


def read_picture(path: Path, exif: Exif = "refuse", limits: ReadingConfig | None = None) -> Picture:
    """Read a grey or colour picture. Colour profiles are not applied, as in other programs that train on pictures.

    Args:
        path: ends in `.png`, `.jpg` or `.jpeg`.
        exif: what becomes of a picture that asks viewers to turn it.
        limits: bounds of sizes that the settings give; None for the default ones.

    Raises:
        DataError: what was expected and what was found, without the file's name.
    """
    limits = limits or ReadingConfig()
    content = read_bytes(path, limits)
    opened = _opened(content, _FORMATS[path.suffix.lower()])
    check_voxels(opened.size, 3 * opened.width * opened.height, limits)
    picture = _turned(opened, exif)
    try:
        values = np.asarray(picture)
    except _BROKEN as error:
        raise DataError(f"truncated or damaged ({error})") from error
    if picture.mode == "P":
        values = _indices(picture, values)
    elif picture.mode not in ("L", "1", "RGB", "I", "I;16"):
        raise DataError(
            f"expected grey or RGB, found mode {picture.mode} (transparency, CMYK?); save it as one of them"
        )
    values = values.astype(np.uint8) if values.dtype == bool else values
    return Picture(np.moveaxis(values, -1, 0) if values.ndim == 3 else values, hashlib.sha256(content).hexdigest())


def _opened(content: bytes, expected: str) -> Image:
    """Return a picture of the expected format whose last bytes are there."""
    import PIL.Image

    try:
        picture = PIL.Image.open(io.BytesIO(content))
    except (*_BROKEN, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"not a picture that can be read, expected a {expected}") from error
    if picture.format != expected:
        raise DataError(f"expected a {expected} as its name says, found a {picture.format}")
    whole = _PNG_END in content[-32:] if expected == "PNG" else content.find(_JPEG_END, content.rfind(_JPEG_SCAN)) >= 0
    if not whole:  # libjpeg fills what is missing with grey
        raise DataError(f"truncated: the {expected} has no end marker after {len(content):,} bytes")
    return picture


def _turned(picture: Image, exif: Exif) -> Image:
    """Settle EXIF's orientation, which some programs apply and others do not."""
    from PIL import ImageOps

    orientation = picture.getexif().get(_ORIENTATION, 1)
    if orientation == 1 or exif == "ignore":
        return picture
    if exif == "turn":
        return ImageOps.exif_transpose(picture)
    raise DataError(
        f"EXIF orientation {orientation} asks to turn the picture, which some programs do and others do not; "
        "say in dataset.yaml, image.exif, whether to `turn` it or to `ignore` that"
    )


def _indices(picture: Image, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the values of a palette picture whose colours are its indices; with another palette they are ambiguous."""
    grey = np.asarray(picture.convert("RGB"))
    if not np.array_equal(grey, np.repeat(values[..., None], 3, axis=-1)):
        raise DataError("a palette gives its values other colours, and programs disagree which count; save it as grey")
    return values
