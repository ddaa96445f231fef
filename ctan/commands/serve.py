"""`ctan serve`: a trained model behind HTTP."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def serve(
    model: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, or a folder with model.safetensors."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every network: nobody is asked who they are.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
    max_request_mb: Annotated[int, typer.Option(help="Most megabytes of a request.", min=1)] = 512,
    tta: Annotated[
        Optional[bool],  # noqa: UP045 - typer evaluates it
        typer.Option("--tta/--no-tta", help="Average with the flipped image.", show_default="as the model was made"),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average all folds and seeds of the model's architecture.")
    ] = False,
) -> None:
    """Answer requests with a trained model, with the numbers of ctan predict: POST /invocations, as MLflow's servers.

    GET /model says what a request must hold; GET /ping answers once the model does. One model a process, one request
    after the other. For research only.

    Example: ctan serve models:/ctan-ham10000@champion
    """
    from ctan.prediction.models import open_models
    from ctan.prediction.server import serve as serve_models

    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo("warning: whoever reaches this address may ask, unencrypted; put a login ahead", err=True)
    with open_models(model, ensemble) as models:
        serve_models(models, host, port, max_request_mb, tta, typer.echo)
