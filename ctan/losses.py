"""Task losses in float32 (float64 of float64), on the same scales for every architecture.

`B` batch, `S` structures, `K` classes, `...` spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_DICE_SMOOTH = 1.0
_HARDEST = 4  # background voxels a foreground voxel
_DOSE_WEIGHT = 10.0  # MAE / 70 Gy alone is about 0.06 against about 1 for contouring


def _full(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def segmentation_loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Return soft Dice plus binary cross-entropy, averaged over the known (case, structure) pairs.

    Per pair: `1 - (2 sum(p y) + 1) / (sum p + sum y + 1)` plus the voxel mean of the cross-entropy. A pair without
    foreground uses cross-entropy alone. Structures that were not contoured are unknown and contribute nothing.

    Args:
        logits: (B, S, ...).
        masks: (B, S, ...) 0/1 or bool.
        known: (B, S) bool.

    Returns:
        Scalar; 0 with zero gradient when nothing is known.
    """
    x = _full(logits.flatten(2)).flatten(0, 1).contiguous()  # (pairs, voxels)
    y = masks.flatten(2).flatten(0, 1).to(x.dtype)
    return _mean_where(_DiceCrossEntropy.apply(x, y), known.flatten())


def _mean_where(losses: Tensor, known: Tensor) -> Tensor:
    """Return the mean of some of the losses, 0 of none, without waiting for the device to say which."""
    return torch.where(known, losses, 0).sum() / known.sum().clamp_min(1)


def foreground_loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Return cross-entropy over foreground and the hardest background, averaged over the known (case, structure) pairs.

    Per pair with n > 0 foreground voxels: the mean over these, plus the mean over the 4 n background voxels with the
    largest logits, halved; its gradient is the same however much background there is. A pair without foreground counts
    0. How many voxels are the hardest is read from the device, which waits for it once a step.

    Args: see `segmentation_loss`.

    Returns:
        Scalar; 0 with zero gradient when nothing is known.
    """
    x, y = _full(logits.flatten(2)[known]), masks.flatten(2)[known].bool()
    losses = [_full(logits).sum() * 0]
    for row, inside in zip(x, y, strict=True):
        own, outside = row[inside], row[~inside]
        if not len(own):
            continue
        hardest = outside.topk(min(_HARDEST * len(own), len(outside)), sorted=False).values
        background = functional.softplus(hardest).mean() if len(hardest) else hardest.sum()
        losses.append((functional.softplus(-own).mean() + background) / 2)
    return torch.stack(losses).sum() / max(1, len(x))


class _DiceCrossEntropy(torch.autograd.Function):
    """Soft Dice (where there is foreground) plus mean cross-entropy of each row, with its gradient written out.

    On full-resolution volumes the plain composition spends most of its time on temporary arrays.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return (pairs,) losses of logits and 0/1 targets, both (pairs, voxels) float32."""
        p = x.sigmoid()
        foreground = y.sum(1)
        overlap = 2 * torch.linalg.vecdot(p, y) + _DICE_SMOOTH
        total = p.sum(1) + foreground + _DICE_SMOOTH
        cross_entropy = (functional.softplus(x).sum(1) - torch.linalg.vecdot(x, y)) / x.shape[1]
        has_foreground = foreground > 0
        ctx.save_for_backward(p, y, overlap, total, has_foreground)
        return cross_entropy + torch.where(has_foreground, 1 - overlap / total, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """d/dx of the cross-entropy is (p - y) / n; of Dice, through p, p (1 - p) (overlap / total^2 - 2 y / total)."""
        p, y, overlap, total, has_foreground = ctx.saved_tensors
        scale = gradients[0]
        dice = torch.where(has_foreground, scale, 0)
        through_p = torch.addcmul((dice * overlap / total**2)[:, None], y, (-2 * dice / total)[:, None])
        entropy = (p - y).mul_((scale / p.shape[1])[:, None])
        return entropy.addcmul_(through_p.mul_(p), 1 - p), None


def dose_loss(output: Tensor, dose: Tensor, mask: Tensor) -> Tensor:
    """Return ten times the mean absolute error where dose is possible and known, mean per case, then over the batch.

    Args:
        output: (B, 1, ...) predicted dose over the dose scale.
        dose: (B, 1, ...) reference dose over the dose scale.
        mask: (B, 1, ...) 0/1 or bool; dose outside it is neither predicted nor judged.
    """
    inside = mask.flatten(1).bool()
    errors = torch.where(inside, (_full(output) - dose).flatten(1).abs(), 0).sum(1) / inside.sum(1).clamp_min(1)
    return _DOSE_WEIGHT * errors.mean()


def classification_loss(logits: Tensor, label: Tensor, known: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the class-weighted cross-entropy, mean over the cases whose label is known.

    The mean is over cases, not over their weights: at batch size 1 that would cancel the weights.

    Args:
        logits: (B, K).
        label: (B,) int64 class index.
        known: (B,) bool.
        class_weights: K weights, or none for equal ones.
    """
    x = _full(logits)
    weight = _on_device(tuple(class_weights), x.dtype, x.device) if class_weights else None
    return _mean_where(functional.cross_entropy(x, label, weight=weight, reduction="none"), known)


@cache
def _on_device(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return constants, copied once: a copy of few numbers waits for all that the device has to do before."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def regression_loss(output: Tensor, number: Tensor, known: Tensor) -> Tensor:
    """Return the smooth L1 loss, mean over the cases whose number is known: squared below one spread, linear above.

    Args:
        output: (B, 1) predicted number, standardised.
        number: (B,) true one, standardised.
        known: (B,) bool.
    """
    x = _full(output)[:, 0]
    return _mean_where(functional.smooth_l1_loss(x, number.to(x.dtype), reduction="none"), known)
