"""The one door to raw files: only regular files of a sane size are opened, numbers are plain, names can be printed.

Errors do not name the file: callers know what may be said of it (DICOM files are only counted). What is allowed are
settings, `data.reading`; everything is checked before memory is taken.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ctan.errors import DataError

if TYPE_CHECKING:
    from ctan.config import ReadingConfig

MIN_EDGE_MM, MAX_EDGE_MM = 1e-3, 1e3  # of a voxel, whatever was imaged; what is plausible is for validation to say
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Files that stand for others: what they begin with -> what they are, and the command that brings the content.
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "git lfs pull"),
    b"/annex/objects/": ("a git-annex pointer", "git annex get"),
}
_LONGEST_POINTER = 32_768  # bytes, of git-annex
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


def read_bytes(path: Path, limits: ReadingConfig, most_bytes: int | None = None) -> bytes:
    """Return the bytes of a raw file, see `open_file`."""
    with open_file(path, limits, most_bytes) as (stream, size):
        content = stream.read(size + 1)  # one more than there are: files that grow, or say that they are empty
        if len(content) != size:
            raise DataError(
                f"expected {size:,} bytes, found {'more' if len(content) > size else len(content)}; "
                "it changed while it was read"
            )
        return content


@contextmanager
def open_file(path: Path, limits: ReadingConfig, most_bytes: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a raw file, opened to be read once, and its size in bytes.

    Never waits: FIFOs and devices are not opened. Links are followed.

    Args:
        path: the file.
        limits: bounds that the settings give.
        most_bytes: what a file of this format can have, where that is less.

    Raises:
        DataError: when it is not a regular file, is larger than allowed, is only a pointer of Git LFS or git-annex, or
            cannot be read.
    """
    try:
        _check(path.stat(), limits, most_bytes)  # opening a device can have consequences
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)  # another file may have come into its place
            _check(status, limits, most_bytes)
            if status.st_size <= _LONGEST_POINTER:
                _refuse_pointer(stream.peek(64))
            yield stream, status.st_size
    except FileNotFoundError as error:
        raise DataError(_missing(path)) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError("cannot be read (a null character in its name)") from error


def _check(status: os.stat_result, limits: ReadingConfig, most_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"expected a regular file, found {kind}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise DataError(f"{status.st_size:,} bytes, more than the {most_bytes:,} that such a file can have")
    if status.st_size > limits.max_file_bytes:
        raise DataError(
            f"{status.st_size:,} bytes, data.reading.max_file_bytes allows {limits.max_file_bytes:,}; "
            "raise it if the file is right"
        )


def _refuse_pointer(start: bytes) -> None:
    for beginning, (what, command) in _POINTERS.items():
        if start.startswith(beginning):
            raise DataError(f"{what}, the content is not here; fetch it with `{command}`")


def _missing(path: Path) -> str:
    """Say what is missing: git-annex leaves links to files that were not fetched."""
    try:
        target = str(path.readlink())
    except OSError:
        return "cannot be read (No such file or directory)"
    if "annex/objects" in target:
        return "a git-annex link, the content is not here; fetch it with `git annex get`"
    return "a link to a file that does not exist"


def check_voxels(shape: Sequence[int], num_bytes: int, limits: ReadingConfig) -> None:
    """Refuse an image before memory is taken for it.

    Args:
        shape: voxels per axis.
        num_bytes: that it is unpacked to.
        limits: bounds that the settings give.

    Raises:
        DataError: naming the setting.
    """
    num_voxels = math.prod(shape)
    for found, what, most in (
        (num_voxels, "voxels", limits.max_voxels),
        (num_bytes, "inflated_bytes", limits.max_inflated_bytes),
    ):
        if found > most:
            sizes = " x ".join(f"{size:,}" for size in shape)
            raise DataError(
                f"{sizes} are {found:,} {what.replace('_', ' ')}, data.reading.max_{what} allows {most:,}; "
                "raise it if the file is right"
            )


def is_sane_spacing(edges_mm: Sequence[float]) -> bool:
    """Return whether voxel edges in mm, one an axis, are numbers that arithmetic survives: 1e-320 is not."""
    return all(MIN_EDGE_MM <= edge <= MAX_EDGE_MM for edge in edges_mm)


def plain_number(text: str) -> float:
    """Return a number as files have it, ASCII digits with point and exponent; NaN for anything else.

    Python's own `float` also takes `1_000`, digits of other scripts, spaces, and words such as `infinity`.
    """
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def is_plain_id(text: str, prefix: str = "") -> bool:
    """Return whether an id is a prefix and ASCII digits; digits of other scripts look alike and are not equal."""
    digits = text.removeprefix(prefix)
    return text.startswith(prefix) and digits.isascii() and digits.isdecimal()


def printable(name: str) -> str:
    r"""Return a file's name with bytes that are not UTF-8 as `\xff`, so that tables and logs can hold it."""
    try:
        content = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name of a file
        return name.encode("ascii", "backslashreplace").decode()
    return content.decode("utf-8", "backslashreplace")
