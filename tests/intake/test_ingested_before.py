"""A second start on this machine takes what an earlier run has read and checked, where it started from the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctan import steps
from ctan.config import RunConfig
from ctan.files import write_json
from ctan.seals import seal_folder
from ctan.tracking.lineage import LOCAL_RUN_VARIABLE
from ctan.validation import PASSED
from tests.helpers.small import files_of

SOURCE = "phantom:train=2,validation=1,seed=1"


def ingest(config: RunConfig, run: str, workspace: Path, source: str = SOURCE) -> Path:
    """Do the steps `resolve` and `ingest` of a run, and leave what KFP leaves at their end; return the manifest."""
    _, settings, origin = steps.resolve(source, config)
    folder = workspace / "runs" / run / f"ctan-{run}" / "ingest"
    steps.ingest(settings, origin, str(folder / "manifest"), 0, str(folder / "contact_sheet"))
    (folder / "executor_output.json").write_text("{}")
    return folder / "manifest"


@pytest.fixture
def first(
    tiny_config: RunConfig, own_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The manifest of a run that is over."""
    monkeypatch.setenv(LOCAL_RUN_VARIABLE, "first")
    found = ingest(tiny_config, "first", own_workspace)
    capsys.readouterr()
    return found


def test_the_same_data_settings_and_code_are_not_read_again(
    first: Path, tiny_config: RunConfig, own_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = ingest(tiny_config, "second", own_workspace)
    assert "3 cases, as the run first read them" in capsys.readouterr().out
    assert files_of(second) == files_of(first)
    assert (second.parent / "contact_sheet").read_bytes() == (first.parent / "contact_sheet").read_bytes()


@pytest.mark.parametrize("what", ["settings", "broken", "changed", "unfinished"])
def test_all_else_is_read(
    what: str,
    first: Path,
    tiny_config: RunConfig,
    own_workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config
    if what == "settings":
        config = config.model_copy(update={"data": config.data.model_copy(update={"num_folds": 2})})
    elif what == "broken":
        numbers: dict[str, Any] = {"num_cases": 3, "num_quarantined": 1}
        monkeypatch.setattr("ctan.steps.data.read_json", lambda *_: numbers)
    elif what == "changed":
        (first / "manifest.parquet").write_bytes(b"PAR1")
    else:
        (first.parent / "executor_output.json").unlink()
    ingest(config, "second", own_workspace)
    assert "3 cases (2 train, 1 validation)" in capsys.readouterr().out


def validate(manifest: Path) -> tuple[str, dict[str, Any], Path]:
    """Do the step `validate` beside a manifest, and leave what KFP leaves at its end."""
    folder, metrics = manifest.parents[1] / "validate", dict[str, Any]()
    verdict = steps.validate(str(manifest), str(folder / "validated"), str(folder / "report"), metrics)
    (folder / "executor_output.json").write_text("{}")
    return verdict, metrics, folder


def test_the_same_tables_are_not_checked_again(
    first: Path, tiny_config: RunConfig, own_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict, metrics, folder = validate(first)
    assert verdict == PASSED
    again, same, copy = validate(ingest(tiny_config, "second", own_workspace))
    assert "3 cases passed, as in the run first: nothing has changed" in capsys.readouterr().out
    assert (again, same) == (verdict, metrics)
    assert files_of(copy / "validated") == files_of(folder / "validated")
    assert (copy / "report").read_bytes() == (folder / "report").read_bytes()


@pytest.mark.parametrize("what", ["tables", "failed", "unfinished"])
def test_all_else_is_checked(
    what: str, first: Path, tiny_config: RunConfig, own_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, folder = validate(first)
    second = ingest(tiny_config, "second", own_workspace)
    if what == "unfinished":
        (folder / "executor_output.json").unlink()
    elif what == "failed":
        summary = json.loads((folder / "validated" / "summary.json").read_text())
        write_json(folder / "validated" / "summary.json", summary | {"verdict": "no case"})
        seal_folder(folder / "validated")
    else:  # it was about other tables
        write_json(first / "summary.json", {"num_quarantined": 0})
        seal_folder(first)
    capsys.readouterr()
    validate(second)
    assert "as in the run" not in capsys.readouterr().out
