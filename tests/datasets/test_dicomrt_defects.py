"""What a reader makes of patients that were spoilt on purpose (`ctan data phantom --defect NAME`)."""

import shutil

import numpy as np
import pytest

from ctan.datasets.prostate.defects import DEFECTS
from ctan.datasets.prostate.phantom import make_patient, write_patient
from ctan.errors import CaseError
from tests.helpers.dicom import KEY, dataset_of

REFUSED = {
    "missing-slice": "CT: slices are missing or uneven",
    "duplicate-slice": "CT: two different slices at",
    "oblique": "CT: oblique or tilted",
    "truncated-file": "CT file (number",
    "no-structures": "no RTSTRUCT",
    "double-roi": "all match Prostate",
    "mixed-frames": "is in another frame of reference than the CT",
    "no-dose": "no RTDOSE",
    "beam-doses": "set data.options.sum_beams to add up the beams",
    "missing-beam": "set data.options.sum_beams to add up the beams",
    "one-number": "2 ROIs have the number 1 (Prostate, Bladder)",
    "lost-roi": "contours are of ROI 99, which StructureSetROISequence does not list",
    "contour-off-image": "ROI 2 (Bladder): a contour reaches",
    "open-contour": "has the type OPEN_PLANAR, expected CLOSED_PLANAR",
    "target-gap": "(PTV): no contour in 1 slices between others",
    "other-images": "mm from the image that they name",
    "sides-exchanged": "FemoralHeadLeft lies",
    "called-unsigned": "CT: the values are not HU",
    "padding-of-water": "the padding value is 0 HU, which is tissue",
    "no-intercept": "HU between slices 19 and 20 of 38, where slope and intercept change from 1, -1024 to 1, 0",
    "longer-pixels": "bytes of pixel data, expected",
    "exchanged-rows": "Rows and Columns are exchanged",
    "eight-bits": "RTDOSE: 16 bits allocated, 8 stored",
    "offsets-negated": "of PTV lies outside the dose grid",
    "older-structures": "RTPLAN refers to another structure set",
    "air-slice": "CT: 1 slice from -639.50 mm on hold no tissue",
    "ct-bytes": "the pixels make no image, with their bytes in the other order they do",
    "dose-bytes": "RTDOSE: the pixels make no image, with their bytes in the other order they do",
    "point-away": "(Bladder): a contour is not as it was drawn (at -604.50 mm along the slice axis): one point",
    "shuffled-points": "its edges cross 15 times, its points are in no order",
    "near-copy": "(Bladder): a contour almost as large as the one around it cuts a hole (at -604.50 mm",
    "ct-spacing": "RTSTRUCT: ROI 1 (Prostate): a contour reaches 12.9 mm beyond",
    "dose-spacing": "RTDOSE: 63% of PTV lies outside the dose grid",
    "ct-moved": "the body contour and the CT's body are alike by 75%; moved about 31 mm to left by 93%",
    "dose-moved": "the hottest part of the dose covers 49% of the targets; moved about 31 mm to right",
    "dose-frames-reversed": "the hottest part of the dose covers 72% of the targets",
    "dose-rows-reversed": "the hottest part of the dose covers 44% of the targets",
    "dose-columns-reversed": "the hottest part of the dose covers 62% of the targets",
}
REMARKED = {
    "split-roi": "RTSTRUCT: the contours of ROI 2 (Bladder) are in 2 items, joined",
    "contour-twice": "RTSTRUCT: ROI 2 (Bladder): 1 contours are there twice, read once",
    "overlapping-contours": "RTSTRUCT: ROI 2 (Bladder): contours that overlap each other are read as their union",
    "no-type": "RTSTRUCT: ROI 2 (Bladder): 1 contours without a type are read as closed",
    "organ-gap": "RTSTRUCT: ROI 2 (Bladder): no contour in 1 slices between others",
    "wide-pixels": "CT, contours and dose: the CT's pixels are 10.34 x 5.17 mm, not square as scanners make them",
}
NAMES = list(DEFECTS)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


PATIENT = make_patient(0, 1)  # with every structure


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a patient whom nothing is wrong with."""
    folder = tmp_path_factory.mktemp("sound") / "patient"
    folder.mkdir()
    write_patient(PATIENT, folder)
    return folder


def outcome(folder):
    """Return the case, or why it is refused."""
    dataset = dataset_of()
    (raw,) = dataset.find(folder.parent)
    try:
        return dataset.read(raw)
    except CaseError as error:
        return error.reason


@pytest.fixture
def spoilt(sound, tmp_path):
    """Return a function that reads the patient with a defect."""

    def read(name):
        shutil.copytree(sound, tmp_path / name / "patient")
        DEFECTS[name].plant(PATIENT, tmp_path / name / "patient")
        return outcome(tmp_path / name / "patient")

    return read


@pytest.mark.parametrize("name", NAMES)
def test_a_defect_is_refused_or_remarked_or_read_as_the_table_says(spoilt, name):
    found, expected = spoilt(name), DEFECTS[name].reading
    if name in REFUSED:
        assert expected.startswith("refuse")
        assert REFUSED[name] in found
    elif name in REMARKED:
        assert expected.endswith("with a remark")
        (remark,) = found.remarks
        assert remark.startswith(REMARKED[name])
    else:
        assert not expected.startswith("refuse")
        assert not expected.endswith("with a remark")
        assert found.remarks == ()


def test_every_defect_is_refused_or_read():
    assert set(REFUSED) | set(REMARKED) <= set(NAMES)
    assert len(NAMES) > len(REFUSED) + len(REMARKED)


def test_the_patient_has_every_structure_and_nothing_remarkable(sound):
    case = outcome(sound)
    assert set(case.masks) == {*PATIENT.masks, "possible_dose_mask", "dose_known"} - {"Body"}
    assert case.remarks == ()


@pytest.mark.parametrize("name", ["split-roi", "contour-twice", "no-type", "lower-case-type", "overlapping-contours"])
def test_what_is_mended_has_its_place(spoilt, name):
    expected = np.transpose(PATIENT.masks["Bladder"][::-1], (1, 2, 0))
    found = spoilt(name).masks["Bladder"]
    if name == "overlapping-contours":
        assert (found >= expected).all()
        assert found.sum() > expected.sum()
    else:
        np.testing.assert_array_equal(found, expected)
