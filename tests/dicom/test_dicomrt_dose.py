"""RTDOSE and RTPLAN: any grid, either direction, sums of beams, relative units, prescriptions."""

import copy

import numpy as np
import pydicom
import pytest

from ctan.dicom.dose import prescription_of
from ctan.dicom.doses import plan_beams
from ctan.dicom.writers import write_rtdose, write_rtplan
from tests.helpers.dicom import (
    CONTOURS,
    DOSE_ORIGIN,
    DOSE_SHAPE,
    DOSE_SPACING,
    HEADER,
    SLICES_Z,
    TEST_DATA,
    box,
    change,
    dose_at,
    needs_test_data,
    places,
    plan_dose,
    read,
    reason,
    to_case_axes,
    write_patient,
)

WHOLE_BODY = {**CONTOURS, "BODY": [box(z, (-60, 60), (-60, 60)) for z in SLICES_Z]}


def between_centres():
    """Return which voxels lie between the centres of the outermost voxels of the dose grid."""
    inside = True
    for place, start, edge, size in zip(places(), DOSE_ORIGIN, DOSE_SPACING, DOSE_SHAPE, strict=True):
        inside = inside & (place >= start) & (place <= start + edge * (size - 1))
    return to_case_axes(inside)


def check_dose(case, factor=1.0):
    known = between_centres()
    np.testing.assert_array_equal(case.dose_known, known)
    expected = factor * to_case_axes(dose_at(*places()))
    np.testing.assert_allclose(case.doses["dose"][known], expected[known], atol=0.005)
    assert not case.doses["dose"][~known].any()
    assert case.doses["dose"].dtype == np.float32


@pytest.mark.parametrize("position", ["HFS", "FFP"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("offsets", ["relative", "absolute"])
def test_dose_lands_where_it_belongs(folder, offsets, reverse, position):
    write_patient(folder, contours=WHOLE_BODY, dose={"offsets": offsets, "reverse": reverse, "position": position})
    check_dose(read(folder))


def test_dose_of_32_bits_is_scaled(folder):
    write_patient(folder, contours=WHOLE_BODY, dose={"bits": 32, "step": 1e-6})
    check_dose(read(folder))


def test_dose_is_possible_in_the_body_and_known_in_the_dose_grid(folder):
    """Both were one mask, cut from the RTDOSE: an input that no patient without a dose could have."""
    write_patient(folder, contours={**CONTOURS, "BODY": [box(z, (-20, 10), (-15, 11)) for z in SLICES_Z]})
    case = read(folder)
    _, y, x = places()
    body = np.broadcast_to(to_case_axes((x >= -20) & (x < 10) & (y >= -15) & (y <= 11)), case.shape)
    np.testing.assert_array_equal(case.masks["possible_dose_mask"], body)
    np.testing.assert_array_equal(case.dose_known, between_centres())
    assert (body & ~case.dose_known).any()
    assert not case.doses["dose"][~(body & case.dose_known)].any()


@pytest.mark.parametrize(("scale", "step"), [(1 / 60, 1e-4), (100 / 60, 0.002)])
def test_relative_dose_is_a_share_or_percent_of_the_prescription(folder, scale, step):
    values = {"values": plan_dose() * scale, "units": "RELATIVE", "step": step}
    write_patient(folder, contours=WHOLE_BODY, dose=values)
    check_dose(read(folder))
    check_dose(read(folder, prescription_gy=30.0), factor=0.5)


def test_relative_dose_without_a_prescription_is_refused(folder):
    write_patient(folder, dose={"units": "RELATIVE"}, prescription_gy=None)
    assert reason(folder).startswith("RTDOSE: DoseUnits RELATIVE and no prescription")
    (folder / "rp").unlink()
    assert reason(folder).startswith("RTDOSE: DoseUnits RELATIVE and no prescription")


def write_beams(folder, shares, beams):
    (folder / "rd").unlink()
    for number, share in shares.items():
        write_rtdose(
            folder / f"rd{number}",
            plan_dose() * share,
            DOSE_SPACING,
            DOSE_ORIGIN,
            patient=HEADER,
            summation="BEAM",
            beam=number,
            step=1e-3,
        )
    write_rtplan(folder / "rp", 60.0, patient=HEADER, beams=beams)


def test_a_complete_set_of_beams_is_added_up_when_asked_for(folder):
    write_patient(folder, contours=WHOLE_BODY)
    write_beams(folder, {1: 0.25, 2: 0.5, 3: 0.25}, ("a", "b", "c"))
    check_dose(read(folder, sum_beams=True))
    assert reason(folder) == (
        "RTDOSE: no plan dose (DoseSummationType PLAN), found 3 BEAM; export the dose of the plan, or set "
        "data.options.sum_beams to add up the beams"
    )


def test_an_incomplete_set_of_beams_is_refused(folder):
    write_patient(folder)
    write_beams(folder, {1: 0.25, 3: 0.25}, ("a", "b", "c"))
    found = reason(folder, sum_beams=True)
    assert found == "RTDOSE: doses of beams 1, 3 found, the plan has beams 1, 2, 3; export each once"
    (folder / "rp").unlink()
    assert "beams can be added up with their RTPLAN only" in reason(folder, sum_beams=True)


def test_a_field_for_setup_needs_no_dose(folder):
    write_patient(folder, contours=WHOLE_BODY)
    write_beams(folder, {1: 0.5, 2: 0.5}, ("a", "b", "setup"))
    change(folder / "rp", lambda ds: setattr(ds.BeamSequence[2], "TreatmentDeliveryType", "SETUP"))
    check_dose(read(folder, sum_beams=True))


def test_a_plan_dose_wins_over_the_beams(folder):
    write_patient(folder, contours=WHOLE_BODY)
    write_rtdose(folder / "b", plan_dose(), DOSE_SPACING, DOSE_ORIGIN, patient=HEADER, summation="BEAM", beam=1)
    check_dose(read(folder, sum_beams=True))


def test_two_plan_doses_are_refused(folder):
    write_patient(folder)
    write_rtdose(folder / "rd2", plan_dose(), DOSE_SPACING, DOSE_ORIGIN, patient=HEADER)
    assert reason(folder).startswith("RTDOSE: 2 plan doses (2 PLAN); keep the one of the treated plan, or set")
    assert "each has one plan dose that refers to it" in reason(folder, sum_plans=True)


def write_boost(folder, share=0.3, prescription_gy=18.0):
    """Give the patient a second plan with its own dose, on the same structure set."""

    def second(ds):
        ds.SOPInstanceUID = HEADER.uid("boost")
        ds.DoseReferenceSequence[0].TargetPrescriptionDose = prescription_gy

    (folder / "rp2").write_bytes((folder / "rp").read_bytes())
    change(folder / "rp2", second)
    write_rtdose(folder / "rd2", plan_dose() * share, DOSE_SPACING, DOSE_ORIGIN, patient=HEADER, step=1e-3)

    def of_second(ds):
        ds.SOPInstanceUID = HEADER.uid("dose of boost")
        ds.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID = HEADER.uid("boost")

    change(folder / "rd2", of_second)


def test_plans_that_follow_each_other_are_added_up_when_asked_for(folder):
    """A boost was refused: "2 plan doses"; there was no way to read it."""
    write_patient(folder, contours=WHOLE_BODY, prescription_gy=42.0, dose={"values": plan_dose() * 0.7, "step": 1e-3})
    write_boost(folder)
    case = read(folder, sum_plans=True)
    check_dose(case)
    assert case.facts == {"prescription_gy": 60.0}
    assert read(folder, sum_plans=True, prescription_gy=61.0).facts == {"prescription_gy": 61.0}
    assert reason(folder).startswith("RTPLAN: 2 found, 2 of which RTDOSE refers to; expected one")
    (folder / "rd2").unlink()
    assert reason(folder, sum_plans=True).startswith("RTPLAN: 2 found, doses refer to 1; expected a dose of each")


def test_a_sum_of_plans_that_was_exported_is_taken_when_asked_for(folder):
    write_patient(folder, contours=WHOLE_BODY, prescription_gy=42.0)
    write_boost(folder)
    (folder / "rd2").unlink()

    def of_both(ds):
        ds.DoseSummationType = "MULTI_PLAN"
        both = [copy.deepcopy(ds.ReferencedRTPlanSequence[0]) for _ in range(2)]
        both[1].ReferencedSOPInstanceUID = HEADER.uid("boost")
        ds.ReferencedRTPlanSequence = both

    change(folder / "rd", of_both)
    case = read(folder, sum_plans=True)
    check_dose(case)
    assert case.facts == {"prescription_gy": 60.0}
    assert "set data.options.sum_plans to take the sum of several plans" in reason(folder, prescription_gy=60.0)


def as_planes(folder, scaling=lambda number: 1.0):
    """Write the dose as one file a plane, in no order."""
    ds = pydicom.dcmread(folder / "rd")
    values, (x, y, z) = ds.pixel_array, ds.ImagePositionPatient
    for number, offset in enumerate(ds.GridFrameOffsetVector):
        plane = copy.deepcopy(ds)
        del plane.GridFrameOffsetVector, plane.NumberOfFrames
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = HEADER.uid(f"plane {number}")
        plane.ImagePositionPatient = [x, y, z + offset]
        plane.DoseGridScaling = ds.DoseGridScaling / scaling(number)
        plane.PixelData = np.rint(values[number] * scaling(number)).astype(values.dtype).tobytes()
        plane.save_as(folder / f"plane {(number * 7) % 5}")
    (folder / "rd").unlink()


@pytest.mark.parametrize("scaling", [lambda number: 1.0, lambda number: 1 + number / 10])
def test_a_dose_of_one_file_a_plane_is_joined(folder, scaling):
    """It was refused: "5 plan doses"."""
    write_patient(folder, contours=WHOLE_BODY, dose={"step": 2e-3})
    as_planes(folder, scaling)
    check_dose(read(folder))
    (folder / "plane 2").unlink()
    assert reason(folder).startswith("RTDOSE: frames are not evenly spaced")
    (folder / "plane 2").write_bytes((folder / "plane 1").read_bytes())
    change(folder / "plane 2", lambda ds: setattr(ds, "SOPInstanceUID", HEADER.uid("again")))
    assert reason(folder) == "RTDOSE: two of 5 files of one plane each lie at one place; keep one"


BROKEN = {
    "unknown units": (
        lambda ds: setattr(ds, "DoseUnits", "CGY"),
        "RTDOSE: DoseUnits not known, expected GY or RELATIVE",
    ),
    "no units": (lambda ds: delattr(ds, "DoseUnits"), "RTDOSE: DoseUnits missing"),
    "no scaling": (lambda ds: delattr(ds, "DoseGridScaling"), "RTDOSE: expected 1 numbers in DoseGridScaling, it is"),
    "a difference": (lambda ds: setattr(ds, "DoseType", "ERROR"), "RTDOSE: DoseType ERROR"),
    "a fraction": (
        lambda ds: setattr(ds, "DoseSummationType", "FRACTION"),
        "RTDOSE: no plan dose (DoseSummationType PLAN), found 1 FRACTION",
    ),
    "another frame": (
        lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"),
        "RTDOSE is in another frame of reference than the CT",
    ),
    "uneven frames": (
        lambda ds: setattr(ds, "GridFrameOffsetVector", [0, 4.5, 9, 15, 18]),
        "RTDOSE: frames are not evenly spaced",
    ),
    "strange offsets": (
        lambda ds: setattr(ds, "GridFrameOffsetVector", [7, 11.5, 16, 20.5, 25]),
        "RTDOSE: GridFrameOffsetVector begins with 7, expected 0 or the z of ImagePositionPatient (-98 mm)",
    ),
    "missing offsets": (
        lambda ds: setattr(ds, "GridFrameOffsetVector", [0, 4.5]),
        "RTDOSE: expected 5 numbers in GridFrameOffsetVector, found 2",
    ),
    "elsewhere": (
        lambda ds: setattr(ds, "ImagePositionPatient", [500, 500, -98]),
        "RTDOSE: its grid does not meet the body",
    ),
    "no pixels": (lambda ds: delattr(ds, "PixelData"), "RTDOSE: no pixel data"),
    "oblique": (
        lambda ds: setattr(ds, "ImageOrientationPatient", [0.8, 0.6, 0, -0.6, 0.8, 0]),
        "RTDOSE: oblique or tilted",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BROKEN.values(), ids=BROKEN)
def test_a_dose_that_is_not_clear_is_refused(folder, edit, message):
    write_patient(folder)
    change(folder / "rd", edit)
    assert reason(folder).startswith(message)


@pytest.mark.parametrize(("name", "kind"), [("rs", "RTSTRUCT"), ("rd", "RTDOSE")])
def test_a_missing_file_is_named(folder, name, kind):
    write_patient(folder)
    (folder / name).unlink()
    assert reason(folder) == f"no {kind}; expected CT, RTSTRUCT, RTDOSE"


# Prescriptions


def test_the_prescription_is_that_of_the_plan_unless_it_is_set(folder):
    write_patient(folder, prescription_gy=74.0)
    assert read(folder).facts == {"prescription_gy": 74.0}
    assert read(folder, prescription_gy=70.0).facts == {"prescription_gy": 70.0}
    (folder / "rp").unlink()
    assert read(folder).facts == {}


def test_the_prescription_is_the_highest_of_the_targets():
    plan, items = pydicom.Dataset(), []
    for kind, dose in (("TARGET", 56), ("TARGET", 60.5), ("ORGAN_AT_RISK", 70), ("TARGET", None)):
        items.append(pydicom.Dataset())
        items[-1].DoseReferenceType, items[-1].TargetPrescriptionDose = kind, dose
    plan.DoseReferenceSequence = items
    assert prescription_of([plan]) == 60.5


def test_without_a_target_the_prescription_is_the_sum_of_the_beams_over_all_fractions():
    plan, group = pydicom.Dataset(), pydicom.Dataset()
    group.NumberOfFractionsPlanned, beams = 20, []
    for dose in (1.2, 1.0, None):
        beams.append(pydicom.Dataset())
        beams[-1].BeamDose = dose
    group.ReferencedBeamSequence = beams
    plan.FractionGroupSequence = [group, copy.deepcopy(group)]
    assert prescription_of([plan]) == pytest.approx(2 * 20 * 2.2)
    plan.FractionGroupSequence = []
    assert prescription_of([plan]) is None


def test_of_several_plans_the_one_of_the_dose_counts(folder):
    write_patient(folder)
    (folder / "other").write_bytes((folder / "rp").read_bytes())

    def edit(ds):
        ds.SOPInstanceUID = HEADER.uid("another plan")
        ds.DoseReferenceSequence[0].TargetPrescriptionDose = 20

    change(folder / "other", edit)
    assert read(folder).facts == {"prescription_gy": 60.0}
    (folder / "rp").unlink()
    assert reason(folder).startswith("RTPLAN: 1 found, 0 of which RTDOSE refers to; expected one")
    assert read(folder, prescription_gy=60.0).facts == {"prescription_gy": 60.0}


def test_of_several_structure_sets_the_one_of_the_plan_is_read(folder):
    write_patient(folder)
    expected = read(folder)
    (folder / "draft").write_bytes((folder / "rs").read_bytes())

    def edit(ds):
        ds.SOPInstanceUID = HEADER.uid("draft")
        ds.ROIContourSequence = []

    change(folder / "draft", edit)
    np.testing.assert_array_equal(read(folder).masks["PTV"], expected.masks["PTV"])
    # Also where the settings give the prescription, and the plan is not needed for it.
    np.testing.assert_array_equal(read(folder, prescription_gy=60.0).masks["PTV"], expected.masks["PTV"])
    plan = (folder / "rp").read_bytes()

    def points_elsewhere(ds):
        ds.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = HEADER.uid("a third one")

    change(folder / "rp", points_elsewhere)
    assert reason(folder) == "RTSTRUCT: 2 structure sets and the RTPLAN refers to none of them; keep one"
    (folder / "rp").write_bytes(plan)
    (folder / "rp").unlink()
    assert reason(folder) == "RTSTRUCT: 2 structure sets and no RTPLAN says which one is meant; keep one"


@needs_test_data
def test_a_real_plan_prescribes_14_gy_with_four_beams():
    plan = pydicom.dcmread(TEST_DATA / "dicom-rt" / "rtplan.dcm")
    assert prescription_of([plan]) == 14.0
    assert plan_beams(plan) == [1, 2, 3, 4]
    del plan.DoseReferenceSequence
    assert prescription_of([plan]) == pytest.approx(7 * 4 * 0.5)
