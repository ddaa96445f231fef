"""Folders and files in object storage, `s3://bucket/prefix`: local copies, and uploads that are whole or not seen.

Server and credentials come from the environment as in `ctan.sources.s3.s3_client`. S3 knows no renaming of
folders: a folder that was published counts as there when its last file is, and every file is put whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ctan.errors import ConfigError, DataError
from ctan.sources.objects import FIRST_PAUSE_SECONDS, TRIES, asking, place, read_object, unreachable
from ctan.sources.progress import ByteProgress
from ctan.sources.s3 import S3Source, S3Uri, remove_others, s3_client, translated
from ctan.sources.transfer import LEDGER_FILE, InterruptedTransferError, RemoteFile, transfer
from ctan.workspace import workspace

_NUM_WORKERS = 4  # files at the same time, each in as many parts at the same time when it is large
_PROBE = ".ctan-probe"


def is_remote(root: str | Path) -> bool:
    """Say whether a root is an address, not a folder."""
    return isinstance(root, str) and "://" in root


def check_root(root: str | Path, field: str) -> None:
    """Refuse addresses of another kind than `s3://bucket/prefix`.

    Raises:
        ConfigError: naming the field.
    """
    if is_remote(root):
        try:
            S3Uri.parse(str(root))
        except ConfigError as error:
            raise ConfigError(f"{field}: expected a folder or s3://bucket/prefix; {error}") from error


def join(root: str, *names: str) -> str:
    """Return the address of what lies below a root."""
    return "/".join([root.rstrip("/"), *names])


def cache_folder(kind: str, root: str) -> Path:
    """Return the folder of the workspace that holds local copies of what lies below a root.

    Args:
        kind: `"stores"`, `"checkpoints"` or `"ledger"`.
        root: address.
    """
    return workspace() / "cache" / kind / hashlib.sha256(str(S3Uri.parse(root)).encode()).hexdigest()[:16]


def list_objects(uri: str) -> dict[str, RemoteFile]:
    """Return name -> object of all that lies below an address; empty when nothing does.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    return {file.name: file for file in source_of(uri).objects()}


def remove(uri: str, first: str) -> None:
    """Delete everything below an address.

    Args:
        uri: the address.
        first: name of the object that makes the rest count; deleted before all others.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client, names = s3_client(), list_objects(uri)
    with asking(uri, "delete"):
        for name in sorted(names, key=lambda name: name != first):
            client.delete_object(**place(join(uri, name)))


def check_writable(root: str | Path) -> None:
    """Write something below a root and delete it, to learn before long work whether its results can be kept.

    Raises:
        DataError: no bucket, no access, no answer; a folder that this user may not write to.
    """
    if not is_remote(root):
        _check_folder(Path(root).expanduser())
        return
    uri, client = join(str(root), _PROBE), s3_client()
    read_object(uri)  # some servers make a bucket for whoever writes to it: a mistyped one must not come to be
    with asking(uri, "write"):
        client.put_object(**place(uri), Body=b"")
    with contextlib.suppress(DataError), asking(uri, "delete"):  # what may not be deleted can be used all the same
        client.delete_object(**place(uri))


def _check_folder(folder: Path) -> None:
    probe = folder / f"{_PROBE}-{os.getpid()}-{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        found = there.stat()
        raise DataError(
            f"{folder}: user {os.getuid()} cannot write there ({error.strerror}; {there} belongs to "
            f"{found.st_uid}:{found.st_gid}, mode {found.st_mode & 0o7777:04o}). Give the folder to that user; a new "
            "claim of Kubernetes belongs to root: docs/kubernetes.md, claims"
        ) from error


def upload_file(path: Path, uri: str, tries: int = 1) -> None:
    """Put one file of any size, whole or not at all.

    Args:
        path: local file.
        uri: address of the object.
        tries: how often to begin again when the connection breaks; each asks the server three times.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    with ByteProgress(f"upload {path.name}", 1, path.stat().st_size) as progress:
        _upload(_client(), path, uri, progress, tries, quiet=True)


def publish(folder: Path, uri: str, last: str) -> None:
    """Upload a folder; only its last file makes it count as there. What the bucket holds already is left alone.

    Args:
        folder: local, complete.
        uri: address of the folder.
        last: name of the file that goes last.

    Raises:
        DataError: no bucket, no access, no answer, or someone else writes other bytes there.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    marker = files.pop(last)
    source, there = source_of(uri), list_objects(uri)
    with asking(uri, "read"):
        wanted = {name: path for name, path in files.items() if name not in there or source.problem(there[name], path)}
    client = _client()
    with ByteProgress("upload", len(wanted), sum(path.stat().st_size for path in wanted.values())) as progress:
        pool = ThreadPoolExecutor(_NUM_WORKERS, thread_name_prefix="ctan-upload")
        try:
            pending = [pool.submit(_upload, client, path, join(uri, n), progress) for n, path in wanted.items()]
            for done in as_completed(pending):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    there = list_objects(uri)
    for name, path in files.items():
        size = there[name].size if name in there else None
        if size != path.stat().st_size:
            raise DataError(
                f"{join(uri, name)}: {path.stat().st_size} bytes were uploaded and {size or 0} are there; "
                f"does something else write or delete there? Run again"
            )
    _upload(client, marker, join(uri, last), ByteProgress("upload", 0, 0))


def fetch_file(uri: str, folder: Path, name: str) -> None:
    """Fetch one of the files below an address into a folder, checked and renamed when complete.

    Raises:
        DataError: no bucket, no access, no answer, no such file, damage on the way.
    """
    with _locked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not _transfer(uri, folder, lambda file: file.name == name):
            raise DataError(f"{join(uri, name)}: there is nothing here")


def mirror(uri: str, folder: Path, check: Callable[[Path], None]) -> None:
    """Make a local copy of a folder, which appears when it is complete; an interrupted one is continued.

    Args:
        uri: address of the folder.
        folder: the copy. When it exists and passes the check nothing is done.
        check: raises `DataError` when the files in a folder are not right.

    Raises:
        DataError: no bucket, no access, no answer, nothing there, or what arrived does not pass the check.
    """
    with _locked(folder):
        if folder.exists():
            try:
                check(folder)
                return
            except DataError:
                shutil.rmtree(folder)
        beside = folder.parent / f".{folder.name}.download"
        if not _fetch(uri, beside):
            raise DataError(f"{uri}: there is nothing here")
        check(beside)
        (beside / LEDGER_FILE).unlink()
        beside.rename(folder)


def copy(source: S3Source, folder: Path, names: Collection[str]) -> None:
    """Fetch some of the files of a source into a folder; what is there already and right is left alone.

    Raises:
        DataError: no bucket, no access, no answer, no such file, damage on the way.
    """
    with _locked(folder):
        files = [file for file in source.objects() if file.name in names]
        try:
            transfer(files, source, folder, _NUM_WORKERS, "fetch")
        except DataError as error:
            raise DataError(f"{str(source.uri).rstrip('/')}: {error}") from error


def _fetch(uri: str, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    remove_others(folder, set(list_objects(uri)))
    return _transfer(uri, folder, lambda _: True)


def _transfer(uri: str, folder: Path, wanted: Callable[[RemoteFile], bool]) -> int:
    source = source_of(uri)
    files = [file for file in source.objects() if wanted(file)]
    try:
        transfer(files, source, folder, _NUM_WORKERS, "fetch")
    except DataError as error:
        raise DataError(f"{uri}: {error}") from error
    return len(files)


def _upload(client: Any, path: Path, uri: str, progress: ByteProgress, tries: int = TRIES, quiet: bool = False) -> None:
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(max_concurrency=_NUM_WORKERS)
    for tried in range(1, tries + 1):
        sent: list[int] = []

        def count(num_bytes: int, sent: list[int] = sent) -> None:
            sent.append(num_bytes)
            progress.advance(num_bytes)

        try:
            with translated(uri, "write"), path.open("rb") as stream:
                client.upload_fileobj(stream, **place(uri), Callback=count, Config=config)
            break
        except InterruptedTransferError as error:
            if tried == tries:
                raise unreachable(uri, error) from error
            progress.advance(-sum(sent))
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (tried - 1))
    if not quiet:
        progress.file_done()


def _client() -> Any:
    return s3_client(num_connections=_NUM_WORKERS * _NUM_WORKERS)


def source_of(uri: str, kind: type[S3Source] = S3Source) -> S3Source:
    """Return the objects below an address as a source of files."""
    return kind(S3Uri.parse(uri), s3_client(num_connections=_NUM_WORKERS))


def _locked(folder: Path) -> Any:
    """Return the lock of a local copy; the system frees it when the process dies."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock")
