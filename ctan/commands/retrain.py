"""`ctan retrain`: one look, and a training when something changed."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from ctan.commands import options as o


def retrain(
    source: Annotated[
        str,
        typer.Argument(
            help="What to train on, looked up now: dvc:REPOSITORY@BRANCH[:PATH], a folder, or s3://bucket/prefix."
        ),
    ],
    items: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Argument(metavar="[KEY=VALUE]...", help="Parameters of the pipeline, as for `ctan schedule`."),
    ] = None,
) -> None:
    """Train again if data, settings or code changed since the last decision, and promote through the gate.

    Safe to call from cron: it ends at once when nothing changed or when another retraining of the same model is under
    way in this workspace (exit code 0 both times); one that was killed goes on from its checkpoints the next time.

    Example: ctan retrain dvc:https://git.example.org/team/data@main:data/openkbp dataset=openkbp profile=cpu
    """
    from ctan.cluster.compiled import CompiledPipeline, compiled_pipeline
    from ctan.cluster.parameters import parse_parameters
    from ctan.commands.show import show_result
    from ctan.retrain import check_decides
    from ctan.retrain import retrain as retrain_here

    pipeline = CompiledPipeline.read(compiled_pipeline("retrain"))
    parameters = parse_parameters(pipeline, [f"source={source}", *(items or [])])
    config = o.configured(parameters)
    check_decides(config)
    try:
        result = retrain_here(parameters, config.model_name)
    except KeyboardInterrupt:
        typer.echo("\nstopped. The same command goes on from the last checkpoints.", err=True)
        raise typer.Exit(130) from None
    if result is None:
        typer.echo(f"another retraining of {config.model_name} is under way in this workspace; nothing done")
    elif result.finding and not result.finding["needed"]:
        typer.echo(f"\n{config.model_name} stays: {result.finding['reason']}")
    else:
        show_result(result)
