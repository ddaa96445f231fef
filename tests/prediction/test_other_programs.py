"""What is written of predictions, as other programs see it: plastimatch's rasteriser, and a validator of DICOM."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk

from ctan.dicom.predicted import PlanningCt, write_dose, write_structures
from ctan.dicom.scan import scan
from ctan.dicom.writers import write_ct_series
from tests.helpers.dicom import HEADER, KEY
from tests.helpers.dicom import to_case_axes as in_case_axes
from tests.prediction.test_predicted_dicom import identity

SHAPE = (3, 90, 90)
needs_plastimatch = pytest.mark.skipif(
    shutil.which("plastimatch") is None, reason="plastimatch is not installed (apt-get install plastimatch)"
)
needs_validator = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (apt-get install dicom3tools)"
)
# A dose without a plan is meant: there is none.
EXPECTED = "Error - Missing attribute Type 1C Conditional Element=<ReferencedRTPlanSequence> Module=<RTDose>"


@pytest.fixture(scope="module")
def ragged():
    """A structure whose one contour has 90,000 characters: every second voxel of every second row is a hole."""
    found = np.zeros(SHAPE, bool)
    found[1] = True
    found[1, 1:-1:2, 1:-1:2] = False
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory, ragged):
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTAN_DEID_KEY", KEY)
        spacing, origin = (3.0, 0.977, 0.977), (0.0, -44.1, -44.1)
        write_ct_series(folder / "ct", np.zeros(SHAPE, np.int16), spacing, origin, patient=HEADER)
        ct = PlanningCt.read(scan((folder / "ct").iterdir()))
        write_structures(folder / "rs.dcm", {"Prostate": in_case_axes(ragged)}, ct, identity())
        dose = np.random.default_rng(0).uniform(0, 70, SHAPE).astype(np.float32)
        write_dose(folder / "rd.dcm", in_case_axes(dose), ct, identity())
    return folder


@needs_plastimatch
def test_a_contour_of_90000_characters_is_whole_in_plastimatch(written, ragged, tmp_path):
    """In explicit VR it would be written as unknown (UN), and plastimatch drops the slice and exits 0."""
    assert len((written / "rs.dcm").read_bytes()) > 90_000
    asked = ["plastimatch", "convert", "--input", written / "rs.dcm", "--referenced-ct", written / "ct"]
    asked += ["--output-prefix", tmp_path, "--prefix-format", "nrrd", "--xor-contours"]
    subprocess.run([str(part) for part in asked], check=True, capture_output=True, timeout=120)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "Prostate.nrrd")))
    np.testing.assert_array_equal(found.astype(bool), ragged)


@needs_validator
@pytest.mark.parametrize(("name", "expected"), [("rs.dcm", []), ("rd.dcm", [EXPECTED])])
def test_a_validator_finds_nothing_but_that_a_dose_has_no_plan(written, name, expected):
    told = subprocess.run(["dciodvfy", str(written / name)], capture_output=True, text=True, timeout=120, check=False)
    assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == expected
