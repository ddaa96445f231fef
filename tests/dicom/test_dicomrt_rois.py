"""Structure sets that are unusual or wrong: each is read right, with a remark, or refused by number and place."""

import copy

import numpy as np
import pydicom
import pytest

from ctan.dicom.settings import DicomConfig
from tests.helpers.dicom import (
    CENTRE,
    CONTOURS,
    HEADER,
    SLICES_Z,
    box,
    change,
    circle,
    read,
    reason,
    write_patient,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*VR CS")  # of pydicom, about the types written here


@pytest.fixture
def expected(tmp_path):
    """The patient as it should be read."""
    path = tmp_path / "expected" / "patient"
    write_patient(path)
    return read(path)


def roi(ds, number=1):
    return next(item for item in ds.ROIContourSequence if item.ReferencedROINumber == number)


def typed(kind, which=slice(0, 1), number=1):
    """Return a change of the type of some contours of an ROI; None removes it."""

    def edit(ds):
        for item in roi(ds, number).ContourSequence[which]:
            if kind is None:
                del item.ContourGeometricType
            else:
                item.ContourGeometricType = kind

    return edit


def same(found, expected):
    assert found.masks.keys() == expected.masks.keys()
    for name, mask in expected.masks.items():
        np.testing.assert_array_equal(found.masks[name], mask, err_msg=name)


def test_a_patient_as_it_should_be_has_no_remarks(expected):
    assert expected.remarks == ()


# Numbers and items


def test_two_rois_of_one_number_are_refused(folder):
    """The bladder's contours became the prostate: 809 to 186 voxels."""
    write_patient(folder)
    change(folder / "rs", lambda ds: setattr(ds.StructureSetROISequence[1], "ROINumber", 1))
    assert reason(folder) == (
        "RTSTRUCT: 2 ROIs have the number 1 (Prostate, Bladder); their contours cannot be told apart: export it again "
        "with a number each"
    )


def test_two_unknown_rois_of_one_number_do_not_matter(folder, expected):
    write_patient(folder, contours={**CONTOURS, "Couch": [], "Wire": []})
    change(folder / "rs", lambda ds: setattr(ds.StructureSetROISequence[3], "ROINumber", 5))
    same(read(folder), expected)


def test_contours_of_one_roi_in_two_items_are_joined(folder, expected):
    """The first item was lost, half of the structure with it."""

    def split(ds):
        second = copy.deepcopy(roi(ds))
        second.ContourSequence = second.ContourSequence[2:]
        roi(ds).ContourSequence = roi(ds).ContourSequence[:2]
        ds.ROIContourSequence.append(second)

    write_patient(folder)
    change(folder / "rs", split)
    found = read(folder)
    same(found, expected)
    assert found.remarks == ("RTSTRUCT: the contours of ROI 1 (Prostate) are in 2 items, joined",)


def test_contours_of_an_roi_that_is_not_listed_are_refused(folder):
    """The structure vanished without a word."""
    write_patient(folder)
    change(folder / "rs", lambda ds: setattr(roi(ds, 2), "ReferencedROINumber", 9))
    assert reason(folder) == (
        "RTSTRUCT: 3 contours are of ROI 9, which StructureSetROISequence does not list; what they outline is not "
        "known: export it again"
    )


@pytest.mark.parametrize("number", [[1, 2], "", None])
@pytest.mark.parametrize(
    ("keyword", "sequence"),
    [("ROINumber", "StructureSetROISequence"), ("ReferencedROINumber", "ROIContourSequence")],
)
def test_an_roi_has_one_number(folder, number, keyword, sequence):
    def edit(ds):
        item = ds[sequence].value[1]
        if number is None:
            delattr(item, keyword)
        else:
            setattr(item, keyword, number)

    write_patient(folder)
    change(folder / "rs", edit)
    assert f"expected one whole number in {keyword}" in reason(folder)


# Contours


def test_a_contour_that_is_there_twice_counts_once(folder, expected):
    write_patient(folder, contours={**CONTOURS, "Prostate": [*CONTOURS["Prostate"], CONTOURS["Prostate"][1]]})
    found = read(folder)
    same(found, expected)
    assert found.remarks == (
        "RTSTRUCT: ROI 1 (Prostate): 1 contours are there twice, read once (at -91.00 mm along the slice axis)",
    )


@pytest.mark.parametrize(
    ("kind", "remark"),
    [
        ("closed_planar", None),
        ("Closed_Planar ", None),
        ("INTERPOLATED_PLANAR", None),
        (None, "RTSTRUCT: ROI 1 (Prostate): 1 contours without a type are read as closed"),
        ("", "RTSTRUCT: ROI 1 (Prostate): 1 contours without a type are read as closed"),
    ],
)
def test_contours_are_closed_whatever_the_type_is_called(folder, expected, kind, remark):
    """Their slice was lost without a word."""
    write_patient(folder)
    change(folder / "rs", typed(kind))
    found = read(folder)
    same(found, expected)
    assert found.remarks == (() if remark is None else (remark,))


@pytest.mark.parametrize(
    ("kind", "named"),
    [("OPEN_PLANAR", "OPEN_PLANAR"), ("OPEN_NONPLANAR", "OPEN_NONPLANAR"), ("CLOSED_BY MILLER", "OTHER")],
)
def test_contours_that_are_not_closed_are_refused(folder, kind, named):
    write_patient(folder)
    change(folder / "rs", typed(kind, slice(1, 2)))
    assert reason(folder) == (
        f"RTSTRUCT: ROI 1 (Prostate): a contour around x {CENTRE[0]:.1f}, y {CENTRE[1]:.1f}, z {SLICES_Z[3]:.1f} mm "
        f"has the type {named}, expected CLOSED_PLANAR; close it in the planning system"
    )


def test_open_contours_of_structures_that_are_not_asked_for_do_not_matter(folder, expected):
    write_patient(folder, contours={**CONTOURS, "Wire": CONTOURS["Prostate"]})
    change(folder / "rs", typed("OPEN_PLANAR", slice(None), 4))
    same(read(folder), expected)


def test_an_open_contour_that_ends_where_it_began_is_closed(folder, expected):
    closed = [np.concatenate([points, points[:1]]) for points in CONTOURS["Prostate"]]
    write_patient(folder, contours={**CONTOURS, "Prostate": closed})
    change(folder / "rs", typed("OPEN_PLANAR", slice(None)))
    found = read(folder)
    same(found, expected)
    assert found.remarks == ("RTSTRUCT: ROI 1 (Prostate): 4 open contours end where they began and are read as closed",)


def test_exclusive_contours_are_combined_as_they_say(folder, expected):
    hole = [circle(z, 4.0) for z in SLICES_Z[2:6]]
    write_patient(folder, contours={**CONTOURS, "Prostate": [*CONTOURS["Prostate"], *hole]})
    change(folder / "rs", typed("CLOSEDPLANAR_XOR", slice(None)))
    found = read(folder)
    assert 0 < found.masks["Prostate"].sum() < expected.masks["Prostate"].sum()
    change(folder / "rs", typed("CLOSED_PLANAR"))
    assert reason(folder) == (
        "RTSTRUCT: ROI 1 (Prostate): 7 of 8 contours have the type CLOSEDPLANAR_XOR, expected all or none; "
        "export it again"
    )


def test_contours_that_overlap_are_one_structure_with_a_remark(folder, expected):
    extra = [circle(z, 9.0, (CENTRE[0] + 6, CENTRE[1])) for z in SLICES_Z[2:6]]
    write_patient(folder, contours={**CONTOURS, "Prostate": [*CONTOURS["Prostate"], *extra]})
    found = read(folder)
    assert (found.masks["Prostate"] >= expected.masks["Prostate"]).all()
    assert "RTSTRUCT: ROI 1 (Prostate): contours that overlap each other are read as their union" in found.remarks[0]


def test_lines_are_left_out_with_a_remark_and_loops_are_refused(folder, expected):
    line = np.array([[0.0, 0, SLICES_Z[3]], [5, 5, SLICES_Z[3]], [10, 10, SLICES_Z[3]]])
    write_patient(folder, contours={**CONTOURS, "Prostate": [*CONTOURS["Prostate"], line]})
    found = read(folder)
    same(found, expected)
    assert found.remarks == (
        "RTSTRUCT: ROI 1 (Prostate): 1 contours enclose no area and are left out (at -91.00 mm along the slice axis)",
    )
    twice = [np.concatenate([points, points]) for points in CONTOURS["Prostate"]]
    write_patient(folder, contours={**CONTOURS, "Prostate": twice})
    assert reason(folder) == (
        "RTSTRUCT: ROI 1 (Prostate): a contour runs around itself twice (at -94.00 mm along the slice axis); "
        "draw it again"
    )


def test_a_structure_of_lines_only_is_not_contoured(folder):
    line = np.array([[0.0, 0, SLICES_Z[3]], [5, 5, SLICES_Z[3]], [10, 10, SLICES_Z[3]]])
    write_patient(folder, contours={**CONTOURS, "Bladder": [line]})
    assert "Bladder" not in read(folder).masks
    write_patient(folder, contours={**CONTOURS, "PTV": [line]})
    assert reason(folder) == "RTSTRUCT: ROI 3 (PTV): a target without an area; contour it, or take its ROI out"


@pytest.mark.parametrize("shift", [(500, 0, 0), (0, -35, 0)])
def test_a_contour_outside_the_image_is_refused(folder, shift):
    """It was dropped, or cut off, without a word."""
    away = CONTOURS["Prostate"][0] + np.array(shift, float)
    write_patient(folder, contours={**CONTOURS, "Prostate": [*CONTOURS["Prostate"], away]})
    assert "RTSTRUCT: ROI 1 (Prostate): a contour reaches" in reason(folder)
    assert "mm beyond the centres of the CT's outermost voxels (at -94.00 mm along the slice axis)" in reason(folder)


def test_a_body_outside_the_image_is_refused_and_one_beyond_its_edge_is_cut_off(folder):
    wide = [box(z, (-200, 200), (-15, 11)) for z in SLICES_Z]
    write_patient(folder, contours={**CONTOURS, "BODY": wide})
    assert read(folder).masks["possible_dose_mask"].any()
    write_patient(folder, contours={**CONTOURS, "BODY": [points + (900, 0, 0) for points in wide]})
    assert reason(folder) == (
        "RTSTRUCT: ROI 4 (body contour): all contours lie outside the CT; they are of another image"
    )


# Gaps


def without(name, *indices):
    kept = [points for index, points in enumerate(CONTOURS[name]) if index not in indices]
    return {**CONTOURS, name: kept}


def test_an_organ_with_an_empty_slice_is_unknown_with_a_remark(folder, expected):
    """It was 1,597 instead of 2,021 voxels, and nobody noticed."""
    write_patient(folder, contours=without("Prostate", 1))
    found = read(folder)
    assert found.masks.keys() == expected.masks.keys() - {"Prostate"}
    assert found.remarks == (
        "RTSTRUCT: ROI 1 (Prostate): no contour in 1 slices between others (at -91.00 mm along the slice axis); read "
        "as not contoured: contour them, or name it in data.options.fill_gaps to fill them by shape, or in "
        "data.options.allow_gaps if it has several parts",
    )


def test_contours_every_one_and_a_quarter_slices_leave_gaps(folder):
    bladder = [box(z, (-19, -9), (-19, -13)) for z in SLICES_Z[1] + 3.75 * np.arange(5)]
    write_patient(folder, contours={**CONTOURS, "Bladder": bladder})
    found = read(folder)
    assert "Bladder" not in found.masks
    assert "ROI 2 (Bladder): no contour in 1 slices between others" in found.remarks[0]


def test_a_target_with_an_empty_slice_is_refused(folder):
    write_patient(folder, contours=without("PTV", 2, 3))
    assert reason(folder).startswith(
        "RTSTRUCT: ROI 3 (PTV): no contour in 2 slices between others (at -91.00, -88.00 mm along the slice axis); "
        "contour them, or name it in data.options.fill_gaps"
    )


def test_gaps_may_be_meant(folder, expected):
    write_patient(folder, contours=without("PTV", 2))
    found = read(folder, allow_gaps=["PTV"])
    voxels = found.masks["PTV"].sum(axis=(0, 1))[::-1]  # from inferior to superior
    assert voxels[3] == 0
    assert voxels.sum() == expected.masks["PTV"].sum() * 5 / 6
    assert found.remarks == ()


def test_gaps_are_filled_by_shape_on_request(folder):
    radii = [9.0, 8.0, 7.0, 6.0]
    cone = [circle(z, radius) for z, radius in zip(SLICES_Z[2:6], radii, strict=True)]
    write_patient(folder, contours={**CONTOURS, "Prostate": cone})
    expected = read(folder).masks["Prostate"]
    write_patient(folder, contours={**CONTOURS, "Prostate": [cone[0], cone[3]]})
    found = read(folder, fill_gaps=["Prostate"])
    assert np.count_nonzero(found.masks["Prostate"] != expected) < 0.1 * expected.sum()
    assert found.masks["Prostate"].sum() == pytest.approx(expected.sum(), rel=0.05)  # voxels of 2 mm
    assert found.remarks == (
        "RTSTRUCT: ROI 1 (Prostate): no contour in 2 slices between others (at -91.00, -88.00 mm along the slice "
        "axis); filled by shape",
    )


def test_a_body_with_gaps_is_taken_from_the_ct(folder, expected):
    write_patient(folder, contours={**CONTOURS, "BODY": [box(z, (-20, 10), (-15, 11)) for z in SLICES_Z[::2]]})
    found = read(folder)
    same(found, expected)
    assert "the body is taken from the CT instead" in found.remarks[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allow_gaps": ["Spleen"]}, "allow_gaps: Spleen not in structures"),
        ({"fill_gaps": ["Bladder"], "allow_gaps": ["Bladder"]}, "allow_gaps and fill_gaps both name Bladder"),
    ],
)
def test_settings_about_gaps_name_structures_once(settings, message):
    with pytest.raises(ValueError, match=message):
        DicomConfig.model_validate(settings)


def test_contours_midway_between_slices_give_one_slice_each(folder, expected):
    """Coordinates rounded to 0.01 mm must not leave a slice empty and put two contours into the next."""
    noise = [0.0, -0.005, 0.005, 0.004]
    half = [points + (0, 0, 1.5 + dz) for points, dz in zip(CONTOURS["Prostate"], noise, strict=True)]
    write_patient(folder, contours={**CONTOURS, "Prostate": half})
    found = read(folder)
    assert found.masks["Prostate"].sum() == expected.masks["Prostate"].sum()
    assert found.remarks == ()


# References that contradict each other


def test_contours_away_from_the_image_that_they_name_are_refused_or_remarked(folder, expected):
    def edit(ds):
        for item in roi(ds).ContourSequence[:2]:
            item.ContourImageSequence = roi(ds).ContourSequence[3].ContourImageSequence

    write_patient(folder)
    change(folder / "rs", edit)
    sentence = (
        "RTSTRUCT: ROI 1 (Prostate): 2 of 4 contours lie up to 9.00 mm from the image that they name "
        "(at -94.00, -91.00 mm along the slice axis)"
    )
    assert reason(folder) == (
        f"{sentence}; export it again, or set data.options.contradictions to remark to trust the points"
    )
    found = read(folder, contradictions="remark")
    same(found, expected)
    assert found.remarks == (sentence,)


def test_contours_that_name_unknown_images_are_remarked(folder, expected):
    def edit(ds):
        roi(ds).ContourSequence[2].ContourImageSequence[0].ReferencedSOPInstanceUID = HEADER.uid("another image")

    write_patient(folder)
    change(folder / "rs", edit)
    found = read(folder)
    same(found, expected)
    assert found.remarks == (
        "RTSTRUCT: ROI 1 (Prostate): 1 of 4 contours name images that are not in the CT (at -88.00 mm along the slice "
        "axis)",
    )


def test_a_plan_made_on_another_structure_set_is_refused_or_remarked(folder, expected):
    def edit(ds):
        ds.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = HEADER.uid("older structures")

    write_patient(folder)
    change(folder / "rp", edit)
    assert reason(folder).startswith("RTPLAN refers to another structure set than the RTSTRUCT found; export")
    found = read(folder, contradictions="remark")
    same(found, expected)
    assert found.remarks == ("RTPLAN refers to another structure set than the RTSTRUCT found",)


# Left and right, body and CT


def test_left_and_right_exchanged_are_refused(folder):
    heads = {side: [circle(z, 4.0, (x, 0.0)) for z in SLICES_Z[2:6]] for side, x in (("R", -22.0), ("L", 12.0))}
    write_patient(folder, contours={**CONTOURS, "Fem Head R": heads["R"], "Fem Head L": heads["L"]})
    found = read(folder)
    assert {"FemoralHeadLeft", "FemoralHeadRight"} <= found.masks.keys()
    assert found.remarks == ()
    write_patient(folder, contours={**CONTOURS, "Fem Head R": heads["L"], "Fem Head L": heads["R"]})
    assert reason(folder).startswith(
        "FemoralHeadLeft lies 17 voxels to the patient's right of FemoralHeadRight; the names"
    )
    write_patient(folder, contours={**CONTOURS, "Fem Head L": heads["R"]})
    assert read(folder).remarks == ("FemoralHeadLeft lies in the patient's right half of the body; check its name",)


def test_contours_and_a_body_in_air_are_refused(folder):
    write_patient(folder, contours={**CONTOURS, "BODY": [box(z, (-39, -31), (-29, 27)) for z in SLICES_Z]})
    assert "the CT shows a body in" in reason(folder)
    write_patient(folder, contours={**CONTOURS, "Bladder": [box(z, (-39, -33), (-29, -20)) for z in SLICES_Z[5:8]]})
    assert read(folder).remarks == ("RTSTRUCT: 100% of Bladder lie in what the CT shows as air; check it",)
    write_patient(folder, contours={"Prostate": [box(z, (21, 30), (17, 27)) for z in SLICES_Z[1:7]]})
    assert reason(folder).startswith("RTSTRUCT: 100% of its structures lie in what the CT shows as air; contours and")


def test_a_structure_of_a_single_voxel_lies_in_the_body(folder):
    """Also where the body is looked for on every second voxel only."""
    for x in (-1.0, 1.0):
        write_patient(folder, contours={**CONTOURS, "Penile Bulb": [circle(SLICES_Z[3], 0.9, (x, 0.5))]})
        assert read(folder).masks["PenileBulb"].sum() == 1


def test_no_remark_and_no_reason_names_a_file_or_a_person(folder):
    write_patient(folder, contours={**without("Prostate", 1), "Herr Miller": CONTOURS["PTV"]})
    change(folder / "rs", typed(None, number=2))
    remarks = " ".join(read(folder).remarks)
    assert "ROI 2 (Bladder)" in remarks
    for secret in ("Miller", HEADER.patient_id, HEADER.patient_name, str(folder), folder.name, "2.25."):
        assert secret not in remarks
    assert pydicom.dcmread(folder / "rs").StructureSetROISequence[3].ROIName == "Herr Miller"
