"""CT series and structure sets: order, gaps, positions, padding, truncation, ROI names, checked against geometry."""

import io
import math

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctan.dicom.complete import check_complete
from ctan.dicom.series import volume_of
from ctan.dicom.writers import write_ct_series
from ctan.errors import DataError
from tests.helpers.dicom import (
    CENTRE,
    CONTOURS,
    HEADER,
    ORIGIN,
    SHAPE,
    SLICES_Z,
    SPACING,
    TEST_DATA,
    anatomy,
    box,
    change,
    needs_test_data,
    places,
    read,
    reason,
    slices_of,
    to_case_axes,
    write_patient,
)


def expected_ct():
    return to_case_axes(np.clip(anatomy().astype(int) + 1024, 0, 4095))


# CT series


def test_a_patient_is_read_in_the_axes_posterior_left_inferior(folder):
    write_patient(folder)
    case = read(folder)
    np.testing.assert_array_equal(case.images["ct"], expected_ct())
    assert case.images["ct"].dtype == np.uint16
    assert case.spacing_mm == (SPACING[1], SPACING[2], SPACING[0])
    assert list(case.masks) == ["Prostate", "Bladder", "PTV", "possible_dose_mask", "dose_known"]
    rows, columns, slices = np.nonzero(case.masks["Bladder"])  # anterior, right, superior
    assert rows.max() < 15
    assert columns.max() < 18
    assert slices.max() <= 2


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_the_position_of_the_patient_does_not_change_the_case(folder, position):
    write_patient(folder, position=position)
    case = read(folder)
    np.testing.assert_array_equal(case.images["ct"], expected_ct())
    other = folder.parent.parent / "other" / "patient"
    write_patient(other)
    expected = read(other)
    np.testing.assert_allclose(case.doses["dose"], expected.doses["dose"], atol=1e-4)
    for name, mask in expected.masks.items():
        np.testing.assert_array_equal(case.masks[name], mask, err_msg=name)


def test_file_names_and_folders_do_not_matter(folder):
    write_patient(folder)
    expected = read(folder)
    paths = sorted(path for path in folder.iterdir())
    for number, path in enumerate(paths):
        target = folder / f"study {number % 3}" / f"{(number * 7) % len(paths)}.jpg"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("re-planned")
    (folder / "DICOMDIR").unlink()
    found = read(folder)
    np.testing.assert_array_equal(found.images["ct"], expected.images["ct"])
    assert found.sha256 == expected.sha256
    assert found.case_id == expected.case_id


def test_a_dicomdir_and_files_that_are_not_dicom_are_skipped(folder):
    from pydicom.fileset import FileSet

    write_patient(folder)
    expected = read(folder)
    directory = FileSet()
    directory.add(slices_of(folder)[0])
    directory.write(folder.parent.parent / "media")
    (folder / "DICOMDIR").write_bytes((folder.parent.parent / "media" / "DICOMDIR").read_bytes())
    (folder / "report.pdf").write_bytes(b"%PDF-1.4" + bytes(500))
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "noise").write_bytes(b"\x08\x00" + np.random.default_rng(0).bytes(2000))
    assert read(folder).sha256 == expected.sha256


def test_files_without_preamble_and_meta_information_are_read(folder):
    write_patient(folder)
    expected = read(folder)
    for path in slices_of(folder):
        dataset = pydicom.dcmread(path)
        dataset.file_meta, buffer = pydicom.dataset.FileMetaDataset(), io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
        path.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read(folder).images["ct"], expected.images["ct"])


def test_a_missing_slice_is_named_by_the_gap_in_mm(folder):
    write_patient(folder)
    slices_of(folder)[4].unlink()
    assert reason(folder).startswith("CT: slices are missing or uneven, 3.00 mm apart but 6.00 mm after -91.00")


def test_the_same_image_twice_is_read_once(folder):
    write_patient(folder)
    (folder / "again").mkdir()
    (folder / "again" / "copy.dcm").write_bytes(slices_of(folder)[3].read_bytes())
    np.testing.assert_array_equal(read(folder).images["ct"], expected_ct())


def test_two_images_at_one_place_are_refused(folder):
    write_patient(folder)
    copy = folder / "again.dcm"
    copy.write_bytes(slices_of(folder)[3].read_bytes())
    change(copy, lambda ds: setattr(ds, "SOPInstanceUID", HEADER.uid("again")))
    assert reason(folder).startswith("CT: two different slices at -91.00 mm along the slice axis, and RTSTRUCT does")


def test_of_two_series_the_one_of_the_structure_set_is_read(folder):
    write_patient(folder)
    write_ct_series(folder / "late", anatomy() + 50, SPACING, ORIGIN, patient=HEADER, series="late")
    np.testing.assert_array_equal(read(folder).images["ct"], expected_ct())


def test_two_series_and_no_reference_are_refused(folder):
    write_patient(folder)
    write_ct_series(folder / "late", anatomy()[:5], SPACING, ORIGIN, patient=HEADER, series="late")
    change(folder / "rs", lambda ds: delattr(ds, "ReferencedFrameOfReferenceSequence"))
    found = reason(folder)
    assert found.startswith("CT: 2 series (")
    assert "RTSTRUCT does not say which one it was drawn on" in found


def test_a_structure_set_of_another_series_is_refused(folder):
    write_patient(folder)
    for path in slices_of(folder):
        path.unlink()
    write_ct_series(folder, anatomy(), SPACING, ORIGIN, patient=HEADER, series="late")
    assert reason(folder) == (
        "RTSTRUCT refers to another CT series than the 1 found (8 slices); export the planning CT"
    )


def test_slope_and_intercept_are_those_of_each_slice(folder):
    write_patient(folder, ct={"rescale": [(1, -1024), (2, -1000), (1, 0), (1, -500)] * 2})
    difference = read(folder).images["ct"].astype(int) - expected_ct()
    assert np.abs(difference).max() == 1  # a slope of 2 rounds
    assert not difference[..., [0, 1, 3, 4, 5, 7]].any()


@pytest.mark.parametrize("unsigned", [False, True])
def test_padding_becomes_air(folder, unsigned):
    corner = np.zeros(SHAPE, bool)
    corner[:, :4, :4] = True
    write_patient(folder, ct={"padding": corner, "padding_value": -500, "rescale": [(1, 1000)]})
    if unsigned:  # many scanners write the value of signed pixels as unsigned
        for path in slices_of(folder):
            change(path, lambda ds: ds.add_new("PixelPaddingValue", "US", 65536 - 500))
    ct = read(folder).images["ct"]
    assert (ct[to_case_axes(corner)] == 0).all()
    np.testing.assert_array_equal(ct[~to_case_axes(corner)], expected_ct()[~to_case_axes(corner)])


def test_an_oblique_series_is_refused(folder):
    write_patient(folder, ct={"tilt_degrees": 8.0})
    assert reason(folder).startswith("CT: oblique or tilted, ImageOrientationPatient is 1, 0, 0, 0, 0.9903, 0.1392")


def test_slices_shifted_by_a_tilted_gantry_are_refused(folder):
    write_patient(folder)
    for number, path in enumerate(slices_of(folder)):

        def shift(ds, number=number):
            x, y, z = ds.ImagePositionPatient
            ds.ImagePositionPatient = [x, y + 0.5 * number, z]

        change(path, shift)
    assert reason(folder).startswith("CT: slices are shifted against each other (gantry tilt)")


def test_slices_of_two_sizes_are_refused(folder):
    write_patient(folder)

    def crop(ds):
        ds.PixelData = ds.pixel_array[:20].tobytes()
        ds.Rows = 20

    change(slices_of(folder)[2], crop)
    assert reason(folder) == "CT: slices differ in size, Rows 20, 30; keep one series"


def test_two_frames_of_reference_in_one_series_are_refused(folder):
    write_patient(folder)
    change(slices_of(folder)[0], lambda ds: setattr(ds, "FrameOfReferenceUID", HEADER.uid("other")))
    assert reason(folder) == "CT: expected one frame of reference, found 2"


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "RescaleSlope", "ImageOrientationPatient"])
def test_a_slice_without_its_geometry_is_refused(folder, keyword):
    write_patient(folder)
    change(slices_of(folder)[0], lambda ds: delattr(ds, keyword))
    assert f"in {keyword}, it is missing" in reason(folder)


def test_scouts_are_left_out(folder):
    write_patient(folder)
    scout = folder / "scout.dcm"
    scout.write_bytes(slices_of(folder)[0].read_bytes())

    def make_scout(ds):
        ds.ImageType, ds.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], HEADER.uid("scout")
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    change(scout, make_scout)
    np.testing.assert_array_equal(read(folder).images["ct"], expected_ct())


# Truncated files


@pytest.mark.parametrize("which", ["ct", "rs", "rd", "rp"])
@pytest.mark.parametrize("share", [0.35, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused_and_counted_in_the_folder(folder, which, share):
    write_patient(folder)
    path = slices_of(folder)[0] if which == "ct" else folder / which
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    kind = {"ct": "CT", "rs": "RTSTRUCT", "rd": "RTDOSE", "rp": "RTPLAN"}[which]
    found = reason(folder)
    assert found.startswith(f"{kind} file (number ")
    assert "of 11 DICOM files of the patient, in order of path): truncated, " in found


def test_a_file_that_ends_in_its_header_is_refused(folder):
    write_patient(folder)
    path = slices_of(folder)[0]
    path.write_bytes(path.read_bytes()[:140])
    assert "the header cannot be read; the file is damaged" in reason(folder)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("undefined", [True, False])
def test_every_cut_through_a_file_is_noticed_unless_it_falls_between_elements(folder, implicit, undefined):
    write_patient(folder)
    dataset = pydicom.dcmread(folder / "rs")
    for keyword in ("ReferencedFrameOfReferenceSequence", "StructureSetROISequence", "ROIContourSequence"):
        dataset[keyword].is_undefined_length = undefined
        for item in dataset[keyword].value:
            item.is_undefined_length_sequence_item = undefined
    del dataset.RTROIObservationsSequence
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=True)
    content = buffer.getvalue()
    check_complete(content)
    start = content.rindex(b"\x06\x30\x39\x00")  # of the last element, the contours
    for size in range(start + 1, len(content), 97):
        with pytest.raises(DataError, match="truncated"):
            check_complete(content[:size])


# Structure sets


def test_contours_have_their_place_and_volume_in_a_case(folder):
    write_patient(folder)
    case = read(folder)
    volume = case.masks["Bladder"].sum() * math.prod(SPACING)
    assert volume == 3 * 3 * 10 * 6
    _, y, x = places()
    inside = (x - CENTRE[0]) ** 2 + (y - CENTRE[1]) ** 2
    sure = to_case_axes((inside < 7.5**2) | (inside > 10.5**2))[..., 2:6]
    np.testing.assert_array_equal(case.masks["Prostate"][..., 2:6][sure], to_case_axes(inside < 81)[..., 2:6][sure])


def test_points_and_empty_rois_are_not_contoured(folder):
    contours = {**CONTOURS, "Rectum": [], "Bladder": [np.array([[0.0, 0.0, SLICES_Z[3]]])], "Penile Bulb": []}
    contours["Prostate"] = [*CONTOURS["Prostate"], np.array([[20.0, 0.0, SLICES_Z[3]]])]
    write_patient(folder, contours=contours)
    case = read(folder)
    assert set(case.masks) == {"Prostate", "PTV", "possible_dose_mask", "dose_known"}
    other = folder.parent.parent / "other" / "p"
    write_patient(other)
    np.testing.assert_array_equal(case.masks["Prostate"], read(other).masks["Prostate"])


def test_names_match_whole_in_any_case_and_unknown_ones_are_left_out(folder):
    contours = {
        "  PROSTATA ": CONTOURS["Prostate"],
        "ptv_78": CONTOURS["PTV"],
        "Not the Prostate": CONTOURS["PTV"],
        "zzBladder": CONTOURS["Bladder"],
    }
    write_patient(folder, contours=contours)
    assert set(read(folder).masks) == {"Prostate", "PTV", "possible_dose_mask", "dose_known"}


def test_two_rois_of_one_structure_are_refused_by_number(folder):
    write_patient(folder, contours={**CONTOURS, "PROSTATA": CONTOURS["PTV"]})
    assert reason(folder) == (
        "RTSTRUCT: ROIs 1, 4 all match Prostate; make the expressions of data.options.structures narrower"
    )


def test_a_second_roi_without_contours_does_not_matter(folder):
    write_patient(folder, contours={**CONTOURS, "PROSTATA": []})
    assert read(folder).masks["Prostate"].any()


def test_a_name_of_two_structures_is_refused_by_number(folder):
    write_patient(folder)
    settings = {"structures": {"Prostate": ["pro.*"], "Gland": [".*state"], "PTV": ["ptv"]}, "mirrored_pairs": []}
    assert reason(folder, **settings) == (
        "RTSTRUCT: ROI 1 has a name that matches Prostate and Gland; "
        "make the expressions of data.options.structures narrower"
    )


def test_a_structure_set_without_any_known_name_is_refused(folder):
    write_patient(folder, contours={"Herr Mueller": CONTOURS["PTV"]})
    found = reason(folder)
    assert found.startswith("RTSTRUCT: none of its 1 ROIs is a contoured structure of data.options.structures")
    assert "Mueller" not in found


def test_contours_in_another_frame_of_reference_are_refused(folder):
    write_patient(folder)
    change(folder / "rs", lambda ds: setattr(ds.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.3"))
    assert reason(folder) == "RTSTRUCT: ROI 1 (Prostate) is in another frame of reference than the CT"


def test_the_body_is_the_contour_or_else_what_the_ct_shows(folder):
    write_patient(folder)
    from_ct = read(folder).masks["possible_dose_mask"]
    write_patient(folder, contours={**CONTOURS, "External": [box(z, (-20, 10), (-15, 11)) for z in SLICES_Z]})
    from_contour = read(folder).masks["possible_dose_mask"]
    _, y, x = places()
    np.testing.assert_array_equal(
        from_contour.any(axis=2), to_case_axes((x >= -20) & (x < 10) & (y >= -15) & (y <= 11))[..., 0]
    )
    assert from_contour.sum() < from_ct.sum()


def test_the_body_in_a_ct_has_no_holes_and_no_couch():
    from ctan.dicom.patient import body_of

    hounsfield = np.full((30, 40, 6), -1000.0)
    hounsfield[5:20, 8:32] = 20
    hounsfield[10:14, 15:20] = -900  # gas
    hounsfield[25:27, 2:38] = 100  # couch
    body = body_of(hounsfield)
    expected = np.zeros((30, 40, 6), bool)
    expected[5:20, 8:32] = True
    np.testing.assert_array_equal(body, expected)


# Real files


@needs_test_data
def test_a_real_compressed_series_is_the_volume_that_itk_reads():
    paths = sorted((TEST_DATA / "ct" / "dicom-series").iterdir())
    slices = [pydicom.dcmread(path) for path in np.random.default_rng(0).permutation(paths)]
    ct = volume_of(slices, pydicom.Dataset())
    names = [str(path) for path in sorted(paths, key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))]
    expected = sitk.ReadImage(names, sitk.sitkFloat32)
    assert ct.image.GetSize() == expected.GetSize()
    np.testing.assert_allclose(ct.image.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(ct.image.GetSpacing(), expected.GetSpacing(), atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(ct.image), sitk.GetArrayViewFromImage(expected))


@needs_test_data
def test_a_real_file_is_complete_and_notices_every_cut():
    content = (TEST_DATA / "dicom-rt" / "rtss.dcm").read_bytes()
    check_complete(content)
    for size in (len(content) - 1, len(content) - 1000, len(content) // 2, 30_000):
        with pytest.raises(DataError, match="truncated"):
            check_complete(content[:size])


def second_acquisition(folder, number, shift_mm=0.0, keep=range(99)):
    """Add another acquisition of the same series, brighter by 100 HU."""
    for index, path in enumerate(slices_of(folder)):
        ds = pydicom.dcmread(path)
        ds.AcquisitionNumber = 1
        ds.save_as(path)
        if index not in keep:
            continue
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = HEADER.uid(f"second {index}")
        ds.RescaleIntercept = float(ds.RescaleIntercept) + 100
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient, ds.AcquisitionNumber = [x, y, z + shift_mm], number
        ds.save_as(folder / f"second {index}.dcm")


@pytest.mark.parametrize(("number", "shift_mm"), [(1, 0.0), (2, 0.0), (2, 1.5)])
def test_of_two_acquisitions_in_one_series_the_one_that_the_contours_name_is_read(folder, number, shift_mm):
    """Refused where slices lay at one place, and two mixed to one of half the spacing where they lay between."""
    write_patient(folder)
    expected = read(folder).images["ct"]
    second_acquisition(folder, number, shift_mm)
    np.testing.assert_array_equal(read(folder).images["ct"], expected)

    def names_nothing(ds):
        series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        series.ContourImageSequence = []
        for roi in ds.ROIContourSequence:
            for contour in roi.ContourSequence:
                contour.ContourImageSequence = []

    change(folder / "rs", names_nothing)
    found = reason(folder)
    assert ("2 acquisitions in one series (8, 8 slices), and RTSTRUCT names images of 0" in found) == (number == 2)
    assert ("two different slices at" in found) == (number == 1)


def test_slices_that_are_an_acquisition_each_are_one_volume(folder):
    write_patient(folder)
    expected = read(folder).images["ct"]
    for index, path in enumerate(slices_of(folder)):
        change(path, lambda ds, index=index: setattr(ds, "AcquisitionNumber", index + 1))
    np.testing.assert_array_equal(read(folder).images["ct"], expected)
