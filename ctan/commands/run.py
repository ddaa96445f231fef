"""`ctan run` and `ctan config`: the whole journey, and its settings."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ctan import plugins
from ctan.commands import options as o
from ctan.settings import DEFAULT_PROFILE
from ctan.steps import DEFAULT_SOURCE


def run(
    source: Annotated[
        str,
        typer.Option(
            help="Folder, s3://bucket/prefix, dvc:REPOSITORY@REVISION, or phantom:train=N,validation=N,seed=N."
        ),
    ] = DEFAULT_SOURCE,
    profile: o.Profile = DEFAULT_PROFILE,
    dataset: o.Dataset = "openkbp",
    architectures: o.Architectures = None,
    folds: o.Folds = None,
    seeds: o.Seeds = None,
    epochs: o.Epochs = 0,
    batch_size: o.BatchSize = 0,
    learning_rate: o.LearningRate = 0.0,
    task_weighting: o.TaskWeighting = "",
    inputs: o.Inputs = "",
    max_train_cases: o.MaxTrainCases = 0,
    max_evaluation_cases: o.MaxEvaluationCases = 0,
    store_root: o.StoreRoot = "",
    checkpoint_root: o.CheckpointRoot = "",
    model_name: o.ModelName = "",
    promote: o.Promote = True,
    overrides: o.Overrides = None,
) -> None:
    """Run the whole pipeline here: raw files in, architectures trained and compared, best model promoted.

    Options left out (or 0) come from the profile. A run that was stopped goes on from its checkpoints.

    Example: ctan run --source data/openkbp --profile cpu --arch ctan --arch stl --epochs 4
    """
    from ctan.commands.show import show_result, show_settings
    from ctan.pipelines_client import run_local

    parameters = _parameters(locals())
    config = o.configured(parameters)
    parameters["promote"] = config.promotion.enabled
    show_settings(config, source)
    try:
        result = run_local(parameters)
    except KeyboardInterrupt:
        typer.echo("\nstopped. The same command goes on from the last checkpoints.", err=True)
        raise typer.Exit(130) from None
    show_result(result)


def config(
    profile: o.Profile = DEFAULT_PROFILE,
    overrides: o.Overrides = None,
    describe: Annotated[bool, typer.Option("--describe", help="Describe every field instead.")] = False,
) -> None:
    """Print the settings in full, as YAML that --profile takes again.

    Example: ctan config --profile cpu --set training.epochs=20 > mine.yaml
    """
    from ctan.settings import resolve_config

    settings = resolve_config(profile, overrides=overrides or [])
    if describe:
        _describe(settings)
    else:
        typer.echo(settings.to_yaml(), nl=False)


def _describe(settings: Any, prefix: str = "") -> None:
    from ctan.networks import options_of

    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if hasattr(value, "model_fields"):
            _describe(value, f"{prefix}{name}.")
        elif prefix + name == "network.options":
            for arch in plugins.names(plugins.NETWORKS):
                _describe(options_of(arch, settings), f"{prefix}{name}.{arch}.")
        else:
            shown = json.dumps(settings.model_dump(mode="json")[name])
            typer.echo(f"{prefix}{name} = {shown}" + (f"  # {field.description}" if field.description else ""))


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline's parameters that differ from its defaults."""
    known = {name: values[name] for name in run.__annotations__ if name in values and name != "return"}
    return o.chosen(known)
