"""Where a repository's commit pins a folder of data: `.dvc` files and `dvc.lock`, with imports from other repositories.

Formats as DVC 3 writes them. A repository may hold anything in these files: what is used of it is checked here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from ctan.errors import DataError
from ctan.sources.trust import checked_files, require_md5, require_safe_names


class Tree(Protocol):
    """The files of a commit; `str()` names it in messages."""

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""

    def files(self, folder: str = "") -> list[str]:
        """Return the paths of all files below a folder."""


@dataclass(frozen=True)
class Pin:
    """A folder that a commit pins.

    Attributes:
        path: of the data in the repository.
        md5: DVC's hash of the folder, `"<hex>.dir"`.
        files: of cloud-versioned data: name -> MD5 of each file.
        entry: what DVC wrote of it.
        remote: name of the remote that holds it; empty for the default one.
        repository: of imported data: URL or folder of the repository it comes from.
        commit: of that repository.
        source_path: of the data there.
        in_git: the files themselves are in the commit (`cache: false`).
    """

    path: str
    md5: str
    files: Mapping[str, str] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)
    remote: str = ""
    repository: str = ""
    commit: str = ""
    source_path: str = ""
    in_git: bool = False


def find_pin(tree: Tree, path: str | None, tree_md5: Any) -> Pin:
    """Return the folder that a commit pins at a path.

    Args:
        tree: the commit.
        path: of the data; None where it pins one folder only.
        tree_md5: makes DVC's hash of a folder from name -> MD5.

    Raises:
        DataError: nothing of this path, something else than a folder, or pinned in a way that is not understood.
    """
    found = {posixpath.normpath(path): (out, stage) for path, out, stage in _outputs(tree)}
    if path is None:
        single = [known for known, (out, _) in found.items() if _is_folder(out)] or list(found)
        path = single[0] if len(single) == 1 else None
    wanted = posixpath.normpath(path) if path else ""
    if wanted not in found:
        raise DataError(f"{tree}: {_not_there(tree, path, list(found))}")
    out, stage = found[wanted]
    require_safe_names([wanted], f"{tree}")
    if wanted.partition("/")[0] in (".dvc", ".git"):
        raise DataError(f"{tree}: {wanted} is no place for data")
    return _described(tree, wanted, out, stage, tree_md5)


def _not_there(tree: Tree, path: str | None, known: list[str]) -> str:
    asked = f"does not pin {path!r}" if path else "pins not exactly one data set; name one with :PATH"
    pins = f"its .dvc files and dvc.lock pin {', '.join(known) or 'nothing'}"
    unlocked = [name for name in tree.files() if posixpath.basename(name) == "dvc.yaml"]
    hint = ""
    if unlocked and not any(posixpath.basename(name) == "dvc.lock" for name in tree.files()):
        hint = f"; {unlocked[0]} has no dvc.lock beside it: `dvc repro`, `git add dvc.lock`, `dvc push`"
    inside = [name for name in known if path and posixpath.normpath(path).startswith(f"{name}/")]
    if inside:
        hint = f"; {path} lies inside {inside[0]}, which can be had as a whole only"
    return f"{asked}; {pins}{hint}"


def _outputs(tree: Tree) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield path, entry and stage of all that `.dvc` files and `dvc.lock` pin."""
    for name in sorted(tree.files()):
        folder, last = posixpath.split(name)
        if last.endswith(".dvc") and last != ".dvc":
            stage = _mapping(tree, name)
            for out in _entries(stage, "outs", tree, name):
                yield posixpath.join(folder, str(stage.get("wdir", ".")), out["path"]), out, stage
        elif last == "dvc.lock":
            yield from _locked(tree, name, folder)


def _locked(tree: Tree, name: str, folder: str) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield what the stages of a `dvc.yaml` made; their settings are there, the hashes in `dvc.lock`."""
    stages = _section(_mapping(tree, name), "stages", tree, name)
    plan = posixpath.join(folder, "dvc.yaml")
    defined = _section(_mapping(tree, plan), "stages", tree, plan) if plan in tree.files() else {}
    for stage_name, stage in stages.items():
        definition = defined.get(str(stage_name).partition("@")[0], {})
        if isinstance(definition, Mapping) and isinstance(definition.get("do"), Mapping):
            definition = definition["do"]
        if not isinstance(definition, Mapping) or not isinstance(stage, Mapping):
            raise DataError(f"{tree}: {name}: stage {stage_name!r} is not one that DVC writes")
        options = _output_options(definition)
        for out in _entries(stage, "outs", tree, name):
            path = posixpath.join(folder, str(definition.get("wdir", ".")), out["path"])
            if "${" in path:
                raise DataError(f"{tree}: {plan}: the folder of stage {stage_name!r} is a template; name it plainly")
            said = next((text for pattern, text in options.items() if re.fullmatch(pattern, out["path"])), {})
            yield path, {**said, **out}, {}


def _output_options(definition: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what `dvc.yaml` says of each output, such as `cache: false`, by a pattern of its path."""
    found: dict[str, Mapping[str, Any]] = {}
    for out in definition.get("outs") or ():
        if isinstance(out, Mapping):
            for path, options in out.items():
                if isinstance(options, Mapping):  # a path may hold the variable of a loop
                    found[".*".join(map(re.escape, re.split(r"\$\{.*?\}", str(path))))] = options
    return found


def _described(tree: Tree, path: str, out: Mapping[str, Any], stage: Mapping[str, Any], tree_md5: Any) -> Pin:
    where = f"{tree}: {path}"
    if not _is_folder(out):
        raise DataError(f"{where} is a single file; a data set is a folder (`dvc add` the folder)")
    files: dict[str, str] = {}
    if "files" in out:
        entries = _entries(out, "files", tree, path, key="relpath")
        files = checked_files(((entry["relpath"], entry.get("md5")) for entry in entries), where)
        md5 = tree_md5(files)
    elif out.get("hash") != "md5":
        raise DataError(f"{where} was pinned by DVC 2, whose hashes differ; `dvc cache migrate --dvc-files`")
    else:
        md5 = require_md5(out["md5"], where, ".dir")
    pin = Pin(path, md5, files, out, str(out.get("remote", "")), in_git=out.get("cache") is False)
    origin = _import_of(stage, where)
    return pin if origin is None else Pin(path, md5, repository=origin[0], commit=origin[1], source_path=origin[2])


def _import_of(stage: Mapping[str, Any], where: str) -> tuple[str, str, str] | None:
    """Return repository, commit and path that `dvc import` noted; None for data that was not imported."""
    for dependency in stage.get("deps") or ():
        repo = dependency.get("repo") if isinstance(dependency, Mapping) else None
        if repo is None:
            continue
        if not isinstance(repo, Mapping) or not all(isinstance(repo.get(key), str) for key in ("url", "rev_lock")):
            raise DataError(f"{where}: its import does not name repository and commit; `dvc update` it")
        if more := sorted(set(repo) - {"url", "rev", "rev_lock"}):
            raise DataError(
                f"{where}: its import sets {', '.join(more)} of the registry, which is not followed; "
                f"run on dvc:{repo['url']} itself"
            )
        return repo["url"], repo["rev_lock"], str(dependency.get("path", ""))
    return None


def _is_folder(out: Mapping[str, Any]) -> bool:
    return "files" in out or str(out.get("md5", "")).endswith(".dir")


def _mapping(tree: Tree, name: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(tree.read(name)) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{tree}: {name} is not valid YAML") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{tree}: {name} is not a file that DVC writes")
    return content


def _section(content: Mapping[str, Any], key: str, tree: Tree, name: str) -> Mapping[str, Any]:
    section = content.get(key) or {}
    if not isinstance(section, Mapping):
        raise DataError(f"{tree}: {name} is not a file that DVC writes ({key} is a {type(section).__name__})")
    return section


def _entries(
    content: Mapping[str, Any], what: str, tree: Tree, name: str, key: str = "path"
) -> list[Mapping[str, Any]]:
    entries = content.get(what) or []
    if not isinstance(entries, list) or not all(
        isinstance(e, Mapping) and isinstance(e.get(key), str) for e in entries
    ):
        raise DataError(f"{tree}: {name} is not a file that DVC writes ({what} without {key})")
    return entries
