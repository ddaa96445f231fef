"""Listing the files of a folder quickly, as data sets do that say which files they read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ctan.errors import DataError
from ctan.reading import printable

File = Path | os.DirEntry[str]  # both know their `stat`; an entry of a folder costs a third of a path


def files_in(folder: os.PathLike[str], ending: str = "") -> list[os.DirEntry[str]]:
    """Return the regular files of a folder, and links to such, but none whose name starts with a dot.

    Args:
        folder: without one there are no files.
        ending: of the files' names.
    """
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return [item for item in entries if item.name.endswith(ending) and item.name[0] != "." and item.is_file()]
    return []


def files_below(folder: Path, hidden: bool = False) -> Iterator[os.DirEntry[str]]:
    """Yield the regular files at any depth; links are followed, a folder that contains itself once.

    Args:
        folder: where to begin.
        hidden: also what lies behind names that start with a dot.
    """
    top = folder.resolve()
    waiting, entered = [os.fspath(folder)], {top}
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not hidden:
                    continue
                if entry.is_file():
                    yield entry
                elif entry.is_dir():
                    if entry.is_symlink():
                        real = Path(entry.path).resolve()
                        if real in entered or real in top.parents:
                            continue
                        entered.add(real)
                    waiting.append(entry.path)


def ids_of(paths: Sequence[Path], root: Path, endings: Sequence[str] = ()) -> list[str]:
    """Return an id for each case to predict: the name of its file or folder, with those around it where names repeat.

    Args:
        paths: of the cases, at or below `root`.
        root: that was given.
        endings: of files, which are no part of an id.

    Raises:
        DataError: when two cases would have one id.
    """

    def parts(path: Path) -> tuple[str, ...]:
        below = path.relative_to(root).parts or (path.resolve().name,)
        ending = next((end for end in endings if below[-1].lower().endswith(end)), "")
        return (*below[:-1], below[-1][: len(below[-1]) - len(ending)])

    names = [parts(path) for path in paths]
    last = [name[-1] for name in names]
    unique = ["_".join(name) if last.count(name[-1]) > 1 else name[-1] for name in names]
    ids = ["".join(c if c.isalnum() or c in "-_.+" else "_" for c in printable(name)).lstrip(".") for name in unique]
    if twice := sorted({name for name in ids if ids.count(name) > 1 or not name}):
        raise DataError(f"{len(twice)} cases would have the same id ({', '.join(twice[:5])}); rename their files")
    return ids


def files_of_kind(source: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files at or below a path whose names end so, whatever the case of the letters, in order."""
    files = [source] if source.is_file() else [Path(file) for file in files_below(source)]
    return sorted(file for file in files if file.name.lower().endswith(tuple(endings)))
