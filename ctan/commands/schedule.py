"""`ctan schedule`: the recurring run on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ctan.commands.cluster import Endpoint, Namespace, ValuesFile, settings_for
from ctan.errors import ConfigError

if TYPE_CHECKING:
    from ctan.cluster.schedule import Applied, Schedule, Schedules

_PIPELINE = "retrain"
_NUM_TIMES = 3
_SHORT = 40  # characters of a parameter's value in the table


def schedule(
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Argument(metavar="[KEY=VALUE]...", help="With --cron: parameters of the pipeline; lists as JSON."),
    ] = None,
    cron: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Run at these times in UTC: '0 3 * * 1' (Mondays 03:00), @daily, '@every 6h'."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show every schedule of the cluster.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Start no more runs until --resume.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after --pause.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the schedule; its runs stay.")] = False,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the schedule, or its id.", show_default="the pipeline's name, ctan-retrain"),
    ] = None,
    pipeline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Compiled pipeline.", show_default=f"pipelines/{_PIPELINE}.yaml"),
    ] = None,
    values: ValuesFile = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
) -> None:
    """Have Kubeflow run a pipeline again and again: one run at a time, missed times not made up for one by one.

    The same command again changes nothing; with other times or parameters it replaces the schedule of that name.

    Example: ctan schedule --cron '0 3 * * 1' source=dvc:https://host/team/data@main:data/openkbp profile=gpu

    Then: ctan schedule --list | --pause | --resume | --delete
    """
    from ctan.cluster.schedule import Schedules, check_name

    actions = {"--cron": cron is not None, "--list": show, "--pause": pause, "--resume": resume, "--delete": delete}
    chosen = [option for option, wanted in actions.items() if wanted]
    if len(chosen) != 1:
        found = " and ".join(chosen) or "none"
        raise ConfigError(f"schedule: expected one of {', '.join(actions)}, found {found}; see ctan schedule --help")
    if cron is None and (arguments or values):
        given = arguments[0] if arguments else f"--values {values}"
        raise ConfigError(f"{given}: goes with --cron only")
    check_name(name)
    file = pipeline or _packaged()
    if cron is not None:
        _apply(cron, name, file, arguments or [], values, endpoint, namespace)
    elif show:
        _show_all(Schedules(endpoint, namespace).all())
    else:
        wanted = name or _name_in(file)
        cluster = Schedules(endpoint, namespace)
        if delete:
            _delete(cluster, wanted)
        else:
            _switch(cluster, wanted, resume)


def _apply(
    cron: str,
    name: str | None,
    file: Path,
    items: list[str],
    values: Path | None,
    endpoint: str | None,
    namespace: str | None,
) -> None:
    from ctan.cluster.client import packaged
    from ctan.cluster.compiled import CompiledPipeline
    from ctan.cluster.cron import parse_cron
    from ctan.cluster.parameters import parse_parameters, settings_of
    from ctan.cluster.schedule import Schedules
    from ctan.retrain import check_decides

    times = parse_cron(cron, _now())
    pipeline = CompiledPipeline.read(file)
    parameters = parse_parameters(pipeline, items)
    settings = settings_for(pipeline, values, endpoint)
    package = packaged(file.read_text(encoding="utf-8"), parameters, settings, str(file))
    config = settings_of(package.pipeline, package.parameters)
    if config and "check" in package.pipeline.containers:
        check_decides(config)
    _show_applied(Schedules(endpoint, namespace).apply(times, package, name))


def _show_applied(applied: Applied) -> None:
    from ctan.cluster.cron import cron_of_server

    schedule, now = applied.schedule, _now()
    done = {
        "created": "created, enabled",
        "unchanged": "unchanged, enabled",
        "resumed": "was paused, is enabled again (a time missed meanwhile runs now); else unchanged",
        "replaced": "replaced, enabled",
    }
    typer.echo(f"schedule {schedule.name!r}: {done[applied.change]}: {schedule.url}")
    for reason in applied.reasons:
        typer.echo(f"  {reason}")
    cron = cron_of_server(schedule.trigger)
    if cron is None:
        return
    times = cron.times(now, schedule.created_at)
    typer.echo(f"{cron.in_words()} (cron {schedule.trigger}); the next times in UTC:")
    for _, time in zip(range(_NUM_TIMES), times, strict=False):
        typer.echo(f"  {_written(time)}")
    typer.echo("UTC holds unless the cluster's ml-pipeline-scheduledworkflow has CRON_SCHEDULE_TIMEZONE set.")


def _switch(cluster: Schedules, name: str, enabled: bool) -> None:
    from ctan.cluster.endpoint import ClusterError

    found = cluster.find(name)
    state = "enabled" if enabled else "paused"
    if found is None:
        raise ClusterError(f"{_none(cluster, name)}; `ctan schedule --cron ...` makes one")
    if found.enabled == enabled:
        typer.echo(f"schedule {found.name!r}: is {state} already: {found.url}")
        return
    found = cluster.switch(found, enabled)
    after = _next_run(found) if enabled else "a run that is going on is not stopped"
    typer.echo(f"schedule {found.name!r}: {state}; {after}: {found.url}")


def _next_run(schedule: Schedule) -> str:
    time = schedule.next_time(_now())
    due = f"next run {_written(time)} UTC" if time else "next run as its trigger says"
    return f"{due}, or at once where a time was missed meanwhile"


def _delete(cluster: Schedules, name: str) -> None:
    found = cluster.find(name)
    if found is None:
        typer.echo(f"{_none(cluster, name)}; nothing to delete")
        return
    cluster.delete(found)
    typer.echo(f"schedule {found.name!r} ({found.schedule_id}): deleted; runs that it started stay")


def _none(cluster: Schedules, name: str) -> str:
    names = sorted({schedule.name for schedule in cluster.all()})
    return f"no schedule {name!r}" + (f" (there are: {', '.join(names)})" if names else "")


def _show_all(schedules: list[Schedule]) -> None:
    from rich.table import Table

    from ctan.commands.show import console

    if not schedules:
        typer.echo("no schedule; `ctan schedule --cron ...` makes one")
        return
    table = Table()
    for heading in ("name", "cron (seconds first)", "state", "next run (UTC)", "parameters"):
        table.add_column(heading, overflow="fold")
    for one in schedules:
        time = one.next_time(_now())
        state = "enabled" if one.enabled else "paused"
        table.add_row(one.name, one.trigger, state, _written(time) if time else "", _brief(one.parameters))
    console.print(table, markup=False)
    for one in schedules:
        typer.echo(f"{one.schedule_id} {one.name}: {one.url}")


def _brief(parameters: Mapping[str, Any]) -> str:
    import json

    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parameters.items()}
    short = {name: value if len(value) <= _SHORT else f"{value[:_SHORT]}..." for name, value in values.items()}
    return "\n".join(f"{name}={value}" for name, value in short.items())


def _name_in(file: Path) -> str:
    from ctan.cluster.compiled import CompiledPipeline

    return CompiledPipeline.read(file).name


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%a %Y-%m-%d %H:%M:%S")


def _now() -> datetime:
    return datetime.now(UTC)


def _packaged() -> Path:
    from ctan.cluster.compiled import compiled_pipeline

    return compiled_pipeline(_PIPELINE)
