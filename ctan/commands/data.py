"""`ctan data ...`: raw files to store, step by step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ctan import steps
from ctan.commands import options as o

app = typer.Typer(no_args_is_help=True, help="Raw files to store, step by step: phantom, ingest, validate, preprocess.")

Source = Annotated[str, typer.Argument(help="Folder of raw files, or phantom:train=N,validation=N,seed=N.")]

Workers = Annotated[int, typer.Option(help="Processes; 0: one a core.", min=0)]


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="New folder that receives the patients.")],
    train: Annotated[int, typer.Option(help="Training patients.", min=0)] = 12,
    validation: Annotated[int, typer.Option(help="Validation patients.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    dataset: o.Dataset = "openkbp",
) -> None:
    """Write small synthetic patients in a data set's own raw format.

    Example: ctan data phantom data/phantoms --train 12 --validation 4
    """
    from ctan.datasets import get_dataset
    from ctan.errors import DataError
    from ctan.files import atomic_path

    if folder.exists():
        raise DataError(f"{folder}: exists already; name a folder that does not, nothing is overwritten")
    with atomic_path(folder) as beside:
        get_dataset(dataset).write_phantoms(beside, train, validation, seed)
    typer.echo(f"{train} training and {validation} validation patients in {folder}")


@app.command()
def ingest(
    source: Source,
    profile: o.Profile = steps.DEFAULT_PROFILE,
    overrides: o.Overrides = None,
    workers: Workers = 0,
    folder: o.Folder = None,
) -> None:
    """Read and measure every raw case into a manifest; broken cases go to quarantine. Decides the settings.

    Example: ctan data ingest data/openkbp --profile cpu --set data.max_train_cases=24
    """
    config = steps.resolve_config(profile, overrides=overrides or [])
    outputs = o.StepFolder.of(folder)
    shutil.rmtree(outputs.manifest, ignore_errors=True)
    steps.ingest(source, str(outputs.manifest), config, workers or None)
    typer.echo(f"manifest in {outputs.manifest}; next: ctan data validate")


@app.command()
def validate(overrides: o.Overrides = None, folder: o.Folder = None) -> None:
    """Check the manifest; failed cases go to quarantine, too many of them stop here (exit code 2).

    Example: ctan data validate --set validation.max_quarantined_share=0.1
    """
    outputs = o.StepFolder.of(folder)
    manifest = outputs.needs_manifest()
    shutil.rmtree(outputs.validated, ignore_errors=True)
    steps.validate(manifest, str(outputs.validated), str(outputs.validation_report), overrides=overrides or [])
    typer.echo(f"report in {outputs.validation_report}; next: ctan data preprocess SOURCE")


@app.command()
def preprocess(source: Source, store_root: o.StoreRoot = "", workers: Workers = 0, folder: o.Folder = None) -> None:
    """Crop, resample and pack the validated cases into a store; does nothing when the store holds them.

    Example: ctan data preprocess data/openkbp
    """
    outputs = o.StepFolder.of(folder)
    steps.preprocess(source, outputs.needs_validated(), str(outputs.pointer), store_root, num_workers=workers or None)
    typer.echo(f"pointer in {outputs.pointer}; next: ctan train --arch ctan")
