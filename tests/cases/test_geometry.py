"""The working grid keeps positions, sizes and values in millimetres and Gy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctan.cases import CT
from ctan.cases import geometry as geo

SPACING_MM = (3.0, 4.0, 2.5)


def centres_mm(shape, spacing_mm, corner_mm=(0, 0, 0)):
    axes = [c + s * (np.arange(n) + 0.5) for n, s, c in zip(shape, spacing_mm, corner_mm, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


def working_centres_mm(geometry):
    corner_mm = [c * s for c, s in zip(geometry.corner, geometry.native_spacing_mm, strict=True)]
    return centres_mm(geometry.shape, geometry.spacing_mm, corner_mm)


def ellipsoid(shape, spacing_mm, radii_mm):
    centre = [n * s / 2 for n, s in zip(shape, spacing_mm, strict=True)]
    grids = centres_mm(shape, spacing_mm)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii_mm, strict=True)) <= 1


def whole(shape):
    return np.ones(shape, bool)


@pytest.fixture
def resampled():
    shape = (40, 36, 48)
    return geo.place(whole(shape), whole(shape), SPACING_MM, (20, 24, 20), (6.5, 6.0, 6.2))


# Where the grid lies


def test_the_box_is_centred_on_the_body_and_stays_inside_the_grid():
    body = np.zeros((40, 40, 40), bool)
    body[10:20, 0:6, 30:40] = True
    placed = geo.place(body, body, SPACING_MM, (16, 16, 16), None)
    assert placed.corner == (7, 0, 24)
    assert not placed.is_resampled


@given(st.data())
def test_the_possible_dose_mask_is_inside_whenever_it_fits(data):
    body, possible = np.zeros((2, 12, 12, 12), bool)
    size = data.draw(st.integers(2, 14))
    for array, largest in ((body, 12), (possible, min(size, 12))):
        box = []
        for _ in range(3):
            length = data.draw(st.integers(1, largest))
            first = data.draw(st.integers(0, 12 - length))
            box.append(slice(first, first + length))
        array[tuple(box)] = True
    placed = geo.place(body, possible, SPACING_MM, (size,) * 3, None)
    assert geo.to_working(possible, placed).sum() == possible.sum()


def test_a_grid_larger_than_the_native_one_contains_all_of_it():
    placed = geo.place(whole((6, 6, 6)), whole((6, 6, 6)), SPACING_MM, (8, 6, 11), None)
    image = np.arange(216, dtype=np.int16).reshape(6, 6, 6) + 1
    working = geo.to_working(image, placed)
    assert working.shape == (8, 6, 11)
    assert working.sum() == image.sum()
    assert (geo.to_native(working, placed, 0) == image).all()


def test_an_empty_body_and_an_empty_mask_place_the_grid_in_the_middle():
    nothing = np.zeros((10, 10, 10), bool)
    assert geo.place(nothing, nothing, SPACING_MM, (4, 4, 4), None).corner == (3, 3, 3)


# Native resolution: nothing but crop and pad


@given(st.data())
def test_cropping_and_pasting_back_is_exact_inside_the_box_and_padded_outside(data):
    native_shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    image = data.draw(arrays(np.float32, (2, *native_shape), elements=st.floats(-5, 5, width=32)))
    corner = tuple(
        float(data.draw(st.integers(min(0, n - s), max(0, n - s)))) for n, s in zip(native_shape, shape, strict=True)
    )
    placed = geo.Geometry(native_shape, SPACING_MM, shape, SPACING_MM, corner)
    working = geo.to_working(image, placed, pad_value=-9)
    back = geo.to_native(working, placed, pad_value=-7)
    for index in itertools.product(*map(range, native_shape)):
        inside = all(c <= i < c + s for i, c, s in zip(index, corner, shape, strict=True))
        for channel in range(2):
            assert back[(channel, *index)] == (image[(channel, *index)] if inside else -7)
    assert (working == -9).sum() == working.size - (back != -7).sum()


def test_cropping_keeps_the_dtype():
    placed = geo.place(whole((6, 6, 6)), whole((6, 6, 6)), SPACING_MM, (4, 4, 4), None)
    for dtype in (bool, np.uint16, np.float32):
        assert geo.to_working(np.zeros((6, 6, 6), dtype), placed).dtype == dtype


# Resampling


def test_a_gradient_in_mm_keeps_its_slope_when_averaged_and_when_interpolated():
    shape = (40, 36, 48)
    for spacing_mm, grid in (
        ((6.5, 6.0, 6.2), (16, 22, 17)),
        ((2.0, 3.1, 1.7), (50, 40, 60)),
        ((6.0, 3.0, 2.5), (18, 44, 44)),
    ):
        placed = geo.place(whole(shape), whole(shape), SPACING_MM, grid, spacing_mm)
        x, y, z = centres_mm(shape, SPACING_MM)
        working = geo.to_working((2 * x - y + 0.5 * z).astype(np.float32), placed)
        u, v, w = working_centres_mm(placed)
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(working[inner], (2 * u - v + 0.5 * w)[inner], rtol=1e-4, atol=1e-3)


def test_a_gradient_in_mm_survives_the_way_there_and_back(resampled):
    x, y, z = centres_mm(resampled.native_shape, SPACING_MM)
    image = (x + 2 * y - z).astype(np.float32)
    back = geo.to_native(geo.to_working(image, resampled), resampled, pad_value=0)
    inner = (slice(6, -6),) * 3
    np.testing.assert_allclose(back[inner], image[inner], rtol=1e-4, atol=1e-3)


def test_an_ellipsoid_keeps_its_volume_and_centre_in_mm():
    shape, radii_mm = (60, 50, 72), (40.0, 45.0, 35.0)
    mask = ellipsoid(shape, SPACING_MM, radii_mm)
    placed = geo.place(whole(shape), whole(shape), SPACING_MM, (40, 42, 40), (5.0, 5.0, 5.0))
    working = geo.masks_to_working(mask[None], placed)[0]
    volume_mm3 = 4 / 3 * np.pi * np.prod(radii_mm)
    assert working.sum() * 5.0**3 == pytest.approx(volume_mm3, rel=0.02)
    middle = [g[working].mean() for g in working_centres_mm(placed)]
    np.testing.assert_allclose(middle, [n * s / 2 for n, s in zip(shape, SPACING_MM, strict=True)], atol=0.5)


def test_a_working_voxel_of_whole_native_voxels_is_their_mean():
    image = np.random.default_rng(0).random((12, 10, 9)).astype(np.float32)
    placed = geo.place(whole(image.shape), whole(image.shape), (1.0, 1.0, 1.0), (6, 5, 3), (2.0, 2.0, 3.0))
    expected = image.reshape(6, 2, 5, 2, 3, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(geo.to_working(image, placed), expected, rtol=1e-5)


def test_to_native_agrees_with_torch_interpolate_without_aligned_corners():
    rng = np.random.default_rng(1)
    image = rng.random((3, 8, 9, 10)).astype(np.float32)
    placed = geo.Geometry((16, 27, 20), (1.0, 1.0, 1.0), (8, 9, 10), (2.0, 3.0, 2.0), (0.0, 0.0, 0.0))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None], size=(16, 27, 20), mode="trilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(geo.to_native(image, placed, 0), expected, atol=1e-5)


def test_native_voxels_outside_the_working_grid_get_the_pad_value():
    placed = geo.Geometry((10, 10, 10), (1.0,) * 3, (3, 3, 3), (2.0,) * 3, (2.0, 2.0, 2.0))
    back = geo.to_native(np.full((3, 3, 3), 5, np.float32), placed, pad_value=-1)
    assert (back[2:8, 2:8, 2:8] == 5).all()
    assert (back == -1).sum() == 1000 - 6**3


def test_ct_averaged_across_the_edge_of_the_grid_tends_to_the_pad_value():
    placed = geo.Geometry((4, 4, 4), (1.0,) * 3, (3, 2, 2), (2.0,) * 3, (-1.0, 0.0, 0.0))
    working = geo.to_working(np.full((4, 4, 4), 100, np.float32), placed, pad_value=20)
    np.testing.assert_allclose(working[:, 0, 0], [60, 100, 60], rtol=1e-6)


def test_a_thin_structure_does_not_vanish():
    cord = np.zeros((1, 16, 16, 16), bool)
    cord[0, 5, 6, :] = True
    placed = geo.place(whole((16,) * 3), whole((16,) * 3), (1.0,) * 3, (4, 4, 4), (4.0,) * 3)
    working = geo.masks_to_working(cord, placed)[0]
    assert np.argwhere(working).tolist() == [[1, 1, z] for z in range(4)]


def test_an_absent_structure_stays_absent(resampled):
    nothing = np.zeros((2, *resampled.native_shape), bool)
    assert not geo.masks_to_working(nothing, resampled).any()


def test_the_dose_at_the_rim_of_the_mask_is_not_darkened():
    possible = np.zeros((24, 24, 24), bool)
    possible[5:18, 3:16, 7:20] = True
    dose = np.where(possible, 60, 0).astype(np.float32)
    placed = geo.place(whole(possible.shape), possible, SPACING_MM, (16, 16, 16), (6.0, 7.0, 5.0))
    working, touched = geo.dose_to_working(dose, possible, placed)
    np.testing.assert_allclose(working[touched], 60, rtol=1e-5)
    back = geo.to_native(working, placed, 0)
    np.testing.assert_allclose(back[possible], 60, rtol=1e-5)
    plain = geo.to_native(geo.to_working(dose, placed), placed, 0)
    assert np.abs(plain - dose)[possible].mean() > 1


def test_without_a_mask_there_is_no_dose(resampled):
    nothing = np.zeros(resampled.native_shape, bool)
    working, touched = geo.dose_to_working(np.ones(nothing.shape, np.float32), nothing, resampled)
    assert not working.any()
    assert not touched.any()


def test_geometry_survives_json(resampled):
    assert geo.Geometry.from_json(resampled.to_json()) == resampled


# Body and distance


def test_the_body_is_the_largest_part_above_air():
    ct = np.zeros((20, 20, 20), np.uint16)
    ct[4:16, 4:16, 4:16] = 1050
    ct[8:10, 8:10, 8:10] = 100  # air inside
    ct[18, :, :] = 1300  # table
    body = geo.body_mask(ct, CT.body_threshold)
    assert body.sum() == 12**3 - 2**3
    assert not body[18].any()
    assert not geo.body_mask(np.zeros((3, 3, 3), np.uint16), CT.body_threshold).any()


@given(arrays(bool, (4, 5, 3)))
def test_the_signed_distance_equals_brute_force(mask):
    spacing_mm = (3.0, 4.0, 50.0)
    points = np.argwhere(np.ones_like(mask)) * spacing_mm
    inside = mask.ravel()
    expected = np.empty(mask.size)
    for i, point in enumerate(points):
        other = points[inside != inside[i]]
        distance = np.sqrt(((other - point) ** 2).sum(axis=1)).min() if len(other) else np.inf
        expected[i] = -distance if inside[i] else distance
    found = geo.signed_distance_mm(mask, spacing_mm)
    assert found.dtype == np.int8
    if mask.all():
        assert (found <= 0).all()
    else:
        np.testing.assert_array_equal(found.ravel(), np.rint(np.clip(expected, -127, 127)))


def test_pictures_of_one_size_share_matrices_that_nobody_can_write_to() -> None:
    first = geo._axis_matrix(6, 20, 0.0, 20 / 6)
    assert geo._axis_matrix(6, 20, 0.0, 20 / 6) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
