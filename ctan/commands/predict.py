"""`ctan predict`: a trained model on new cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ctan.commands import options as o

_MOST_NAMED = 5  # cases on the terminal


def predict(
    model: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder with model.safetensors."),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A case or a folder of cases in the data set's format, plain NIfTI, pictures, s3://bucket/prefix, "
            "dvc:REPOSITORY@REVISION, dicomweb:https://host/dicom-web?QUERY, or phantom:train=N.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder, or that of a prediction to go on with.")],
    tta: Annotated[
        Optional[bool],  # noqa: UP045 - typer evaluates it
        typer.Option("--tta/--no-tta", help="Average with the flipped image.", show_default="as the model was made"),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average all folds and seeds of the model's architecture.")
    ] = False,
    identified: Annotated[
        bool,
        typer.Option("--identified", help="Copy the patient's name and ID into DICOM, in place of a pseudonym."),
    ] = False,
    send: Annotated[
        str,
        typer.Option(help="DICOMweb server that stores what was predicted: dicomweb:https://host/dicom-web."),
    ] = "",
    spread: Annotated[
        bool,
        typer.Option(help="Tell how far mirror images and members of an ensemble are apart: a map and numbers a case."),
    ] = True,
    why: Annotated[
        bool, typer.Option("--why", help="Say what the answers hang on; takes about a hundred times as long.")
    ] = False,
    overrides: o.Overrides = None,
) -> None:
    """Predict new cases with a trained model: dose, contours and labels in the format that the cases came in.

    Needs no truth: CT with targets, or what the model was shown in training. Writes a folder a case with a page to
    look at; goes on where it was stopped. Exit code 1 when a case could not be predicted. For research only.

    Example: ctan predict models:/ctan-prostate@champion new-patients/ --out predicted/
    """
    from ctan.prediction import predict as predict_all
    from ctan.sources.dicomweb import DicomWeb
    from ctan.sources.dicomweb import send as send_folder

    if send:
        DicomWeb.parse(send)  # what is wrong with the address is said before hours of work
    summary = predict_all(
        model,
        source,
        out,
        test_time_flip=tta,
        ensemble=ensemble,
        identified=identified,
        spread=spread,
        why=why,
        overrides=overrides or [],
    )
    for sentence in summary.differences:
        typer.echo(f"warning: {sentence}", err=True)
    for case_id, warnings in list(summary.warnings.items())[:_MOST_NAMED]:
        typer.echo(f"warning: {case_id}: {'; '.join(warnings)}", err=True)
    if (more := len(summary.warnings) - _MOST_NAMED) > 0:
        typer.echo(f"warning: {more} more cases have warnings, see the page", err=True)
    for case_id, reason in summary.failed.items():
        typer.echo(f"error: {case_id}: {reason}", err=True)
    kept = f", {len(summary.kept)} were there already" if summary.kept else ""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    typer.echo(f"{len(summary.done)} cases predicted{kept}{failed}; page: {summary.folder / 'report.html'}")
    if send and (summary.done or summary.kept):
        typer.echo(f"{send_folder(out, send, identified)} objects stored on {DicomWeb.parse(send).host}")
    if summary.failed:
        raise typer.Exit(1)
