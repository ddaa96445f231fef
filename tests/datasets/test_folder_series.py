"""A folder with the slices of a DICOM series (MR) is an image of a `folder`: read as ITK reads it, or refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ctan.config import DataConfig, ReadingConfig
from ctan.datasets.folder.reader import Folder
from ctan.datasets.folder.volumes import read_volume
from ctan.datasets.folder.write import write_like
from ctan.errors import CaseError, ConfigError, DataError

MR = "1.2.840.10008.5.1.4.1.1.4"
SHAPE = (6, 8, 10)  # slice, row, column
SECRET = "Surname^First"
OBLIQUE = (0.8, 0.0, -0.6, 0.0, 1.0, 0.0)
values = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.uint16)


def write_series(folder, voxels=values, *, cosines=OBLIQUE, step=3.0, names=None, series="2.25.1", **changes):
    """Write one file a slice, in an order that names do not tell."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(cosines[:3], cosines[3:])
    for index, plane in enumerate(voxels):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = MR
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"{series}.{index + 1}"
        one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID = series, "2.25.2", "2.25.3"
        one.Modality, one.PatientName, one.PatientID = "MR", SECRET, SECRET
        one.Rows, one.Columns = plane.shape
        one.PixelSpacing, one.SliceThickness = [1.5, 1.25], 2.0  # thickness is not the distance
        one.ImageOrientationPatient = list(cosines)
        one.ImagePositionPatient = [round(float(v), 6) for v in np.array([-20.0, 5.0, 40.0]) + normal * step * index]
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.PixelData = np.ascontiguousarray(plane).tobytes()
        for keyword, value in changes.items():
            setattr(one, keyword, value(index) if callable(value) else value)
        name = names(index) if names else f"IM{(index * 5) % len(voxels):04d}-{series[-1]}"
        one.save_as(folder / name, enforce_file_format=True)
    return folder


def by_itk(folder):
    reader = sitk.ImageSeriesReader()
    files = sorted(folder.iterdir(), key=lambda path: tuple(pydicom.dcmread(path).ImagePositionPatient[::-1]))
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    files.sort(key=lambda path: float(np.array(pydicom.dcmread(path).ImagePositionPatient, float) @ normal))
    reader.SetFileNames([str(path) for path in files])
    return reader.Execute()


def test_values_and_place_are_those_that_itk_reads(tmp_path):
    volume, itk = read_volume(write_series(tmp_path / "t1")), by_itk(tmp_path / "t1")
    np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(itk))
    np.testing.assert_array_equal(volume.values, values)
    assert np.allclose(volume.grid.spacing_mm, itk.GetSpacing(), atol=1e-4)
    assert np.allclose(volume.grid.origin_mm, itk.GetOrigin(), atol=1e-4)
    assert np.allclose(volume.grid.direction.ravel(), itk.GetDirection(), atol=1e-5)


def test_a_scale_counts_where_there_is_one_and_copies_count_once(tmp_path):
    folder = write_series(tmp_path / "t1", RescaleSlope=lambda index: 1 + index / 10, RescaleIntercept=-5)
    one = next(folder.iterdir())
    (folder / "copy").write_bytes(one.read_bytes())
    slopes = 1 + np.arange(SHAPE[0])[:, None, None] / 10
    np.testing.assert_allclose(read_volume(folder).values, values * slopes - 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Modality": "CT"}, "a CT series: read it with --dataset prostate"),
        ({"SeriesInstanceUID": lambda index: f"2.25.{index // 3}"}, "2 series in one folder"),
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"PixelSpacing": lambda index: [1.5, 1.25 + 0.1 * (index == 2)]}, "slices differ in PixelSpacing"),
        ({"ImageOrientationPatient": lambda index: [1, 0, 0, 0, 1, 0] if index else list(OBLIQUE)}, "localisers"),
        ({"ImagePositionPatient": lambda index: [0, 0, 3.0 * index + 3 * (index > 2)]}, "slices are missing or uneven"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope 0"),
    ],
)
def test_what_is_no_single_volume_is_refused(tmp_path, changes, said):
    cosines = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0) if "ImagePositionPatient" in changes else OBLIQUE
    folder = write_series(tmp_path / "t1", cosines=cosines, **changes)
    with pytest.raises(DataError, match=said) as error:
        read_volume(folder)
    assert "Surname" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_echoes_in_one_series_are_refused_by_what_tells_them_apart(tmp_path):
    folder = write_series(tmp_path / "t2", EchoTime=20)
    write_series(folder, values // 2, EchoTime=80, names=lambda index: f"second-{index}")
    with pytest.raises(DataError, match="6 places hold several images \\(2 echo times\\); give each volume a folder"):
        read_volume(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "truncated"),
        (lambda path: path.write_bytes(b"notes of a reading"), "not DICOM"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, spoil, said):
    folder = write_series(tmp_path / "t1")
    spoil(next(folder.iterdir()))
    with pytest.raises(DataError, match=said):
        read_volume(folder)


DESCRIPTION = {
    "name": "brains",
    "image": {"files": ["{case}/t1/", "{case}/flair/"], "channels": ["T1", "FLAIR"], "modality": "mr"},
    "masks": {"Tumour": "{case}/tumour.nii.gz"},
}


@pytest.fixture
def brains(tmp_path):
    """Two cases, their masks in NIfTI as a converter writes them: rows the other way round."""
    root = tmp_path / "brains"
    for case in ("a", "b"):
        write_series(root / case / "t1")
        write_series(root / case / "flair", values + 7, series="2.25.9")
        image = by_itk(root / case / "t1")
        mask = sitk.GetImageFromArray((values > 600).astype(np.uint8))
        mask.CopyInformation(image)
        sitk.WriteImage(sitk.Flip(mask, (False, True, False)), str(root / case / "tumour.nii.gz"))
    (root / "dataset.yaml").write_text(yaml.safe_dump(DESCRIPTION))
    return root


def dataset_of(root, purpose="train"):
    options = Folder.options_from(root, {})
    return Folder(DataConfig(dataset="folder", options=options), purpose)


def test_a_case_of_series_is_read_with_its_masks_and_normalised_case_by_case(brains):
    dataset = dataset_of(brains)
    raws = dataset.find(brains)
    assert [raw.case_id for raw in raws] == ["a", "b"]
    case = dataset.read(raws[0])
    assert case.images["mr"].shape[0] == 2
    assert case.spacing_mm == pytest.approx((1.5, 1.25, 3.0))
    inside = case.masks["Tumour"]
    assert inside.sum() == (values > 600).sum()
    assert (case.images["mr"][0][inside] > 600).all()
    np.testing.assert_array_equal(case.images["mr"][1], case.images["mr"][0] + 7)
    assert dataset.spec.image.per_case
    assert dataset.spec.image.modality == "mr"
    again = write_series(brains / "a" / "t1", values + 1)
    assert again.is_dir()
    assert dataset.read(raws[0]).sha256 != case.sha256


def test_a_mask_that_lies_elsewhere_is_still_refused(brains):
    path = brains / "a" / "tumour.nii.gz"
    mask = sitk.ReadImage(str(path))
    mask.SetOrigin([v + 2 for v in mask.GetOrigin()])
    sitk.WriteImage(mask, str(path))
    dataset = dataset_of(brains)
    with pytest.raises(CaseError, match="the mask does not lie on its image"):
        dataset.read(dataset.find(brains)[0])


def test_predictions_of_a_series_are_nifti_on_its_grid(brains, tmp_path):
    dataset = dataset_of(brains)
    case = dataset.read(dataset.find(brains)[0])
    write_like(brains / "a" / "t1", {"Tumour": case.masks["Tumour"]}, tmp_path, "refuse", ReadingConfig())
    written, image = sitk.ReadImage(str(tmp_path / "Tumour.nii.gz")), by_itk(brains / "a" / "t1")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), (values > 600).astype(np.uint8))
    assert np.allclose(written.GetDirection(), image.GetDirection(), atol=1e-5)
    assert np.allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-3)
    to_predict = dataset_of(brains, "predict")
    raw = to_predict.find(brains)[0]
    assert len(list(to_predict.parts(raw))) == 2 * SHAPE[0]
    np.testing.assert_array_equal(to_predict.read(raw).images["mr"], case.images["mr"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image": {"files": ["{case}/ct/"], "modality": "ct"}}, "belongs to --dataset prostate"),
        ({"masks": {"Tumour": "{case}/seg/"}}, "masks are files of voxels"),
    ],
)
def test_descriptions_that_cannot_be_meant_are_refused(brains, changed, said):
    (brains / "dataset.yaml").write_text(yaml.safe_dump(DESCRIPTION | changed))
    with pytest.raises((DataError, ConfigError), match=said):
        dataset_of(brains)


def test_a_folder_of_slices_alone_is_a_case_to_predict(brains):
    described = DESCRIPTION | {"image": {"files": ["{case}/t1/"], "modality": "mr"}}
    (brains / "dataset.yaml").write_text(yaml.safe_dump(described))
    dataset = dataset_of(brains, "predict")
    (raw,) = dataset.find(brains / "b" / "t1")
    np.testing.assert_array_equal(np.sort(dataset.read(raw).images["mr"].ravel()), np.sort(values.ravel()))
    with pytest.raises(DataError, match="no images to predict, expected folders"):
        dataset.find(brains / "b" / "tumour.nii.gz")
