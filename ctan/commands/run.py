"""`ctan run` and `ctan config`: the whole journey, and its settings."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ctan import plugins
from ctan.commands import options as o
from ctan.errors import ConfigError
from ctan.parameters import DEFAULT_PROFILE, overrides_of


@o.takes_parameters
def run(**given: Any) -> None:
    """Run the whole pipeline here: raw files in, architectures trained and compared.

    A run here is a trial: it registers nothing unless --promote is given. Options left out come from the profile.
    A run that was stopped goes on from its checkpoints.

    Example: ctan run --source data/openkbp --profile cpu --arch ctan,stl --epochs 4
    """
    from ctan.commands.show import show_next, show_result, show_settings
    from ctan.pipelines_client import run_local

    parameters = o.chosen(given)
    config = o.configured(parameters)
    if not parameters.get("source"):
        raise ConfigError(
            "--source is missing: give the folder of raw files, s3://bucket/prefix or dvc:REPOSITORY@REVISION; to see "
            "ctan work on synthetic patients run `make demo`, or give --source phantom:train=12,validation=4"
        )
    parameters["promote"] = config.promotion.enabled
    check_gpu(parameters.get("profile", ""))
    changes = overrides_of({name: value for name, value in o.settings_of(parameters).items() if name != "promote"})
    show_settings(config, parameters["source"], changes)
    try:
        result = run_local(parameters)
    except KeyboardInterrupt:
        typer.echo("\nstopped. The same command goes on from the last checkpoints.", err=True)
        raise typer.Exit(130) from None
    show_result(result)
    show_next(result, parameters["source"])


def check_gpu(profile: str) -> None:
    """See that there is a GPU where a profile is made for one.

    Raises:
        ConfigError: where there is none: its networks would train for days or weeks.
    """
    if profile not in ("gpu", "gpu-short"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"--profile {profile} trains wide networks on whole volumes, which takes days on a processor, and "
            "PyTorch sees no GPU here (`ctan doctor` says more): give --profile cpu. If it is meant: "
            f"`ctan config --profile {profile} > mine.yaml`, then --profile mine.yaml"
        )


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
