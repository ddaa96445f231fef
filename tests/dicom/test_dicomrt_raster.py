"""The rasteriser against areas by formula and against two independent ones, on hundreds of random shapes."""

import math
import os

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from skimage.draw import polygon2mask

from ctan.dicom.contours import mask_of
from ctan.dicom.outlines import keyhole
from ctan.dicom.raster import coverage, has_area, plane_of
from tests.helpers.dicom import circle

SIZE = 40
FINE = 6  # points a voxel and axis
SHAPES = int(os.environ.get("CTAN_SHAPES", "150"))  # more of them in a long run
LATTICES = (None, 1.0, 0.5, 1 / 3, 0.1)


def star(rng, centre=(20, 20), radius=(3, 12)):
    """Return a random star-shaped polygon (N, 2)."""
    count = rng.integers(3, 14)
    angle, length = np.sort(rng.uniform(0, 2 * np.pi, count)), rng.uniform(*radius, count)
    return np.array(centre) + np.stack([length * np.cos(angle), length * np.sin(angle)], 1)


def ring(radius, centre=(20, 20)):
    return circle(0, radius, centre, points=36)[:, :2]


def area(points):
    x, y = points.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def length(points):
    return np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum()


def filled(*contours, **options):
    """Return the mask of contours in one slice of 1 mm voxels, and the remarks."""
    image = sitk.Image(SIZE, SIZE, 1, sitk.sitkUInt8)
    found = mask_of([np.c_[points, np.zeros(len(points))] for points in contours], image, "ROI", **options)
    return found.mask[0].astype(bool), found.remarks


def fine_inside(points):
    """Return which points of a fine grid lie in a polygon by the even-odd rule, with matplotlib; (SIZE * FINE)**2."""
    places = (np.arange(SIZE * FINE) + 0.5) / FINE - 0.5 + 1e-4
    grid = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    return Polygon(points).contains_points(grid).reshape(SIZE * FINE, SIZE * FINE)


def share(fine):
    return fine.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))


def agrees(mask, fine, slack=0.12):
    """Return whether a mask is what is covered at least half, but for voxels that are covered nearly a half."""
    covered = share(fine)
    sure = np.abs(covered - 0.5) > slack
    return np.array_equal(mask[sure], covered[sure] > 0.5)


@pytest.mark.parametrize("lattice", LATTICES)
def test_areas_are_right_on_any_lattice(lattice):
    """Of 300 random shapes, whose vertices lie on the centres of voxels, between them, or anywhere."""
    rng = np.random.default_rng(0)
    found, errors = [], []
    while len(found) < 300:
        points = star(rng)
        points = points if lattice is None else np.round(points / lattice) * lattice
        if (expected := area(points)) < 4:
            continue
        mask, _ = filled(points)
        found.append(expected)
        errors.append(mask.sum() - expected)
        assert abs(errors[-1]) <= length(points) / 2, (errors[-1], points)
    worst = max(zip(np.abs(errors), found, strict=True))
    assert abs(sum(errors)) < 0.01 * sum(found), worst


@pytest.mark.parametrize("turn", [lambda m: m, lambda m: m.T])
def test_edges_through_centres_take_the_voxels_of_one_side_in_both_directions(turn):
    """It was 252 voxels for a square of 15 x 15 through centres, both sides of it taken: 12% too many."""
    square = np.array([[5, 5], [20, 5], [20, 20], [5, 20]], float)
    mask, _ = filled(square)
    assert mask.sum() == 224  # one corner is covered a quarter
    np.testing.assert_array_equal(np.flatnonzero(turn(mask).any(axis=0)), np.arange(5, 20))
    shifted, _ = filled(square + 7)
    np.testing.assert_array_equal(shifted[7:, 7:], mask[:-7, :-7])


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_squares_side_by_side_share_no_voxel_and_leave_none_between_them(noise):
    """Also where coordinates were rounded to 0.01 mm."""
    rng = np.random.default_rng(1)
    total = np.zeros((SIZE, SIZE), int)
    for row in (5, 15):
        for column in (5, 15, 25):
            corners = np.array([[column, row], [column + 10, row], [column + 10, row + 10], [column, row + 10]], float)
            total += filled(corners + rng.uniform(-noise, noise, (4, 2)))[0]
    inner = total[6:24, 6:34]
    assert inner.max() == 1
    assert (inner == 0).sum() <= 3  # corners where four squares meet are covered a quarter by each


def test_diagonal_edges_through_centres_take_one_side():
    corners = np.array([[20, 5], [35, 20], [20, 35], [5, 20]], float)
    assert filled(corners)[0].sum() == pytest.approx(area(corners), rel=0.01)


def test_random_shapes_agree_with_two_other_rasterisers():
    rng = np.random.default_rng(2)
    for number in range(SHAPES):
        points, lattice = star(rng, rng.uniform(16, 24, 2)), LATTICES[number % len(LATTICES)]
        points = points if lattice is None else np.round(points / lattice) * lattice
        if area(points) < 4:
            continue
        mask, remarks = filled(points)
        assert agrees(mask, fine_inside(points)), points
        assert not remarks
        centres = polygon2mask((SIZE, SIZE), points[:, ::-1])  # a voxel whose centre is inside
        assert np.count_nonzero(mask != centres) <= 0.5 * length(points) + 2, points


def test_keyholes_holes_and_islands_agree_with_points():
    rng = np.random.default_rng(3)
    for _ in range(max(20, SHAPES // 8)):
        centre = rng.uniform(18, 22, 2)
        outer, hole, island = (star(rng, centre, radius) for radius in ((11, 14), (4, 5), (1.5, 2)))
        outer = ring(12, centre) if area(outer) < 200 else outer
        if not Polygon(outer).contains_points(hole).all() or not Polygon(hole).contains_points(island).all():
            outer, hole, island = ring(12, centre), ring(5, centre), ring(2, centre)
        wanted = fine_inside(outer) & ~fine_inside(hole)
        with_island = wanted | fine_inside(island)
        for order in rng.permutation([0, 1, 2]), [2, 1, 0]:
            contours = [[outer, hole, island][index] for index in order]
            for exclusive in (False, True):
                assert agrees(filled(*contours, exclusive=exclusive)[0], with_island)
        for inner in (hole, hole[::-1]):
            flat = [np.c_[points, np.zeros(len(points))] for points in (outer, inner)]
            mask, remarks = filled(keyhole(*flat)[:, :2])
            np.testing.assert_array_equal(mask, filled(outer, hole)[0])
            assert not remarks


def test_contours_that_overlap_are_one_structure():
    """They cut each other out, by even and odd: 419 voxels of 1,530 were left of one structure."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        first, second = ring(rng.uniform(4, 8), (15, 20)), ring(rng.uniform(4, 8), rng.uniform((19, 16), (24, 24)))
        mask, remarks = filled(first, second)
        assert agrees(mask, fine_inside(first) | fine_inside(second))
        assert remarks == (
            "ROI: contours that overlap each other are read as their union (at 0.00 mm along the slice axis)",
        )
        exclusive, none = filled(first, second, exclusive=True)
        assert agrees(exclusive, fine_inside(first) ^ fine_inside(second))
        assert not none
    hole = ring(2, (13, 20))
    mask, _ = filled(ring(7, (15, 20)), hole, ring(7, (25, 20)))
    assert agrees(mask, fine_inside(ring(7, (15, 20))) & ~fine_inside(hole) | fine_inside(ring(7, (25, 20))))
    both = ring(1.5, (20, 20))  # in both of them: still a hole
    mask, _ = filled(ring(7, (15, 20)), both, ring(7, (25, 20)))
    assert agrees(mask, (fine_inside(ring(7, (15, 20))) | fine_inside(ring(7, (25, 20)))) & ~fine_inside(both))


def test_contours_that_touch_are_neither_merged_nor_cut():
    left = np.array([[5, 5.3], [15, 5.3], [15, 20.7], [5, 20.7]])
    right = left + (10, 0)
    inner = np.array([[8, 5.3], [12, 5.3], [12, 12], [8, 12]])  # a hole that touches the edge from inside
    mask, remarks = filled(left, right)
    assert agrees(mask, fine_inside(left) | fine_inside(right))
    assert not remarks
    mask, remarks = filled(left, inner, right)
    assert agrees(mask, fine_inside(left) & ~fine_inside(inner) | fine_inside(right))
    assert not remarks


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("order", [1, -1])
def test_a_contour_that_is_there_twice_counts_once(noise, order):
    """It cancelled itself, by even and odd. Also where the copy begins elsewhere, runs backwards or is rounded."""
    rng = np.random.default_rng(5)
    for exclusive in (False, True):
        points = star(rng)
        copy = np.roll(points, 2, axis=0)[::order] + rng.uniform(-noise, noise, points.shape)
        mask, remarks = filled(points, copy, ring(2, (5, 5)), exclusive=exclusive)
        expected, _ = filled(points, ring(2, (5, 5)))
        assert np.count_nonzero(mask != expected) <= (0 if noise == 0 else 2)
        assert remarks == ("ROI: 1 contours are there twice, read once (at 0.00 mm along the slice axis)",)


def test_thin_walls_are_not_taken_for_copies():
    mask, remarks = filled(ring(12), ring(11))
    assert mask.sum() == pytest.approx(math.pi * (144 - 121), rel=0.15)
    assert not remarks


def test_structures_below_a_voxel_keep_one_voxel_wherever_they_lie():
    rng = np.random.default_rng(6)
    for _ in range(200):
        centre, radius = rng.uniform(5, 35, 2), 10 ** rng.uniform(-3, -0.5)
        mask, _ = filled(ring(radius, centre))
        found = np.argwhere(mask)
        assert len(found) == 1
        assert np.abs(found[0][::-1] - centre).max() <= 0.5 + radius + 0.02


def test_lines_and_points_have_no_area():
    assert not has_area(np.array([[1.0, 1.0], [2.0, 2.0]]))
    assert not has_area(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    assert not has_area(np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 1.0]]))
    assert not has_area(np.concatenate([ring(5), ring(5)]))
    assert has_area(ring(1e-3))


def test_a_plane_knows_fillings_holes_and_islands():
    plane = plane_of([ring(2), ring(12), ring(6), ring(2, (35, 35))])
    assert plane.weights == (1, 1, -1, 1)
    assert (plane.num_copies, plane.num_overlapping) == (0, 0)
    covered = coverage(plane.contours, (SIZE, SIZE), plane.weights)
    expected = math.pi * (144 - 36 + 4 + 4)
    assert covered.sum() == pytest.approx(expected, rel=2e-3)
    assert covered.min() > -1e-12
    assert covered.max() < 1 + 1e-12
