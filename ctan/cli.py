"""The `ctan` command: each command parses and calls one function. Answers `--help` without a heavy import."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ctan import __version__
from ctan.commands import cluster, data, models, registry, store
from ctan.commands.clean import clean
from ctan.commands.doctor import doctor
from ctan.commands.drift import drift
from ctan.commands.export import export
from ctan.commands.lineage import lineage, reproduce
from ctan.commands.migrate import migrate
from ctan.commands.predict import predict
from ctan.commands.retrain import retrain
from ctan.commands.run import config, run
from ctan.commands.schedule import schedule
from ctan.commands.serve import serve
from ctan.commands.tune import tune
from ctan.commands.ui import ui
from ctan.errors import CtanError, GateError
from ctan.files import storage_faults
from ctan.telemetry import disable_telemetry

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_GROUPS = {
    "The whole journey": (run, ui, doctor, config),
    "Step by step": (data.app, models.train, models.evaluate, models.compare, models.promote, tune),
    "Use a model": (predict, serve, export, drift),
    "Trace and decide": (registry.app, lineage, reproduce),
    "Again and again, and on a cluster": (retrain, cluster.submit, schedule, cluster.render),
    "Keep house": (store.app, clean, migrate),
}
_EXAMPLE = re.compile(r"Example: (ctan [^\n]*(?:\n(?!\n)[^\n]+)*)")
_QUOTED = r"""(?:[^\s'"]|'[^']*'|"[^"]*")+"""  # a quoted part of a word may hold blanks
_WORD = re.compile(rf"""-{_QUOTED}\s+(?!-){_QUOTED}|{_QUOTED}""")  # an option and what follows it stay together
_WIDTH = 72
_VALUES = {int: "N", list[int]: "N", float: "X", Path: "PATH"}
_NAMES = {data.app: "data", store.app: "store", registry.app: "registry"}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_NAMES[_command], rich_help_panel=_group)
        else:
            app.command(rich_help_panel=_group)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ctan {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    workspace: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Option(
            envvar="CTAN_WORKSPACE",
            help="Folder of stores, checkpoints, runs and registry.",
            show_default="./workspace",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option(envvar="CTAN_DEBUG", help="Show the traceback of an error.")] = False,
    insecure: Annotated[
        bool,
        typer.Option(envvar="CTAN_INSECURE", help="Fetch data over http:// too, which others can read and change."),
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cross-Task Attention Networks for medical imaging, from raw files to a promoted model.

    Example: ctan run --source data/openkbp --profile smoke
    """
    # By the environment, because every step is a process of its own.
    if workspace is not None:
        os.environ["CTAN_WORKSPACE"] = str(workspace.expanduser().absolute())
    if debug:
        os.environ["CTAN_DEBUG"] = "1"
    if insecure:
        os.environ["CTAN_INSECURE"] = "1"
    os.environ["PYTHONSAFEPATH"] = "1"  # `python -m` takes no module from the current directory


def main() -> None:
    """Run the command; an error a user can mend is one message and exit code 1 (2 when the data gate stopped)."""
    disable_telemetry()
    try:
        with storage_faults():
            in_plain_words(typer.main.get_command(app))(args=_common_first(sys.argv[1:]))
    except CtanError as error:
        if os.environ.get("CTAN_DEBUG"):
            raise
        from rich.console import Console

        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(_exit_code(error))


def in_plain_words(command: Any) -> Any:
    """Return a command whose help names values as people do, not by Python's types; its own commands too.

    Its examples can be copied from a narrow window: they are broken where the shell goes on.
    """
    command.help = _EXAMPLE.sub(_broken, command.help or "")
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.metavar is None:
            kind = parameter.type_descriptor.annotation
            parameter.metavar = "" if parameter.is_flag else _VALUES.get(kind, "TEXT")
    for below in getattr(command, "commands", {}).values():
        in_plain_words(below)
    return command


def _broken(example: re.Match[str]) -> str:
    """Return an example in lines of its own, each but the last with a backslash at its end."""
    lines: list[str] = []
    for word in _WORD.findall(example[1]):
        if lines and len(longer := f"{lines[-1]} {word}") <= _WIDTH:
            lines[-1] = longer
        else:
            lines.append(f"    {word}" if lines else word)
    return "Example:\n  " + " \\\n  ".join(lines)


def _common_first(arguments: list[str]) -> list[str]:
    """Return the arguments with the options of all commands ahead, wherever they were given: people do not look."""
    first: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            rest += [argument, *left]
        elif argument == "--workspace":
            first += [argument, *[value for value in [next(left, None)] if value is not None]]
        elif argument in ("--debug", "--insecure") or argument.startswith("--workspace="):
            first.append(argument)
        else:
            rest.append(argument)
    return first + rest


def _exit_code(error: CtanError) -> int:
    kind = getattr(error, "kind", "") or type(error).__name__  # of the error inside a failed pipeline step
    return 2 if kind == GateError.__name__ else 1
