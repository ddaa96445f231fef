"""Plug-ins: data sets, architectures and kinds of task, found by the entry points of any installed package.

A package adds one by an entry point, `[project.entry-points."ctan.datasets"] name = "module:Class"`; ctan's own use the
same door. Names are known without importing anything; the module is imported when the plug is used.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctan.errors import ConfigError

DATASETS, NETWORKS, TASKS = "ctan.datasets", "ctan.networks", "ctan.tasks"
_WHAT = {DATASETS: "data set", NETWORKS: "architecture", TASKS: "kind of task"}


@cache
def _found(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        if all(point.value != known.value for known in found.get(point.name, [])):  # a package may be listed twice
            found.setdefault(point.name, []).append(point)
    return found


def names(group: str, own: bool = False) -> tuple[str, ...]:
    """Return the names of a group: ctan's own first, then those of other packages, each in alphabetical order.

    Args:
        group: `DATASETS`, `NETWORKS` or `TASKS`.
        own: leave out those of other packages.
    """

    def foreign(name: str) -> bool:
        return not any(point.value.startswith("ctan.") for point in _found(group)[name])

    found = sorted(_found(group), key=lambda name: (foreign(name), name))
    return tuple(name for name in found if not (own and foreign(name)))


def check(group: str, name: str, field: str) -> str:
    """Return a name that is known.

    Args:
        group: `DATASETS`, `NETWORKS` or `TASKS`.
        name: of the plug.
        field: setting that names it, for the message.

    Raises:
        ConfigError: listing the known names; also when two packages offer it.
    """
    points = _found(group).get(name, [])
    if not points:
        close = difflib.get_close_matches(name, names(group), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"{field}: unknown {name!r}; {hint}allowed: {', '.join(names(group))}")
    if len(points) > 1:
        packages = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise ConfigError(f"{field}: {packages} both bring a {_WHAT[group]} {name!r}; uninstall one of them")
    return name


def load(group: str, name: str, field: str) -> Any:
    """Return what a plug's entry point names, usually a class.

    Raises:
        ConfigError: when the name is unknown, or the package that brings it cannot be imported.
    """
    check(group, name, field)
    (point,) = _found(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.value
        raise ConfigError(
            f"{field}: the {_WHAT[group]} {name!r} of the package {package} cannot be loaded "
            f"({type(error).__name__}: {error}); install its requirements, or uninstall it"
        ) from error


def declared_version(group: str, name: str, field: str) -> int:
    """Return the `version` that a plug's class declares, without importing it where its source says it plainly.

    Raises:
        ConfigError: when the name is unknown, or the package that brings it cannot be imported.
    """
    check(group, name, field)
    (point,) = _found(group)[name]
    source = _source_of(point.module)
    if source is not None:
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == point.attr:
                for line in node.body:
                    if isinstance(line, ast.AnnAssign | ast.Assign) and isinstance(line.value, ast.Constant):
                        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
                        if any(isinstance(target, ast.Name) and target.id == "version" for target in targets):
                            return int(str(line.value.value))
    return int(load(group, name, field).version)


def _source_of(module: str) -> Path | None:
    """Return the file of a module without importing the packages it lies in, as `find_spec` of its full name would."""
    name, *inner = module.split(".")
    found = find_spec(name)
    for part in inner:
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, found.submodule_search_locations) if found else None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def about(group: str, name: str) -> tuple[str, str]:
    """Return the package that brings a plug, and the first sentence of its module, or why it cannot be loaded."""
    (point, *others) = _found(group)[name]
    package = " and ".join(one.dist.name if one.dist else one.value for one in (point, *others))
    try:
        made = load(group, name, name)
    except ConfigError as error:
        return package, str(error)
    described = (inspect.getdoc(inspect.getmodule(made)) or inspect.getdoc(made) or "").partition("\n\n")[0]
    return package, " ".join(described.split()).partition(". ")[0].rstrip(".")
