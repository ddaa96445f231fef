"""`ctan doctor`: what is amiss here, or on a cluster, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from ctan.commands.cluster import Endpoint, Namespace, ValuesFile

_MARKS = {"fine": "ok  ", "note": "note", "problem": "FAIL", "skipped": "--  "}


def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at a cluster instead of this machine.")] = False,
    values: ValuesFile = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    pod: Annotated[
        bool, typer.Option("--pod/--no-pod", help="Run one pod of the image for a few seconds, and delete it.")
    ] = True,
) -> None:
    """Look at what a run needs, here or on a cluster; says what to do. Exit code 1 when something would stop a run.

    Example: ctan doctor --cluster --values infra/values/gpu.yaml
    """
    if cluster:
        from ctan.cluster.values import Values, load_values
        from ctan.doctor.cluster import ClusterDoctor

        settings = load_values(values) if values else Values()
        findings = ClusterDoctor(settings, namespace or "ctan", endpoint, pod).findings()
    else:
        from ctan.doctor.here import here

        findings = here()
    for finding in findings:
        typer.echo(f"{_MARKS[finding.state]}  {finding.about}: {finding.text}")
        if finding.advice:
            typer.echo(f"      -> {finding.advice}")
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
