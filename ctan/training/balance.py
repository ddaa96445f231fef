"""How the tasks' gradients stand to each other: on the weights they share and on each task's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from ctan.ranks import Ranks
from ctan.training.parallel import summed

Gradients = dict[str, list[Tensor | None]]  # by task, for every parameter


def task_gradients(losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter], ranks: Ranks) -> Gradients:
    """Return the gradient of each task's loss, None for a parameter that it does not reach. The graph stays usable.

    Args:
        losses: scalar by task, of all cases, see `ctan.training.parallel.of_all`.
        parameters: of the network.
        ranks: the processes.
    """
    return {
        name: summed(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True), parameters, ranks)
        for name, loss in losses.items()
    }


def add_gradients(sums: Gradients, more: Gradients) -> None:
    """Add gradients to others, in place; a parameter that neither reaches stays None."""
    for name, of_task in more.items():
        sums[name] = [b if a is None else a if b is None else a + b for a, b in zip(sums[name], of_task, strict=True)]


def gradient_figures(gradients: Gradients) -> dict[str, float]:
    """Return cosines and norms by the names that MLflow knows them by.

    `gradient_cosine/a/b` is taken over the parameters that both tasks reach: below 0 they pull shared weights apart.
    Two tasks without a common parameter, or with a zero gradient there, have none. `gradient_norm/shared/a` is the norm
    over the parameters that another task reaches too, `gradient_norm/own/a` over those of the task alone.

    Args:
        gradients: by task.
    """
    figures = {}
    for a, b in combinations(gradients, 2):
        both = [(x, y) for x, y in zip(gradients[a], gradients[b], strict=True) if x is not None and y is not None]
        if not both:
            continue
        x, y = (_joined(side) for side in zip(*both, strict=True))
        norms = (x.norm() * y.norm()).item()
        if norms:
            figures[f"gradient_cosine/{a}/{b}"] = (x @ y).item() / norms
    num_tasks = [sum(g is not None for g in of_one) for of_one in zip(*gradients.values(), strict=True)]
    for name, of_task in gradients.items():
        for part, is_part in (("shared", lambda number: number > 1), ("own", lambda number: number == 1)):
            found = [g for g, number in zip(of_task, num_tasks, strict=True) if g is not None and is_part(number)]
            if found:
                figures[f"gradient_norm/{part}/{name}"] = _joined(found).norm().item()
    return figures


def _joined(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).double()
