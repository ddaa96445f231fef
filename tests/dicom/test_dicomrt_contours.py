"""Contours become masks of the right volume: areas, holes, keyholes, planes between slices, tiny structures."""

import math

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from ctan.dicom.contours import mask_of as filled
from ctan.dicom.outlines import keyhole
from ctan.dicom.raster import coverage
from ctan.dicom.rois import read_points
from ctan.errors import DataError
from tests.helpers.dicom import TEST_DATA, box, circle, needs_test_data


def unit_image(shape=(5, 40, 50), spacing=(1.0, 1.0, 1.0)):
    image = sitk.Image(*shape[::-1], sitk.sitkUInt8)
    image.SetSpacing(spacing)
    return image


def mask_of(contours, image, what="ROI", **options):
    return filled(contours, image, what, **options).mask


def test_the_volume_of_a_sphere_is_the_analytic_one():
    image = unit_image((40, 80, 80), (0.5, 0.5, 0.75))
    radius, centre = 13.0, np.array([20.1, 19.7, 15.2])
    contours = [
        circle(z, math.sqrt(radius**2 - (z - centre[2]) ** 2), centre[:2])
        for z in np.arange(40) * 0.75
        if abs(z - centre[2]) < radius
    ]
    volume = mask_of(contours, image, "sphere").sum() * 0.5 * 0.5 * 0.75
    assert volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)


@pytest.mark.parametrize(("radius", "tolerance"), [(1.5, 0.08), (2.5, 0.03), (4.0, 0.015), (8.0, 0.005)])
def test_the_area_of_a_small_circle_is_right_on_average_over_its_places(radius, tolerance):
    """Counting voxels that are at least half covered makes round things a little small: the smaller, the more."""
    rng = np.random.default_rng(0)
    areas = [mask_of([circle(2.0, radius, rng.uniform(10, 30, 2))], unit_image(), "disc").sum() for _ in range(200)]
    assert np.mean(areas) == pytest.approx(math.pi * radius**2, rel=tolerance)


def test_coverage_is_the_exact_area():
    covered = coverage([circle(0, 7.3, (20.2, 18.9))[:, :2]], (40, 50))
    assert covered.sum() == pytest.approx(math.pi * 7.3**2, rel=1e-3)
    covered = coverage([box(0, (3.25, 6.5), (2.0, 4.75))[:, :2]], (10, 10))
    columns = [0, 0, 0, 0.25, 1, 1, 1, 0, 0, 0]
    rows = [0, 0, 0.5, 1, 1, 0.25, 0, 0, 0, 0]
    np.testing.assert_allclose(covered, np.outer(rows, columns), atol=1 / 17)  # half a line of nine
    np.testing.assert_allclose(covered.sum(axis=0) / covered.sum(axis=0).max(), columns, atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_coverage_agrees_with_many_points_a_pixel(seed):
    """Any polygon, crossing itself and reaching beyond the image, against matplotlib's test of points."""
    from matplotlib.path import Path as Polygon

    points = np.random.default_rng(seed).uniform(-3, 12, (7, 2))
    fine = (np.arange(8 * 24) + 0.5) / 24 - 0.5
    grid = np.stack(np.meshgrid(fine, fine), -1).reshape(-1, 2)
    crossings = np.zeros(len(grid), int)  # of a ray to the left
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        between = (grid[:, 1] >= min(y1, y2)) & (grid[:, 1] < max(y1, y2))
        crossings += between & (x1 + (grid[:, 1] - y1) * (x2 - x1) / (y2 - y1) < grid[:, 0])
    expected = (crossings % 2).reshape(8, 24, 8, 24).mean(axis=(1, 3))
    found = coverage([points], (8, 8))
    np.testing.assert_allclose(found, expected, atol=0.08)
    assert found.sum() == pytest.approx(expected.sum(), abs=0.25)
    convex = circle(0, 3.1, (4.2, 3.7))[:, :2]
    inside = Polygon(convex).contains_points(grid).reshape(8, 24, 8, 24).mean(axis=(1, 3))
    np.testing.assert_allclose(coverage([convex], (8, 8)), inside, atol=0.05)


def test_a_voxel_is_inside_when_half_of_it_is():
    image = unit_image()
    assert mask_of([box(2, (9.9, 12.1), (4.4, 7.6))], image, "box")[2].nonzero()[1].tolist() == [10, 11, 12] * 3
    assert mask_of([box(2, (10.1, 11.9), (4.6, 7.4))], image, "box")[2].nonzero()[1].tolist() == [11] * 3


def test_a_structure_smaller_than_half_a_voxel_keeps_one():
    mask = mask_of([circle(2, 0.2, (10.3, 20.4)), circle(3, 0.3, (10.3, 20.4))], unit_image(), "dot")
    assert np.argwhere(mask).tolist() == [[3, 20, 10]]


def test_a_contour_inside_another_cuts_a_hole_and_so_does_a_keyhole():
    outer, inner = circle(2, 10, (25.2, 20.3)), circle(2, 4, (25.2, 20.3))
    ring = mask_of([outer, inner], unit_image(), "ring")
    solid = mask_of([outer], unit_image(), "disc")
    hole = mask_of([inner], unit_image(), "disc")
    np.testing.assert_array_equal(ring, solid - hole)
    np.testing.assert_array_equal(mask_of([keyhole(outer, inner[::-1])], unit_image(), "ring"), ring)
    island = circle(2, 2, (25.2, 20.3))
    np.testing.assert_array_equal(
        mask_of([outer, inner, island], unit_image(), "ring"), ring + mask_of([island], unit_image(), "disc")
    )


def test_contours_between_slices_belong_to_the_nearest():
    contours = [circle(z, 5, (25, 20)) for z in (0.6, 1.7, 3.4)]
    assert np.flatnonzero(mask_of(contours, unit_image(), "disc").any(axis=(1, 2))).tolist() == [1, 2, 3]


def test_of_several_planes_nearest_to_a_slice_the_closest_counts():
    contours = [circle(1.7, 5, (25, 20)), circle(2.1, 8, (25, 20)), circle(2.4, 5, (25, 20))]
    found = mask_of(contours, unit_image(), "disc")
    np.testing.assert_array_equal(found[2], mask_of([circle(2, 8, (25, 20))], unit_image(), "disc")[2])


def test_contours_beyond_the_ct_are_refused_and_those_of_the_body_are_cut_off():
    contours = [circle(z, 5, (25, 20)) for z in (3.0, 4.0, 5.0, 6.0)]
    with pytest.raises(DataError, match="contours in 2 planes lie beyond the CT's 5 slices"):
        mask_of(contours, unit_image(), "disc")
    assert np.flatnonzero(mask_of(contours, unit_image(), "disc", clip=True).any(axis=(1, 2))).tolist() == [3, 4]


def test_contours_beyond_the_edge_of_a_slice_are_cut_off():
    """Of the body, that is: an organ would be another one."""
    mask = mask_of([circle(2, 10, (0, 20))], unit_image(), "disc", clip=True)
    assert mask.sum() == pytest.approx(math.pi * 100 / 2 + 10, rel=0.03)  # half, and half a column
    with pytest.raises(DataError, match=r"disc: a contour reaches 10\.0 mm beyond the centres.*at 2\.00 mm"):
        mask_of([circle(2, 10, (0, 20))], unit_image(), "disc")
    assert mask_of([circle(2, 10, (9.5, 20))], unit_image(), "disc").any()  # by less than a voxel


def test_a_structure_drawn_on_every_second_slice_has_gaps():
    assert filled([circle(z, 5, (25, 20)) for z in (0.0, 2.0, 4.0)], unit_image(), "disc").gaps == (1, 3)
    assert filled([circle(z, 5, (25, 20)) for z in (1.0, 2.0, 3.0)], unit_image(), "disc").gaps == ()


def test_a_contour_across_slices_is_refused():
    tilted = circle(2, 5, (25, 20))
    tilted[:, 2] += 0.1 * tilted[:, 0]
    with pytest.raises(DataError, match="does not lie in a slice of the CT"):
        mask_of([tilted], unit_image(), "disc")


def test_the_points_of_a_contour_are_counted():
    item = pydicom.Dataset()
    item.ContourData, item.NumberOfContourPoints = ["1", "2.5", "-3e1", "4", "5", "6"], 2
    assert read_points(item, "ROI").tolist() == [[1, 2.5, -30], [4, 5, 6]]
    item.NumberOfContourPoints = 3
    with pytest.raises(DataError, match="ROI: ContourData holds 6 numbers, expected 3 for each of 3 points"):
        read_points(item, "ROI")


@needs_test_data
def test_real_contours_have_the_volume_of_their_polygons():
    """Lungs and heart of a real structure set against the shoelace formula, on the grid of its CT slice."""
    structure_set = pydicom.dcmread(TEST_DATA / "dicom-rt" / "rtss.dcm")
    ct = pydicom.dcmread(TEST_DATA / "dicom-rt" / "ct.0.dcm")
    spacing = float(ct.PixelSpacing[0])
    image = sitk.Image(512, 512, 98, sitk.sitkUInt8)
    image.SetOrigin([float(ct.ImagePositionPatient[0]), float(ct.ImagePositionPatient[1]), -122.4407])
    image.SetSpacing([spacing, spacing, 3.0])
    for roi in structure_set.ROIContourSequence:
        contours = [read_points(item, "ROI") for item in roi.get("ContourSequence") or ()]
        if len(contours) not in (33, 48, 24):  # heart, breast and tumour bed block: one contour a slice, no holes
            continue
        x, y = np.concatenate([c[:, 0] for c in contours]), np.concatenate([c[:, 1] for c in contours])
        following = np.concatenate(
            [
                np.roll(np.arange(len(c)), -1) + n
                for c, n in zip(contours, np.cumsum([0, *map(len, contours[:-1])]), strict=True)
            ]
        )
        cross, starts = x * y[following] - x[following] * y, np.cumsum([0, *map(len, contours[:-1])])
        area = np.abs(np.add.reduceat(cross, starts) / 2).sum()
        assert mask_of(contours, image, "ROI").sum() * spacing**2 == pytest.approx(area, rel=0.01)
