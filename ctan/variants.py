"""Several settings of one architecture in one run: `"ctan network.options.ctan.ctab=false"` in `architectures`.

An architecture, and after blanks what its trainings have other than the run: settings of `network`, `training` and of
what networks see. Such trainings stand apart in comparison, report and ledger, under the architecture's name and what
differs: `"ctan, ctab=false"`.
"""

from __future__ import annotations

ALLOWED = ("network.", "training.", "data.inputs", "data.signed_distance")


def architecture_of(item: str) -> str:
    """Return the architecture of an item of `architectures`."""
    return item.split()[0] if item.split() else item


def changes_of(item: str) -> list[str]:
    """Return what its trainings have other than the run, `FIELD=VALUE`."""
    return item.split()[1:]


def variant_of(item: str) -> str:
    """Return what differs in short, `"ctab=false"`; empty of a plain architecture."""
    changes = [change.partition("=") for change in changes_of(item)]
    last = [field.rpartition(".")[2] for field, _, _ in changes]
    names = [name if last.count(name) == 1 else field for name, (field, _, _) in zip(last, changes, strict=True)]
    return ", ".join(f"{name}={value}" for name, (_, _, value) in zip(names, changes, strict=True))


def name_of(arch: str, variant: str) -> str:
    """Return what trainings of an architecture with a variant are called, `"ctan, ctab=false"`."""
    return f"{arch}, {variant}" if variant else arch
