"""`ctan tune`: a search for settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ctan.commands import options as o


def tune(
    arch: Annotated[str, typer.Option(help="Architecture: stl, hps, mtan or ctan.")] = "ctan",
    trials: Annotated[int, typer.Option(min=1, help="Trainings, those of an earlier call included.")] = 20,
    search: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Option(
            metavar="FIELD=VALUES",
            help="What is searched, as LOW..HIGH or [A, B]. Repeatable.",
            show_default="learning rate, width, weighting, augmentation",
        ),
    ] = None,
    fold: Annotated[int, typer.Option(help="Fold whose cases tune.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of trainings and search.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Option("--out", "-o", help="Profile to write.", show_default="beside the study"),
    ] = None,
    overrides: o.Overrides = None,
    folder: o.Folder = None,
) -> None:
    """Search settings by the tuning error on the store; the same command goes on where it was stopped.

    Example: ctan tune --trials 20 --set training.epochs=10 --search training.learning_rate=1e-4..1e-2 -o tuned.yaml
    """
    from ctan.settings import read_config
    from ctan.store import StorePointer
    from ctan.tuning import Searched, tune
    from ctan.workspace import workspace

    outputs = o.StepFolder.of(folder)
    pointer = StorePointer.load(Path(outputs.needs_pointer()))
    config = read_config(outputs.needs_validated(), overrides or [])
    space = [Searched.parse(text) for text in search or ()]
    tuned = tune(pointer, arch, fold, seed, config, workspace() / "tuning", trials, space, out, typer.echo)
    typer.echo(f"{tuned}\nnext: ctan run --source SOURCE --profile {tuned.profile}")
