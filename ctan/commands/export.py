"""`ctan export`: a trained model as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer


def export(
    model: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder with model.safetensors."),
    ],
    form: Annotated[Literal["torch-export", "onnx"], typer.Option("--format", help="Of the file.")] = "onnx",
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Option("--out", "-o", help="File to write.", show_default="model.onnx or model.pt2"),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045 - typer evaluates it
        typer.Option(help="Cases at once that the file takes.", min=1, show_default="any number"),
    ] = None,
    check: Annotated[
        str, typer.Option(help="Cases that file and model must answer alike, as for ctan predict.")
    ] = "phantom:train=2,validation=1,seed=0",
) -> None:
    """Write the network as one file, from its input channels to probabilities and Gy on the working grid.

    It is written only when it answers as the model does: dense outputs within 1e-4 of their range, labels the same.

    Example: ctan export models:/ctan-ham10000@champion --format onnx --check new-pictures/
    """
    from ctan.prediction.exported import export_model

    typer.echo(str(export_model(model, form, out, batch_size, check)))
