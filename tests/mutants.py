"""Mutation testing: single changes of code that decides, each of which some test must notice.

    python -m tests.mutants [--number 60] [--seed 0] [--only ctan/metrics]

A sample by seed of all places where a comparison, an operator, a constant, a condition or a `not` of `metrics/`,
`store/`, gate and ledger can be changed. For each the tests of that room run in a copy of the checkout until one fails;
a mutant that no test notices survives and is printed. Survivors are killed by a new test, or explained in
docs/reliability.md. Exit code 1 when there are others than those that are explained there.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
# Code -> the tests that must notice.
ROOMS = {
    "ctan/metrics/classification.py": ["tests/metrics/test_metrics_classification.py"],
    "ctan/metrics/dose.py": ["tests/metrics/test_metrics_dose.py"],
    "ctan/metrics/paired.py": ["tests/metrics/test_paired.py", "tests/tracking/test_gate.py"],
    "ctan/metrics/regression.py": ["tests/tasks"],
    "ctan/metrics/resampling.py": ["tests/evaluation/test_improvement.py", "tests/metrics"],
    "ctan/metrics/segmentation.py": ["tests/metrics/test_metrics_segmentation.py"],
    "ctan/seals.py": ["tests/store/test_seals.py", "tests/records/test_mutations.py"],
    "ctan/store/chunks.py": ["tests/store"],
    "ctan/store/description.py": ["tests/store"],
    "ctan/store/layout.py": ["tests/store"],
    "ctan/store/manifest.py": ["tests/intake/test_manifest.py", "tests/store"],
    "ctan/store/pack.py": ["tests/store"],
    "ctan/store/pointer.py": ["tests/store"],
    "ctan/store/reader.py": ["tests/store"],
    "ctan/store/remote.py": ["tests/sources/test_storage.py"],
    "ctan/tracking/gate.py": ["tests/tracking/test_gate.py", "tests/tracking/test_promotion.py"],
    "ctan/tracking/ledger.py": ["tests/tracking/test_ledger.py", "tests/tracking/test_promotion.py"],
}
_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
_SECONDS = 900.0
_NOT_COPIED = (".venv", ".git", "__pycache__", "build", "workspace", "data", ".mypy_cache", "*.egg-info")


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: below the root.
        line: number.
        before, after: the expression.
        source: of the changed file.
    """

    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: `{self.before}` -> `{self.after}`"


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    """Yield every mutant of a source; texts, annotations and messages of errors are left alone."""
    tree = ast.parse(text)
    left_alone = {id(inner) for node in ast.walk(tree) for part in _told(node) for inner in ast.walk(part)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in left_alone:
            continue
        for change in range(len(_changed(node))):
            other = copy.deepcopy(tree)
            twin = next(each for index, each in enumerate(ast.walk(other)) if index == number)
            after = _changed(twin)[change]
            mutated = ast.unparse(_Replace(twin, after).visit(other))
            yield Mutant(file, node.lineno, ast.unparse(node), ast.unparse(after), mutated)  # type: ignore[attr-defined]


def _told(node: ast.AST) -> list[ast.AST]:
    """Return the parts of a node that decide nothing."""
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return [node]
    if isinstance(node, ast.FunctionDef):
        arguments = (*node.args.args, *node.args.kwonlyargs)
        return [part for part in (*(each.annotation for each in arguments), node.returns) if part is not None]
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return [node]
    return []


def _changed(node: ast.AST) -> list[ast.expr]:
    """Return what a node may become."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARED:
        return [ast.Compare(node.left, [_COMPARED[type(node.ops[0])]()], node.comparators)]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATED and not isinstance(node.left, ast.Constant):
        return [ast.BinOp(node.left, _OPERATED[type(node.op)](), node.right)]
    if isinstance(node, ast.BoolOp):
        return [ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [node.operand]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [ast.Constant(not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return [ast.Constant(node.value + 1)]
    return []


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self._new, node) if node is self._old else self.generic_visit(node)


def survives(mutant: Mutant, copied: Path) -> bool:
    """Whether all tests of the room pass with the mutant in a copy of the checkout."""
    path = copied / mutant.file
    kept = path.read_bytes()
    path.write_text(mutant.source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *ROOMS[mutant.file]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(command, cwd=copied, env=environment, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return False  # it never ends: noticed
    finally:
        path.write_bytes(kept)
    return ran.returncode == 0


def explained() -> set[tuple[str, str, str]]:
    """Return file, expression and its change of the survivors that the page explains."""
    found = re.findall(r"`([\w/]+\.py)`: `([^`]+)` -> `([^`]+)`", PAGE.read_text(encoding="utf-8"))
    return {(file, before, after) for file, before, after in found}


def main() -> int:
    """Try a sample and print the survivors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="beginning of a path")
    asked = parser.parse_args()
    files = [file for file in ROOMS if file.startswith(asked.only)]
    places = [mutant for file in files for mutant in mutants_of(file, (ROOT / file).read_text(encoding="utf-8"))]
    chosen = random.Random(asked.seed).sample(places, min(asked.number, len(places)))
    print(f"{len(chosen)} of {len(places):,} mutants of {len(files)} files", flush=True)
    known, left, unknown = explained(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        copied = Path(name) / "checkout"
        ignored = shutil.ignore_patterns(*_NOT_COPIED)
        shutil.copytree(ROOT, copied, ignore=ignored, symlinks=True)
        shutil.copytree(ROOT / "tests" / "data", copied / "tests" / "data", dirs_exist_ok=True)
        for number, mutant in enumerate(sorted(chosen, key=str), start=1):
            if survives(mutant, copied):
                left += 1
                why = (mutant.file, mutant.before, mutant.after) in known
                unknown += not why
                print(f"{number}: survives{' (explained)' if why else ''}: {mutant}", flush=True)
            else:
                print(f"{number}: noticed: {mutant}", flush=True)
    print(f"{len(chosen) - left} noticed, {left} survive, {unknown} of them unexplained")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
