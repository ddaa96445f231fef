"""RTDOSE and RTSTRUCT of predictions: read back by our reader and by others, in every position of the patient."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Outline

from ctan.cases.volumes import from_case_axes, to_case_axes
from ctan.dicom.outlines import polygons_of_slice
from ctan.dicom.predicted import Identity, PlanningCt, write_dose, write_structures
from ctan.dicom.scan import scan
from ctan.dicom.writers import write_ct_series
from ctan.metrics import dice
from tests.helpers.dicom import HEADER, KEY, ORIGIN, SHAPE, SPACING, places, read, slices_of, write_patient
from tests.helpers.dicom import to_case_axes as in_case_axes

POSITIONS = ["HFS", "HFP", "FFS", "FFP"]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


def planning(folder, position="HFS"):
    """Write a patient, take away dose and contours, and return the CT."""
    write_patient(folder, position=position)
    for name in ("rd", "rs"):
        (folder / name).unlink()
    return PlanningCt.read(scan(folder.iterdir()))


def identity(**changes):
    return Identity(**{"key": "k", "pseudonym": "pat-1", "identified": False, "model": "models:/ctan/1", **changes})


def sphere(radius=11.0, hole=0.0):
    z, y, x = places()
    away = np.sqrt((x + 5) ** 2 + (y + 1) ** 2 + (z - ORIGIN[0] - 10.5) ** 2)
    return in_case_axes((away <= radius) & (away >= hole))


def area(points):
    """Return the area of a polygon (shoelace)."""
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@pytest.mark.parametrize("position", POSITIONS)
def test_a_dose_lies_where_other_readers_find_it(tmp_path, position):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder, position)
    z, y, x = 3, 10, 20  # superior, posterior, left
    dose = np.random.default_rng(0).uniform(0, 70, SHAPE).astype(np.float32)
    dose[z, y, x] = 75.0
    write_dose(folder / "RTDOSE.dcm", in_case_axes(dose), ct, identity())
    written = pydicom.dcmread(folder / "RTDOSE.dcm")
    image = sitk.ReadImage(str(folder / "RTDOSE.dcm"))
    place = (ORIGIN[2] + 2.0 * x, ORIGIN[1] + 2.0 * y, ORIGIN[0] + 3.0 * z)  # -0, -10, -91 mm, told by hand
    assert place == (0.0, -10.0, -91.0)
    stored = image[image.TransformPhysicalPointToIndex(place)]
    assert stored * float(written.DoseGridScaling) == pytest.approx(75.0, abs=1e-3)
    for index in np.ndindex(SHAPE):
        if index[0] % 3 or index[1] % 7 or index[2] % 5:
            continue
        here = [start + edge * n for start, edge, n in zip(ORIGIN, SPACING, index, strict=True)][::-1]
        found = image[image.TransformPhysicalPointToIndex(here)] * float(written.DoseGridScaling)
        assert found == pytest.approx(float(dose[index]), abs=1e-3)
    assert len(str(written.DoseGridScaling)) <= 16
    assert (written.DoseUnits, written.DoseSummationType, written.DoseComment) == (
        "GY",
        "PLAN",
        "PREDICTED, RESEARCH USE ONLY",
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_our_reader_reads_back_what_was_predicted(tmp_path, position):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder, position)
    masks = {"Prostate": sphere(9), "PTV": sphere(12), "Bladder": sphere(12, hole=6)}
    dose = in_case_axes(np.linspace(0, 70, int(np.prod(SHAPE))).reshape(SHAPE).astype(np.float32))
    write_dose(folder / "RTDOSE.dcm", dose, ct, identity(identified=True))
    write_structures(folder / "RTSTRUCT.dcm", masks, ct, identity(identified=True))
    case = read(folder, contradictions="remark")  # the RTPLAN was made on other contours
    for name, mask in masks.items():
        np.testing.assert_array_equal(case.masks[name], mask, err_msg=name)
    inside = case.doses["dose"] > 0
    np.testing.assert_allclose(case.doses["dose"][inside], dose[inside], atol=70 / 65535)


def test_holes_are_keyholes_that_simple_readers_do_not_fill(tmp_path):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder)
    ring = sphere(12, hole=6)
    write_structures(folder / "RTSTRUCT.dcm", {"Bladder": ring}, ct, identity())
    written = pydicom.dcmread(folder / "RTSTRUCT.dcm")
    planes = from_case_axes(ring, ct.direction)
    slice_of = {str(s.SOPInstanceUID): index for index, s in enumerate(ct.stack.slices)}
    _, y, x = places()
    found = np.zeros(SHAPE, bool)
    total = 0.0
    for contour in written.ROIContourSequence[0].ContourSequence:
        points = np.array([float(number) for number in contour.ContourData]).reshape(-1, 3)
        index = slice_of[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)]
        assert points[0, 2] == pytest.approx(float(ct.stack.slices[index].ImagePositionPatient[2]))
        centres = np.stack([x[index].ravel(), y[index].ravel()], axis=1)
        found[index] |= Outline(points[:, :2], closed=False).contains_points(centres).reshape(SHAPE[1:])
        total += area(points)
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
    np.testing.assert_array_equal(found, planes)
    assert total == pytest.approx(np.count_nonzero(planes) * 4.0, rel=0.01)  # mm2; a voxel has 4


def test_a_sphere_comes_back_with_its_volume():
    z, y, x = np.meshgrid(*[np.arange(64)] * 3, indexing="ij")
    ball = (z - 31.2) ** 2 + (y - 30.7) ** 2 + (x - 32.1) ** 2 <= 24**2
    drawn = sum(area(polygon) for plane in ball for polygon in polygons_of_slice(plane))
    assert drawn == pytest.approx(4 / 3 * np.pi * 24**3, rel=0.005)


def test_contours_of_a_finer_grid_come_back_with_a_dice_above_98_percent(tmp_path):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder)
    ball = sphere(12)
    write_structures(folder / "RTSTRUCT.dcm", {"PTV": ball, "Prostate": ball}, ct, identity(identified=True))
    write_dose(folder / "RTDOSE.dcm", np.ones(ball.shape, np.float32), ct, identity(identified=True))
    assert dice(read(folder, contradictions="remark").masks["PTV"], ball) > 0.98


def test_islands_in_holes_and_parts_that_touch_by_a_corner_are_kept():
    plane = np.zeros((20, 24), bool)
    plane[2:16, 2:18] = True
    plane[4:14, 4:9] = plane[4:14, 11:16] = False  # two holes
    plane[6:9, 5:7] = True  # an island
    plane[16, 18] = True  # touches by a corner
    rows, columns = np.indices(plane.shape)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    polygons = polygons_of_slice(plane)
    assert len(polygons) == 3
    found = np.zeros(plane.size, int)
    for polygon in polygons:
        found += Outline(polygon, closed=False).contains_points(centres)
    np.testing.assert_array_equal(found.reshape(plane.shape), plane)


def test_objects_refer_to_the_ct_and_have_identities_of_their_own(tmp_path):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder)
    image = pydicom.dcmread(slices_of(folder)[0])
    write_dose(folder / "RTDOSE.dcm", sphere().astype(np.float32), ct, identity())
    write_structures(folder / "RTSTRUCT.dcm", {"Prostate": sphere(), "Rectum": sphere(0)}, ct, identity())
    dose, structures = (pydicom.dcmread(folder / name) for name in ("RTDOSE.dcm", "RTSTRUCT.dcm"))
    for written in (dose, structures):
        assert written.StudyInstanceUID == image.StudyInstanceUID
        assert written.FrameOfReferenceUID == image.FrameOfReferenceUID
        assert written.SeriesDescription == "PREDICTED, RESEARCH USE ONLY"
        assert (written.PatientID, written.PatientName, written.PatientBirthDate) == ("pat-1", "pat-1", "")
        assert written.PatientIdentityRemoved == "YES"
    uids = {str(d[tag].value) for d in (dose, structures, image) for tag in ("SOPInstanceUID", "SeriesInstanceUID")}
    assert len(uids) == 6
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    named = {str(item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence}
    assert named == {str(pydicom.dcmread(path).SOPInstanceUID) for path in slices_of(folder)}
    assert structures.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"  # implicit: long contours keep their type
    assert "ContourSequence" not in structures.ROIContourSequence[1]  # an empty structure is listed
    assert {roi.ROIGenerationAlgorithm for roi in structures.StructureSetROISequence} == {"AUTOMATIC"}


def test_the_patient_is_named_on_request_only(tmp_path):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder)
    write_dose(folder / "a.dcm", sphere().astype(np.float32), ct, identity())
    write_dose(folder / "b.dcm", sphere().astype(np.float32), ct, identity(identified=True))
    hidden, named = (pydicom.dcmread(folder / name) for name in ("a.dcm", "b.dcm"))
    assert HEADER.patient_id.encode() not in (folder / "a.dcm").read_bytes()
    assert HEADER.patient_name.encode() not in (folder / "a.dcm").read_bytes()
    assert (named.PatientID, str(named.PatientName)) == (HEADER.patient_id, HEADER.patient_name)
    assert named.SOPInstanceUID != hidden.SOPInstanceUID


def test_the_same_prediction_is_the_same_file_and_another_one_has_another_uid(tmp_path):
    folder = tmp_path / "raw" / "patient"
    ct = planning(folder)
    for name, radius in (("a", 9), ("b", 9), ("c", 10)):
        write_structures(folder / name, {"Prostate": sphere(radius)}, ct, identity())
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    one, other = (pydicom.dcmread(folder / name) for name in ("a", "c"))
    assert one.SOPInstanceUID != other.SOPInstanceUID


def test_a_contour_of_a_large_ragged_structure_stays_a_contour(tmp_path):
    """In explicit VR pydicom writes more than 64 kB of ContourData as UN, which other readers drop without a word."""
    folder = tmp_path / "ct"
    write_ct_series(folder, np.zeros((3, 90, 90), np.int16), (3.0, 0.977, 0.977), (0.0, -44.1, -44.1), patient=HEADER)
    ct = PlanningCt.read(scan(folder.iterdir()))
    ragged = np.zeros((3, 90, 90), bool)
    ragged[1] = True
    ragged[1, 1:-1:2, 1:-1:2] = False
    write_structures(folder / "s", {"Prostate": in_case_axes(ragged)}, ct, identity())
    written = pydicom.dcmread(folder / "s")
    (contour,) = written.ROIContourSequence[0].ContourSequence
    assert len("\\".join(map(str, contour.ContourData))) > 2**16
    assert contour["ContourData"].VR == "DS"
    assert all(len(str(number)) <= 16 for number in contour.ContourData)


@pytest.mark.parametrize("code", ["LPS", "RAI", "SAL", "PIR"])
def test_the_way_back_from_the_axes_of_a_case_is_exact(code):
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    image = sitk.DICOMOrient(sitk.GetImageFromArray(array), code)
    case, _ = to_case_axes(image)
    back = from_case_axes(case, image.GetDirection())
    np.testing.assert_array_equal(back, sitk.GetArrayFromImage(image))
