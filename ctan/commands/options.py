"""Options that several commands share, and the folder the single steps work in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.settings import DEFAULT_PROFILE, resolve_config

_SETTINGS = "Settings"
_FROM_PROFILE = "from the profile"

Profile = Annotated[
    str,
    typer.Option(help="Settings to start from: smoke, cpu, gpu or the path of a YAML file.", rich_help_panel=_SETTINGS),
]
Dataset = Annotated[
    str,
    typer.Option(
        help="Data set, the raw format of the source: openkbp, prostate, ham10000, stoic, folder, or another that "
        "`ctan data list` shows.",
        rich_help_panel=_SETTINGS,
    ),
]
Architectures = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer evaluates it
    typer.Option(
        "--arch",
        help="Architecture to train: stl, hps, mtan, ctan. Repeatable.",
        show_default=_FROM_PROFILE,
        rich_help_panel=_SETTINGS,
    ),
]
Folds = Annotated[
    Optional[list[int]],  # noqa: UP045
    typer.Option(
        "--fold", help="Fold left out for tuning. Repeatable.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS
    ),
]
Seeds = Annotated[
    Optional[list[int]],  # noqa: UP045
    typer.Option(
        "--seed", help="Seed to train with. Repeatable.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS
    ),
]
Epochs = Annotated[
    int, typer.Option(help="Passes over the training cases.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS)
]
BatchSize = Annotated[
    int, typer.Option(help="Cases a training step.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS)
]
LearningRate = Annotated[
    float, typer.Option(help="AdamW's, after warm-up.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS)
]
TaskWeighting = Annotated[
    str, typer.Option(help="equal, dwa or uncertainty.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS)
]
Inputs = Annotated[
    str, typer.Option(help="ct, ct+targets or oracle.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS)
]
MaxTrainCases = Annotated[
    int,
    typer.Option(help="Use only N training cases, by hash.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS),
]
MaxEvaluationCases = Annotated[
    int,
    typer.Option(help="Use only N evaluation cases, by hash.", show_default=_FROM_PROFILE, rich_help_panel=_SETTINGS),
]
ModelName = Annotated[
    str, typer.Option(help="Registered model.", show_default="ctan-<dataset>", rich_help_panel=_SETTINGS)
]
Promote = Annotated[
    bool, typer.Option(help="Register the best model and let it become champion.", rich_help_panel=_SETTINGS)
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any other setting, such as training.ema_decay=0.99; `ctan config` lists them. Repeatable.",
        rich_help_panel=_SETTINGS,
    ),
]
StoreRoot = Annotated[
    str,
    typer.Option(help="Folder or s3://bucket/prefix of the stores and the ledger.", show_default="in the workspace"),
]
CheckpointRoot = Annotated[
    str, typer.Option(help="Folder or s3://bucket/prefix of the checkpoints.", show_default="in the workspace")
]
Folder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Folder in which the single steps find each other's outputs.", show_default="steps in the workspace"
    ),
]


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values a user gave: all but empty ones; architectures may be joined by commas."""
    given = {name: value for name, value in values.items() if value or isinstance(value, bool)}
    if architectures := values.get("architectures"):
        given["architectures"] = [arch for item in architectures for arch in item.split(",") if arch]
    return given


def configured(parameters: dict[str, Any]) -> RunConfig:
    """Resolve the pipeline's parameters into settings, those that are not settings left aside."""
    elsewhere = {"store_root", "checkpoint_root"}
    settings = {name: value for name, value in parameters.items() if name not in elsewhere}
    return resolve_config(settings.pop("profile", DEFAULT_PROFILE), **settings)


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
        return self.root / "models" / f"{arch}-fold{fold}-seed{seed}"

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
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def decision(self) -> Path:
        return self.root / "decision.json"
