"""`ctan migrate`: what an earlier release left in a workspace, brought over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from ctan.commands import options as o
from ctan.commands.cluster import Endpoint, Namespace


def migrate(
    folder: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates it
        typer.Argument(metavar="WORKSPACE", help="Folder of release 0.1.", show_default="the workspace"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    store_root: o.StoreRoot = "",
    schedules: Annotated[bool, typer.Option("--schedules", help="Look at the cluster's schedules too.")] = False,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
) -> None:
    """Bring a workspace of release 0.1 over: registry, table of sides, ledger; stores are packed again.

    Example: ctan migrate workspace --dry-run
    """
    from ctan.changes import carry_out
    from ctan.upgrade import of_schedules, plan

    if folder is not None:
        os.environ["CTAN_WORKSPACE"] = str(folder.expanduser().absolute())
    changes = plan(store_root)
    if schedules:
        from ctan.cluster.schedule import Schedules

        changes += of_schedules(Schedules(endpoint, namespace).all())
    for change in changes:
        mark = "-" if change.do is None else "would" if dry_run else "done"
        if change.do is not None and not dry_run:
            carry_out([change])
        typer.echo(f"{mark:5} {change}")
    if not any(change.do for change in changes):
        typer.echo("nothing to do")
