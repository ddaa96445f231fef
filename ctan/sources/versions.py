"""Versions of raw data that DVC pins: resolved when they are used, fetched without git history, checked byte by byte.

A version is written `dvc:REPOSITORY@REVISION[:PATH]` (a git repository's URL or folder, a branch, tag or commit, and
the data's path where the repository pins more than one) or `md5:<32 hex digits>.dir`. The remote that holds the bytes
is the one that the repository's `.dvc/config` names at that revision; for `md5:` that of the checkout in the working
directory, or the address in `CTAN_DVC_REMOTE`. Credentials come from the environment (and for a folder from its
`.dvc/config.local`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ctan.errors import ConfigError, DataError
from ctan.sources.contents import md5s_of
from ctan.sources.dvc import parse_dvc_config, pull, verify
from ctan.sources.pins import Pin, find_pin
from ctan.sources.repository import Repository, choose_remote, opened
from ctan.sources.trust import require_safe_names, require_secure

_FORMS = "dvc:REPOSITORY@REVISION[:PATH], such as dvc:https://host/team/repo@main, or md5:<32 hex digits>.dir"
_SPEC = re.compile(r"dvc:(?P<repository>.+)@(?P<revision>[^@:]+)(?::(?P<path>[^@:]+))?")
_MAX_IMPORTS = 5  # repositories that import from one another
_REMOTE_VARIABLE = "CTAN_DVC_REMOTE"


@dataclass(frozen=True)
class DataVersion:
    """One version of a data set: what a run records.

    Attributes:
        md5: DVC's hash of the folder, `"<hex>.dir"`.
        path: of the data in its repository; empty when only the hash was given.
        repository: URL or folder of the git repository; empty likewise.
        revision: branch, tag or commit as it was asked for.
        commit: what the revision was at that time.
        remote: address of the DVC remote; one inside the repository is relative to it.
    """

    md5: str
    path: str = ""
    repository: str = ""
    revision: str = ""
    commit: str = ""
    remote: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the fields."""
        return asdict(self)


def is_version(source: str) -> bool:
    """Say whether a source names a version rather than a folder."""
    return source.startswith(("dvc:", "md5:"))


def resolve_version(spec: str) -> DataVersion:
    """Find out which bytes a version is, from the repository as it is now.

    Raises:
        ConfigError: when it is not written in one of the two forms.
        DataError: no such repository, revision or pinned data.
    """
    if match := re.fullmatch(r"md5:([0-9a-f]{32})(\.dir)?", spec):
        return DataVersion(f"{match[1]}.dir", remote=_remote_here()[1].get("url", ""))
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"data version {spec!r}: expected {_FORMS}")
    repository, revision = match["repository"], match["revision"]
    if re.match(r"\w+://[^/@]*:[^/@]*@", repository):
        raise ConfigError(
            "data version: the repository's address holds a password, which would be recorded with every "
            "run; use git's credential helper or SSH"
        )
    with opened(repository, revision) as origin:
        pin = find_pin(origin, match["path"], tree_md5)
        if pin.in_git:
            remote = ""
        elif pin.repository:
            remote = pin.repository
        else:
            remote = origin.remote(pin.remote)[1].get("url", "")
    return DataVersion(pin.md5, pin.path, repository, revision, origin.commit, remote)


def fetch_version(version: DataVersion, output_dir: Path) -> Path:
    """Fetch a version into `output_dir` and check every byte; nothing happens when it is there already.

    Args:
        version: of `resolve_version`.
        output_dir: the data's folder; must not exist, be empty, or hold this version.

    Raises:
        DataError: the remote cannot be read, or a file is not the version's: then nothing is left.
    """
    if output_dir.is_dir() and any(output_dir.iterdir()):
        if folder_md5(output_dir) == version.md5:
            return output_dir
        raise DataError(f"{output_dir.name}: holds other files than version {version.md5}; choose another folder")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    work = output_dir.parent / f".{output_dir.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        work.mkdir()
        if version.repository:
            with opened(version.repository, version.revision, version.commit) as origin:
                listing = _fetch(origin, find_pin(origin, version.path, tree_md5), work)
        else:
            listing = pull(Pin("data", version.md5), *_remote_here(), work)
        verify(version.md5, work / "data", listing)
        if output_dir.is_dir():
            output_dir.rmdir()
        (work / "data").rename(output_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return output_dir


def _fetch(origin: Repository, pin: Pin, work: Path, depth: int = 0) -> dict[str, str]:
    """Fetch a pinned folder to `work/data`, from where its bytes are; return the MD5 of each file by path."""
    if pin.in_git:
        return _copy_from_commit(origin, pin.path, pin.md5, work)
    if not pin.repository:
        name, options = origin.remote(pin.remote)
        url = options.get("url", "") if pin.files else origin.store(options.get("url", ""), pin.md5, work / "store")
        return pull(pin, name, options | {"url": url}, work)
    if depth == _MAX_IMPORTS:
        raise DataError(f"{origin}: {pin.path} is imported through more than {_MAX_IMPORTS} repositories")
    with opened(_address(origin, pin), pin.commit, pin.commit) as registry:
        try:
            source = find_pin(registry, pin.source_path, tree_md5)
        except DataError as error:
            if registry.files(pin.source_path):  # in git itself
                return _copy_from_commit(registry, pin.source_path, pin.md5, work)
            raise DataError(
                f"{origin}: {pin.path} is imported from {registry}, which does not give it: {error}"
            ) from error
        if source.md5 != pin.md5:
            raise DataError(f"{origin}: {pin.path} was imported as {pin.md5}, {registry} pins {source.md5}")
        return _fetch(registry, source, work, depth + 1)


def _address(origin: Repository, pin: Pin) -> str:
    """Return the address of the repository that data is imported from; folders are for repositories of this machine."""
    address = pin.repository
    if re.match(r"(https?|ssh|git|git\+ssh)://|[\w.-]+@[\w.-]+:", address):
        return address
    if origin.folder is None:
        raise DataError(
            f"{origin}: {pin.path} is imported from {address}, a folder of another machine; "
            "clone the repository and give the folder"
        )
    return address if "://" in address else str((origin.folder / Path(address).expanduser()).resolve())


def _copy_from_commit(origin: Repository, path: str, md5: str, work: Path) -> dict[str, str]:
    """Copy files that are in git to `work/data`."""
    names = [name.removeprefix(f"{path}/") for name in origin.files(path)]
    require_safe_names(names, str(origin))
    for name in names:
        target = work / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(origin.read(f"{path}/{name}"))
    listing = md5s_of(work / "data") if names else {}
    if tree_md5(listing) != md5:
        raise DataError(f"{origin}: {path} in git is not what was pinned ({md5}); `dvc commit` and commit again")
    return listing


@contextmanager
def open_version(spec: str, cache_dir: Path | None = None) -> Iterator[Path]:
    """Yield a folder with the version's files.

    Args:
        spec: see the module.
        cache_dir: keeps each version for the next time; None: a temporary folder.

    Raises:
        ConfigError, DataError: see `resolve_version` and `fetch_version`.
    """
    from filelock import FileLock

    version = resolve_version(spec)
    if cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="ctan-dvc-") as folder_name:
            yield fetch_version(version, Path(folder_name) / "data")
        return
    name = f"dvc-{version.md5.removesuffix('.dir')}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{name}.lock"):
        folder = fetch_version(version, cache_dir / name)
    yield folder


def folder_md5(folder: Path) -> str:
    """Return DVC's hash of a folder."""
    return tree_md5(md5s_of(folder))


def tree_md5(md5s: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder: the MD5 of the JSON list of its files' MD5s, in the order of their paths."""
    listing = json.dumps([{"md5": md5s[name], "relpath": name} for name in sorted(md5s)], sort_keys=True).encode()
    return f"{hashlib.md5(listing, usedforsecurity=False).hexdigest()}.dir"


def _remote_here() -> tuple[str, dict[str, str]]:
    """Return where `md5:` versions are looked for: `CTAN_DVC_REMOTE`, or the checkout around the working directory."""
    if url := os.environ.get(_REMOTE_VARIABLE):
        require_secure(url, _REMOTE_VARIABLE)
        return "default", {"url": url}
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".dvc" / "config").is_file():
            committed, own = (
                parse_dvc_config(path.read_text(encoding="utf-8")) if path.is_file() else {}
                for path in (folder / ".dvc" / name for name in ("config", "config.local"))
            )
            name, options = choose_remote("", committed, own, "the working directory")
            if not re.match(r"\w+://", options.get("url", "x://")):
                options["url"] = str((folder / ".dvc" / Path(options["url"]).expanduser()).resolve())
            return name, options
    raise ConfigError(
        f"data version: no remote is known; set {_REMOTE_VARIABLE} to its address, or give dvc:REPOSITORY@REVISION"
    )
