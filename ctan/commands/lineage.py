"""`ctan lineage` and `ctan reproduce`: where a model comes from, and whether it comes again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ctan.commands import options as o

if TYPE_CHECKING:
    from rich.tree import Tree

    from ctan.tracking.trace import Node

_HASH_CHARS = 16  # shown of a hash


def lineage(
    reference: Annotated[
        str,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, pipeline:ID or data:VERSION."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of trees.")] = False,
) -> None:
    """Print the chain from raw data to registered models, both ways.

    Example: ctan lineage models:/ctan-openkbp@champion
    """
    from ctan.tracking.trace import trace

    found = trace(reference)
    if as_json:
        both = {"subject": found.subject.to_json(), "forwards": found.forwards and found.forwards.to_json()}
        typer.echo(json.dumps(both, indent=2))
        return
    from ctan.commands.show import console

    if found.subject.children:
        console.print("[bold]Where it comes from[/bold]")
        console.print(_tree(found.subject))
    if found.forwards is not None:
        console.print("\n[bold]What came of this version of the data[/bold]")
        console.print(_tree(found.forwards))


def reproduce(
    reference: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    source: Annotated[
        str, typer.Option(help="Raw files.", show_default="those it was trained on, at their version")
    ] = "",
    store_root: o.StoreRoot = "",
) -> None:
    """Train a registered version again from its raw files and compare the weights; exit code 1 when they differ.

    Example: ctan reproduce models:/ctan-openkbp@champion
    """
    from ctan.reproduce import reproduce as train_again

    result = train_again(reference, source, store_root)
    typer.echo(f"\n{result}")
    if not result.same_weights:
        raise typer.Exit(1)


def _tree(node: Node, parent: Tree | None = None) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    name = node.name[:_HASH_CHARS] if node.kind == "settings" else node.name
    title = f"{node.kind} [bold]{escape(name)}[/bold]" + (" [green]<- this[/green]" if node.here and parent else "")
    tree = Tree(title) if parent is None else parent.add(title)
    for what, value in node.facts.items():
        tree.add(f"[dim]{what}[/dim] {escape(value[:_HASH_CHARS] if 'hash' in what else value)}")
    for child in node.children:
        _tree(child, tree)
    return tree
