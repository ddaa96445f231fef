"""Task losses in float32 (float64 of float64), on the same scales for every architecture.

`B` batch, `S` structures, `K` classes, `...` spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    x = _full(logits.flatten(2)[known])  # (pairs, voxels)
    if not len(x):
        return _full(logits).sum() * 0
    y = masks.flatten(2)[known].to(x.dtype)
    return _DiceCrossEntropy.apply(x, y).mean()


def foreground_loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Return cross-entropy over foreground and the hardest background, averaged over the known (case, structure) pairs.

    Per pair with n > 0 foreground voxels: the mean over these, plus the mean over the 4 n background voxels with the
    largest logits, halved; its gradient is the same however much background there is. A pair without foreground counts
    0.

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
    errors = [
        (predicted[inside] - planned[inside]).abs().mean() if inside.any() else predicted.sum() * 0
        for predicted, planned, inside in zip(_full(output), dose, mask.bool(), strict=True)
    ]
    return _DOSE_WEIGHT * torch.stack(errors).mean()


def classification_loss(logits: Tensor, label: Tensor, known: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the class-weighted cross-entropy, mean over the cases whose label is known.

    The mean is over cases, not over their weights: at batch size 1 that would cancel the weights.

    Args:
        logits: (B, K).
        label: (B,) int64 class index.
        known: (B,) bool.
        class_weights: K weights, or none for equal ones.
    """
    if not known.any():
        return _full(logits).sum() * 0
    x = _full(logits[known])
    weight = torch.tensor(class_weights, dtype=x.dtype, device=x.device) if class_weights else None
    return functional.cross_entropy(x, label[known], weight=weight, reduction="none").mean()


def regression_loss(output: Tensor, number: Tensor, known: Tensor) -> Tensor:
    """Return the smooth L1 loss, mean over the cases whose number is known: squared below one spread, linear above.

    Args:
        output: (B, 1) predicted number, standardised.
        number: (B,) true one, standardised.
        known: (B,) bool.
    """
    if not known.any():
        return _full(output).sum() * 0
    x = _full(output[known, 0])
    return functional.smooth_l1_loss(x, number[known].to(x.dtype))
