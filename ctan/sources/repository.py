"""A git repository at one commit, opened without a `git` command: a folder, or a URL that is cloned for the moment."""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.sources.dvc import Settings, parse_dvc_config
from ctan.sources.trust import allowed_options, checked_listing, require_secure


class Repository:
    """A git repository at one commit.

    Args:
        git: a `scmrepo.git.Git`.
        commit: whose files are read.
        repository: URL or folder, for messages.
        folder: the repository's folder on this machine; None for a clone.
    """

    def __init__(self, git: Any, commit: str, repository: str, folder: Path | None) -> None:
        self.commit = commit
        self.folder = folder
        self._tree = git.get_fs(commit)
        self._name = repository if folder is None else folder.name
        self.files = cache(self._files)

    def __str__(self) -> str:
        return f"{self._name} at {self.commit[:10]}"

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        with self._tree.open(path, "rb") as stream:
            return stream.read()

    def exists(self, path: str) -> bool:
        """Say whether there is such a file or folder."""
        return bool(self._tree.exists(path))

    def _files(self, folder: str = "") -> list[str]:
        """Return the paths of all files below a folder."""
        walked = self._tree.walk(folder)
        return [posixpath.join(parent, name).lstrip("/") for parent, _, names in walked for name in names]

    def remote(self, name: str = "") -> tuple[str, dict[str, str]]:
        """Return name and options of a remote (the default one where no name is given), as far as they are trusted.

        Raises:
            DataError: there is none, or it sets what a repository must not decide.
        """
        if not self.exists(".dvc/config"):
            raise DataError(f"{self}: has no .dvc/config, so no remote is known; `dvc init`, `dvc remote add`")
        committed = parse_dvc_config(self.read(".dvc/config").decode("utf-8", "replace"))
        own: Settings = {}
        local = self.folder / ".dvc" / "config.local" if self.folder else None
        if local and local.is_file():
            own = parse_dvc_config(local.read_text(encoding="utf-8"))
        return choose_remote(name, committed, own, str(self))

    def store(self, url: str, md5: str, scratch: Path) -> str:
        """Return the address of a remote; what is a path relative to `.dvc` is made absolute.

        What the commit itself holds is copied to `scratch`, so that an old revision finds its bytes although the
        folder has moved on.
        """
        if not url or re.match(r"\w+://", url) or Path(url).expanduser().is_absolute():
            return url
        path = posixpath.normpath(posixpath.join(".dvc", url))
        if not path.startswith("..") and self.exists(path):
            listing = self._copy_object(path, md5, scratch, "the list of files")
            for name, file_md5 in checked_listing(listing, f"{self}, version {md5}").items():
                self._copy_object(path, file_md5, scratch, name)
            return str(scratch)
        if self.folder is None:
            raise DataError(
                f"{self}: its remote {url} is a folder outside the repository; clone it and give the folder"
            )
        return str((self.folder / path).resolve())

    def _copy_object(self, store: str, md5: str, scratch: Path, name: str) -> bytes:
        relative = f"files/md5/{md5[:2]}/{md5[2:]}"
        if not self.exists(f"{store}/{relative}"):
            raise DataError(f"{name}: its bytes ({md5}) are not in {store} of {self}; was `dvc push` forgotten?")
        content = self.read(f"{store}/{relative}")
        (scratch / relative).parent.mkdir(parents=True, exist_ok=True)
        (scratch / relative).write_bytes(content)
        return content


def choose_remote(name: str, committed: Settings, own: Settings, where: str) -> tuple[str, dict[str, str]]:
    """Return name and options of a remote of a DVC configuration.

    Args:
        name: of the remote; empty for the default one.
        committed: sections of `.dvc/config`.
        own: sections of `.dvc/config.local`.
        where: they are, for messages.

    Raises:
        DataError: there is none, or it sets what a repository must not decide.
    """
    chosen = name or own.get("core", {}).get("remote", "") or committed.get("core", {}).get("remote", "")
    section = f'remote "{chosen}"'
    if not chosen or (section not in committed and section not in own):
        asked = f"has no remote {name!r}" if name else "names no default remote"
        raise DataError(f"{where}: .dvc/config {asked}; `dvc remote add --default NAME URL`")
    return chosen, allowed_options(committed.get(section, {}), own.get(section, {}), where)


@contextmanager
def opened(repository: str, revision: str, commit: str = "") -> Iterator[Repository]:
    """Open a repository at a commit, or at what the revision is now; a URL is cloned to a temporary folder.

    Raises:
        DataError: no such repository or revision, or a branch and a tag of that name.
    """
    from scmrepo.exceptions import SCMError
    from scmrepo.git import Git

    folder = Path(repository).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and not re.match(r"\w[\w+]*://|[\w.-]+@[\w.-]+:", repository):
        raise DataError(f"data version: {folder.name!r} is neither a folder nor the URL of a git repository")
    require_secure(repository, "data version")
    name = folder.name if is_folder else repository
    with tempfile.TemporaryDirectory(prefix="ctan-git-") as clone:
        try:
            git = Git(str(folder)) if is_folder else _clone(repository, clone, revision, commit)
            if not commit:
                _refuse_two_meanings(git, revision, repository if not is_folder else "", name)
            resolved = git.resolve_rev(commit or revision)
        except (SCMError, OSError) as error:
            what = f"commit {commit}" if commit else f"revision {revision!r}"
            raise DataError(f"data version: cannot read {what} of {name}: {error}") from error
        try:
            yield Repository(git, resolved, repository, folder.resolve() if is_folder else None)
        finally:
            git.close()


def _refuse_two_meanings(git: Any, revision: str, url: str, name: str) -> None:
    """Refuse a name that a branch and a tag share: git takes the tag, a clone of the newest state the branch."""
    known = set(git.iter_remote_refs(url) if url else git.iter_refs())
    if {f"refs/heads/{revision}", f"refs/tags/{revision}"} <= known:
        raise DataError(f"data version: {name} has a branch and a tag {revision!r}; give the commit, or rename one")


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
