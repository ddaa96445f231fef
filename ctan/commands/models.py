"""`ctan train`, `evaluate`, `compare`, `promote`: store to champion, step by step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from ctan.commands import options as o
from ctan.errors import ConfigError, DataError


def train(
    arch: Annotated[str, typer.Option(help="Architecture: stl, hps, mtan or ctan.")] = "ctan",
    fold: Annotated[int, typer.Option(help="Fold left out for tuning.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed to train with.")] = 0,
    checkpoint_root: o.CheckpointRoot = "",
    overrides: o.Overrides = None,
    folder: o.Folder = None,
) -> None:
    """Train one architecture on the store; goes on from its checkpoint.

    Example: ctan train --arch ctan --set training.epochs=20
    """
    from ctan import steps

    outputs = o.StepFolder.of(folder)
    model = outputs.model(arch, fold, seed)
    shutil.rmtree(model, ignore_errors=True)
    steps.train_supervised(
        overrides=overrides or [],
        pointer=outputs.needs_pointer(),
        manifest_dir=outputs.needs_validated(),
        arch=arch,
        fold=fold,
        seed=seed,
        model_dir=str(model),
        checkpoint_root=checkpoint_root,
    )
    typer.echo(f"model in {model}; next: ctan evaluate")


def evaluate(
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Argument(
            metavar="[MODEL]... | MODEL SOURCE",
            help="Folders that `ctan train` wrote; all that lie in --folder when left out. With --split test a "
            "registered version, models:/NAME@ALIAS or models:/NAME/VERSION, and raw files.",
        ),
    ] = None,
    split: Annotated[
        Optional[Literal["test"]],  # noqa: UP045 - typer evaluates it
        typer.Option(help="Score a registered version on sealed test cases; every look is counted in the ledger."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Option("--out", "-o", help="With --split test: folder for tables and report.", show_default="workspace"),
    ] = None,
    store_root: o.StoreRoot = "",
    overrides: o.Overrides = None,
    folder: o.Folder = None,
) -> None:
    """Score trained models at native resolution on tuning cases and evaluation split.

    Example: ctan evaluate workspace/steps/models/ctan-fold0-seed0

    Example: ctan evaluate models:/ctan-openkbp@champion data/openkbp --split test
    """
    from ctan import steps

    if split == "test":
        from ctan.sealed import score_on_test

        if not model or len(model) != 2 or overrides:
            raise ConfigError(
                "--split test: expected MODEL SOURCE, such as models:/NAME@champion data/openkbp, no --set"
            )
        typer.echo(score_on_test(model[0], model[1], out, store_root))
        return
    outputs = o.StepFolder.of(folder)
    for one in map(Path, model) if model else _models(outputs):
        target = outputs.evaluation(one)
        shutil.rmtree(target, ignore_errors=True)
        steps.evaluate(
            outputs.needs_pointer(), outputs.needs_validated(), str(one), str(target), overrides=overrides or []
        )
    typer.echo("next: ctan compare")


def compare(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Argument(
            metavar="[RUN_OR_VERSION]...",
            help="Any models: runs:/ID, models:/NAME/VERSION or folders, scored on the store at hand; what was "
            "evaluated in --folder when left out.",
        ),
    ] = None,
    overrides: o.Overrides = None,
    folder: o.Folder = None,
) -> None:
    """Put all evaluated models side by side and choose the best by the tuning cases.

    Models of one architecture with other settings are named by what differs. Named models are compared alone.

    Example: ctan compare --set evaluation.confidence=0.9
    """
    from ctan import steps
    from ctan.commands.show import show_comparison
    from ctan.records import ComparisonRecord

    outputs = o.StepFolder.of(folder)
    if models:
        from ctan.settings import read_config
        from ctan.store import StorePointer
        from ctan.tracking.side_by_side import compare_any

        store, config = Path(outputs.needs_pointer()), read_config(outputs.needs_validated(), overrides or [])
        show_comparison(compare_any(models, StorePointer.load(store), outputs.compared, config))
        typer.echo(f"report in {outputs.compared / 'report.html'}")
        return
    evaluated = [model for model in _models(outputs) if outputs.evaluation(model).is_dir()]
    if not evaluated:
        raise DataError(f"{outputs.root}: holds no evaluated model; run `ctan evaluate` first")
    for target in (outputs.comparison, outputs.best):
        shutil.rmtree(target, ignore_errors=True)
    steps.compare(
        outputs.needs_pointer(),
        outputs.needs_validated(),
        [str(outputs.evaluation(model)) for model in evaluated],
        str(outputs.comparison),
        str(outputs.report),
        str(outputs.best),
        overrides=overrides or [],
    )
    show_comparison(ComparisonRecord.load(outputs.comparison))
    typer.echo(f"report in {outputs.report}; next: ctan promote")


def promote(overrides: o.Overrides = None, folder: o.Folder = None) -> None:
    """Register the best model; it becomes champion when it beats the present one on the evaluation split.

    Example: ctan promote --set promotion.min_improvement_percent=1
    """
    from ctan import steps

    outputs = o.StepFolder.of(folder)
    steps.promote(
        outputs.needs_pointer(),
        outputs.needs_validated(),
        outputs.needs_comparison(),
        str(outputs.best),
        str(outputs.decision),
        overrides=overrides or [],
        report=str(outputs.report),
        decided=str(outputs.report),
    )
    typer.echo(f"decision in {outputs.decision}; registry: ctan ui")


def _models(outputs: o.StepFolder) -> list[Path]:
    models = list(outputs.models())
    if not models:
        raise DataError(f"{outputs.root / 'models'}: holds no trained model; run `ctan train` first")
    return models
