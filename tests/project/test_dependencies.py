"""What is imported is declared, what is declared is imported, and the two lists of it agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"ctan", "components", "pipelines", "tests", "benchmarks"}
BESIDE = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}  # run as scripts, these import one another
RUN_TIME = ("ctan", "components", "pipelines")
DEVELOPMENT = ("tests", "benchmarks", "infra")
SIDES = ROOT / "benchmarks" / "peer_sides"  # run in environments of their own

# Declared although no line of ours imports it.
USED_BY_NAME = {
    "psutil": "MLflow measures the machine with it (log_system_metrics)",
    "kfp-kubernetes": "adds the module kfp.kubernetes",
    "clarabel": "torchjd's CAGrad solves with it, by cvxpy",
    "cvxpy-base": "torchjd's CAGrad is written in it",
    "onnx": "torch writes ONNX with it, by onnxscript",
    "onnxscript": "torch writes ONNX with it",
}


def plain(requirement: str) -> str:
    """Return the normal form of a distribution's name, without extras and versions."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def listed(name: str) -> set[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {plain(line) for line in lines if line.strip() and not line.startswith(("#", "-c"))}


# ctan[export] and ctan[cagrad]: for development and whoever wants them, in no image.
EXTRAS = {"onnx", "onnxruntime", "onnxscript", "clarabel", "cvxpy-base"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    return {plain(requirement) for requirement in [*project["dependencies"], *optional]}


@cache
def imported(rooms: tuple[str, ...]) -> Mapping[str, str]:
    """Return each imported module that is neither Python's nor ours, and a file that imports it."""
    found: dict[str, str] = {}
    for path in sorted(path for room in rooms for path in (ROOT / room).rglob("*.py") if path.parent != SIDES):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                # `from kfp import compiler` may import a module kfp/compiler that another distribution brings
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                if name.partition(".")[0] not in OURS | BESIDE | sys.stdlib_module_names:
                    found.setdefault(name, path.relative_to(ROOT).as_posix())
    return found


@cache
def owners() -> Mapping[str, frozenset[str]]:
    """Return the distributions that bring each module, by dotted name: several share `google` and `kfp`."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        name = plain(distribution.metadata["Name"])
        for line in (distribution.read_text("RECORD") or "").splitlines():
            path, _, ending = line.partition(",")[0].partition(".")
            if ending in ("py", "so", "pyd") or ending.startswith(("cpython-", "abi3")):
                module = path.removesuffix("/__init__").replace("/", ".")
                found.setdefault(module, set()).add(name)
    return {module: frozenset(names) for module, names in found.items()}


def owner(module: str) -> frozenset[str]:
    """Return who brings `module`, or, where it names a class or function, the module around it."""
    while module and module not in owners():
        module = module.rpartition(".")[0]
    return owners().get(module, frozenset())


@pytest.mark.parametrize(
    ("rooms", "allowed", "where"),
    [
        (RUN_TIME, declared(), "pyproject.toml and requirements.in"),
        (DEVELOPMENT, declared() | listed("requirements-dev.in") | listed("requirements.in"), "requirements-dev.in"),
    ],
    ids=["at run time", "in development"],
)
def test_every_import_is_of_a_declared_distribution(rooms: tuple[str, ...], allowed: set[str], where: str) -> None:
    modules = imported(rooms)
    assert len(modules) > 50
    unknown = {
        f"{module} of {path} ({', '.join(sorted(owner(module))) or 'not installed'})"
        for module, path in modules.items()
        if not owner(module) & allowed
    }
    assert not unknown, f"declare in {where}: {sorted(unknown)}"


def test_every_declared_distribution_is_imported_or_says_what_for() -> None:
    used = {name for module in imported(RUN_TIME) for name in owner(module)}
    assert declared() - used == set(USED_BY_NAME) - used
    assert set(USED_BY_NAME) <= declared()


def test_the_image_installs_what_the_package_needs() -> None:
    assert declared() - {"torch"} - EXTRAS <= listed("requirements.in")  # torch: see `make lock`
    assert listed("requirements-dev.in") >= EXTRAS


def test_what_is_compared_with_is_pinned_exactly() -> None:
    lines = [line for name in ("networks.txt", "dicom.txt") for line in (SIDES / name).read_text().splitlines()]
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    known = {plain(line) for line in pinned} | OURS | {"torch"} | {path.stem for path in SIDES.glob("*.py")}
    for path in SIDES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
            assert {plain(top) for top in tops} <= {plain(name) for name in known}, path.name
