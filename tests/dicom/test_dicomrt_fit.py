"""CT, contours and dose that lie elsewhere, slices and contours that are not what was scanned and drawn: by measures.

The limits are such that real patients give no alarm; the long tests say so on the real data that is at hand.
"""

import os
import re
import tarfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctan.cases import RawCase
from ctan.cases.volumes import to_case_axes as case_axes
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.dicom.fit import air_signs, body_signs, dosed_body, judged_fit, square_signs, target_signs
from ctan.dicom.misdrawn import signs_of
from ctan.dicom.pixels import check_bytes, slice_signs
from ctan.dicom.raster import plane_of
from ctan.errors import DataError
from tests.helpers.dicom import (
    CONTOURS,
    SLICES_Z,
    TEST_DATA,
    change,
    circle,
    needs_test_data,
    read,
    reason,
    slices_of,
    write_patient,
)

EDGES = (2.0, 2.0, 3.0)
P, L, Z = np.meshgrid(*(np.arange(n) * edge for n, edge in zip((60, 70, 30), EDGES, strict=True)), indexing="ij")
BODY = ((P - 60) / 42) ** 2 + ((L - 70) / 56) ** 2 <= 1
TARGET = ((P - 50) / 12) ** 2 + ((L - 80) / 15) ** 2 + ((Z - 36) / 12) ** 2 <= 1
AWAY = np.sqrt(((P - 50) / 12) ** 2 + ((L - 80) / 15) ** 2 + ((Z - 36) / 12) ** 2)
DOSE = (60 / (1 + np.maximum(AWAY - 1, 0) ** 2) * BODY).astype(np.float32)
EVERYWHERE = np.ones(BODY.shape, bool)


# Slices


def noise(shape=(9, 40, 50)):
    return np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)


def test_slices_between_their_neighbours_are_no_signs_however_noisy():
    assert slice_signs(noise(), str) == []
    ramp = noise() + 40 * np.arange(9)[:, None, None]
    assert slice_signs(ramp, str) == []


@pytest.mark.parametrize("count", [1, 3])
def test_slices_of_air_between_tissue_are_refused(folder, count):
    write_patient(folder)
    for path in slices_of(folder)[3 : 3 + count]:
        change(path, lambda ds: setattr(ds, "PixelData", np.full(30 * 36, 24, "<u2").tobytes()))
    assert reason(folder).startswith(f"CT: {count} slice")
    assert "from -91.00 mm on hold no tissue, those before and after do" in reason(folder)


def test_air_at_the_ends_of_a_scan_is_no_sign():
    volume = noise() + 0
    volume[:2], volume[-3:] = -1000, -1000
    assert slice_signs(volume, str) == []


def test_half_a_slice_or_one_of_another_place_is_refused_and_less_is_a_remark():
    yy, xx = np.mgrid[:40, :50]
    volume = np.stack([np.where((yy - 20 + z / 4) ** 2 + (xx - 25) ** 2 < 225, 40.0, -1000.0) for z in range(9)])
    volume = volume.astype(np.float32) + noise() / 10
    assert slice_signs(volume, str) == []
    half = volume.copy()
    half[4, 20:] = -1000
    with pytest.raises(DataError, match=r"CT: the slice at 4 does not belong between its neighbours"):
        slice_signs(half, str)
    moved = volume.copy()
    moved[4] = np.roll(volume[4], 1, axis=1)
    (sign,) = slice_signs(moved, str)
    assert sign.startswith("the slice at 4 differs ")


# Bytes


@pytest.mark.parametrize("kind", ["<u2", "<i2", "<u4"])
def test_bytes_in_the_other_order_are_refused(kind):
    grain = np.random.default_rng(0).integers(-9, 10, (60, 50))
    smooth = (1000 + 300 * np.sin(np.arange(60) / 9)[:, None] + 9 * np.arange(50) + grain).astype(kind)
    check_bytes(smooth, "CT")
    with pytest.raises(DataError, match="with their bytes in the other order they do"):
        check_bytes(smooth.byteswap(), "CT")


def test_noise_and_what_is_all_alike_have_no_order_of_bytes():
    for values in (np.zeros((9, 9), "<u2"), np.random.default_rng(0).integers(0, 2**16, (40, 40)).astype("<u2")):
        check_bytes(values, "CT")
        check_bytes(values.byteswap(), "CT")


# Contours


def ring(radius, points=60):
    return circle(0, radius, (30, 30), points)[:, :2]


def test_contours_as_they_are_drawn_give_no_sign():
    planes = {float(z): [ring(10 + z)] for z in range(5)}
    assert signs_of(planes, (1.0, 1.0)) == []
    square = np.array([[0.0, 0], [20, 0], [20, 20], [0, 20]])
    assert signs_of({0.0: [square]}, (1.0, 1.0)) == []


@pytest.mark.parametrize("by", [(25, 0), (-18, 4)])
def test_one_point_out_of_place_is_two_signs_where_other_slices_have_nothing_there(by):
    planes = {float(z): [ring(10)] for z in range(5)}
    planes[2.0][0][0] += by
    ((place, signs),) = signs_of(planes, (1.0, 1.0))
    assert place == 2
    assert signs[-1] == "no outline in the slices beside is near it" or by[0] < 0
    alone = signs_of({2.0: planes[2.0]}, (1.0, 1.0))
    assert len(alone[0][1]) == 1


def test_points_in_no_order_are_two_signs_and_a_figure_of_eight_is_one():
    ((_, signs),) = signs_of({0.0: [np.random.default_rng(0).permutation(ring(10))]}, (1.0, 1.0))
    assert len(signs) >= 2
    assert "its points are in no order" in signs[1]
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False) + 0.03
    eight = np.stack([20 + 10 * np.sin(turn), 20 + 10 * np.sin(turn) * np.cos(turn)], axis=1)
    ((_, signs),) = signs_of({0.0: [eight]}, (1.0, 1.0))
    assert len(signs) == 1


def test_a_copy_of_97_per_cent_is_a_rim_and_a_thick_wall_is_none():
    assert plane_of([ring(20), ring(19.4)]).num_rims == 1
    assert plane_of([ring(20), ring(17)]).num_rims == 0
    assert plane_of([ring(20), ring(20)]).num_rims == 0  # the same one twice


def test_a_rim_in_one_slice_is_refused_and_one_in_all_is_a_remark(folder):
    whole = CONTOURS["PTV"]
    smaller = [circle(z, 12.0 * 0.96, points=48) for z in SLICES_Z[1:7]]
    write_patient(folder, contours={**CONTOURS, "PTV": [*whole, smaller[2]]})
    assert "a contour almost as large as the one around it cuts a hole (at -91.00 mm" in reason(folder)
    write_patient(folder, contours={**CONTOURS, "PTV": [*whole, *smaller]})
    (remark, *_) = read(folder).remarks
    assert remark.endswith("what is left is a rim: look at it")


# Places


def moved(signs):
    """Return direction -> mm of what a sign says."""
    return {to: float(mm) for mm, to in re.findall(r"([0-9]+) mm to ([a-z]+)", " ".join(signs))}


def test_what_lies_where_it_belongs_gives_no_sign():
    assert body_signs("the body contour", BODY, BODY, EDGES) == []
    assert target_signs(TARGET, DOSE, EVERYWHERE, EDGES) == []
    assert air_signs(TARGET, BODY) == []


@pytest.mark.parametrize("mm", [12, 28])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_body_that_lies_elsewhere_is_two_signs_with_the_way_back(mm, axis):
    signs = body_signs("the body contour", BODY, np.roll(BODY, mm // 2, axis), EDGES)
    assert len(signs) == 2
    assert moved(signs)[("posterior", "left")[axis]] == pytest.approx(mm, abs=4)  # on a coarse grid


@pytest.mark.parametrize(("axis", "to"), [(0, "anterior"), (1, "right"), (2, "superior")])
def test_a_dose_that_lies_elsewhere_is_two_signs_with_the_way_back(axis, to):
    steps = round(18 / EDGES[axis])
    signs = target_signs(TARGET, np.roll(DOSE, steps, axis), EVERYWHERE, EDGES)
    assert len(signs) == 2
    assert moved(signs)[to] == pytest.approx(18, abs=6)  # around the targets doses are high, too


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_dose_that_is_turned_round_is_noticed(axis):
    signs = target_signs(TARGET, np.flip(DOSE, axis), EVERYWHERE, EDGES)
    assert len(signs) == 2


def test_a_dose_with_its_spacing_exchanged_is_noticed():
    away = np.sqrt(((P * 1.5 - 50) / 12) ** 2 + ((L / 1.5 - 80) / 15) ** 2 + ((Z - 36) / 12) ** 2)
    wrong = (60 / (1 + np.maximum(away - 1, 0) ** 2)).astype(np.float32)
    signs = target_signs(TARGET, wrong, EVERYWHERE, EDGES, exchanged=DOSE)
    assert "with the two numbers of its PixelSpacing exchanged it would cover" in signs[-1]


def test_a_dose_that_is_much_the_same_everywhere_says_nothing_of_places():
    flat = (60 + 0.05 * P).astype(np.float32)
    assert target_signs(TARGET, flat, EVERYWHERE, EDGES) == []


def test_a_dose_ends_at_the_skin_or_says_nothing_of_the_body():
    np.testing.assert_array_equal(dosed_body(DOSE, EVERYWHERE, BODY), BODY)
    assert dosed_body(DOSE + 1, EVERYWHERE, BODY) is None  # in air, too
    assert dosed_body(DOSE, BODY, BODY) is None  # no air in its grid


def test_structures_in_air_are_a_sign():
    assert air_signs(TARGET, np.roll(BODY, -30, axis=1)) == ["100% of all structures lie in what the CT shows as air"]


def test_pixels_that_are_not_square_are_a_sign_and_two_where_they_fit_exchanged():
    wide = ((P - 60) / 56) ** 2 + ((L - 70) / 42) ** 2 <= 1
    assert len(square_signs((2.0, 1.5), (BODY, BODY), (wide, BODY))) == 1
    assert len(square_signs((2.0, 1.5), (wide, BODY), (BODY, BODY))) == 2
    assert len(square_signs((2.0, 1.5))) == 1


def test_one_sign_of_a_wrong_place_is_a_remark_and_two_are_refused_unless_a_setting_says_otherwise():
    assert judged_fit([], refuse=True) == ()
    assert judged_fit(["a"], refuse=True) == ("CT, contours and dose: a; look at them",)
    with pytest.raises(DataError, match=r"do not fit each other: a; b; export all"):
        judged_fit(["a", "b"], refuse=True)
    assert judged_fit(["a", "b"], refuse=False) == ("CT, contours and dose: a; b; look at them",)


# Real patients


def real_patients():
    """Return the archives of OpenKBP, a few unless all are asked for (`CTAN_PATIENTS`)."""
    found = sorted((TEST_DATA / "openkbp").glob("*-pats/pt_*.tar.xz"))
    return found[:: max(1, len(found) // int(os.environ.get("CTAN_PATIENTS", "3")))]


@needs_test_data
def test_real_patients_give_no_sign(tmp_path):
    """CTAN_PATIENTS=202 asks all; pt_10 lacks a slice of its CT, which is refused, and rightly."""
    dataset = get_dataset(DataConfig.model_validate({"dataset": "openkbp"}))
    for path in real_patients():
        name = path.name.removesuffix(".tar.xz")
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path, filter="data")
        case = dataset.read(RawCase(name, name, "", tmp_path / name))
        masks = {key: mask.astype(bool) for key, mask in case.masks.items()}
        possible = masks.pop("possible_dose_mask")
        slices = np.flatnonzero(possible.any(axis=(0, 1)))
        volume = case.images["ct"][:, :, slices[0] : slices[-1] + 1].astype(np.float32) - 1024
        if name == "pt_10":
            with pytest.raises(DataError, match="hold no tissue"):
                slice_signs(np.moveaxis(volume, 2, 0), str)
        else:
            assert slice_signs(np.moveaxis(volume, 2, 0), str) == [], name
        known = np.zeros(case.shape, bool)
        known[tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(possible))] = True
        targets = np.logical_or.reduce([mask for key, mask in masks.items() if key.startswith("PTV")])
        assert target_signs(targets, case.doses["dose"], known, case.spacing_mm) == [], name


@needs_test_data
def test_real_cts_and_real_contours_give_no_sign():
    for path in sorted((TEST_DATA / "ct").glob("*_ct.nii.gz")):
        volume = np.moveaxis(case_axes(sitk.ReadImage(str(path)))[0], 2, 0)
        assert slice_signs(volume.astype(np.float32), str) == [], path.name
    structure_set = pydicom.dcmread(TEST_DATA / "dicom-rt" / "rtss.dcm")
    for roi in structure_set.ROIContourSequence:
        planes = {}
        for item in roi.get("ContourSequence") or ():
            points = np.array(item.ContourData, float).reshape(-1, 3)
            if len(points) > 2:
                planes.setdefault(float(points[0, 2]), []).append(points[:, :2])
        assert signs_of(planes, (1.0, 1.0)) == []
        assert sum(plane_of(contours).num_rims for contours in planes.values()) == 0
