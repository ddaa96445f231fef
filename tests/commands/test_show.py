"""The commands that a run ends with can be typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

from ctan.cli import app
from ctan.commands import show
from ctan.pipelines_client import RunResult
from ctan.records import ComparisonRecord

VERSION = {"model_name": "ctan-openkbp", "version": "3"}


@pytest.mark.parametrize(
    ("decision", "source", "expected"),
    [
        (VERSION, "/data/openkbp", ["ui", "predict models:/ctan-openkbp/3", "lineage models:/ctan-openkbp/3"]),
        (None, "/data/openkbp", ["ui", "predict runs:/abc"]),
        (None, "phantom:train=6", ["ui", "predict runs:/abc", "run --source YOUR_FOLDER"]),
    ],
)
def test_each_parses_and_names_the_model(
    decision: dict[str, Any] | None,
    source: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = SimpleNamespace(best_model=SimpleNamespace(run_id="abc"))
    monkeypatch.setattr(ComparisonRecord, "load", lambda _: chosen)
    show.show_next(RunResult(tmp_path, [], 1.0, None, None, None, tmp_path / "comparison.json", decision, None), source)
    lines = [shlex.split(line, comments=True) for line in capsys.readouterr().out.splitlines() if "#" in line]
    assert len(lines) == len(expected)
    for words, start in zip(lines, expected, strict=True):
        assert " ".join(words[1:]).startswith(start)
        name, command, rest = typer.main.get_command(app).resolve_command(None, words[1:])  # type: ignore[arg-type]
        command.make_context(name, rest)
