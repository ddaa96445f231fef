"""Tasks weighed in every step by how their gradients stand to each other, by torchjd's methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from ctan.errors import ConfigError
from ctan.ranks import Ranks
from ctan.training.balance import Gradients
from ctan.training.weighting import WEIGHTINGS, EqualWeighting

Method = Callable[[Tensor], Tensor]  # from the products of gradients (T, T), float64, to weights (T)
_CAGRAD_RADIUS = 0.5  # `c` of its paper


class GradientWeighting(EqualWeighting):
    """`g = sum_t w_t g_t` on what several tasks reach, `w` a function of the products `<g_t, g_u>` there.

    What one task alone reaches takes that task's gradient as it is. A task without a gradient in a step, of which
    nothing is known in its cases, has no part in its weights.

    Args:
        tasks: names.
        method: see `METHODS`.

    Raises:
        ConfigError: when a library is missing that the method needs.
    """

    sums: Tensor
    number: Tensor
    last: Tensor

    def __init__(self, tasks: Sequence[str], method: str) -> None:
        super().__init__(tasks)
        try:
            self.method = METHODS[method]()
        except ImportError as error:
            raise ConfigError(
                f"training.task_weighting={method} needs cvxpy and clarabel: install them with pip install "
                f"'ctan[cagrad]', or choose one of {', '.join(name for name in METHODS if name != method)}"
            ) from error
        # Weights of this epoch's steps, and the means of the last one.
        self.register_buffer("sums", torch.zeros(len(self.tasks), dtype=torch.float64))
        self.register_buffer("number", torch.zeros((), dtype=torch.float64))
        self.register_buffer("last", torch.ones(len(self.tasks), dtype=torch.float64))

    def weights(self) -> dict[str, float]:
        """Return the mean weight of each task in the epoch's steps so far; before the first in those of the last."""
        means = self.sums / self.number if self.number else self.last
        return dict(zip(self.tasks, means.tolist(), strict=True))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the losses, which is shown and not descended."""
        return torch.stack([losses[task] for task in self.tasks]).sum()

    def end_epoch(self, mean_losses: Mapping[str, float]) -> None:
        del mean_losses
        if self.number:
            self.last = self.sums / self.number
        self.sums, self.number = torch.zeros_like(self.sums), torch.zeros_like(self.number)

    def combine(self, gradients: Gradients, ranks: Ranks) -> list[Tensor | None]:
        """Return one gradient for every parameter, None for one that no task reaches.

        Args:
            gradients: by task, of the cases of all processes.
            ranks: the processes; the first one decides on the weights.
        """
        of_parameters = list(zip(*(gradients[task] for task in self.tasks), strict=True))
        is_shared = [sum(g is not None for g in of_one) > 1 for of_one in of_parameters]
        shared = [of_one for of_one, several in zip(of_parameters, is_shared, strict=True) if several]
        weights = torch.tensor(ranks.from_main(self._weigh(shared)), dtype=torch.float64) if shared else None
        if weights is not None:
            self.sums += weights.to(self.sums)
            self.number += 1
        return [
            _sum(of_one, weights.tolist() if several and weights is not None else [1.0] * len(of_one))
            for of_one, several in zip(of_parameters, is_shared, strict=True)
        ]

    def _weigh(self, shared: Sequence[Sequence[Tensor | None]]) -> list[float]:
        """Return the weight of each task."""
        products = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64, device=self.sums.device)
        for of_one in shared:
            reached = [i for i, gradient in enumerate(of_one) if gradient is not None]
            rows = torch.stack([of_one[i].flatten().double() for i in reached])  # type: ignore[union-attr]
            products[np.ix_(reached, reached)] += rows @ rows.T
        products = products.cpu()
        takes_part = (products.diagonal() > 0) & products.diagonal().isfinite()  # losses are read later, see `Step`
        weights = torch.zeros(len(self.tasks), dtype=torch.float64)
        if takes_part.any():
            scale = products.diagonal().max()  # losses of any size: methods stop at fixed small numbers
            weights[takes_part] = self.method(products[takes_part][:, takes_part] / scale)
        return weights.tolist()


def _sum(of_tasks: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor | None:
    terms = [gradient * weight for gradient, weight in zip(of_tasks, weights, strict=True) if gradient is not None]
    return torch.stack(terms).sum(0) if terms else None


def _upgrad() -> Method:
    from torchjd.aggregation import UPGradWeighting
    from torchjd.linalg import DualConeProjector

    class Projector(DualConeProjector):
        """By non-negative least squares: torchjd's own needs quadprog, which is under the GPL."""

        def __call__(self, U: Tensor, G: Any) -> Tensor:
            values, vectors = np.linalg.eigh(G.numpy())
            root = np.sqrt(values.clip(0))[:, None] * vectors.T  # root^T root = G
            # min_w w^T G w, w >= u, is min_v |root (u + v)|, v >= 0
            found = [u + nnls(root, -root @ u)[0] for u in U.numpy()]
            return torch.from_numpy(np.stack(found))

    return UPGradWeighting(projector=Projector())


def _of_torchjd(name: str, *arguments: float) -> Method:
    import torchjd.aggregation

    method: Method = getattr(torchjd.aggregation, name)(*arguments)
    return method


# Each gives weights from the tasks' products. Nash-MTL is not among them: it needs ecos, which is under the GPL, and
# keeps a state of its own that a checkpoint could not hold.
METHODS: Mapping[str, Callable[[], Method]] = {
    "upgrad": _upgrad,  # Quinton, Rey 2024
    "pcgrad": partial(_of_torchjd, "PCGradWeighting"),  # Yu et al. 2020
    "mgda": partial(_of_torchjd, "MGDAWeighting"),  # Sener, Koltun 2018
    "cagrad": partial(_of_torchjd, "CAGradWeighting", _CAGRAD_RADIUS),  # Liu et al. 2021
    "imtl_g": partial(_of_torchjd, "IMTLGWeighting"),  # Liu et al. 2021
    "aligned_mtl": partial(_of_torchjd, "AlignedMTLWeighting"),  # Senushkin et al. 2023
}


def make_weighting(name: str, tasks: Sequence[str]) -> EqualWeighting:
    """Return a weighting of task losses or gradients.

    Args:
        name: `training.task_weighting`.
        tasks: names.
    """
    return GradientWeighting(tasks, name) if name in METHODS else WEIGHTINGS[name](tasks)
