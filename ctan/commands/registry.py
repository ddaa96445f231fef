"""`ctan registry`: what people decide about registered models, and what was decided."""

from __future__ import annotations

from typing import Annotated

import typer

from ctan.commands import options as o

app = typer.Typer(no_args_is_help=True, help="Registered models: approve, reject, go back, look back, verify.")

Version = Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@candidate.")]
Model = Annotated[str, typer.Argument(help="Name of the registered model.")]
By = Annotated[str, typer.Option("--by", help="Who decides.")]
Why = Annotated[str, typer.Option("--why", help="Reason, kept in the ledger for ever.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask again.")]


@app.command()
def approve(version: Version, by: By, why: Why, store_root: o.StoreRoot = "", yes: Yes = False) -> None:
    """Make a version that passed the gate and waits (promotion.approval=required) the champion.

    Example: ctan registry approve models:/ctan-openkbp@candidate --by "A. Meier" --why "20 plans reviewed"
    """
    from ctan.tracking.approval import Approval

    approval = Approval(version, store_root)
    _carry_out(approval, approval.plan_approval(), by, why, yes)


@app.command()
def reject(version: Version, by: By, why: Why, store_root: o.StoreRoot = "", yes: Yes = False) -> None:
    """Leave the champion where it is; the waiting version becomes challenger.

    Example: ctan registry reject models:/ctan-openkbp/7 --by "A. Meier" --why "bladder too hot in case 12"
    """
    from ctan.tracking.approval import Approval

    approval = Approval(version, store_root)
    _carry_out(approval, approval.plan_rejection(), by, why, yes)


@app.command()
def rollback(model: Model, by: By, why: Why, store_root: o.StoreRoot = "", yes: Yes = False) -> None:
    """Give the alias champion back to the version that had it before.

    Example: ctan registry rollback ctan-openkbp --by "A. Meier" --why "fails on the new scanner"
    """
    from ctan.tracking.approval import Approval

    approval = Approval(model, store_root)
    _carry_out(approval, approval.plan_rollback(), by, why, yes)


@app.command()
def history(model: Model, store_root: o.StoreRoot = "") -> None:
    """List every decision about a model, oldest first.

    Example: ctan registry history ctan-openkbp
    """
    from rich.table import Table

    from ctan.commands.show import console
    from ctan.tracking.approval import Approval

    table = Table("time", "version", "decision", "champion", "by", "why")
    for entry in Approval(model, store_root).history():
        champion = f"{entry['champion_before'] or 'none'} -> {entry['champion_after'] or 'none'}"
        who = entry.get("by", "gate")
        table.add_row(entry["time"], entry["version"], entry["decision"], champion, who, entry["reason"])
    console.print(table)


@app.command()
def verify(model: Model, store_root: o.StoreRoot = "") -> None:
    """Check that no decision in the ledger was changed, dropped or cut off, and that the alias is where it says.

    Example: ctan registry verify ctan-openkbp
    """
    from ctan.tracking.approval import Approval

    for sentence in Approval(model, store_root).verify():
        typer.echo(sentence)


def _carry_out(approval: object, plan: object, by: str, why: str, yes: bool) -> None:
    from ctan.tracking.approval import Approval, Plan

    assert isinstance(approval, Approval)
    assert isinstance(plan, Plan)
    typer.echo(str(plan))
    typer.echo(f"  by {by}: {why}")
    if not yes and not typer.confirm("Do it?"):
        raise typer.Exit(1)
    approval.carry_out(plan, by, why)
    typer.echo("done")
