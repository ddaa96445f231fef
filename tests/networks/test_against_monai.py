"""Our contouring loss and metrics against MONAI's, on random volumes: a second opinion on every formula both have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctan.losses import segmentation_loss
from ctan.metrics import dice, hd95_mm, surface_scores

pytestmark = pytest.mark.slow

SPACING_MM = (2.5, 1.5, 1.0)


@pytest.fixture(params=range(5))
def volumes(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Two blobs (24, 20, 16) bool that overlap in part."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (24, 20, 16)), indexing="ij")
    rng = np.random.default_rng(request.param)

    def blob() -> np.ndarray:
        centre, radius = rng.uniform(-0.25, 0.25, 3), rng.uniform(0.3, 0.6, 3)
        return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radius, strict=True)) < 1

    return blob(), blob()


def test_dice(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    from monai.metrics import compute_dice

    reference, predicted = (torch.from_numpy(volume)[None, None] for volume in volumes)
    assert dice(*volumes) == pytest.approx(compute_dice(predicted, reference).item(), rel=1e-6)


def test_surface_distances(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    edges = get_mask_edges(volumes[1], volumes[0], crop=False)
    distances = [get_surface_distance(a, b, spacing=SPACING_MM) for a, b in (edges, edges[::-1])]
    assert hd95_mm(*volumes, SPACING_MM) == pytest.approx(np.percentile(np.concatenate(distances), 95), rel=1e-6)


@pytest.mark.parametrize("tolerance_mm", [1.0, 2.0, 4.0])
def test_surface_dice(volumes: tuple[np.ndarray, np.ndarray], tolerance_mm: float) -> None:
    from monai.metrics import compute_surface_dice

    reference, predicted = (torch.from_numpy(volume)[None, None] for volume in volumes)
    theirs = compute_surface_dice(predicted, reference, [tolerance_mm], include_background=True, spacing=SPACING_MM)
    assert surface_scores(*volumes, SPACING_MM, tolerance_mm)[1] == pytest.approx(theirs.item(), abs=1e-6)


def test_dice_and_cross_entropy_loss_with_its_gradient(volumes: tuple[np.ndarray, np.ndarray]) -> None:
    from monai.losses import DiceLoss

    masks = torch.from_numpy(np.stack(volumes))[None].double()
    ours = torch.randn(masks.shape, generator=torch.manual_seed(0), requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    found = segmentation_loss(ours, masks, torch.ones(1, 2, dtype=torch.bool))
    # both terms of the fraction get the same smoothing, which is what smooth 1 means in our specification
    overlap = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(theirs, masks.float())
    expected = overlap + functional.binary_cross_entropy_with_logits(theirs, masks.float())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,), (reference,) = torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs)
    assert torch.allclose(gradient, reference, rtol=1e-4, atol=1e-9)
