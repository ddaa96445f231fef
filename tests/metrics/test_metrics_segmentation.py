"""Overlap and surface distance against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ctan.metrics import dice, hd95_mm, surface_scores

SPACING_MM = (4.0, 3.0, 2.0)


def voxels(*where: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((6, 7, 8), bool)
    for index in where:
        mask[index] = True
    return mask


def test_dice_is_twice_the_overlap_over_both_sizes() -> None:
    reference = voxels((0, 0, 0), (0, 0, 1), (0, 0, 2))
    predicted = voxels((0, 0, 2), (0, 0, 3))
    assert dice(reference, predicted) == pytest.approx(2 * 1 / (3 + 2))
    assert dice(reference, reference) == 1.0


def test_an_empty_prediction_of_a_contoured_structure_scores_zero() -> None:
    assert dice(voxels((1, 1, 1)), voxels()) == 0.0


def test_dice_of_two_empty_masks_is_undefined() -> None:
    assert math.isnan(dice(voxels(), voxels()))


@pytest.mark.parametrize(("other", "distance_mm"), [((3, 1, 1), 8.0), ((1, 3, 1), 6.0), ((1, 1, 3), 4.0)])
def test_the_surface_distance_is_in_millimetres_along_each_axis(
    other: tuple[int, int, int], distance_mm: float
) -> None:
    assert hd95_mm(voxels((1, 1, 1)), voxels(other), SPACING_MM) == pytest.approx(distance_mm)


def test_equal_contours_are_at_distance_zero_also_at_the_edge_of_the_grid() -> None:
    mask = np.ones((3, 3, 3), bool)
    assert hd95_mm(mask, mask, SPACING_MM) == 0.0


def test_the_surface_distance_pools_both_directions() -> None:
    # one voxel against itself and one 4 mm away: distances 0 | 0 and 4
    reference, predicted = voxels((1, 1, 1)), voxels((1, 1, 1), (1, 1, 3))
    assert hd95_mm(reference, predicted, SPACING_MM) == pytest.approx(np.percentile([0, 0, 4], 95))
    assert hd95_mm(predicted, reference, SPACING_MM) == hd95_mm(reference, predicted, SPACING_MM)


def test_inner_voxels_are_no_surface() -> None:
    solid = np.zeros((9, 9, 9), bool)
    solid[2:7, 2:7, 2:7] = True
    hollow = solid.copy()
    hollow[4, 4, 4] = False
    # 98 voxels of the outer surface agree; the hollow one also has 6 voxels around the hole, 1 voxel deep
    distances = [0] * 98 + [0] * 98 + [1] * 6
    assert hd95_mm(solid, hollow, (1.0, 1.0, 1.0)) == pytest.approx(np.percentile(distances, 95))


def test_the_surface_distance_to_nothing_is_undefined() -> None:
    assert math.isnan(hd95_mm(voxels((1, 1, 1)), voxels(), SPACING_MM))


def test_two_parallel_planes_are_as_far_apart_as_they_are() -> None:
    reference, predicted = np.zeros((9, 8, 8), bool), np.zeros((9, 8, 8), bool)
    reference[2], predicted[5] = True, True
    assert hd95_mm(reference, predicted, SPACING_MM) == pytest.approx(3 * 4.0)


def test_one_far_voxel_among_many_is_beyond_the_95th_percentile() -> None:
    line, more = np.zeros((60, 3, 3), bool), np.zeros((60, 3, 3), bool)
    line[:40, 1, 1] = True
    more[:40, 1, 1] = True
    more[59, 1, 1] = True  # 80 mm from the others: one distance of 81
    assert hd95_mm(line, more, SPACING_MM) == 0.0


def test_surface_dice_is_the_share_of_both_surfaces_near_the_other() -> None:
    reference, predicted = voxels((1, 1, 1), (1, 1, 2)), voxels((1, 1, 1), (1, 1, 6))
    # In steps along the last axis of SPACING_MM: 0 and 1 from the reference's side, 0 and 4 from the other.
    step = SPACING_MM[2]
    shares = [surface_scores(reference, predicted, SPACING_MM, tolerance_mm=t * step)[1] for t in (0, 1, 3.9, 4)]
    assert shares == [0.5, 0.75, 0.75, 1.0]


def test_a_missed_structure_has_a_surface_dice_of_zero() -> None:
    assert surface_scores(voxels((1, 1, 1)), voxels(), SPACING_MM, 2.0)[1] == 0
    assert surface_scores(voxels(), voxels((1, 1, 1)), SPACING_MM, 2.0)[1] == 0
    assert math.isnan(surface_scores(voxels(), voxels(), SPACING_MM, 2.0)[1])
