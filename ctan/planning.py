"""What to train: the flat list of (architecture, fold, seed) that the pipeline loops over."""

from __future__ import annotations

from itertools import product

from ctan.config import RunConfig


def plan(config: RunConfig) -> list[dict[str, str]]:
    """Return one item a training, architectures of the same fold and seed side by side.

    Args:
        config: settings; uses `architectures`, `folds` and `seeds`.

    Returns:
        Items `{"arch": "ctan", "fold": "0", "seed": "0"}`; strings, because fields of a pipeline's loop items are.
    """
    return [
        {"arch": arch, "fold": str(fold), "seed": str(seed)}
        for fold, seed, arch in product(config.folds, config.seeds, config.architectures)
    ]
