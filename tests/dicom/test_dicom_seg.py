"""DICOM SEG, written by highdicom, beside an RTSTRUCT or instead of one: read to the voxel, or refused by name."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept

from ctan.dicom.writers import write_ct_series
from tests.helpers.dicom import (
    HEADER,
    KEY,
    ORIGIN,
    SHAPE,
    SPACING,
    anatomy,
    change,
    places,
    read,
    reason,
    slices_of,
    write_patient,
)

ORGAN = CodedConcept("123037004", "SCT", "Anatomical Structure")
NAMES = ("Prostate", "Bladder", "PTV", "Couch")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture
def patient(tmp_path):
    """A patient without contours; `rs` is kept beside."""
    folder = tmp_path / "patients" / "folder-1"
    write_patient(folder)
    (folder / "rs").rename(tmp_path / "rs")
    return folder


def segments():
    """Return (slice, row, column) of each structure: z from inferior to superior."""
    _, y, x = places()
    number = np.arange(SHAPE[0])[:, None, None]
    ball = np.hypot(x + 5, y + 1)
    return {
        "Prostate": (ball <= 9) & (number >= 2) & (number <= 5),
        "Bladder": (x > -18) & (x < -9) & (y > -18) & (y < -12) & (number >= 5),
        "PTV": (ball <= 12) & (number >= 1) & (number <= 6),
        "Couch": (x > 10) & (y > 10),
    }


def write_seg(path, folder, masks, kind="BINARY", **options):
    """Write segments with highdicom on the CT of a folder."""
    images = [pydicom.dcmread(one) for one in slices_of(folder)]
    array = np.stack([masks[name] for name in masks], axis=-1)
    described = [
        hd.seg.SegmentDescription(
            number,
            name,
            ORGAN,
            ORGAN,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    if kind == "LABELMAP":
        array = sum(
            (array[..., index] * (index + 1)).astype(np.uint8) * ~array[..., :index].any(axis=-1)
            for index in range(array.shape[-1])
        ).astype(np.uint8)
    elif kind == "FRACTIONAL":
        array = array.astype(np.float32) * 0.75
    written = hd.seg.Segmentation(
        source_images=images,
        pixel_array=array if array.dtype != bool else array.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    written.save_as(path)


def in_case_axes(mask):
    return np.transpose(mask[::-1], (1, 2, 0))


@pytest.mark.parametrize("options", [{}, {"omit_empty_frames": False}], ids=["omitted", "whole"])
def test_segments_are_read_to_the_voxel_whether_empty_frames_are_there_or_not(patient, options):
    masks = segments()
    write_seg(patient / "seg", patient, masks, **options)
    case = read(patient)
    assert {name for name in case.masks if name in NAMES} == {"Prostate", "Bladder", "PTV"}
    for name in ("Prostate", "Bladder", "PTV"):
        np.testing.assert_array_equal(case.masks[name], in_case_axes(masks[name]))
        assert case.masks[name].sum() * np.prod(case.spacing_mm) == masks[name].sum() * 12.0  # mm3
    assert not case.covered  # there is no contour: whole voxels are all that is known
    assert case.levels_gy == {"PTV": 60.0}


def test_slices_between_others_that_have_no_frame_are_empty_and_remarked(patient):
    masks = segments()
    masks["Prostate"] = masks["Prostate"] & (np.arange(SHAPE[0])[:, None, None] != 3)
    write_seg(patient / "seg", patient, masks)
    case = read(patient)
    np.testing.assert_array_equal(case.masks["Prostate"], in_case_axes(masks["Prostate"]))
    assert [text for text in case.remarks if "empty in 1 slices between others" in text and "Prostate" in text]


def test_a_label_map_is_read(patient):
    masks = segments()
    masks = {"Prostate": masks["Prostate"], "PTV": masks["PTV"] & ~masks["Prostate"]}
    write_seg(patient / "seg", patient, masks, "LABELMAP")
    case = read(patient)
    for name, mask in masks.items():
        np.testing.assert_array_equal(case.masks[name], in_case_axes(mask))


def test_shares_and_probabilities_are_refused_by_name(patient):
    write_seg(patient / "seg", patient, segments(), "FRACTIONAL", fractional_type="PROBABILITY")
    assert "SegmentationType FRACTIONAL" in reason(patient)


def test_beside_an_rtstruct_it_adds_what_is_missing_there_and_contours_count(patient, tmp_path):
    (tmp_path / "rs").rename(patient / "rs")
    _, y, x = places()
    masks = segments()
    masks["Rectum"] = (np.hypot(x + 5, y - 14) <= 5) & (np.arange(SHAPE[0])[:, None, None] >= 2)
    masks["Prostate"] = np.roll(masks["Prostate"], 2, axis=2)
    write_seg(patient / "seg", patient, masks)
    case = read(patient)
    np.testing.assert_array_equal(case.masks["Rectum"], in_case_axes(masks["Rectum"]))
    assert set(case.covered) == {"Prostate", "Bladder", "PTV"}
    assert not np.array_equal(case.masks["Prostate"], in_case_axes(masks["Prostate"]))
    assert "SEG: Bladder, PTV, Prostate are also in the RTSTRUCT, which counts" in case.remarks


def test_two_segmentations_of_one_structure_are_refused(patient):
    masks = segments()
    write_seg(patient / "seg", patient, {"PTV": masks["PTV"], "Prostate": masks["Prostate"]})
    write_seg(patient / "seg2", patient, {"Prostate": masks["Prostate"]})
    assert "SEG: Prostate is in two segmentations" in reason(patient)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda seg: _move(seg, (0.5, 0, 0)), "0.50 mm beside the voxels of the CT"),
        (lambda seg: _move(seg, (0, 200, 0)), "beyond the CT"),
        (lambda seg: _measures(seg, [2.0, 2.2]), "pixels of 2.2 x 2 mm, the CT has 2 x 2"),
        (lambda seg: _turn(seg), "run in other directions"),
        (lambda seg: setattr(seg.SegmentSequence[1], "SegmentNumber", 1), "two segments have one number"),
        (
            lambda seg: setattr(seg.SegmentSequence[1], "SegmentLabel", "prostate"),
            "SEG: segments 1, 2 all match Prostate",
        ),
        (lambda seg: setattr(seg, "FrameOfReferenceUID", "2.25.9"), "another frame of reference"),
        (lambda seg: seg.PerFrameFunctionalGroupsSequence.pop(), "descriptions of frames"),
        (lambda seg: setattr(seg, "PixelData", seg.PixelData[:-40]), "bytes of pixel data"),
    ],
)
def test_what_does_not_lie_on_the_ct_or_contradicts_itself_is_refused(patient, edit, said):
    write_seg(patient / "seg", patient, segments())
    change(patient / "seg", edit)
    assert said in reason(patient)


def _move(seg, by):
    for frame in seg.PerFrameFunctionalGroupsSequence:
        item = frame.PlanePositionSequence[0]
        item.ImagePositionPatient = [float(a) + b for a, b in zip(item.ImagePositionPatient, by, strict=True)]


def _measures(seg, spacing):
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = spacing


def _turn(seg):
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]


def test_labels_of_segments_pass_the_door_as_structures_only(patient):
    masks = segments()
    write_seg(patient / "seg", patient, {**masks, f"{HEADER.patient_id} couch": masks["Couch"]})
    case = read(patient)
    assert HEADER.patient_id not in repr(case)


def test_of_two_series_the_one_is_read_that_the_segmentation_was_made_on(patient):
    write_seg(patient / "seg", patient, segments())
    other = patient / "other"
    write_ct_series(other, np.roll(anatomy(), 3, axis=1), SPACING, ORIGIN, patient=HEADER, series="other")
    assert read(patient).masks["PTV"].sum() == segments()["PTV"].sum()
