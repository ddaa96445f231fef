"""`ctan store`: which stores there are, and removing them."""

from __future__ import annotations

from typing import Annotated

import typer

from ctan.commands import options as o

app = typer.Typer(no_args_is_help=True, help="Stores of prepared cases: list them, remove those that nobody needs.")


@app.command("list")
def list_all(store_root: o.StoreRoot = "") -> None:
    """List stores with size, age and the registered models that were made from them.

    Example: ctan store list
    """
    from rich.table import Table

    from ctan.commands.show import console
    from ctan.stores import list_stores

    root = _root(store_root)
    entries = list_stores(root)
    if not entries:
        typer.echo(f"no store under {root}; `ctan run` or `ctan data preprocess` makes one")
        return
    table = Table("store", "data set", "cases", "size", "age", "made from it", title=f"Stores under {root}")
    for entry in entries:
        age = f"{entry.age_days:.0f} d" if entry.age_days >= 1 else f"{24 * entry.age_days:.1f} h"
        size = f"{entry.num_bytes / 1e6:,.1f} MB"
        what = entry.problem or "\n".join(entry.referred_by) or "nothing registered"
        table.add_row(entry.key, entry.dataset or "-", f"{entry.num_cases:,}", size, age, what)
    console.print(table)


@app.command("remove")
def remove(
    key: Annotated[str, typer.Argument(help="Name of the store, or the beginning of it.")],
    store_root: o.StoreRoot = "",
    force: Annotated[bool, typer.Option(help="Also when registered models were made from it.")] = False,
) -> None:
    """Remove a store; one that a registered model was made from only with --force.

    Example: ctan store remove 0f3a9c
    """
    from ctan.stores import remove_store

    entry = remove_store(_root(store_root), key, force)
    typer.echo(f"removed store {entry.key}: {entry.num_cases} cases, {entry.num_bytes / 1e6:,.1f} MB")
    for name in entry.referred_by:
        typer.echo(f"{name} was made from it")


def _root(store_root: str) -> str:
    from ctan.workspace import workspace

    return store_root or str(workspace() / "store")
