"""Options that several commands share, and the folder the single steps work in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeAlias

import typer

from ctan.errors import ConfigError, DataError
from ctan.parameters import BY_NAME, DEFAULT_PROFILE, PARAMETERS

_SETTINGS = "Settings"
_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[str]": list[str],
    "list[int]": list[int],
}


def option(name: str) -> Any:
    """Return the type of a command's option for a parameter of the pipeline, as typer reads it."""
    parameter = BY_NAME[name]
    kind = _TYPES[parameter.kind]
    names = (parameter.option,) if parameter.option else ()
    shown = parameter.empty if parameter.default is None else name != "source"
    many = parameter.kind.startswith("list")
    made = typer.Option(
        *names,
        help=f"{parameter.text()}{' Repeatable.' if many else ''}",
        show_default=shown,
        metavar="FIELD=VALUE" if name == "overrides" else None,
        rich_help_panel=_SETTINGS if parameter.resolved and name != "source" else None,
    )
    return Annotated[Optional[kind] if many or not parameter.value else kind, made]  # noqa: UP045 - typer evaluates it


def takes_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `f(**parameters)` an option for every parameter of the pipeline.

    On this machine a run is a trial: it has no source unless one is given, and registers nothing unless asked to.
    """
    here = {"source": "", "promote": False}
    of_command = [
        inspect.Parameter(
            parameter.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=here.get(parameter.name, parameter.value or None),
            annotation=option(parameter.name),
        )
        for parameter in PARAMETERS
    ]
    command.__signature__ = inspect.Signature(of_command)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in of_command}
    return command


if TYPE_CHECKING:
    from ctan.config import RunConfig

    Profile: TypeAlias = str
    Dataset: TypeAlias = str
    StoreRoot: TypeAlias = str
    CheckpointRoot: TypeAlias = str
    Overrides: TypeAlias = list[str] | None
else:
    Profile, Dataset, StoreRoot = option("profile"), option("dataset"), option("store_root")
    CheckpointRoot, Overrides = option("checkpoint_root"), option("overrides")
Folder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Folder in which the single steps find each other's outputs.", show_default="steps in the workspace"
    ),
]


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values a user gave: all but empty ones; architectures alone may be joined by commas.

    Raises:
        ConfigError: for a number that is 0: it stands for the profile's in the pipeline, and would be read otherwise.
    """
    for name, value in values.items():
        if value == 0 and value is not False:
            raise ConfigError(f"--{name.replace('_', '-')} 0: expected more than 0; left out, the profile says it")
    given = {name: value for name, value in values.items() if value or isinstance(value, bool)}
    if architectures := values.get("architectures"):
        given["architectures"] = [
            arch for item in architectures for arch in ([item] if "=" in item else item.split(",")) if arch
        ]
    return given


def configured(parameters: dict[str, Any]) -> RunConfig:
    """Resolve the pipeline's parameters into settings, those that are not settings left aside."""
    from ctan.settings import resolve_config

    return resolve_config(parameters.get("profile") or DEFAULT_PROFILE, **settings_of(parameters))


def settings_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return those of the pipeline's parameters that are settings, the profile left aside."""
    return {name: value for name, value in parameters.items() if BY_NAME[name].resolved and name != "profile"}


@dataclass(frozen=True)
class StepFolder:
    """Where single steps leave their outputs for the next one."""

    root: Path

    @classmethod
    def of(cls, folder: Path | None) -> StepFolder:
        from ctan.workspace import workspace

        return cls(folder or workspace() / "steps")

    @staticmethod
    def need(path: Path, command: str) -> str:
        """Return an earlier step's output as a string.

        Raises:
            DataError: when it is not there, naming the command that makes it.
        """
        if not path.exists():
            raise DataError(f"{path}: not there yet; run `{command}` first")
        return str(path)

    @property
    def manifest(self) -> Path:
        return self.root / "manifest"

    @property
    def contact_sheet(self) -> Path:
        return self.root / "contact-sheet.html"

    @property
    def validated(self) -> Path:
        return self.root / "validated"

    @property
    def validation_report(self) -> Path:
        return self.root / "validation.html"

    @property
    def pointer(self) -> Path:
        return self.root / "store.json"

    def model(self, arch: str, fold: int, seed: int) -> Path:
        name = re.sub(r"[^\w.=,-]+", "_", arch)  # with what differs, see `ctan.variants`
        return self.root / "models" / f"{name}-fold{fold}-seed{seed}"

    def models(self) -> Sequence[Path]:
        return sorted((self.root / "models").glob("*-fold*-seed*"))

    def evaluation(self, model: Path) -> Path:
        return self.root / "evaluations" / model.name

    def needs_manifest(self) -> str:
        return self.need(self.manifest, "ctan data ingest SOURCE")

    def needs_validated(self) -> str:
        return self.need(self.validated, "ctan data validate")

    def needs_pointer(self) -> str:
        return self.need(self.pointer, "ctan data preprocess SOURCE")

    def needs_comparison(self) -> str:
        return self.need(self.comparison, "ctan compare")

    @property
    def comparison(self) -> Path:
        return self.root / "comparison"

    @property
    def compared(self) -> Path:
        return self.root / "compared"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def decision(self) -> Path:
        return self.root / "decision.json"
