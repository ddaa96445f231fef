"""Prostate phantoms are DICOM-RT that other readers understand, with anatomy and dose that make sense, and defects."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from scipy import ndimage

from ctan.datasets.prostate.defects import DEFECTS
from ctan.datasets.prostate.phantom import make_patient, write_patient
from ctan.datasets.prostate.planting import NAME_OF_A_PERSON, wall_of_rectum
from ctan.datasets.prostate.write_phantom import write_prostate_phantoms
from ctan.dicom.outlines import contours_of_mask, keyhole
from ctan.dicom.settings import DicomConfig
from ctan.dicom.writers import (
    PatientHeader,
    write_ct_series,
    write_rtdose,
    write_rtplan,
    write_rtstruct,
)
from ctan.errors import ConfigError, DataError
from tests.helpers.files import digests

NUM_PATIENTS = 6
POSITIONS = {"HFS": (1, 1, 1), "HFP": (-1, -1, 1), "FFS": (-1, 1, -1), "FFP": (1, -1, -1)}
FILES = {"CT": "ct_*.dcm", "RTSTRUCT": "RS*.dcm", "RTDOSE": "RD*.dcm", "RTPLAN": "RP*.dcm"}
SPACING, ORIGIN = (5.0, 4.0, 4.5), (-30.0, -100.0, -80.0)  # z, y, x
HEADER = PatientHeader("test", "PH1")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_prostate_phantoms(folder, num_train=4, num_validation=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def patients():
    return [make_patient(0, number) for number in range(1, NUM_PATIENTS + 1)]


def headers(folder, kind="CT"):
    found = [pydicom.dcmread(path) for path in sorted(folder.glob(FILES[kind]))]
    assert {header.Modality for header in found} <= {kind}
    return found


def the(folder, kind):
    (header,) = headers(folder, kind)
    return header


def image_of(folder, series_uid=None):
    """Read a series with SimpleITK."""
    uid = series_uid or headers(folder)[0].SeriesInstanceUID
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))


def read_ct(folder, series_uid=None):
    """Read a series, turned to (z, y, x) of the patient; values, spacing and origin in that order."""
    return turned(image_of(folder, series_uid))


def turned(image):
    turned = sitk.DICOMOrient(image, "LPS")
    return sitk.GetArrayFromImage(turned), turned.GetSpacing()[::-1], turned.GetOrigin()[::-1]


def even_odd(contours, shape, spacing, origin):
    """Rasterise contours with matplotlib: centres inside an odd number of the polygons of their slice."""
    z, y, x = (o + np.arange(size) * edge for o, size, edge in zip(origin, shape, spacing, strict=True))
    centres = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    mask = np.zeros(shape, bool)
    for contour in contours:
        inside = Polygon(contour[:, :2]).contains_points(centres).reshape(shape[1:])
        mask[np.argmin(np.abs(z - contour[0, 2]))] ^= inside
    return mask


def contours_in(header):
    """Return ROI name -> contours, as a structure set holds them."""
    names = {item.ROINumber: item.ROIName for item in header.StructureSetROISequence}
    return {
        names[roi.ReferencedROINumber]: [
            np.array(c.ContourData, float).reshape(-1, 3)
            for c in roi.get("ContourSequence", [])
            if c.ContourGeometricType == "CLOSED_PLANAR"
        ]
        for roi in header.ROIContourSequence
    }


def dose_in(header):
    """Return the dose with frames from inferior to superior, and their z, by the words of the standard."""
    rows, columns = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    offsets, first = np.array(header.GridFrameOffsetVector, float), float(header.ImagePositionPatient[2])
    z = first + offsets * np.cross(rows, columns)[2] if offsets[0] == 0 else offsets
    order = np.argsort(z)
    return (header.pixel_array * float(header.DoseGridScaling))[order], z[order]


# The same bytes


def test_the_same_arguments_give_the_same_bytes_and_a_patient_depends_on_its_number_only(written, tmp_path):
    write_prostate_phantoms(tmp_path, num_train=1, num_validation=1, seed=0)
    expected, again = digests(written), digests(tmp_path)
    assert {path.split("/")[0] for path in again} == {"patient_001", "patient_002"}
    assert again == {path: digest for path, digest in expected.items() if path.split("/")[0] <= "patient_002"}


def test_another_seed_gives_other_patients(written, tmp_path):
    write_prostate_phantoms(tmp_path, num_train=1, num_validation=0, seed=1)
    first, other = headers(written / "patient_001"), headers(tmp_path / "patient_001")
    assert first[0].PixelData != other[0].PixelData
    assert first[0].PatientID == "PH000001"
    assert other[0].PatientID == "PH001001"
    assert {h.SOPInstanceUID for h in first}.isdisjoint(h.SOPInstanceUID for h in other)


def test_the_sample_set_is_small(written):
    sizes = {folder: sum(path.stat().st_size for path in folder.iterdir()) for folder in written.iterdir()}
    assert max(sizes.values()) < 8e6 / 16  # 12 and 4 patients in less than 8 MB


def test_an_existing_patient_is_never_written_over(written):
    before = digests(written)
    with pytest.raises(DataError, match="patient_001: exists already"):
        write_prostate_phantoms(written, num_train=1, num_validation=0, seed=5)
    assert digests(written) == before


# Geometry, read by SimpleITK


def test_file_names_say_nothing_about_the_order_of_the_slices(written):
    z = [float(header.ImagePositionPatient[2]) for header in headers(written / "patient_001")]
    assert len(z) == 38
    assert z not in (sorted(z), sorted(z, reverse=True))
    assert abs(np.corrcoef(z, np.arange(38))[0, 1]) < 0.5


def test_simpleitk_reads_the_ct_as_it_was_made(written, patients):
    for number, patient in enumerate(patients, start=1):
        values, spacing, origin = read_ct(written / f"patient_{number:03d}")
        np.testing.assert_array_equal(values, patient.hounsfield)
        assert spacing == pytest.approx(patient.spacing_mm)
        assert origin == pytest.approx(patient.origin_mm)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_ct_is_the_same_in_patient_coordinates_however_the_patient_lay(tmp_path, position):
    hounsfield = np.random.default_rng(0).integers(-1000, 1500, (7, 10, 12)).astype(np.int16)
    write_ct_series(tmp_path, hounsfield, SPACING, ORIGIN, patient=HEADER, position=position)
    values, spacing, origin = read_ct(tmp_path)
    np.testing.assert_array_equal(values, hounsfield)
    assert (spacing, origin) == (pytest.approx(SPACING), pytest.approx(ORIGIN))
    x, y, z = POSITIONS[position]  # the table of PS3.3 C.7.6.1.1.1 and C.7.6.2.1.1
    for header in headers(tmp_path):
        assert header.PatientPosition == position
        assert list(header.ImageOrientationPatient) == [x, 0, 0, 0, y, 0]
        up = float(header.ImagePositionPatient[2]) - ORIGIN[0]
        assert header.InstanceNumber == (1 + up / 5 if z > 0 else 7 - up / 5)


@pytest.mark.parametrize("position", POSITIONS)
def test_simpleitk_reads_a_dose_grid_however_the_patient_lay(tmp_path, position):
    dose = np.random.default_rng(0).integers(0, 40000, (5, 6, 7)) * 0.002
    write_rtdose(tmp_path / "RD.dcm", dose, SPACING, ORIGIN, patient=HEADER, position=position)
    values, spacing, origin = turned(sitk.ReadImage(str(tmp_path / "RD.dcm")))
    np.testing.assert_allclose(0.002 * values, dose, atol=1e-9)  # SimpleITK leaves DoseGridScaling to its user
    assert (spacing, origin) == (pytest.approx(SPACING), pytest.approx(ORIGIN))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("offsets", ["relative", "absolute"])
def test_frames_of_a_dose_lie_where_the_offset_vector_says(tmp_path, position, reverse, offsets):
    dose = np.arange(5.0)[:, None, None] * np.ones((5, 3, 4))
    write_rtdose(
        tmp_path / "RD.dcm",
        dose,
        SPACING,
        ORIGIN,
        patient=HEADER,
        position=position,
        reverse=reverse,
        offsets=offsets,
        bits=32,
    )
    header = pydicom.dcmread(tmp_path / "RD.dcm")
    values, z = dose_in(header)
    np.testing.assert_allclose(z, [-30, -25, -20, -15, -10])
    np.testing.assert_allclose(values, dose)
    vector = np.array(header.GridFrameOffsetVector, float)
    assert vector[0] == (0 if offsets == "relative" else float(header.ImagePositionPatient[2]))
    assert header.BitsAllocated == 32


def test_a_dose_that_does_not_fit_its_bits_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"0\.\.132 does not fit 16 bits"):
        write_rtdose(tmp_path / "RD.dcm", np.linspace(0, 132, 24).reshape(2, 3, 4), SPACING, ORIGIN, patient=HEADER)


def test_dose_grids_are_coarser_than_the_ct_and_stored_in_several_ways(written, patients):
    ways = set()
    for number, patient in enumerate(patients, start=1):
        header = the(written / f"patient_{number:03d}", "RTDOSE")
        values, z = dose_in(header)
        np.testing.assert_allclose(values, patient.dose_gy, atol=1e-9)
        assert z[0] == pytest.approx(patient.dose_origin_mm[0])
        assert all(float(a) > b for a, b in zip(header.PixelSpacing, patient.spacing_mm[1:], strict=True))
        vector = np.array(header.GridFrameOffsetVector, float)
        ways.add((vector[0] == 0, vector[1] > vector[0]))
    assert len(ways) > 1


def test_contours_hold_exactly_the_voxels_of_a_mask_with_holes_islands_and_edges():
    mask = np.random.default_rng(0).random((4, 9, 11)) < 0.6
    contours = contours_of_mask(mask, SPACING, ORIGIN)
    np.testing.assert_array_equal(even_odd(contours, mask.shape, SPACING, ORIGIN), mask)


def test_a_keyhole_leaves_out_what_its_inner_contour_holds():
    outer, inner = np.zeros((1, 20, 20), bool), np.zeros((1, 20, 20), bool)
    outer[0, 3:16, 2:17], inner[0, 7:11, 6:12] = True, True
    (around,), (hole,) = (contours_of_mask(mask, SPACING, ORIGIN) for mask in (outer, inner))
    one = keyhole(around, hole)
    assert len(one) == len(around) + len(hole) + 2  # both ends of the channel come twice
    found = even_odd([one], outer.shape, SPACING, ORIGIN)
    assert np.count_nonzero(found ^ (outer & ~inner)) <= 4  # centres exactly on the channel


def test_structure_sets_hold_what_was_drawn(written, patients):
    for number, patient in enumerate(patients[:3], start=1):
        contours = contours_in(the(written / f"patient_{number:03d}", "RTSTRUCT"))
        assert set(contours) == set(patient.roi_names.values())
        for structure, name in patient.roi_names.items():
            mask = patient.masks[structure]
            found = even_odd(contours[name], mask.shape, patient.spacing_mm, patient.origin_mm)
            np.testing.assert_array_equal(found, mask, err_msg=structure)


# Headers


def test_objects_of_a_patient_refer_to_each_other(written):
    seen = set()
    for folder in sorted(written.iterdir()):
        slices = headers(folder)
        structures, dose, plan = (the(folder, kind) for kind in ("RTSTRUCT", "RTDOSE", "RTPLAN"))
        everything = [*slices, structures, dose, plan]
        assert len({(h.PatientID, h.PatientBirthDate, h.StudyInstanceUID) for h in everything}) == 1
        assert {h.FrameOfReferenceUID for h in [*slices, dose, plan]} == {slices[0].FrameOfReferenceUID}
        (frame,) = structures.ReferencedFrameOfReferenceSequence
        assert frame.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
        (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
        assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
        instances = {h.SOPInstanceUID: float(h.ImagePositionPatient[2]) for h in slices}
        assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == set(instances)
        for roi in structures.ROIContourSequence:
            for contour in roi.ContourSequence:
                z = instances[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
                assert float(contour.ContourData[2]) == pytest.approx(z, abs=0.01)
        assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
        assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID
        uids = {h.SOPInstanceUID for h in everything} | {h.SeriesInstanceUID for h in everything}
        assert len(uids) == len(everything) + 4
        assert all(uid.is_valid and len(uid) <= 64 for uid in uids)
        assert seen.isdisjoint(uids)
        seen |= uids


def test_files_are_complete_dicom_in_little_endian(written):
    for path in (written / "patient_001").iterdir():
        header = pydicom.dcmread(path)
        assert path.read_bytes()[128:132] == b"DICM"
        assert header.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
        assert header.file_meta.MediaStorageSOPClassUID == header.SOPClassUID
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        kind = {"CT": "CT Image", "RTSTRUCT": "RT Structure Set", "RTDOSE": "RT Dose", "RTPLAN": "RT Plan"}
        assert header.SOPClassUID.name == f"{kind[header.Modality]} Storage"


def test_the_default_patterns_know_every_roi_name(patients):
    config = DicomConfig()
    patterns = {**config.structures, "Body": config.body}
    for patient in patients:
        for structure, name in patient.roi_names.items():
            found = [s for s, known in patterns.items() if any(re.fullmatch(p, name, re.IGNORECASE) for p in known)]
            assert found == [structure], name
    assert len({patient.roi_names["Prostate"] for patient in patients}) > 2


def test_the_plan_gives_the_prescription_and_it_varies(written, patients):
    for number, patient in enumerate(patients, start=1):
        plan = the(written / f"patient_{number:03d}", "RTPLAN")
        (target,) = plan.DoseReferenceSequence
        assert (target.DoseReferenceType, float(target.TargetPrescriptionDose)) == ("TARGET", patient.prescription_gy)
        assert 1.9 < patient.prescription_gy / plan.FractionGroupSequence[0].NumberOfFractionsPlanned < 3.1
    assert {60.0, 70.0, 78.0} <= {patient.prescription_gy for patient in patients} <= {60.0, 70.0, 74.0, 78.0}


def test_a_plan_can_be_written_without_a_prescription(tmp_path):
    write_rtplan(tmp_path / "RP.dcm", None, patient=HEADER)
    assert "DoseReferenceSequence" not in pydicom.dcmread(tmp_path / "RP.dcm")


# Anatomy


def centre(mask):
    return np.argwhere(mask).mean(axis=0)


def test_organs_lie_where_they_belong(patients):
    for patient in patients:
        z, y, x = ({name: centre(mask)[axis] for name, mask in patient.masks.items()} for axis in range(3))
        assert z["PenileBulb"] < z["Prostate"] < z["SeminalVesicles"] < z["Bladder"]
        assert y["Bladder"] < y["Prostate"] < y["SeminalVesicles"] < y["Rectum"]
        assert x["FemoralHeadRight"] + 10 < x["Prostate"] < x["FemoralHeadLeft"] - 10  # x grows to the left


def test_structures_do_not_overlap_and_lie_in_the_body(patients):
    for patient in patients:
        organs = [mask for name, mask in patient.masks.items() if name not in ("PTV", "Body")]
        assert np.sum(organs, axis=0).max() == 1
        for name, mask in patient.masks.items():
            assert np.count_nonzero(mask) >= 10, name
            assert patient.masks["Body"][mask].all(), name
            assert ndimage.label(mask, np.ones((3, 3, 3)))[1] <= 2, name  # vesicles are two


def test_the_target_is_the_prostate_with_a_margin_and_sometimes_the_vesicles(patients):
    with_vesicles = []
    for patient in patients:
        masks = patient.masks
        away = ndimage.distance_transform_edt(~masks["Prostate"], sampling=patient.spacing_mm)
        assert masks["PTV"][away <= 8].all()
        with_vesicles.append(masks["PTV"][masks["SeminalVesicles"]].all())
        if not with_vesicles[-1]:
            assert not masks["PTV"][away > 8].any()
    assert set(with_vesicles) == {True, False}


def test_some_structures_are_sometimes_not_contoured(patients):
    always = {"Prostate", "Bladder", "Rectum", "PTV"}
    assert all(always <= set(patient.roi_names) for patient in patients)
    missing = set().union(*(set(patient.masks) - set(patient.roi_names) for patient in patients))
    assert {"PenileBulb", "SeminalVesicles", "Body"} <= missing


def test_bladders_differ_in_size(patients):
    volumes = [p.masks["Bladder"].sum() * np.prod(p.spacing_mm) / 1000 for p in patients]
    assert 50 < min(volumes) < 150 < 250 < max(volumes) < 500  # ml


def test_the_prostate_is_hard_to_see_and_its_neighbours_are_not(patients):
    for patient in patients:
        ct, masks = patient.hounsfield.astype(float), patient.masks
        inside = ndimage.binary_erosion(masks["Prostate"])
        assert 10 < ct[inside].std() < 15
        around = ndimage.binary_dilation(masks["Prostate"], iterations=2) & ~np.any(list(masks.values())[1:7], axis=0)
        contrast = np.median(ct[around & ~masks["Prostate"]]) - ct[inside].mean()
        assert 4 < contrast < 22  # about the noise of one voxel
        assert ct[ndimage.binary_erosion(masks["Bladder"])].mean() < ct[inside].mean() - 20
        assert ct[masks["Rectum"]].min() < -400  # gas
        assert ct[masks["FemoralHeadLeft"]].mean() > 250
        assert np.median(ct[~masks["Body"]]) == pytest.approx(-1000, abs=3)


# Dose


def dose_on_ct(patient):
    """Return the dose on the grid of the CT, interpolated by SimpleITK; NaN outside the dose grid."""
    dose = sitk.GetImageFromArray(patient.dose_gy)
    dose.SetSpacing(patient.dose_spacing_mm[::-1])
    dose.SetOrigin(patient.dose_origin_mm[::-1])
    grid = sitk.GetImageFromArray(patient.hounsfield)
    grid.SetSpacing(patient.spacing_mm[::-1])
    grid.SetOrigin(patient.origin_mm[::-1])
    return sitk.GetArrayFromImage(sitk.Resample(dose, grid, sitk.Transform(), sitk.sitkLinear, np.nan))


def test_the_target_gets_its_prescription(patients):
    for patient in patients:
        dose = dose_on_ct(patient)[patient.masks["PTV"]]
        assert not np.isnan(dose).any()
        assert dose.mean() == pytest.approx(patient.prescription_gy, rel=0.03)
        assert np.percentile(dose, 2) > 0.85 * patient.prescription_gy
        assert patient.dose_gy.max() < 1.05 * patient.prescription_gy


def test_the_dose_is_known_in_a_part_of_the_body_only(patients):
    for patient in patients:
        known = ~np.isnan(dose_on_ct(patient)[patient.masks["Body"]])
        assert 0.1 < known.mean() < 0.7


def test_the_dose_falls_off_with_the_distance_to_the_target_and_goes_further_to_the_sides(patients):
    for patient in patients:
        body, target = patient.masks["Body"], patient.masks["PTV"]
        away = ndimage.distance_transform_edt(~target, sampling=patient.spacing_mm)
        dose = dose_on_ct(patient) / patient.prescription_gy
        shells = [np.nanmean(dose[body & (away > low) & (away <= low + 10)]) for low in (0, 10, 20, 30)]
        assert shells == sorted(shells, reverse=True)
        assert shells[0] > 0.55
        assert shells[-1] < 0.3
        shadow, side = target.any(axis=0), target.any(axis=2)
        top, left = (target.nonzero()[axis].max() for axis in (0, 2))
        steps = [round(15 / edge) for edge in patient.spacing_mm]
        above, beside = dose[top + steps[0]][shadow].mean(), dose[:, :, left + steps[2]][side].mean()
        assert beside > above + 0.1


def test_rectum_and_bladder_get_less_than_other_tissue_at_equal_distance(patients):
    for patient in patients:
        masks = patient.masks
        away = ndimage.distance_transform_edt(~masks["PTV"], sampling=patient.spacing_mm)
        shell = masks["Body"] & (away > 6) & (away < 18)
        dose = dose_on_ct(patient)
        z, y = (centre(masks["PTV"])[axis] for axis in range(2))
        behind, above = np.zeros_like(shell), np.zeros_like(shell)
        behind[:, int(y) :], above[int(z) :] = True, True
        for organ, side in (("Rectum", behind), ("Bladder", above)):
            others = shell & side & ~masks["Rectum"] & ~masks["Bladder"]
            assert np.nanmean(dose[shell & masks[organ]]) < 0.9 * np.nanmean(dose[others]), organ


# Defects


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Return a function that gives the folder of the patient with a defect, and the patient as it was meant."""
    folder = tmp_path_factory.mktemp("spoilt")
    names = list(DEFECTS)

    def find(name):
        number = names.index(name) + 1
        own, patient = folder / f"patient_{number:03d}", make_patient(0, number)
        if not own.exists():
            own.mkdir()
            write_patient(patient, own)
            DEFECTS[name].plant(patient, own)
        return own, patient

    return find


def places(folder):
    return sorted(float(header.ImagePositionPatient[2]) for header in headers(folder))


def test_unknown_defects_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(
        ConfigError,
        match="unknown 'no-such'; known: air-slice, beam-doses, blank-id, boost, boost-unnamed, called-unsigned",
    ):
        write_prostate_phantoms(tmp_path, 1, 0, 0, defects=["no-such"])
    with pytest.raises(ConfigError, match="2 need as many patients, found 1"):
        write_prostate_phantoms(tmp_path, 1, 0, 0, defects=["prone", "no-dose"])
    assert not list(tmp_path.iterdir())


def test_a_defect_leaves_other_patients_alone(written, tmp_path):
    write_prostate_phantoms(tmp_path, 2, 0, 0, defects=["no-dose"])
    before, after = digests(written / "patient_001"), digests(tmp_path / "patient_001")
    assert set(before) - set(after) == {"RD.dcm"}
    assert digests(tmp_path / "patient_002") == digests(written / "patient_002")


def test_a_slice_is_missing_or_twice(spoilt):
    folder, patient = spoilt("missing-slice")
    gaps = np.diff(places(folder))
    assert len(gaps) == 36
    assert sorted(gaps)[-1] == pytest.approx(2 * patient.spacing_mm[0])
    folder, patient = spoilt("duplicate-slice")
    gaps = np.diff(places(folder))
    assert len(gaps) == 38
    assert sorted(gaps)[0] == 0
    assert len({header.SOPInstanceUID for header in headers(folder)}) == 39


def test_a_second_series_lies_beside_the_one_that_was_contoured(spoilt):
    folder, patient = spoilt("two-series")
    assert len({header.SeriesInstanceUID for header in headers(folder)}) == 2
    frame = the(folder, "RTSTRUCT").ReferencedFrameOfReferenceSequence[0]
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    np.testing.assert_array_equal(read_ct(folder, series.SeriesInstanceUID)[0], patient.hounsfield)


def test_slices_are_oblique(spoilt):
    folder, _ = spoilt("oblique")
    direction = np.array(image_of(folder).GetDirection())
    cosine, sine = np.cos(np.deg2rad(8)), np.sin(np.deg2rad(8))
    np.testing.assert_allclose(direction, [1, 0, 0, 0, cosine, -sine, 0, sine, cosine], atol=1e-5)


@pytest.mark.parametrize(("name", "position"), [("prone", "HFP"), ("feet-first", "FFS")])
def test_a_patient_who_lay_differently_is_the_same_in_patient_coordinates(spoilt, name, position):
    folder, patient = spoilt(name)
    assert {header.PatientPosition for header in headers(folder)} == {position}
    values, spacing, origin = read_ct(folder)
    np.testing.assert_array_equal(values, patient.hounsfield)
    assert (spacing, origin) == (pytest.approx(patient.spacing_mm), pytest.approx(patient.origin_mm))
    dose, z = dose_in(the(folder, "RTDOSE"))
    x, y, _ = POSITIONS[position]
    np.testing.assert_allclose(dose[:, ::y, ::x], patient.dose_gy, atol=1e-9)
    assert z[0] == pytest.approx(patient.dose_origin_mm[0])


def test_scale_and_padding_are_given_per_slice_and_pixel(spoilt):
    folder, patient = spoilt("rescale-per-slice")
    assert len({float(header.RescaleIntercept) for header in headers(folder)}) == 3
    np.testing.assert_array_equal(read_ct(folder)[0], patient.hounsfield)
    folder, patient = spoilt("padding")
    values = read_ct(folder)[0]
    padded = values == 3000 - 1024
    assert {header.PixelPaddingValue for header in headers(folder)} == {3000}
    np.testing.assert_array_equal(values[~padded], patient.hounsfield[~padded])
    assert padded[:, 0, 0].all()
    assert not (padded & patient.masks["Body"]).any()


def test_a_file_ends_in_the_middle(spoilt):
    folder, _ = spoilt("truncated-file")
    sizes = sorted(path.stat().st_size for path in folder.glob("ct_*.dcm"))
    assert sizes[0] == sizes[-1] // 2
    (broken,) = (header for header in headers(folder) if len(header.PixelData) < 2 * header.Rows * header.Columns)
    with pytest.raises(ValueError, match="pixel data"):
        broken.pixel_array  # noqa: B018


@pytest.mark.parametrize(
    ("name", "kind"), [("no-structures", "RTSTRUCT"), ("no-dose", "RTDOSE"), ("no-plan", "RTPLAN")]
)
def test_an_object_is_missing(spoilt, name, kind):
    folder, _ = spoilt(name)
    assert not headers(folder, kind)
    assert len(list(folder.iterdir())) == 38 + 2


def test_rois_are_empty_unknown_or_double(spoilt):
    folder, patient = spoilt("empty-roi")
    contours = contours_in(the(folder, "RTSTRUCT"))
    assert [name for name, found in contours.items() if not found] == [patient.roi_names["Rectum"]]
    folder, patient = spoilt("unknown-roi")
    assert set(contours_in(the(folder, "RTSTRUCT"))) - set(patient.roi_names.values()) == {NAME_OF_A_PERSON}
    folder, patient = spoilt("double-roi")
    (second,) = set(contours_in(the(folder, "RTSTRUCT"))) - set(patient.roi_names.values())
    assert any(re.fullmatch(known, second, re.IGNORECASE) for known in DicomConfig().structures["Prostate"])


def test_a_point_is_among_the_contours(spoilt):
    folder, patient = spoilt("point-contour")
    structures = the(folder, "RTSTRUCT")
    kinds = [c.ContourGeometricType for roi in structures.ROIContourSequence for c in roi.ContourSequence]
    assert kinds.count("POINT") == 1
    found = contours_in(structures)[patient.roi_names["Prostate"]]
    mask = patient.masks["Prostate"]
    np.testing.assert_array_equal(even_odd(found, mask.shape, patient.spacing_mm, patient.origin_mm), mask)


@pytest.mark.parametrize("name", ["hole", "keyhole"])
def test_the_rectum_has_a_hole(spoilt, name):
    folder, patient = spoilt(name)
    rectum = patient.masks["Rectum"]
    lumen = ndimage.binary_erosion(rectum, np.ones((1, 3, 3)))
    contours = contours_in(the(folder, "RTSTRUCT"))[patient.roi_names["Rectum"]]
    found = even_odd(contours, rectum.shape, patient.spacing_mm, patient.origin_mm)
    slices = lumen.any(axis=(1, 2)).sum()
    wrong = np.count_nonzero(found ^ (rectum & ~lumen))
    assert wrong <= (0 if name == "hole" else 2 * slices)  # centres exactly on a channel
    assert 10 < slices < lumen.sum() / 3
    assert len(contours) == len(wall_of_rectum(patient)[name == "keyhole"])
    assert len(contours) == rectum.any(axis=(1, 2)).sum() + (slices if name == "hole" else 0)


def test_the_structure_set_is_in_another_frame(spoilt):
    folder, _ = spoilt("mixed-frames")
    (frame,) = the(folder, "RTSTRUCT").ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID not in {header.FrameOfReferenceUID for header in headers(folder)}


def test_the_dose_is_relative_or_of_beams(spoilt):
    folder, patient = spoilt("relative-dose")
    header = the(folder, "RTDOSE")
    assert header.DoseUnits == "RELATIVE"
    np.testing.assert_allclose(dose_in(header)[0] * patient.prescription_gy / 100, patient.dose_gy, atol=0.005)
    folder, patient = spoilt("beam-doses")
    beams = headers(folder, "RTDOSE")
    assert {header.DoseSummationType for header in beams} == {"BEAM"}
    np.testing.assert_allclose(sum(dose_in(header)[0] for header in beams), patient.dose_gy, atol=1e-6)
    numbers = [
        header.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence[0].ReferencedBeamSequence[0]
        for header in beams
    ]
    assert sorted(beam.ReferencedBeamNumber for beam in numbers) == [1, 2]
    assert [beam.BeamNumber for beam in the(folder, "RTPLAN").BeamSequence] == [1, 2]
    folder, _ = spoilt("missing-beam")
    assert len(headers(folder, "RTDOSE")) == 1
    assert len(the(folder, "RTPLAN").BeamSequence) == 2


def test_ids_are_blank_or_those_of_another_patient(spoilt):
    folder, _ = spoilt("blank-id")
    everything = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert {header.PatientID for header in everything} == {""}
    folder, patient = spoilt("repeated-patient")
    before = Path(f"{folder.parent}/patient_{int(folder.name[-3:]) - 1:03d}")
    own, other = headers(folder)[0].PatientID, headers(before)[0].PatientID
    assert own != patient.header.patient_id
    assert own.strip().upper() == other or other == ""


def test_every_defect_says_what_it_is_and_what_a_reader_should_do():
    for name, defect in DEFECTS.items():
        assert re.fullmatch("[a-z-]+", name)
        assert defect.what
        assert defect.reading


def test_a_structure_set_can_be_in_another_frame_and_empty(tmp_path):
    series = write_ct_series(tmp_path, np.zeros((2, 3, 4), np.int16), SPACING, ORIGIN, patient=HEADER)
    write_rtstruct(tmp_path / "RS.dcm", {}, series, frame_uid="2.25.1")
    structures = pydicom.dcmread(tmp_path / "RS.dcm")
    assert structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == "2.25.1"
    assert len(structures.StructureSetROISequence) == 0
