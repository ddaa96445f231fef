"""How task losses become one: equal, dynamic weight average (DWA), uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_DWA_TEMPERATURE = 2.0


class EqualWeighting(nn.Module):
    """`L = sum_t L_t`."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def factors(self, losses: Tensor) -> Tensor:
        """Return the present weights, (tasks,), on the device of the stacked losses and without waiting for it."""
        return torch.ones_like(losses)

    def weights(self) -> dict[str, float]:
        """Return the present weight of each task."""
        like = torch.zeros(len(self.tasks), dtype=torch.float64)
        return dict(zip(self.tasks, self.factors(like).tolist(), strict=True))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the total of the task losses, a scalar."""
        stacked = torch.stack([losses[task] for task in self.tasks])
        return (self.factors(stacked) * stacked).sum()

    def end_epoch(self, mean_losses: Mapping[str, float]) -> None:
        """Take note of the epoch's mean loss of each task."""


class DynamicWeightAverage(EqualWeighting):
    """DWA (Liu, Johns, Davison 2019): `lambda_k = T softmax_k(w_k / 2)`, `w_k = L_k(t-1) / L_k(t-2)`.

    Weights are 1 in the first two epochs; losses are epoch means.
    """

    previous: Tensor

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.register_buffer("previous", torch.full((2, len(self.tasks)), float("nan"), dtype=torch.float64))

    def factors(self, losses: Tensor) -> Tensor:
        ratio = self.previous[1] / self.previous[0].clamp_min(1e-12)
        weights = len(self.tasks) * torch.softmax(ratio / _DWA_TEMPERATURE, 0)
        return torch.where(self.previous.isnan().any(), 1, weights).to(losses.dtype)

    def end_epoch(self, mean_losses: Mapping[str, float]) -> None:
        newest = [mean_losses[task] for task in self.tasks]
        self.previous = torch.stack([self.previous[1], self.previous.new_tensor(newest)])


class UncertaintyWeighting(EqualWeighting):
    """Homoscedastic uncertainty (Kendall, Gal, Cipolla 2018): `sum_t (exp(-s_t) L_t + s_t) / 2`, `s` learned from 0."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(self.tasks)))

    def factors(self, losses: Tensor) -> Tensor:
        return (0.5 * torch.exp(-self.log_variance.detach())).to(losses.dtype)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        stacked = torch.stack([losses[task] for task in self.tasks])
        return 0.5 * (torch.exp(-self.log_variance) * stacked + self.log_variance).sum()


WEIGHTINGS: dict[str, type[EqualWeighting]] = {
    "equal": EqualWeighting,
    "dwa": DynamicWeightAverage,
    "uncertainty": UncertaintyWeighting,
}
