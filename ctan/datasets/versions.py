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
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ctan.datasets.contents import md5s_of
from ctan.datasets.fetch.dvc import Settings, parse_dvc_config, pull, verify
from ctan.errors import ConfigError, DataError

_FORMS = "dvc:REPOSITORY@REVISION[:PATH], such as dvc:https://host/team/repo@main, or md5:<32 hex digits>.dir"
_SPEC = re.compile(r"dvc:(?P<repository>.+)@(?P<revision>[^@:]+)(?::(?P<path>[^@:]+))?")
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
        name, settings = _default_remote(_settings_here(), "the working directory")
        return DataVersion(f"{match[1]}.dir", remote=settings[name].get("url", ""))
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"data version {spec!r}: expected {_FORMS}")
    repository, revision = match["repository"], match["revision"]
    if re.match(r"\w+://[^/@]*:[^/@]*@", repository):
        raise ConfigError("data version: the repository's address holds a password, which would be recorded with every "
                          "run; use git's credential helper or SSH")  # fmt: skip
    with _opened(repository, revision) as origin:
        path, md5 = _find_pin(origin, match["path"])
        name, settings = _default_remote(origin.settings(), str(origin))
        remote = settings[name].get("url", "")
    return DataVersion(md5, path, repository, revision, origin.commit, remote)


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
            with _opened(version.repository, version.revision, version.commit) as origin:
                name, settings = _default_remote(origin.settings(), str(origin))
                settings[name] |= origin.store(settings[name].get("url", ""), version, work / "store")
                listing = pull(version.md5, name, settings, work)
        else:
            listing = pull(version.md5, *_default_remote(_settings_here(), "the working directory"), work)
        verify(version.md5, work / "data", listing)
        if output_dir.is_dir():
            output_dir.rmdir()
        (work / "data").rename(output_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return output_dir


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


class _Origin:
    """A git repository at one commit.

    Args:
        git: a `scmrepo.git.Git`.
        commit: whose files are read.
        repository: URL or folder, for messages.
        folder: the repository's folder on this machine; None for a clone.
    """

    def __init__(self, git: Any, commit: str, repository: str, folder: Path | None) -> None:
        self.commit = commit
        self._tree = git.get_fs(commit)
        self._name = repository if folder is None else folder.name
        self._folder = folder

    def __str__(self) -> str:
        return f"{self._name} at {self.commit[:10]}"

    def read(self, path: str) -> bytes:
        with self._tree.open(path, "rb") as stream:
            return stream.read()

    def exists(self, path: str) -> bool:
        return bool(self._tree.exists(path))

    def pins(self) -> list[str]:
        """Return the paths of all `.dvc` files."""
        found = (posixpath.join(folder, name) for folder, _, names in self._tree.walk("") for name in names)
        return sorted(path.lstrip("/") for path in found if path.endswith(".dvc"))

    def settings(self) -> Settings:
        """Return `.dvc/config` of the commit, and over it what the folder's `.dvc/config.local` says."""
        if not self.exists(".dvc/config"):
            raise DataError(f"{self}: has no .dvc/config, so no remote is known; `dvc init`, `dvc remote add`")
        settings = parse_dvc_config(self.read(".dvc/config").decode())
        local = self._folder / ".dvc" / "config.local" if self._folder else None
        if local and local.is_file():
            for section, options in parse_dvc_config(local.read_text(encoding="utf-8")).items():
                settings.setdefault(section, {}).update(options)
        return settings

    def store(self, url: str, version: DataVersion, scratch: Path) -> dict[str, str]:
        """Return the `url` of a remote that is a relative path; {} for any other.

        What the commit itself holds is copied to `scratch`, so that an old revision finds its bytes although the
        folder has moved on.
        """
        if not url or re.match(r"\w+://", url) or Path(url).expanduser().is_absolute():
            return {}
        path = posixpath.normpath(posixpath.join(".dvc", url))
        if not path.startswith("..") and self.exists(path):
            listing = self._copy_object(path, version.md5, scratch, "the list of files")
            for entry in json.loads(listing):
                self._copy_object(path, entry["md5"], scratch, entry["relpath"])
            return {"url": str(scratch)}
        if self._folder is None:
            raise DataError(
                f"{self}: its remote {url} is a folder outside the repository; clone it and give the folder"
            )
        return {"url": str((self._folder / path).resolve())}

    def _copy_object(self, store: str, md5: str, scratch: Path, name: str) -> bytes:
        relative = f"files/md5/{md5[:2]}/{md5[2:]}"
        if not self.exists(f"{store}/{relative}"):
            raise DataError(f"{name}: its bytes ({md5}) are not in {store} of {self}; was `dvc push` forgotten?")
        content = self.read(f"{store}/{relative}")
        (scratch / relative).parent.mkdir(parents=True, exist_ok=True)
        (scratch / relative).write_bytes(content)
        return content


@contextmanager
def _opened(repository: str, revision: str, commit: str = "") -> Iterator[_Origin]:
    """Open a repository at a commit, or at what the revision is now; a URL is cloned to a temporary folder."""
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    folder = Path(repository).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and not re.match(r"\w[\w+]*://|[\w.-]+@[\w.-]+:", repository):
        raise DataError(f"data version: {folder.name!r} is neither a folder nor the URL of a git repository")
    with tempfile.TemporaryDirectory(prefix="ctan-git-") as clone:
        try:
            git = Git(str(folder)) if is_folder else _clone(repository, clone, revision, commit)
            resolved = git.resolve_rev(commit or revision)
        except (SCMError, OSError) as error:
            what = f"commit {commit}" if commit else f"revision {revision!r}"
            name = folder.name if is_folder else repository
            raise DataError(f"data version: cannot read {what} of {name}: {error}") from error
        try:
            yield _Origin(git, resolved, repository, folder.resolve() if is_folder else None)
        finally:
            git.close()


def _clone(url: str, target: str, revision: str, commit: str) -> Any:
    """Clone the newest state of a branch or tag; all of the history where the revision is a commit or has moved on."""
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    try:
        git = Git.clone(url, target, bare=True, shallow_branch=revision)
        if not commit or git.resolve_rev(revision) == commit:
            return git
        git.close()
    except SCMError:
        pass  # not a branch or tag
    shutil.rmtree(target)
    Path(target).mkdir()
    return Git.clone(url, target, bare=True)


def _find_pin(origin: _Origin, path: str | None) -> tuple[str, str]:
    """Return path and hash of the data that `.dvc` files of the commit pin."""
    outs: dict[str, Mapping[str, Any]] = {}
    for pin in origin.pins():
        content = yaml.safe_load(origin.read(pin)) or {}
        folder = posixpath.join(posixpath.dirname(pin), content.get("wdir", "."))
        outs |= {posixpath.normpath(posixpath.join(folder, out["path"])): out for out in content.get("outs", ())}
    if path is None and len(outs) == 1:
        path = next(iter(outs))
    wanted = posixpath.normpath(path) if path else ""
    if wanted not in outs:
        known = ", ".join(outs) or "nothing"
        asked = f"does not pin {path!r}" if path else "pins not exactly one data set; name one with :PATH"
        raise DataError(f"{origin}: {asked}; its .dvc files pin {known}")
    out = outs[wanted]
    if not str(out.get("md5", "")).endswith(".dir"):
        raise DataError(f"{origin}: {wanted} is a single file; a data set is a folder (`dvc add` the folder)")
    if out.get("hash") != "md5":
        raise DataError(f"{origin}: {wanted} was pinned by DVC 2, whose hashes differ; `dvc cache migrate --dvc-files`")
    return wanted, out["md5"]


def _settings_here() -> Settings:
    """Return where `md5:` versions are looked for: `CTAN_DVC_REMOTE`, or the checkout around the working directory."""
    if url := os.environ.get(_REMOTE_VARIABLE):
        return {"core": {"remote": "default"}, 'remote "default"': {"url": url}}
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".dvc" / "config").is_file():
            settings: Settings = {}
            for name in ("config", "config.local"):
                if (path := folder / ".dvc" / name).is_file():
                    for section, options in parse_dvc_config(path.read_text(encoding="utf-8")).items():
                        settings.setdefault(section, {}).update(options)
            for section, options in settings.items():
                if section.startswith("remote") and not re.match(r"\w+://", options.get("url", "x://")):
                    options["url"] = str((folder / ".dvc" / Path(options["url"]).expanduser()).resolve())
            return settings
    raise ConfigError(f"data version: no remote is known; set {_REMOTE_VARIABLE} to its address, or give "
                      "dvc:REPOSITORY@REVISION")  # fmt: skip


def _default_remote(settings: Settings, where: str) -> tuple[str, Settings]:
    """Return the section of the default remote, and all sections."""
    name = settings.get("core", {}).get("remote", "")
    section = f'remote "{name}"'
    if not name or section not in settings:
        raise DataError(f"{where}: .dvc/config names no default remote; `dvc remote add --default NAME URL`")
    return section, settings
