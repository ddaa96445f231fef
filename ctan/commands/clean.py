"""`ctan clean`: what nothing refers to any more, removed."""

from __future__ import annotations

from typing import Annotated

import typer

from ctan.commands import options as o


def clean(
    days: Annotated[float, typer.Option(help="What is younger is kept.")] = 30.0,
    store_root: o.StoreRoot = "",
    checkpoint_root: o.CheckpointRoot = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said what would be done.")] = False,
) -> None:
    """Remove old stores, shards, checkpoints and runs that nothing refers to.

    The store of a registered model stays, and of a training that began within these days. Sides, ledgers, models and
    what MLflow keeps are not touched.

    Example: ctan clean --days 60
    """
    from ctan.changes import carry_out
    from ctan.clean import plan

    changes = plan(store_root, checkpoint_root, days)
    for change in changes:
        if yes:
            carry_out([change])
        mark = "-" if change.do is None else "done" if yes else "would"
        typer.echo(f"{mark:5} {change}")
    if not any(change.do for change in changes):
        typer.echo("nothing to remove")
    elif not yes:
        typer.echo("nothing was changed; --yes does it")
