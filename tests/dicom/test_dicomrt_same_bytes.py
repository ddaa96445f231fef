"""Short cuts of the reader give, bit for bit, what the libraries give that they stand in for."""

import itertools
import pickle

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctan.cases.volumes import box_of, image_box, in_case_axes, laid_out, to_case_axes
from ctan.dicom.deidentify import Pseudonymiser
from ctan.dicom.dose import inside_of, interpolated
from ctan.dicom.names import RoiNames
from ctan.dicom.patient import _without_holes
from ctan.dicom.scan import open_files, scan
from ctan.dicom.settings import DicomConfig
from ctan.dicom.writers import write_ct_series
from ctan.errors import DataError
from tests.helpers.dicom import HEADER, KEY, change, slices_of

ORIENTATIONS = [
    (np.eye(3)[list(order)] * signs).ravel().tolist()
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("direction", ORIENTATIONS, ids=str)
def test_axes_are_turned_as_itk_turns_them(direction):
    values = np.random.default_rng(0).integers(0, 200, (5, 7, 9)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.0, 2.5, 3.0))
    image.SetDirection(direction)
    oriented = sitk.DICOMOrient(image, "LPI")
    found, spacing_mm = to_case_axes(image)
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(oriented).transpose(1, 2, 0))
    x, y, z = oriented.GetSpacing()
    assert spacing_mm == (y, x, z)
    assert found.flags.c_contiguous
    box = (slice(1, 3), slice(0, 4), slice(2, 5))
    np.testing.assert_array_equal(found[box], in_case_axes(values[image_box(box, found.shape, direction)], direction))


@pytest.mark.parametrize("seed", range(40))
def test_axes_of_oblique_images_are_turned_to_the_closest_as_itk_does(seed):
    rng = np.random.default_rng(seed)
    direction, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    image = sitk.GetImageFromArray(rng.integers(0, 200, (5, 7, 9)).astype(np.int16))
    image.SetSpacing((1.0, 2.5, 3.0))
    image.SetDirection(direction.ravel().tolist())
    oriented = sitk.DICOMOrient(image, "LPI")
    found, spacing_mm = to_case_axes(image)
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(oriented).transpose(1, 2, 0))
    x, y, z = oriented.GetSpacing()
    assert spacing_mm == (y, x, z)


@pytest.mark.parametrize("seed", range(12))
def test_a_dose_is_interpolated_as_itk_does_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    sizes, on = rng.integers(4, 20, 3), rng.integers(8, 30, 3)
    grid = sitk.GetImageFromArray((70 * rng.random(sizes[::-1])).astype(np.float32))
    image = sitk.GetImageFromArray(np.zeros(on[::-1], np.float32))
    grid.SetSpacing(rng.choice([2.5, 3.0, 1.9531], 3).tolist())
    image.SetSpacing(rng.choice([0.9766, 1.17, 0.97265625, 3.0], 3).tolist())
    for one in (grid, image):
        one.SetDirection(ORIENTATIONS[rng.integers(len(ORIENTATIONS))])
    middles = [
        np.array(one.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in one.GetSize()]))
        for one in (grid, image)
    ]
    image.SetOrigin((np.array(image.GetOrigin()) + middles[0] - middles[1] + rng.uniform(-4, 4, 3)).round(3).tolist())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(grid, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    )
    box = box_of(inside_of(grid, image))
    assert expected[box].size
    np.testing.assert_array_equal(interpolated(grid, image, box), expected[box])


def test_a_box_is_around_all_of_a_mask():
    mask = np.zeros((4, 6, 8), np.uint8)
    assert mask[box_of(mask)].size == 0
    mask[1, 2, 7] = mask[3, 4, 0] = 1
    assert box_of(mask) == (slice(1, 4), slice(2, 5), slice(0, 8))
    assert box_of(mask.transpose(2, 0, 1)) == (slice(0, 8), slice(1, 4), slice(2, 5))
    np.testing.assert_array_equal(laid_out(mask.transpose(1, 2, 0)[::-1]), mask.transpose(1, 2, 0)[::-1])


def test_holes_are_those_of_scipy_slice_by_slice():
    body = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 50, 6)), 2) > 0
    expected = np.stack([ndimage.binary_fill_holes(body[:, :, index]) for index in range(6)], axis=2)
    assert (expected != body).any()
    np.testing.assert_array_equal(_without_holes(body), expected)


@pytest.fixture
def long_series(tmp_path):
    write_ct_series(tmp_path, np.zeros((60, 4, 5), np.int16), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), patient=HEADER)
    return tmp_path


def _opened(folder):
    return open_files(scan(folder.iterdir()), Pseudonymiser(KEY.encode()), RoiNames(DicomConfig()))


def test_what_slice_57_alone_says_of_a_person_stays_outside(long_series):
    def plant(dataset):
        dataset.PatientComments = dataset.InstitutionName = "SECRET4711"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "SECRET4711"]
        dataset.StudyInstanceUID = "1.2.840.99.4711"
        dataset.add_new(0x00091001, "LO", "SECRET4711")

    change(slices_of(long_series)[57], plant)
    opened = _opened(long_series)
    assert len(opened) == 60
    for one in opened:
        text = pickle.dumps(one.dataset.to_json_dict()) + str(one.dataset).encode()
        assert b"4711" not in text
    assert sum("OTHER" in one.dataset.ImageType for one in opened) == 1
    assert len({one.dataset.StudyInstanceUID for one in opened}) == 2  # its own, as a pseudonym
    assert len({float(one.dataset.ImagePositionPatient[2]) for one in opened}) == 60


def test_another_patient_in_slice_57_alone_is_seen(long_series):
    def other(dataset):
        dataset.PatientID = "MRN 4712"

    change(slices_of(long_series)[57], other)
    with pytest.raises(DataError, match="files of 2 patients"):
        _opened(long_series)
    files = [type(file)(file.path, file.kind) for file in scan(long_series.iterdir())]  # as if nobody had looked
    opened = open_files(files, Pseudonymiser(KEY.encode()), RoiNames(DicomConfig()))
    assert sorted({one.dataset.PatientID for one in opened}) == sorted(
        Pseudonymiser(KEY.encode()).pseudonym(name) for name in (HEADER.patient_id, "MRN 4712")
    )


def test_a_number_of_slice_57_alone_is_its_own(long_series):
    def rescaled(dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = "2", "-500"

    change(slices_of(long_series)[57], rescaled)
    scales = [(one.dataset.RescaleSlope, one.dataset.RescaleIntercept) for one in _opened(long_series)]
    assert scales.count((2, -500)) == 1
    assert scales.count((1, -1024)) == 59
