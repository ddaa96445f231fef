"""The `ctan` command as a user meets it: a process with output and exit code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import ctan
from ctan.cli import _common_first, app, in_plain_words
from ctan.commands.options import chosen

HEAVY = (
    *("torch", "monai", "mlflow", "kfp", "pandas", "great_expectations", "pyarrow", "matplotlib", "zarr", "numpy"),
    *("pydantic", "yaml"),
)
COMMANDS = (
    ["run"],
    ["data", "phantom"],
    ["data", "list"],
    ["data", "describe"],
    ["data", "ingest"],
    ["data", "validate"],
    ["data", "preprocess"],
    ["data", "show"],
    ["data", "download"],
    ["data", "convert"],
    ["train"],
    ["evaluate"],
    ["compare"],
    ["promote"],
    ["ui"],
    ["config"],
    ["submit"],
    ["render"],
    ["schedule"],
    ["retrain"],
    ["registry", "approve"],
    ["registry", "reject"],
    ["registry", "rollback"],
    ["registry", "history"],
    ["registry", "verify"],
    ["lineage"],
    ["reproduce"],
)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = "from ctan.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


def test_help_answers_at_once_and_imports_no_heavy_library() -> None:
    program = (
        "import sys, ctan.cli\n"
        "try: ctan.cli.app(['--help'])\n"
        f"finally: print('IMPORTED', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "IMPORTED []" in done.stdout
    assert "raw files to a" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: ctan {' '.join(command)}" in " ".join(done.stdout.replace("\\\n", "").split())


def all_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from all_commands(below, (*path, name))


def test_every_example_can_be_pasted_from_a_window_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Today's wrong output was an example whose second line the shell took for a command of its own."""
    monkeypatch.setenv("COLUMNS", "80")
    written = {path: re.findall(r"Example: (ctan .*)", command.help or "") for path, command in all_commands(root())}
    assert sum(len(" ".join(found)) > 80 for found in written.values()) >= 3
    command = in_plain_words(root())
    for path in written:
        capfd.readouterr()
        with pytest.raises(SystemExit):
            command([*path, "--help"])
        lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
        pasted = "\n".join(lines).replace("\\\n", "").splitlines()
        found = [shlex.split(line) for line in pasted[:20] if line.startswith("ctan ")]
        assert found == [shlex.split(example) for example in written[path]], path


def root() -> Any:
    return typer.main.get_command(app)


def test_help_names_values_in_plain_words_and_commands_in_groups() -> None:
    words = run("run", "--help").stdout.split()
    assert {"TEXT", "N", "X"} <= set(words)
    assert not {"<str>", "<int>", "<float>", "<path>", "<list[str]>", "<list[int]>"} & set(words)
    shown = run("--help").stdout
    groups = ["The whole journey", "Step by step", "Use a model", "Trace and decide", "Keep house"]
    assert [shown.index(group) for group in groups] == sorted(shown.index(group) for group in groups)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["run", "--workspace", "w", "--arch", "stl"], ["--workspace", "w", "run", "--arch", "stl"]),
        (["run", "--workspace=w", "--debug"], ["--workspace=w", "--debug", "run"]),
        (["--insecure", "run"], ["--insecure", "run"]),
        (["run", "--workspace"], ["--workspace", "run"]),
        (["data", "list", "--", "--debug"], ["data", "list", "--", "--debug"]),
    ],
    ids=" ".join,
)
def test_options_of_all_commands_are_taken_wherever_they_stand(given: list[str], meant: list[str]) -> None:
    assert _common_first(given) == meant


def test_version() -> None:
    assert run("--version").stdout.strip() == f"ctan {ctan.__version__}"


def test_config_prints_all_settings_as_yaml_that_is_a_profile_again(tmp_path: Path) -> None:
    done = run("config", "--profile", "cpu", "--set", "training.epochs=3")
    values = yaml.safe_load(done.stdout)
    assert values["training"]["epochs"] == 3
    assert values["network"]["io_stride"] == 2
    (tmp_path / "mine.yaml").write_text(done.stdout, encoding="utf-8")
    again = run("config", "--profile", str(tmp_path / "mine.yaml"))
    assert yaml.safe_load(again.stdout) == values | {"profile": "mine"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["config", "--set", "training.epoch=3"], ["training.epoch", "did you mean 'epochs'"]),
        (["config", "--profile", "fast"], ["'fast'", "smoke, cpu, gpu"]),
        (["run", "--arch", "unet"], ["architectures", "unknown 'unet'; allowed: ctan, hps, mtan, stl"]),
        (["run", "--inputs", "mri"], ["data.inputs", "'ct', 'ct+targets' or 'oracle'"]),
        (["run", "--epochs", "-1"], ["training.epochs", "greater than or equal to 1"]),
        (["run", "--source", "phantom:", "--epochs", "0"], ["--epochs 0", "more than 0"]),
        (["run", "--source", "phantom:", "--profile", "gpu"], ["--profile gpu", "no GPU here", "mine.yaml"]),
        (["run"], ["--source is missing", "`make demo`"]),
        (["data", "ingest", "nowhere"], ["nowhere", "not a folder"]),
        (["data", "validate"], ["manifest", "not there yet", "ctan data ingest"]),
        (["data", "preprocess", "phantom:"], ["validated", "not there yet", "ctan data validate"]),
        (["train"], ["store.json", "not there yet", "ctan data preprocess"]),
        (["evaluate"], ["models", "no trained model", "ctan train"]),
        (["compare"], ["models", "no trained model", "ctan train"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_one_message_with_exit_code_1_and_no_traceback(
    arguments: list[str], parts: list[str], own_workspace: Path
) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr
    assert not list(own_workspace.rglob("*.parquet"))


def test_debug_shows_the_traceback() -> None:
    done = run("--debug", "config", "--profile", "fast")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_phantoms_are_written_once_and_never_over_something_else(tmp_path: Path) -> None:
    target = tmp_path / "phantoms"
    first = run("data", "phantom", str(target), "--train", "1", "--validation", "1")
    assert first.returncode == 0, first.stderr
    written = {path: path.read_bytes() for path in target.rglob("*.csv")}
    assert written
    second = run("data", "phantom", str(target), "--seed", "1")
    assert second.returncode == 1
    assert "exists already" in second.stderr
    assert {path: path.read_bytes() for path in target.rglob("*.csv")} == written


def test_only_options_that_were_given_become_parameters() -> None:
    values = {"source": "here", "epochs": None, "architectures": ["ctan,stl", "hps"], "folds": [0], "seeds": None}
    assert chosen(values | {"promote": False, "inputs": ""}) == {
        "source": "here",
        "architectures": ["ctan", "stl", "hps"],
        "folds": [0],
        "promote": False,
    }
