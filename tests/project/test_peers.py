"""The comparison with other tools: that it notices what is not the same, and knows what is right."""

import numpy as np
import pytest

from benchmarks import peer_checks
from benchmarks.clinical_patient import volumes_cc, write_clinical_patient
from benchmarks.peer_rows import PATIENT, ROWS, Inputs, _options
from benchmarks.peers import SIDES
from ctan.dicom.settings import DicomConfig
from tests.helpers.dicom import dataset_of

SHAPE = (23, 128, 128)
OPTIONS = {"structures": DicomConfig().structures}


def found(**changes):
    """Return a patient of one cube of 4 x 4 x 4 voxels as both sides have it, with changes to the peer's."""
    mask = np.zeros((6, 8, 8), bool)
    mask[1:5, 2:6, 2:6] = True
    ours = {
        "ct": np.full(mask.shape, 40.0, np.float32),
        "dose": np.ones(mask.shape, np.float32),
        "mask Bladder": mask,
        "mask possible_dose_mask": np.ones(mask.shape, bool),
        "mask dose_known": np.ones(mask.shape, bool),
    }
    theirs = {"ct": ours["ct"].astype(np.int16), "dose": ours["dose"].copy(), "mask BLADDER": mask.astype(np.uint8)}
    return ours, theirs | changes


def compare(ours, theirs):
    return peer_checks.patients(ours, theirs, OPTIONS, {"Bladder": 64.0}, 1.0)


def test_equal_patients_are_said_to_be_equal():
    said = compare(*found())
    assert "CT equal" in said
    assert "Dice from 1.000 (Bladder)" in said
    assert "WRONG" not in said


def test_other_values_and_doses_end_the_comparison():
    ct = np.full((6, 8, 8), 41)
    with pytest.raises(SystemExit, match="CT: the two sides read different values"):
        compare(*found(ct=ct))
    with pytest.raises(SystemExit, match=r"dose: 1.00e-03 Gy apart"):
        compare(*found(dose=np.full((6, 8, 8), 1.001)))


def test_a_peer_that_is_wrong_is_named():
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[1:5, 2:6, 2:4] = 255
    said = compare(*found(**{"mask BLADDER": mask}))
    assert "the peer is WRONG: Bladder 32.0 of 64.0 cc" in said
    assert "ctan is WRONG" not in said


def test_arrays_that_differ_end_the_comparison():
    with pytest.raises(SystemExit, match="dose: the two sides read different values"):
        peer_checks.equal({"dose": np.ones(3)}, {"dose": np.zeros(3)})


def test_the_clinical_patient_has_the_volumes_of_its_contours(tmp_path, monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", "a key of a test, not a secret")
    write_clinical_patient(tmp_path, SHAPE)
    dataset = dataset_of(**_options(PATIENT))
    (raw,) = dataset.find(tmp_path)
    case = dataset.read(raw)
    told, (volumes, voxel_cc) = peer_checks.names(_options(PATIENT)), volumes_cc(SHAPE)
    assert len(volumes) == 9
    for name, volume in volumes.items():
        mask = case.masks[told(name)]
        assert mask.sum() * voxel_cc == pytest.approx(volume, rel=0.15), name  # of voxels of 4 x 4 x 12 mm


def test_every_row_names_scripts_that_are_there(tmp_path):
    inputs = Inputs(tmp_path, None, None)
    for name, row in ROWS.items():
        if name.startswith(("step", "help")):
            for script, *_ in row.commands(inputs):
                assert (SIDES / script).is_file()
    assert not ROWS["eclipse-platipy"].possible(inputs)
