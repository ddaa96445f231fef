"""What is wrong with settings, in words."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return what is wrong with settings, in words: the field, what is allowed, what was found.

    Args:
        error: of pydantic.
        model: that was to be made.
        prefix: dotted name of the section the model stands for.
    """
    return "; ".join(_explain(problem, model, prefix) for problem in error.errors())


def unknown_setting(field: str, known: list[str]) -> str:
    """Return the message for a setting that does not exist: the likely one, and all there are."""
    close = difflib.get_close_matches(field.rpartition(".")[2], known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    allowed = f"allowed: {', '.join(known)}" if known else "there are none here"
    return f"{field}: unknown setting; {hint}{allowed}"


def _explain(problem: Any, model: type[BaseModel], prefix: str) -> str:
    field = ".".join(str(part) for part in ((prefix,) if prefix else ()) + problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_setting(field, _fields_beside(model, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{field}: {message} (found {problem['input']!r})" if field else message


def _fields_beside(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Return the fields that could have been meant, through sections that are optional, in mappings or in lists."""
    for part in location[:-1]:
        model = model.model_fields[part].annotation if hasattr(model, "model_fields") else _of_items(model)
        if get_origin(model) in (Union, UnionType):
            model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)
    return list(getattr(model, "model_fields", ()))


def _of_items(container: Any) -> Any:
    """Return the type of what a mapping or a list holds."""
    return next((kind for kind in reversed(get_args(container)) if kind is not ...), None)
