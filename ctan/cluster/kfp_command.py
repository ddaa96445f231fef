"""The `kfp` command of this environment: kfp's own, where `kfp run submit pipelines/ctan.yaml` works as people type it.

Upstream (2.17.0) wants `run create --experiment-name NAME --package-file FILE KEY=VALUE ...`, and connects before it
prints help. Here a file after `run submit` (or `run create`) is the package, its pipeline's name the experiment, and
`--endpoint` may come last. `dsl compile --py FILE` imports the file as part of its package. All else goes to
upstream unchanged. Which options take a value is asked of its commands.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NoReturn

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import Endpoint, check_reachable, find_endpoint
from ctan.cluster.image import choose_image, with_image
from ctan.cluster.parameters import check_complete, is_parameter, parse_parameters
from ctan.cluster.render import render
from ctan.cluster.values import Values
from ctan.errors import CtanError, DataError

_SUBMIT = ("submit", "create")
_NO_CACHE = "--no-cache"
_EXPERIMENT = ("-e", "--experiment-name")
_PACKAGE = ("-f", "--package-file")
_OTHER_SOURCES = ("-p", "--pipeline-id", "-n", "--pipeline-name", "-v", "--version")
_USAGE = (
    "kfp run submit FILE [KEY=VALUE]... submits a compiled pipeline, such as pipelines/ctan.yaml, to the experiment\n"
    "of its name; --endpoint URL or KFP_ENDPOINT says where, CTAN_IMAGE or dist/release.json with which image;\n"
    "--no-cache runs every step again. It is `kfp run create` with these additions:\n"
)


def main() -> None:
    """Run `kfp`."""
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"kfp\."
    )  # that servers older than 2.0 are too old
    arguments = sys.argv[1:]
    try:
        arguments = upstream_arguments(arguments)
    except CtanError as error:
        print(f"kfp: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    from kfp.cli.__main__ import main as upstream

    upstream()


def upstream_arguments(arguments: list[str]) -> list[str]:
    """Return what upstream is to be called with; help of what needs a server is printed here."""
    from kfp.cli.cli import cli

    options, command, rest = _split(arguments, cli)
    if command == "dsl" and rest[:1] == ["compile"]:
        return [*options, command, *_importable(rest)]
    group = _client_group(command)
    if group is None:
        return arguments
    if not rest or "--help" in rest:
        _print_help(group, command, rest)
    package, cache = None, True
    if group.name == "run" and rest[0] in _SUBMIT:
        cache = _NO_CACHE not in rest
        given = [argument for argument in rest[1:] if argument != _NO_CACHE]
        moved, rest = _rewritten(given, group.commands["create"], cli)
        options = [*options, *moved]
        package = _package(rest)
    namespace = _value(options, "-n", "--namespace") or os.environ.get("KFP_NAMESPACE") or "kubeflow"
    endpoint = find_endpoint(_value(options, "--endpoint"), namespace)
    if package is not None:
        sent = _sent(package, endpoint, cache)
        named = (package, *(f"{option}={package}" for option in _PACKAGE))
        rest = [argument.replace(package, sent) if argument in named else argument for argument in rest]
    elif not cache:
        raise DataError(f"{_NO_CACHE}: expected a compiled pipeline, such as pipelines/ctan.yaml, to write it into")
    check_reachable(endpoint)
    return [*options, command, *rest]


def _importable(arguments: list[str]) -> list[str]:
    """Return the arguments of `dsl compile` so that a file of a package is imported as part of it.

    Upstream puts the file's folder first on the path and imports `ctan` for `pipelines/ctan.py`, which is this package.
    It also finds two pipelines where one nests another; the one that is meant has the file's name.
    """
    file = Path(_value(arguments, "--py") or "")
    if not (file.is_file() and (file.parent / "__init__.py").exists()):
        return arguments
    function = _value(arguments, "--function") or file.stem
    shim = Path(_temporary_folder()) / f"{file.stem}_pipeline.py"
    package = file.resolve().parent
    shim.write_text(
        f"import sys\n\nsys.path.insert(1, {str(package.parent)!r})\n"
        f"from {package.name}.{file.stem} import {function}\n",
        encoding="utf-8",
    )
    given = (str(_value(arguments, "--py")), f"--py={_value(arguments, '--py')}")
    return [argument.replace(given[0], str(shim)) if argument in given else argument for argument in arguments]


def _temporary_folder() -> str:
    """Return a folder that lives as long as this process."""
    folder = tempfile.mkdtemp(prefix="ctan-kfp-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _client_group(command: str) -> Any:
    """Return the group of commands that talk to a server, by its name or plural; None for all others."""
    from kfp.cli.cli import COMMANDS

    return next((group for group in COMMANDS["client"] if command in (group.name, f"{group.name}s")), None)


def _split(arguments: list[str], cli: Any) -> tuple[list[str], str, list[str]]:
    """Divide a command line into kfp's own options, the name of the command, and the command's arguments."""
    valued = _valued(cli)
    position = 0
    while position < len(arguments) and arguments[position].startswith("-"):
        position += 2 if arguments[position] in valued else 1
    rest = arguments[position:]
    return arguments[:position], rest[0] if rest else "", rest[1:]


def _valued(command: Any) -> set[str]:
    """Return the options of a command that take a value."""
    return {name for parameter in command.params for name in parameter.opts if _takes_value(parameter)}


def _takes_value(parameter: Any) -> bool:
    return parameter.param_type_name == "option" and not parameter.is_flag


def _value(options: list[str], *names: str) -> str | None:
    """Return the value of an option, given as `--name value` or `--name=value`."""
    found = None
    for position, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in names:
            found = value if equals else next(iter(options[position + 1 :]), None)
    return found


def _rewritten(arguments: list[str], create: Any, cli: Any) -> tuple[list[str], list[str]]:
    """Return the options that belong before `run`, and `create` with the arguments it understands.

    Raises:
        DataError: when the file is missing or is not a compiled pipeline.
        ConfigError: when the parameters do not fit it.
    """
    own, outer = _valued(create), {name for name in _valued(cli) if name.startswith("--")} - _valued(create)
    moved: list[str] = []
    kept: list[str] = []
    items: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        name, equals, _ = argument.partition("=")
        if argument.startswith("-") and argument != "-":
            target = moved if name in outer else kept
            takes = name in outer or name in own
            target += [argument, left.pop(0)] if takes and not equals and left else [argument]
        else:
            items.append(argument)
    return moved, ["create", *_with_package(kept, items)]


def _package(rest: list[str]) -> str | None:
    """Return the compiled pipeline that is submitted; None for an archive or a pipeline that the server has."""
    package = _value(rest, *_PACKAGE)
    return package if package and package.endswith((".yaml", ".yml")) else None


def _sent(package: str, endpoint: Endpoint, cache: bool) -> str:
    """Return a file with an image that the cluster can pull: the package, or a copy that lives as long as this process.

    Args:
        package: the compiled pipeline.
        endpoint: where it is sent.
        cache: False has every step run.

    Raises:
        ConfigError: when none is known.
    """
    path = Path(package)
    image = choose_image(CompiledPipeline.read(path), endpoint)
    if image.note:
        print(f"kfp: {image.note}", file=sys.stderr)
    if image.reference is None and cache:
        return package
    copy, values = Path(_temporary_folder()) / path.name, with_image(None, image) or Values()
    copy.write_text(render(path.read_text(encoding="utf-8"), values, package, cache), encoding="utf-8")
    return str(copy)


def _with_package(options: list[str], items: list[str]) -> list[str]:
    """Name package and experiment, where a file says both."""
    files = [item for item in items if not is_parameter(item)]
    package = _value(options, *_PACKAGE)
    if package is None and not any(_value(options, name) for name in _OTHER_SOURCES):
        if len(files) != 1:
            found = f"found {', '.join(files)}" if files else "found none"
            raise DataError(f"run submit: expected one compiled pipeline, such as pipelines/ctan.yaml; {found}")
        package = files[0]
        items = [item for item in items if item != package]
        options = [*options, "-f", package]
    if package is None:
        return [*options, *items]
    if not package.endswith((".yaml", ".yml")):
        return [*options, *items]  # an archive, which upstream unpacks
    pipeline = CompiledPipeline.read(Path(package))
    if not any(_value(options, name) for name in _EXPERIMENT):
        options = ["-e", pipeline.name, *options]
    values = parse_parameters(pipeline, items)
    check_complete(pipeline, values)
    return [*options, *(_item(name, value, pipeline) for name, value in values.items())]


def _item(name: str, value: Any, pipeline: CompiledPipeline) -> str:
    """Return a parameter so that upstream, which guesses types, reads its value: `x=007` as text, `promote=False`."""
    from kfp.cli.utils.parsing import parse_parameter_value

    if pipeline.parameters[name]["parameterType"] == "STRING" and isinstance(parse_parameter_value(value), str):
        return f"{name}={value}"
    return f"{name}={json.dumps(value)}"


def _print_help(group: Any, command: str, rest: list[str]) -> NoReturn:
    """Print a command's help as upstream would, but without a server, and leave."""
    if rest and group.name == "run" and rest[0] in _SUBMIT:
        print(_USAGE)
        rest = ["create", "--help"]
    raise SystemExit(group.main(args=rest or ["--help"], prog_name=f"kfp {command}"))
