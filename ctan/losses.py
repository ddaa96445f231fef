"""Task losses in float32, on the same scales for every architecture.

`B` batch, `S` structures, `K` classes, `...` spatial axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_DICE_SMOOTH = 1.0
_DOSE_WEIGHT = 10.0  # MAE / 70 Gy alone is about 0.06 against about 1 for contouring


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
    x = logits.flatten(2)[known].float()  # (pairs, voxels)
    if not len(x):
        return logits.float().sum() * 0
    y = masks.flatten(2)[known].to(x.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)
    p = x.sigmoid()
    foreground = y.sum(1)
    overlap = (2 * (p * y).sum(1) + _DICE_SMOOTH) / (p.sum(1) + foreground + _DICE_SMOOTH)
    return (cross_entropy + torch.where(foreground > 0, 1 - overlap, 0)).mean()


def dose_loss(output: Tensor, dose: Tensor, mask: Tensor) -> Tensor:
    """Return ten times the mean absolute error inside the possible-dose mask, mean per case, then over the batch.

    Args:
        output: (B, 1, ...) predicted dose over the dose scale.
        dose: (B, 1, ...) reference dose over the dose scale.
        mask: (B, 1, ...) 0/1 or bool; dose outside it is neither predicted nor judged.
    """
    inside = mask.to(torch.float32).flatten(1)
    error = (output.float() - dose).abs().flatten(1) * inside
    return _DOSE_WEIGHT * (error.sum(1) / inside.sum(1).clamp_min(1)).mean()


def classification_loss(logits: Tensor, label: Tensor, known: Tensor, class_weights: Sequence[float] = ()) -> Tensor:
    """Return the class-weighted cross-entropy of the cases whose label is known.

    Args:
        logits: (B, K).
        label: (B,) int64 class index.
        known: (B,) bool.
        class_weights: K weights, or none for equal ones.
    """
    if not known.any():
        return logits.float().sum() * 0
    weight = torch.tensor(class_weights, dtype=torch.float32, device=logits.device) if class_weights else None
    return functional.cross_entropy(logits[known].float(), label[known], weight=weight)
