"""What the documentation tells to type exists: commands with their options, make targets, files, links, names.

Its lines fit a window, and its tables of rooms and contracts are those of the import contracts.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from ctan.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(
        page
        for folder in ("docs", "benchmarks", "examples")
        for page in (ROOT / folder).glob("**/*.md")
        if "results" not in page.parts  # written by a study
    ),
]
WIDTH = 120
MOST_LINES = {"README.md": 149, "docs/architecture.md": 210}
_BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of each line in a block of commands; a line that ends in a backslash goes on."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if " | " in line or "<" in line.partition("#")[0]:  # one of several, or a placeholder
                continue
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # output, or another language
                continue
            if words:
                yield [word for word in words if word not in ("&", ">>", "2>&1")]


def commands(program: str) -> list[tuple[str, list[str]]]:
    found = [
        (page.name, [program, *words[1:]])
        for page in PAGES
        for words in lines(page)
        if words[0] == program or (program == "ctan" and words[0].endswith("/ctan"))
    ]
    assert found, program
    return found


def shown(value: object) -> str:
    return " ".join(value[1:]) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("page", "words"), commands("ctan"), ids=shown)
def test_every_ctan_command_parses(page: str, words: list[str]) -> None:
    command, context, rest = typer.main.get_command(app), None, words[1:]
    while hasattr(command, "commands"):
        context = command.make_context(words[0], rest, parent=context, ignore_unknown_options=False)
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, [word for word in rest if word != "..."], parent=context)


@pytest.mark.parametrize(("page", "words"), commands("make"), ids=shown)
def test_every_make_target_exists(page: str, words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {word for word in words[1:] if "=" not in word} <= set(targets)


def kubectl() -> list[tuple[str, list[str]]]:
    return [(page, words) for page, words in commands("kubectl") if "create" in words or "-k" in words]


@pytest.mark.parametrize(("page", "words"), kubectl(), ids=shown)
def test_kubectl_takes_what_can_be_tried_without_a_cluster(page: str, words: list[str]) -> None:
    program = str(Path(sys.executable).with_name("kubectl"))
    if "-k" in words:
        arguments = ["kustomize", words[words.index("-k") + 1]]
    else:
        arguments = [word for word in words[1:] if not word.startswith("--dry-run")] + [
            "--dry-run=client",
            "-o",
            "yaml",
        ]
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "kind:" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, place in _LINK.findall(text):
        assert (page.parent / target).exists(), target
        assert not place or place[1:] in anchors(page.parent / target), f"{target}{place}"
    assert set(re.findall(r"\]\(#([^)\s]+)\)", text)) <= anchors(page)


def anchors(page: Path) -> set[str]:
    """Return the places of a page that a link can name, as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:infra|pipelines|tests|ctan|components|benchmarks)/[\w./-]+\.\w+)`", page.read_text())
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_fit_a_window_but_for_tables_and_addresses(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        only_an_address = len(words) == 1 and "://" in line
        assert len(line) <= WIDTH or line.lstrip().startswith("|") or only_an_address, f"{page.name}:{number}"


@pytest.mark.parametrize(("name", "most"), MOST_LINES.items())
def test_the_pages_that_newcomers_read_first_stay_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            todo += [(page.parent / target).resolve() for target, _ in _LINK.findall(page.read_text(encoding="utf-8"))]
    assert {page for page in PAGES if page.parent == ROOT / "docs"} <= reached


def found(dotted: str) -> ast.AST | None:
    """Return what a dotted name of ctan stands for: what a module defines or passes on, else a module."""
    parts = dotted.split(".")
    for length in range(1, len(parts) + 1):  # a package may pass on a function of a module of the same name
        inside = within(tree_of(".".join(parts[:length])), parts[length:])
        if inside is not None:
            return inside
    return None


@cache
def tree_of(module: str) -> ast.Module | None:
    base = ROOT.joinpath(*module.split("."))
    source = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    return ast.parse(source.read_text(encoding="utf-8")) if source else None


def within(tree: ast.AST | None, parts: list[str]) -> ast.AST | None:
    """Return what names lead to, one inside the other; the line itself for a constant or another library's import."""
    for number, name in enumerate(parts):
        for node in getattr(tree, "body", []):
            if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
                if (node.module or "").startswith("ctan"):
                    inside = within(tree_of(str(node.module)), parts[number:])
                    return inside or within(tree_of(f"{node.module}.{name}"), parts[number + 1 :])
                tree = node
                break
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if getattr(node, "name", None) == name or name in {getattr(target, "id", None) for target in targets}:
                tree = node
                break
        else:
            return None
    return tree


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_library_exist(page: Path) -> None:
    named = re.findall(r"`(ctan(?:\.\w+)+)[`(]", page.read_text(encoding="utf-8"))
    labels = {"ctan.py", "ctan.yaml", "ctan.lock.sha256"}  # files, a label of the image
    assert [name for name in named if name not in labels and found(name) is None] == []


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert isinstance(found("ctan.datasets.base.Dataset"), ast.ClassDef)
    assert isinstance(found("ctan.training.train"), ast.FunctionDef)
    assert isinstance(found("ctan.evaluation.evaluate"), ast.FunctionDef)
    assert isinstance(found("ctan.evaluation.scoring"), ast.Module)
    assert found("ctan.tracking.retraining.REASONS") is not None
    assert found("ctan.datasets.base.Missing") is None
    assert found("ctan.origin.Origin") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_signatures_are_those_of_today(page: Path) -> None:
    for name, written in re.findall(r"`(ctan(?:\.\w+)+)\(([^)]*)\)", page.read_text(encoding="utf-8")):
        function = found(name)
        assert isinstance(function, ast.FunctionDef), name
        arguments = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
        named = [re.split(r"[:=]", part)[0].strip() for part in written.split(",") if part.strip()]
        needed = len(arguments) - len(function.args.defaults)
        assert named == arguments[: max(len(named), needed)], name


def contracts() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def rooms(heading: str) -> list[list[str]]:
    """Return the rooms of every row of the table below a heading."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition(heading)[2].partition("|---|")[2].partition("\n\n")[0]
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[1:]]


def test_the_table_of_rooms_is_in_the_order_of_the_import_contract() -> None:
    (layers,) = (contract["layers"] for contract in contracts() if contract["type"] == "layers")
    assert rooms("## Rooms") == [[name.removeprefix("ctan.") for name in layer.split(" | ")] for layer in layers]


def test_every_module_of_the_library_stands_in_a_table() -> None:
    listed = [room for heading in ("## Rooms", "What any room may use") for row in rooms(heading) for room in row]
    modules = {path.stem for path in (ROOT / "ctan").glob("*.py")} | {
        path.parent.name for path in (ROOT / "ctan").glob("*/__init__.py")
    }
    assert sorted(listed) == sorted(modules - {"__init__"})


def test_every_import_contract_is_named() -> None:
    text = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    assert [contract["name"] for contract in contracts() if str(contract["name"]) not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    for name, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {test}(" in (ROOT / name).read_text(encoding="utf-8"), f"{name}::{test}"


def test_every_row_about_the_safety_of_data_names_its_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "data-safety.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| kind of fault")
    ]
    assert len(rows) > 40
    assert [row for row in rows if not re.search(r"`tests/\S+::test_\w+` \|$", row)] == []


def test_the_examples_of_the_metrics_give_the_numbers_that_stand_there() -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / "metrics.md"), module_relative=False)
    assert failed == 0
    assert tried > 15


def test_every_page_stands_in_the_sites_contents_once() -> None:
    named = re.findall(r"^ +- ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert len(named) == len(set(named))
    own = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert {name for name in named if "/" not in name} == own | {"contributing.md", "changelog.md", "security.md"}
