"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ctan.losses import classification_loss, dose_loss, foreground_loss, segmentation_loss
from ctan.tasks import Classification, DoseRegression, Segmentation, task_from_json


def test_segmentation_loss_is_dice_plus_cross_entropy_of_the_known_pairs() -> None:
    p = torch.tensor([0.8, 0.4, 0.1, 0.2])
    y = torch.tensor([1.0, 1.0, 0.0, 0.0])
    logits = torch.logit(p).view(1, 1, 2, 2)
    dice = (2 * (0.8 + 0.4) + 1) / (0.8 + 0.4 + 0.1 + 0.2 + 2 + 1)
    entropy = -(math.log(0.8) + math.log(0.4) + math.log(0.9) + math.log(0.8)) / 4
    loss = segmentation_loss(logits, y.view(1, 1, 2, 2), torch.tensor([[True]]))
    assert loss.item() == pytest.approx(1 - dice + entropy, rel=1e-6)


def test_an_unknown_structure_changes_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    masks = torch.rand(2, 3, 4, 4, 4) > 0.5
    known = torch.tensor([[True, False, True], [True, True, False]])
    loss = segmentation_loss(logits, masks, known)
    (gradient,) = torch.autograd.grad(loss, logits)
    other = masks.clone()
    other[0, 1], other[1, 2] = ~other[0, 1], True
    assert segmentation_loss(logits, other, known).item() == loss.item()
    assert gradient[0, 1].abs().sum() == 0
    assert gradient[1, 2].abs().sum() == 0
    pairs = known.nonzero().tolist()
    assert all(gradient[b, s].abs().sum() > 0 for b, s in pairs)
    yes = torch.tensor([[True]])
    single = [segmentation_loss(logits[b : b + 1, s : s + 1], masks[b : b + 1, s : s + 1], yes) for b, s in pairs]
    assert loss.item() == pytest.approx(sum(x.item() for x in single) / 4, rel=1e-6)


def test_the_gradient_of_the_segmentation_loss_is_that_of_its_formula() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 2, 5, 6, requires_grad=True)
    y = (torch.rand(2, 2, 5, 6) > 0.6).float()
    y[1, 1] = 0
    loss = segmentation_loss(x, y, torch.ones(2, 2, dtype=torch.bool))
    p, x2 = x.sigmoid().flatten(2), x.flatten(2)
    dice = 1 - (2 * (p * y.flatten(2)).sum(2) + 1) / (p.sum(2) + y.flatten(2).sum(2) + 1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x2, y.flatten(2), reduction="none").mean(2)
    plain = (entropy + torch.where(y.flatten(2).any(2), dice, 0)).mean()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    (ours,), (theirs,) = torch.autograd.grad(loss, x), torch.autograd.grad(plain, x)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-8)


def test_nothing_known_gives_zero_loss_and_zero_gradient() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.ones(1, 2, 3, 3), torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_a_known_structure_without_foreground_uses_cross_entropy_alone() -> None:
    logits = torch.zeros(1, 1, 2, 2)
    loss = segmentation_loss(logits, torch.zeros(1, 1, 2, 2), torch.tensor([[True]]))
    assert loss.item() == pytest.approx(math.log(2))


def test_the_foreground_loss_is_cross_entropy_over_foreground_and_the_hardest_background() -> None:
    logits = torch.tensor([0.5, 3.0, -1.0, 2.0, 1.0, -4.0])
    masks = torch.tensor([True, False, False, False, False, False])
    entropy = torch.nn.functional.softplus(torch.tensor([3.0, 2.0, 1.0, -1.0])).mean()
    expected = (torch.nn.functional.softplus(torch.tensor(-0.5)) + entropy) / 2
    found = foreground_loss(logits.view(1, 1, 6), masks.view(1, 1, 6), torch.tensor([[True]]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    more = torch.cat([logits, torch.full((1000,), -9.0)])  # background that is right already changes nothing
    wide = foreground_loss(more.view(1, 1, -1), (torch.arange(1006) == 0).view(1, 1, -1), torch.tensor([[True]]))
    assert wide.item() == pytest.approx(expected.item(), rel=1e-6)
    two = foreground_loss(
        logits.repeat(2).view(1, 2, 6), torch.stack([masks, ~masks & False])[None], torch.tensor([[True, True]])
    )
    assert two.item() == pytest.approx(expected.item() / 2, rel=1e-6)
    assert foreground_loss(logits.view(1, 1, 6), masks.view(1, 1, 6), torch.tensor([[False]])).item() == 0


def test_dose_loss_is_ten_times_the_mean_error_inside_the_mask_mean_per_case_then_batch() -> None:
    output = torch.tensor([[[1.0, 0.5, 9.0, 9.0]], [[0.2, 0.2, 0.2, 0.2]]])
    dose = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.4]]])
    mask = torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 1]]])
    assert dose_loss(output, dose, mask).item() == pytest.approx(10 * ((0.5 + 0) / 2 + 0.8 / 4) / 2)


def test_classification_loss_weighs_classes_and_skips_unknown_labels() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [50.0, -50.0]])
    label, known = torch.tensor([0, 0, 1]), torch.tensor([True, True, False])
    a, b = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    assert classification_loss(logits, label, known).item() == pytest.approx((a + b) / 2, rel=1e-5)
    label = torch.tensor([0, 1, 1])
    b = math.log(1 + math.exp(-1))
    expected = (1 * a + 3 * b) / 2
    assert classification_loss(logits, label, known, (1.0, 3.0)).item() == pytest.approx(expected, rel=1e-5)


def test_a_class_weight_counts_also_in_a_batch_of_one() -> None:
    logits, label, known = torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor([True])
    assert classification_loss(logits, label, known, (1.0, 3.0)).item() == pytest.approx(3 * math.log(1 + math.exp(-1)))


def test_losses_are_float32_for_bf16_outputs() -> None:
    logits = torch.randn(1, 1, 4, 4).bfloat16()
    masks, known = torch.ones(1, 1, 4, 4), torch.tensor([[True]])
    assert segmentation_loss(logits, masks, known).dtype == torch.float32
    assert dose_loss(logits, masks, masks).dtype == torch.float32


@pytest.mark.parametrize(
    "task",
    [
        Segmentation("contouring", ("a", "left", "right"), (("left", "right"),)),
        DoseRegression("dose"),
        Classification("diagnosis", ("x", "y"), (0.5, 2.0)),
    ],
)
def test_a_task_survives_json(task) -> None:
    assert task_from_json(task.to_json()) == task


def test_mirrored_order_swaps_the_pairs_only() -> None:
    assert Segmentation("s", ("cord", "right", "left"), (("left", "right"),)).mirrored_order == (0, 2, 1)


def test_dose_is_activated_to_gray_and_never_negative() -> None:
    activated = DoseRegression("dose").activate(torch.tensor([[-0.5, 0.5]]))
    assert activated.tolist() == [[0, 35]]
