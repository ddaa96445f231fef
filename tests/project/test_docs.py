"""What the documentation tells to type exists: commands with their options, make targets, files, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from ctan.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
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
        (page.name, words[words.index(program) :])
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
    for target, _ in _LINK.findall(text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:infra|pipelines|tests|ctan|components|benchmarks)/[\w./-]+\.\w+)`", page.read_text())
    for name in named:
        assert (ROOT / name).exists(), name
