"""`ctan schedule`: the recurring run on a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ctan.commands import cluster as c
from ctan.errors import ConfigError

if TYPE_CHECKING:
    from ctan.cluster.schedule import Schedule, Schedules

_NUM_TIMES = 3  # next ones that are shown


def schedule(
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]...",
            help="Compiled pipeline, pipelines/retrain.yaml when left out, and its parameters: lists as JSON.",
        ),
    ] = None,
    cron: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="When: minute hour day month weekday, UTC; seconds may come first; or @daily and the like."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List what is scheduled.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Start no more runs until --resume.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Undo --pause.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; runs under way go on.")] = False,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the recurring run.", show_default="the pipeline's, ctan-retrain"),
    ] = None,
    values: c.ValuesFile = None,
    experiment: c.Experiment = None,
    endpoint: c.Endpoint = None,
    namespace: c.Namespace = None,
) -> None:
    """Let the retraining pipeline run again and again on Kubeflow Pipelines: one run at a time, missed times left out.

    The same command again changes nothing; with another time, pipeline or parameters it takes the place of the old one.

    Example: ctan schedule --cron '0 3 * * 1' source=dvc:https://host/team/data@main profile=gpu --values gpu.yaml

    Example: ctan schedule --list
    """
    from ctan.cluster.compiled import CompiledPipeline
    from ctan.cluster.parameters import parse_parameters
    from ctan.cluster.schedule import Schedules
    from ctan.cluster.submit import Cluster
    from ctan.cluster.values import load_values

    actions = {"--cron": cron, "--list": show_list, "--pause": pause, "--resume": resume, "--delete": delete}
    chosen = [action for action, given in actions.items() if given]
    if len(chosen) != 1:
        raise ConfigError(f"give exactly one of {', '.join(actions)}{': found ' + ', '.join(chosen) if chosen else ''}")
    file, items = c.file_and_parameters(arguments or [], "retrain")
    pipeline = CompiledPipeline.read(file)
    name = name or pipeline.name
    if cron is None:
        _manage(Schedules(Cluster(endpoint, namespace)), chosen[0], name)
        return
    parameters = parse_parameters(pipeline, items)
    settings = load_values(values) if values else None
    schedules = Schedules(Cluster(endpoint, namespace))
    change = schedules.schedule(name, cron, file.read_text(encoding="utf-8"), parameters, settings, experiment)
    typer.echo(f"{name} {change.what}: {change.schedule.url}")
    typer.echo(f"next (UTC): {_next(change.schedule, _NUM_TIMES)}")


def _manage(schedules: Schedules, action: str, name: str) -> None:
    if action == "--list":
        _show(schedules.find())
    elif action == "--delete":
        for deleted in schedules.delete(name):
            typer.echo(f"{name} deleted ({deleted.recurring_run_id})")
    elif action == "--pause":
        typer.echo(f"{name} {'paused' if schedules.pause(name) else 'was paused already'}; `--resume` goes on")
    else:
        resumed = schedules.resume(name)
        typer.echo(f"{name} {'resumed' if resumed else 'was not paused'}")


def _show(found: Sequence[Schedule]) -> None:
    from rich.table import Table

    from ctan.commands.show import console

    if not found:
        typer.echo("nothing is scheduled; `ctan schedule --cron '0 3 * * 1' source=...` schedules retraining")
        return
    table = Table()
    for column in ("name", "cron (UTC)", "state", "next (UTC)", "parameters", "page"):
        table.add_column(column, overflow="fold")
    for one in found:
        state = "[green]enabled[/green]" if one.enabled else "[yellow]paused[/yellow]"
        parameters = "\n".join(f"{key}={json.dumps(value)}" for key, value in one.parameters.items())
        table.add_row(one.name, one.cron or "(interval)", state, _next(one, 1), parameters, one.url)
    console.print(table)


def _next(one: Schedule, count: int) -> str:
    from ctan.cluster.cron import next_times

    if not one.enabled or not one.cron:
        return ""
    try:
        return ", ".join(time.strftime("%a %Y-%m-%d %H:%M:%S") for time in next_times(one.cron, count))
    except ConfigError:
        return "?"  # made elsewhere, with what only KFP knows
