"""What makes several processes compute what one computes: losses, gradients, batch statistics, dropout.

With `n_r` known things of a task on process r and N on all, `L = sum_r n_r l_r / N` is the loss of the whole batch, and
its gradient the sum over the processes of the gradients of `n_r l_r / N`. Each process holds the same weights and takes
the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctan.errors import DataError
from ctan.ranks import Ranks


def of_all(losses: Mapping[str, Tensor], counts: Mapping[str, Tensor | int], ranks: Ranks) -> dict[str, Tensor]:
    """Return each task's loss over the cases of all processes; its gradient is this process' part of the whole.

    Args:
        losses: scalar by task, a mean over the `counts` things of this process.
        counts: of things known, by task; 0 for a process whose cases do not count.
        ranks: the processes.
    """
    if ranks.size == 1:
        return dict(losses)
    own = torch.stack([loss.detach() for loss in losses.values()])
    numbers = [counts[name] for name in losses]
    known = torch.stack([n.to(own) if isinstance(n, Tensor) else own.new_full((), n) for n in numbers])
    total, number = ranks.add(torch.stack([own * known, known]).double())
    values, parts = ((x / number.clamp_min(1)).to(own.dtype).unbind() for x in (total, known))
    # A function for each task: a task's gradient stays None where the task does not reach.
    return {name: _OfAll.apply(losses[name], *of_one) for name, *of_one in zip(losses, values, parts, strict=True)}


class _OfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, value: Tensor, part: Tensor) -> Tensor:
        """Return the loss of all processes in the place of this one's, which is `part` of it."""
        del own
        ctx.save_for_backward(part)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (part,) = ctx.saved_tensors
        return gradients[0] * part, None, None


def summed(gradients: Sequence[Tensor | None], like: Sequence[Tensor], ranks: Ranks) -> list[Tensor | None]:
    """Return gradients summed over the processes.

    Args:
        gradients: of this process; None for a parameter that it did not reach.
        like: the parameters.
        ranks: the processes.

    Returns:
        None for a parameter that no process reached, as with one process.
    """
    if ranks.size == 1:
        return list(gradients)
    reached = ranks.add(torch.tensor([float(g is not None) for g in gradients]))
    sums: list[Tensor | None] = [None] * len(like)
    for dtype in dict.fromkeys(p.dtype for p in like):
        where = [i for i, p in enumerate(like) if p.dtype == dtype]
        parts = [torch.zeros_like(like[i]) if gradients[i] is None else gradients[i] for i in where]
        flat = ranks.add(torch.cat([part.reshape(-1) for part in parts]))  # type: ignore[union-attr]
        for i, part in zip(where, flat.split([like[i].numel() for i in where]), strict=True):
            sums[i] = torch.empty_like(like[i]).copy_(part.view(like[i].shape))
    return [gradient if number else None for gradient, number in zip(sums, reached.tolist(), strict=True)]


def check_equal(network: nn.Module, ranks: Ranks) -> None:
    """See that all processes hold the same weights.

    Raises:
        DataError: when they have drifted apart.
    """
    if ranks.size == 1:
        return
    sums = torch.stack([p.detach().double().sum() for p in network.parameters()]).tolist()
    if any(other != sums for other in ranks.gather(sums)):
        raise DataError(
            "the processes of this training hold different weights: a network or task of another package draws random "
            "numbers of its own, or the machines compute differently; train with training.num_processes=1"
        )


def prepare(network: nn.Module, ranks: Ranks) -> None:
    """Replace, in place, what looks at more than one case: batch norm, and dropout that draws for a whole batch."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and ranks.size > 1:
                setattr(module, name, _BatchNormOverAll.of(child, ranks))
            elif isinstance(child, _DROPOUTS) and child.p:
                setattr(module, name, CaseDropout(child.p, isinstance(child, _WHOLE_CHANNELS)))
    for position, dropout in enumerate(m for m in network.modules() if isinstance(m, CaseDropout)):
        dropout.position = position


def looks_at_cases(module: nn.Module) -> bool:
    """Whether a module is told of the cases of a step, see `announce`."""
    return isinstance(module, CaseDropout | _BatchNormOverAll)


def announce(network: nn.Module, batch: Mapping[str, Any]) -> None:
    """Tell the modules that `prepare` made which cases come next and whether they count."""
    for module in network.modules():
        if isinstance(module, CaseDropout):
            module.keys, module.num_calls = batch["key"], 0
        elif isinstance(module, _BatchNormOverAll):
            module.counts = all(batch["counts"])


_WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DROPOUTS = (nn.Dropout, *_WHOLE_CHANNELS)


class CaseDropout(nn.Module):
    """Dropout of (B, C, ...) whose mask is a function of the case's key, of this layer and of the call.

    Args:
        p: probability of dropping.
        whole_channels: drop channels as a whole.
    """

    def __init__(self, p: float, whole_channels: bool = False) -> None:
        super().__init__()
        self.p, self.whole_channels = p, whole_channels
        self.keys: list[int] = []
        self.position = self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[1], *[1] * (x.ndim - 2)) if self.whole_channels else x.shape[1:]
        masks = []
        for key in self.keys:
            entropy = np.random.SeedSequence([key, self.position, self.num_calls])
            generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint32)[0]))
            masks.append(torch.rand(shape, generator=generator) >= self.p)
        self.num_calls += 1
        return x * torch.stack(masks).to(x.device, x.dtype, non_blocking=True) / (1 - self.p)


class _BatchNormOverAll(_BatchNorm):
    """Batch norm over the cases of all processes (torch's own synchronised one knows GPUs alone)."""

    ranks: Ranks
    counts = True

    @classmethod
    def of(cls, norm: _BatchNorm, ranks: Ranks) -> _BatchNormOverAll:
        """Return the same layer, with the same parameters and buffers."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.__dict__.update({**norm.__dict__, "ranks": ranks})
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        counted = float(self.counts)
        own = counted * x.numel() / x.shape[1]
        number = self.ranks.add(torch.full((), own, dtype=torch.float64, device=x.device))
        number = number.to(x.dtype)
        mean = _SumOverAll.apply(x.sum(axes) * counted, self.ranks) / number
        centred = x - mean.view(shape)
        variance = _SumOverAll.apply(centred.square().sum(axes) * counted, self.ranks) / number
        if self.track_running_stats:
            self._update(mean.detach(), (variance * number / (number - 1)).detach())
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        cast(Tensor, self.num_batches_tracked).add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(cast(Tensor, self.num_batches_tracked))
        cast(Tensor, self.running_mean).lerp_(mean.to(self.running_mean), share)
        cast(Tensor, self.running_var).lerp_(variance.to(self.running_var), share)


class _SumOverAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.add(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.add(gradients[0].clone()), None
