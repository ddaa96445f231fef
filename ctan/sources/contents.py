"""What names a folder of raw files: a hash of the contents of exactly the files that its data set reads.

A date, a copy or a file that nobody reads changes nothing; one byte of a label does, also when the file's length and
date stay. Reading terabytes at every look would take hours, so digests are kept in the workspace under device, inode,
size, modification and change time of each file: whoever writes to a file sets its change time, and no tool sets it
back. (Some network and FUSE file systems invent it; tables, which are edited most, are therefore always read.)
"""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from ctan.datasets import naming_another
from ctan.datasets.base import Dataset
from ctan.datasets.listing import File
from ctan.errors import DataError
from ctan.files import atomic_path
from ctan.progress import track
from ctan.workspace import workspace

CACHE_FOLDER = "cache/contents"
_FORMAT = b"ctan-contents-1\n"
_STATUS = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
_NUM_NUMBERS = 5
_UNKNOWN = array("Q", [0] * _NUM_NUMBERS)
_KEY_BYTES = _NUM_NUMBERS * _UNKNOWN.itemsize
_LINE = b"%b\0%b".__mod__
# Times of files move on in steps, of 2 s at worst: a file as young as that may change again without another time.
_SETTLED_NS = 3_000_000_000
_NUM_THREADS = 8
_NUM_TO_SHOW = 100  # fewer files are read without a word


def version_of(dataset: Dataset, raw_dir: Path) -> str:
    """Return a hash of names and contents of the files that a data set reads of a folder.

    Args:
        dataset: whose raw format it is.
        raw_dir: the folder; where it lies does not matter.

    Raises:
        DataError: when the data set finds nothing to read there.
    """
    is_read = dataset.is_read if dataset.looks_inside else None
    # A name holds no zero byte and digests are of one length, so that no two lists give the same bytes.
    try:
        lines = sorted(map(_LINE, digests(dataset.files(raw_dir), raw_dir, "sha256", dataset.name, is_read)))
    except PermissionError as error:
        raise DataError(f"{raw_dir}: a folder in it cannot be listed ({error.strerror})") from error
    if not lines:
        with naming_another(dataset.name, raw_dir):
            dataset.find(raw_dir)  # knows best what is missing
        raise DataError(f"{raw_dir}: holds no file that {dataset.name} reads, so that nothing names this data")
    for name in dataset.tables:
        if (raw_dir / name).is_file():
            lines.append(_LINE((os.fsencode(name), _digest(raw_dir / name, "sha256", None))))
    return hashlib.sha256(b"".join(lines)).hexdigest()[:32]


def md5s_of(folder: Path) -> dict[str, str]:
    """Return the MD5 of every file below a folder by its path, as DVC sees it: links to folders are not followed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {os.fsdecode(name): digest.hex() for name, digest in digests(files, folder, "md5", "")}


def digests(
    files: Iterable[File], root: Path, algorithm: str, purpose: str, is_read: Callable[[Path], bool] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Return path below `root` and digest of each file; only what changed since the last time is read.

    Args:
        files: below `root`.
        root: the folder.
        algorithm: a name of `hashlib`.
        purpose: keeps what is known for one data set apart from the others.
        is_read: says which files count; None: all.
    """
    start = len(os.fspath(root)) + 1
    names: list[str] = []
    keys = array("Q")  # a hundred thousand files: what is done for each of them counts
    for file in files:
        names.append(os.fspath(file)[start:])
        try:
            keys.extend(_STATUS(file.stat()))
        except (OSError, OverflowError):  # gone meanwhile, or older than 1970
            del keys[(len(names) - 1) * _NUM_NUMBERS :]
            keys.extend(_UNKNOWN)
    cache = _Cache(root, algorithm, purpose)
    found = cache.look_up(keys)
    unknown = [index for index, digest in enumerate(found) if not digest]
    settled = time.time_ns() - _SETTLED_NS
    for index, digest in zip(unknown, _read([root / names[i] for i in unknown], algorithm, is_read), strict=True):
        found[index] = digest
        key = slice(index * _NUM_NUMBERS, (index + 1) * _NUM_NUMBERS)
        if keys[key][-1] >= settled or not _is_still(root / names[index], keys[key]):
            keys[key] = _UNKNOWN
    if unknown or cache.num_files != len(names):
        cache.save(keys, found)
    encoded = os.fsencode("\0".join(names)).split(b"\0") if names else []
    pairs = zip(encoded, found, strict=True)
    return pairs if is_read is None else (pair for pair in pairs if pair[1] != cache.left_out)


def _is_still(path: Path, status: array[int]) -> bool:
    try:
        return _STATUS(path.stat()) == tuple(status)
    except OSError:
        return False


def _read(paths: Sequence[Path], algorithm: str, is_read: Callable[[Path], bool] | None) -> Iterator[bytes]:
    if not paths:
        return
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="ctan-hash") as pool:
        read = pool.map(lambda path: _digest(path, algorithm, is_read), paths)
        yield from read if len(paths) < _NUM_TO_SHOW else track(read, len(paths), "version of the data")


def _digest(path: Path, algorithm: str, is_read: Callable[[Path], bool] | None) -> bytes:
    """Return the digest of a file that counts.

    A file that cannot be read does not stop the run here: the reader tells of its case.
    """
    try:
        if is_read is not None and not is_read(path):
            return _left_out(algorithm)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).digest()
    except OSError:
        return hashlib.new(algorithm, b"cannot be read", usedforsecurity=False).digest()


def _left_out(algorithm: str) -> bytes:
    """Return what stands in place of the digest of a file that does not count."""
    return bytes(hashlib.new(algorithm, usedforsecurity=False).digest_size)


class _Cache:
    """The digests of a folder's files as they were at the last look; the file's name does not tell which folder."""

    def __init__(self, root: Path, algorithm: str, purpose: str) -> None:
        name = hashlib.sha256(os.fsencode(f"{algorithm}\0{purpose}\0{os.path.realpath(root)}")).hexdigest()[:32]
        self._path = workspace() / CACHE_FOLDER / name
        self.left_out = _left_out(algorithm)
        self._keys, self._digests = self._load()

    @property
    def num_files(self) -> int:
        """How many files are known."""
        return len(self._keys) // _KEY_BYTES

    def look_up(self, keys: array[int]) -> list[bytes]:
        """Return the digest of each file, empty where it is not known."""
        digests, wanted = _cut(self._digests, len(self.left_out)), keys.tobytes()
        if self._keys == wanted:  # nothing has changed
            return digests
        known = dict(zip(_cut(self._keys, _KEY_BYTES), digests, strict=True))
        return [known.get(key, b"") for key in _cut(wanted, _KEY_BYTES)]

    def save(self, keys: array[int], digests: Sequence[bytes]) -> None:
        """Keep the digests of this look, and no older ones."""
        unknown = _UNKNOWN.tobytes()
        pairs = zip(_cut(keys.tobytes(), _KEY_BYTES), digests, strict=True)
        known = [(key, digest) for key, digest in pairs if key != unknown]
        body = b"".join(key for key, _ in known) + b"".join(digest for _, digest in known)
        with suppress(OSError), atomic_path(self._path) as beside:  # a workspace that is read-only costs time only
            beside.write_bytes(_FORMAT + hashlib.sha256(body).digest() + body)

    def _load(self) -> tuple[bytes, bytes]:
        """Return keys and digests; nothing where there are none or the file is damaged."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return b"", b""
        start = len(_FORMAT) + hashlib.sha256().digest_size
        body = content[start:]
        count, rest = divmod(len(body), _KEY_BYTES + len(self.left_out))
        if rest or content[:start] != _FORMAT + hashlib.sha256(body).digest():
            return b"", b""
        return body[: count * _KEY_BYTES], body[count * _KEY_BYTES :]


def _cut(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]
