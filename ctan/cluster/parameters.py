"""Parameters of a pipeline from text, by the types that the compiled pipeline gives them."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.config import RunConfig
from ctan.errors import ConfigError, CtanError

_ITEM = re.compile(r"[A-Za-z_]\w*=")
_EXPECTED = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": 'a JSON list, such as \'["stl", "ctan"]\' or [0,1]',
    "STRUCT": "a JSON object, such as '{\"key\": 1}'",
}


def is_parameter(argument: str) -> bool:
    """Return whether an argument is a `KEY=VALUE`, and not a file."""
    return _ITEM.match(argument) is not None


def parse_parameters(pipeline: CompiledPipeline, items: Iterable[str]) -> dict[str, Any]:
    """Return the values of `KEY=VALUE` items, each of the type its parameter has.

    Raises:
        ConfigError: when an item is no `KEY=VALUE`, names no parameter or one twice, or its value is not of its type.
    """
    parsed: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"{item!r}: expected KEY=VALUE, such as epochs=5")
        if name in parsed:
            raise ConfigError(f"{name}: given twice")
        kind = _kind(pipeline, name)
        try:
            parsed[name] = _checked(kind, text if kind == "STRING" else _from_text(kind, text))
        except ValueError as error:
            raise ConfigError(f"{name}: expected {_EXPECTED.get(kind, kind)}, found {text!r}") from error
    return parsed


def check_parameters(pipeline: CompiledPipeline, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that are typed already, such as those of a values file, after checking them.

    Raises:
        ConfigError: when one names no parameter or is not of the parameter's type.
    """
    for name, value in values.items():
        kind = _kind(pipeline, name)
        try:
            _checked(kind, value)
        except ValueError as error:
            raise ConfigError(f"parameters.{name}: expected {_EXPECTED.get(kind, kind)}, found {value!r}") from error
    return dict(values)


def check_complete(pipeline: CompiledPipeline, given: Mapping[str, Any]) -> None:
    """Check that every parameter without a default is given.

    Raises:
        ConfigError: naming those that are not.
    """
    missing = [
        name
        for name, definition in pipeline.parameters.items()
        if name not in given and "defaultValue" not in definition and not definition.get("isOptional")
    ]
    if missing:
        raise ConfigError(
            f"{pipeline.source}: give {', '.join(f'{name}=...' for name in missing)}; there is no default"
        )


def settings_of(pipeline: CompiledPipeline, given: Mapping[str, Any]) -> RunConfig | None:
    """Return the settings that a run of a pipeline of ours will resolve; None where they are not known here.

    Args:
        pipeline: with its defaults.
        given: values of its parameters; those not named keep their defaults.
    """
    from ctan.settings import resolve_config

    defaults = {name: definition.get("defaultValue") for name, definition in pipeline.parameters.items()}
    names = inspect.signature(resolve_config).parameters.keys() & defaults.keys()
    if not {"profile", "architectures"} <= names:
        return None
    values: dict[str, Any] = {name: value for name, value in (defaults | dict(given)).items() if name in names}
    try:
        return resolve_config(**values)
    except CtanError:  # a profile that only the image has, say
        return None


def _kind(pipeline: CompiledPipeline, name: str) -> str:
    known = pipeline.parameters
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{name}: the pipeline {pipeline.name} has no such parameter; {hint}it has: {', '.join(known)}"
        )
    return str(known[name]["parameterType"])


def _from_text(kind: str, text: str) -> Any:
    if kind == "BOOLEAN":
        return json.loads(text.lower())
    if kind == "NUMBER_INTEGER":
        return int(text)
    if kind == "NUMBER_DOUBLE":
        return float(text)
    return json.loads(text)


def _checked(kind: str, value: Any) -> Any:
    """Return the value when it is of the kind; `True` is no number.

    Raises:
        ValueError: when it is not.
    """
    allowed: dict[str, tuple[type, ...]] = {
        "STRING": (str,),
        "NUMBER_INTEGER": (int,),
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": (bool,),
        "LIST": (list,),
        "STRUCT": (dict,),
    }
    numeric = kind.startswith("NUMBER")
    right = isinstance(value, allowed.get(kind, (object,))) and not (numeric and isinstance(value, bool))
    if not right or (numeric and not math.isfinite(value)):
        raise ValueError(kind)
    return value
