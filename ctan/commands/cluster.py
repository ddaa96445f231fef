"""`ctan submit` and `ctan render`: the compiled pipeline on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from ctan.cluster.compiled import CompiledPipeline
    from ctan.cluster.values import Values

_CANCELED = 3  # exit code; 1 is a failed run and any other error

ValuesFile = Annotated[
    Optional[Path],  # noqa: UP045 - typer evaluates it
    typer.Option("--values", help="Settings of the cluster: infra/values/cpu.yaml, gpu.yaml or your own."),
]

Endpoint = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(envvar="KFP_ENDPOINT", help="Address of Kubeflow Pipelines."),
]
Namespace = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(envvar="KFP_NAMESPACE", help="Your profile, where Kubeflow serves several users."),
]


def submit(
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[FILE] [KEY=VALUE]...",
            help="Compiled pipeline, pipelines/ctan.yaml when left out, and its parameters: lists as JSON.",
        ),
    ] = None,
    values: ValuesFile = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    experiment: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Experiment to file the run under.", show_default="the pipeline's name"),
    ] = None,
    run_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of the run.", show_default="the pipeline's name and the time"),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Reuse what earlier runs read and validated, or run every step."),
    ] = True,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit code 1 when it failed, 3 canceled.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait, and tell each step's state as it changes.")] = False,
    poll_seconds: Annotated[float, typer.Option(min=0.05, help="Time between two looks while waiting.")] = 10.0,
) -> None:
    """Submit the compiled pipeline to Kubeflow Pipelines and print the run's address.

    Example: ctan submit dataset=openkbp epochs=50 'architectures=["stl","ctan"]' --values infra/values/gpu.yaml --wait
    """
    from ctan.cluster.compiled import CompiledPipeline
    from ctan.cluster.parameters import parse_parameters
    from ctan.cluster.submit import Cluster

    file, items = _file_and_parameters(arguments or [])
    pipeline = CompiledPipeline.read(file)
    parameters = parse_parameters(pipeline, items)
    settings = settings_for(pipeline, values, endpoint)
    cluster = Cluster(endpoint, namespace)
    run = cluster.submit(file.read_text(encoding="utf-8"), parameters, settings, experiment, run_name, cache)
    typer.echo(f"submitted {run.name!r} to experiment {run.experiment!r}: {run.url}")
    if not (wait or follow):
        return
    try:
        end = cluster.wait(run, typer.echo, follow, poll_seconds)
    except KeyboardInterrupt:
        typer.echo(f"\nno longer waiting; the run goes on: {run.url}", err=True)
        raise typer.Exit(130) from None
    for result in end.results:
        typer.echo(result)
    for failure in end.failures:
        typer.echo(failure, err=True)
    typer.echo(f"{end.state}: {run.url}")
    if not end.succeeded:
        raise typer.Exit(_CANCELED if end.state == "CANCELED" else 1)


def render(
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Compiled pipeline.", show_default="pipelines/ctan.yaml"),
    ] = None,
    values: ValuesFile = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="File to write.", show_default="printed"),
    ] = None,
) -> None:
    """Write the settings of a cluster into the compiled pipeline, without compiling it again.

    Example: ctan render pipelines/ctan.yaml --values infra/values/gpu.yaml -o build/ctan-gpu.yaml
    """
    from ctan.cluster.compiled import CompiledPipeline
    from ctan.cluster.render import render as rendered
    from ctan.cluster.values import Values, load_values
    from ctan.files import write_text

    path = file or _packaged()
    CompiledPipeline.read(path)  # says what is wrong with the file itself
    text = rendered(path.read_text(encoding="utf-8"), load_values(values) if values else Values(), str(path))
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)


def settings_for(pipeline: CompiledPipeline, values: Path | None, endpoint: str | None) -> Values | None:
    """Return the settings to write into a pipeline before it is sent: a values file, and an image to pull."""
    from ctan.cluster.endpoint import find_endpoint
    from ctan.cluster.image import choose_image, with_image
    from ctan.cluster.values import load_values

    settings = load_values(values) if values else None
    image = choose_image(pipeline, find_endpoint(endpoint), settings)
    if image.note:
        typer.echo(image.note, err=True)
    return with_image(settings, image)


def _file_and_parameters(arguments: list[str]) -> tuple[Path, list[str]]:
    """Tell a file from parameters: it comes first and is no `KEY=VALUE`."""
    from ctan.cluster.parameters import is_parameter

    if arguments and not is_parameter(arguments[0]):
        return Path(arguments[0]), arguments[1:]
    return _packaged(), arguments


def _packaged() -> Path:
    from ctan.cluster.compiled import compiled_pipeline

    return compiled_pipeline()
