"""`ctan drift`: incoming cases against those that a model learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ctan.commands import options as o

DRIFTED = 3  # exit code


def drift(
    model: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder with model.safetensors."),
    ],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Incoming cases, as for ctan predict; no truth.")],
    page: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("drift.html"),
    json_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Option("--json", help="File that receives the numbers as JSON.", show_default="none"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Least distance of a distribution that counts, 0 to 1.", min=0, max=1)
    ] = 0.0,
    overrides: o.Overrides = None,
) -> None:
    """Say whether incoming cases are still like those that a model learned from: image, grid, targets, bottleneck.

    Exit code 3 when they have drifted; of samples of the same kind one in twenty is called so.

    Example: ctan drift models:/ctan-openkbp@champion incoming/ --json drift.json
    """
    from ctan.files import write_json
    from ctan.prediction.drift import drift as compare
    from ctan.prediction.drift import write_page

    report = compare(model, source, threshold, overrides or [])
    write_page(report, page)
    if json_file is not None:
        write_json(json_file, report.to_json())
    for case_id, reason in report.failed.items():
        typer.echo(f"warning: {case_id}: {reason}", err=True)
    typer.echo(f"{report}; page: {page}")
    if report.drifted:
        raise typer.Exit(DRIFTED)
