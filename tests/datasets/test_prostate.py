"""Patients in DICOM-RT are found by header, keep no name, and any site of the body is a matter of settings."""

import dataclasses
import re
import shutil

import numpy as np
import pyarrow as pa
import pydicom
import pytest
from typer.testing import CliRunner

from ctan.cases import RawCase
from ctan.cases.sides import side_of
from ctan.cli import app
from ctan.config import RunConfig, ValidationConfig
from ctan.datasets import get_dataset
from ctan.datasets.prostate.phantom import make_patient
from ctan.datasets.prostate.reader import Prostate
from ctan.datasets.prostate.write_phantom import write_prostate_phantoms
from ctan.dicom.deidentify import Pseudonymiser
from ctan.dicom.names import RoiNames
from ctan.dicom.settings import DicomConfig
from ctan.errors import CaseError, ConfigError, DataError
from ctan.intake.measure import case_row
from ctan.settings import load_config
from ctan.store.manifest import SCHEMA
from ctan.tasks import DoseRegression, Segmentation, tasks_of
from ctan.validation.copies import Copies
from ctan.validation.suite import expectations, frame_of, run
from tests.helpers.dicom import (
    CONTOURS,
    HEADER,
    KEY,
    change,
    dataset_of,
    read,
    slices_of,
    write_patient,
)

PSEUDONYMISER = Pseudonymiser(KEY.encode())


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


def patient_of(number, patient_id=None):
    return dataclasses.replace(HEADER, key=f"key {number}", patient_id=patient_id or f"MRN {number}")


@pytest.fixture
def raw_dir(tmp_path):
    """Three patients, a folder each."""
    for number in (1, 2, 3):
        write_patient(tmp_path / "raw" / f"Name^{number}" / "planning", header=patient_of(number))
    return tmp_path / "raw"


def merge(folder):
    """Put all files of a folder's folders into it, under numbers."""
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(folder / f"{number:05d}")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


# Finding


def test_a_folder_is_a_case_named_by_a_keyed_hash(raw_dir):
    (raw_dir / "empty").mkdir()
    (raw_dir / "README.txt").write_text("three patients")
    found = dataset_of().find(raw_dir)
    assert {raw.case_id for raw in found} == {PSEUDONYMISER.pseudonym(f"MRN {number}") for number in (1, 2, 3)}
    assert [raw.case_id for raw in found] == sorted(raw.case_id for raw in found)
    assert all(raw.group_id == raw.case_id and raw.split == "" for raw in found)
    assert dataset_of().remarks(raw_dir) == []


def test_files_in_one_folder_are_told_apart_by_patient(raw_dir):
    expected = {raw.case_id: dataset_of().read(raw) for raw in dataset_of().find(raw_dir)}
    merge(raw_dir)
    found = {raw.case_id: dataset_of().read(raw) for raw in dataset_of().find(raw_dir)}
    assert found.keys() == expected.keys()
    for case_id, case in found.items():
        assert case.sha256 == expected[case_id].sha256
        np.testing.assert_array_equal(case.doses["dose"], expected[case_id].doses["dose"])


def test_another_key_gives_other_names(raw_dir, tmp_path, monkeypatch):
    before = {raw.group_id for raw in dataset_of().find(raw_dir)}
    path = tmp_path / "key"
    path.write_text("another key of this test\n")
    assert before.isdisjoint(raw.group_id for raw in dataset_of(key_file=str(path)).find(raw_dir))
    monkeypatch.delenv("CTAN_DEID_KEY")
    with pytest.raises(DataError, match="no key for the de-identification: make one with python -c"):
        dataset_of().find(raw_dir)
    assert len(dataset_of(key_file=str(path)).find(raw_dir)) == 3


def test_two_studies_of_a_patient_are_two_cases_of_one_group(raw_dir):
    before = {raw.case_id for raw in dataset_of().find(raw_dir)}
    write_patient(raw_dir / "second", header=patient_of(9, " mrn  1 "))
    found = dataset_of().find(raw_dir)
    group = PSEUDONYMISER.pseudonym("MRN 1")
    own = [raw.case_id for raw in found if raw.group_id == group]
    assert len(found) == 4
    assert len(own) == 2
    assert all(re.fullmatch(rf"{group}-[0-9a-f]{{6}}", case_id) for case_id in own)
    assert {raw.case_id for raw in found} - set(own) == before - {group}
    (raw_dir / "second").rename(raw_dir / "0 renamed")
    assert [raw.case_id for raw in dataset_of().find(raw_dir)] == [raw.case_id for raw in found]


def test_a_copy_of_a_patient_stays_in_the_patients_group(raw_dir):
    shutil.copytree(raw_dir / "Name^1", raw_dir / "again")
    found = [raw for raw in dataset_of().find(raw_dir) if raw.group_id == PSEUDONYMISER.pseudonym("MRN 1")]
    assert len({raw.case_id for raw in found}) == 2
    assert found[1].case_id == f"{found[0].case_id}-copy1"


@pytest.mark.parametrize("blank", ["", "ANONYMOUS", "0"])
def test_patients_without_an_id_are_grouped_by_frame_of_reference_with_a_remark(tmp_path, blank):
    headers = [dataclasses.replace(patient_of(number), patient_id=blank) for number in (1, 2)]
    for number, header in enumerate(headers):
        write_patient(tmp_path / "raw" / str(number), header=header)
    found = dataset_of().find(tmp_path / "raw")
    groups = {raw.group_id for raw in found}
    assert len(groups) == 2
    (remark,) = dataset_of().remarks(tmp_path / "raw")
    assert remark.startswith(
        "2 of 2 cases have a blank or placeholder PatientID and are grouped by FrameOfReferenceUID"
    )
    assert all(group in remark for group in groups)
    merge(tmp_path / "raw")
    assert {raw.group_id for raw in dataset_of().find(tmp_path / "raw")} == groups


def test_a_file_of_another_patient_in_a_folder_is_never_read_with_its_neighbours(tmp_path):
    folder = tmp_path / "raw" / "mixed"
    write_patient(folder)
    write_patient(folder / "other", header=patient_of(2))
    (folder / "other" / "rd").rename(folder / "rd")
    shutil.rmtree(folder / "other")
    dataset, reasons = dataset_of(), []
    for raw in dataset.find(folder.parent):
        with pytest.raises(CaseError) as found:
            dataset.read(raw)
        reasons.append(found.value.reason)
    assert sorted(reasons) == [
        "no CT, no RTSTRUCT; expected CT, RTSTRUCT, RTDOSE",
        "no RTDOSE; expected CT, RTSTRUCT, RTDOSE",
    ]
    plain = RawCase("p", "p", "", folder)
    with pytest.raises(CaseError, match=r"the folder holds files of 2 patients \(by PatientID\), expected one"):
        dataset.read(plain)


def arranged(raw_dir, place):
    """Move every file to where `place` of its header says, as exporters do."""
    for number, path in enumerate(sorted(path for path in raw_dir.rglob("*") if path.is_file())):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        target = raw_dir.parent / "arranged" / place(header) / f"{number:05d}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return raw_dir.parent / "arranged"


LAYOUTS = {
    # collection/patient/study/series, as the downloader of the TCIA makes them
    "tcia": lambda ds: f"Prostate/{ds.PatientID}/{ds.StudyInstanceUID[-5:]}/{ds.Modality}-{ds.SeriesInstanceUID[-5:]}",
    "modality": lambda ds: ds.Modality,
    "modality-patient": lambda ds: f"{ds.Modality}/{ds.PatientID}",
    "flat": lambda ds: "",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patients_are_told_apart_in_any_folders(raw_dir, layout):
    """Six patients in the TCIA's folders were one: "the folder holds files of 6 patients (by PatientID)"."""
    write_patient(raw_dir / "second of 1", header=dataclasses.replace(patient_of(4), patient_id="MRN 1"))
    (raw_dir / "Name^2" / "planning" / "rd").write_bytes((raw_dir / "Name^2" / "planning" / "rd").read_bytes()[:900])
    dataset = dataset_of()
    before = {raw.case_id: {file.instance for file in raw.files} for raw in dataset.find(raw_dir)}
    assert len(before) == 4
    moved = arranged(raw_dir, LAYOUTS[layout])
    assert {raw.case_id: {file.instance for file in raw.files} for raw in dataset.find(moved)} == before
    assert dataset.remarks(moved) == []


def test_a_patients_other_images_are_left_out_with_a_remark(raw_dir):
    """A diagnostic CT of a patient with two plans is no case; it made one without contours."""
    write_patient(raw_dir / "Name^4", header=dataclasses.replace(patient_of(4), patient_id="MRN 1"))
    other = raw_dir / "Name^5"
    write_patient(other, header=dataclasses.replace(patient_of(5), patient_id="MRN 1"))
    for name in ("rs", "rd", "rp"):
        (other / name).unlink()
    dataset = dataset_of()
    assert len(dataset.find(raw_dir)) == 4
    assert dataset.remarks(raw_dir) == [
        "8 images of these patients belong to neither contours nor dose and are left out"
    ]


def test_one_patient_id_for_everybody_is_said_and_may_be_ignored(tmp_path):
    """An anonymiser's `CASE` for all was noticed in training only: no fold had another patient."""
    for number in (1, 2, 3):
        write_patient(tmp_path / "raw" / str(number), header=patient_of(number, "CASE"))
    found = dataset_of().find(tmp_path / "raw")
    assert len(found) == 3
    assert len({raw.group_id for raw in found}) == 1
    (remark,) = dataset_of().remarks(tmp_path / "raw")
    assert remark.startswith("all 3 cases have one PatientID, so that they are one patient to every split")
    ignoring = dataset_of(ignore_patient_ids=True)
    assert len({raw.group_id for raw in ignoring.find(tmp_path / "raw")}) == 3
    assert ignoring.remarks(tmp_path / "raw") == []
    moved = arranged(tmp_path / "raw", LAYOUTS["modality"])
    assert len({raw.group_id for raw in ignoring.find(moved)}) == 3
    assert all(ignoring.read(raw).masks for raw in ignoring.find(moved)[:1])


def test_a_single_file_without_an_id_does_not_make_another_patient(tmp_path):
    folder = tmp_path / "raw" / "p"
    write_patient(folder)
    change(folder / "rd", lambda ds: setattr(ds, "PatientID", "anonymous"))
    assert read(folder).group_id == PSEUDONYMISER.pseudonym(HEADER.patient_id)


def test_a_folder_without_planning_data_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"no planning data, expected DICOM files.*the folder is empty"):
        dataset_of().find(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="found none"):
        dataset_of().find(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        dataset_of().find(tmp_path / "none")


def test_unknown_roi_names_are_counted(tmp_path):
    write_patient(tmp_path / "raw" / "p", contours={**CONTOURS, "Couch": [], "Miller": CONTOURS["PTV"]})
    assert dataset_of().remarks(tmp_path / "raw") == [
        "2 of 5 ROIs match no structure of data.options.structures and are left out; ctan data names shows them"
    ]


def test_a_case_can_be_read_from_its_folder_alone(raw_dir):
    (found, *_) = dataset_of().find(raw_dir)
    plain = RawCase(found.case_id, found.group_id, found.split, found.path)
    assert dataset_of().read(plain).sha256 == dataset_of().read(found).sha256


def test_other_bytes_give_another_checksum(raw_dir):
    found = dataset_of().find(raw_dir)[0]
    before = dataset_of().read(found).sha256
    change(slices_of(found.path)[0], lambda ds: setattr(ds, "SeriesDescription", "changed"))
    assert dataset_of().read(found).sha256 != before


# The data set


def test_the_data_set_says_what_it_has():
    dataset = get_dataset("prostate")
    assert isinstance(dataset, Prostate)
    assert dataset.spec.structures[-1] == "PTV"
    assert dataset.spec.targets == {"PTV": 78.0}
    assert dataset_of(prescription_gy=60).spec.targets == {"PTV": 60.0}
    contouring, dose = tasks_of(dataset.spec)
    assert contouring == Segmentation(
        "contouring", dataset.spec.structures[:-1], (("FemoralHeadLeft", "FemoralHeadRight"),)
    )
    assert dose == DoseRegression("dose")
    assert contouring.mirrored_order == (0, 1, 2, 4, 3, 5, 6)


def test_a_case_has_a_row_in_the_manifest(raw_dir):
    dataset = dataset_of()
    case = dataset.read(dataset.find(raw_dir)[0])
    row = case_row(case, dataset.spec, -1)
    pa.Table.from_pylist([row], schema=SCHEMA(dataset.spec))
    assert row["prescription_gy"] == 60.0
    assert row["num_dose_voxels_outside_mask"] == 0
    assert row["missing"] == ["Rectum", "FemoralHeadRight", "FemoralHeadLeft", "PenileBulb", "SeminalVesicles"]
    assert row["voxels_Prostate"] == np.count_nonzero(case.masks["Prostate"])
    assert 55 < row["dose_mean_gy_PTV"] < 65


def test_expectations_follow_the_settings():
    limits = ValidationConfig()
    names = [expectation.name for expectation in dataset_of().expectations(limits)]
    organs = [f"{name}-contoured" for name in dataset_of().spec.organs]
    assert names == ["prescription", "prescription-known", *organs, "PTV-present", "PTV-level", "PTV-dose"]
    found = {e.name: e for e in dataset_of(targets=["PTV"]).expectations(ValidationConfig(target_dose_tolerance=0.1))}
    assert found["PTV-dose"].arguments == {"column": "dose_share_PTV", "min_value": 0.9, "max_value": 1.1}


def test_a_structure_that_no_training_case_has_stops_validation(raw_dir):
    """It became an output channel that never had a label, such as where an exporter cut names to 16 letters."""
    dataset = dataset_of()
    rows = [case_row(dataset.read(raw), dataset.spec, -1) for raw in dataset.find(raw_dir)]
    for row, split in zip(rows, ("train", "train", "validation"), strict=True):
        row.update(split=split, fold=0 if split == "train" else -1)
        row["voxels_PenileBulb"] = 9 if split == "validation" else None
    config = RunConfig.model_validate({"data": {"dataset": "prostate"}})
    frame = frame_of(pa.Table.from_pylist(rows, schema=SCHEMA(dataset.spec)), dataset.spec, Copies())
    outcomes = {one.expectation.name: one for one in run(frame, expectations(dataset, config))}
    assert outcomes["Prostate-contoured"].success
    assert outcomes["Bladder-contoured"].success
    for name in ("Rectum", "PenileBulb"):
        assert not outcomes[f"{name}-contoured"].success
        assert not outcomes[f"{name}-contoured"].failing
        assert not outcomes[f"{name}-contoured"].expectation.about_cases


def test_a_structure_that_few_structure_sets_list_is_a_remark(tmp_path):
    for number in range(6):
        bulb = {"Penile Bulb": CONTOURS["Prostate"]} if number == 0 else {}
        write_patient(tmp_path / "raw" / str(number), header=patient_of(number), contours={**CONTOURS, **bulb})
    assert dataset_of().remarks(tmp_path / "raw") == ["PenileBulb is listed in 1 of 6 structure sets only"]


def test_roi_names_can_be_seen_to_write_expressions_from(tmp_path):
    write_patient(tmp_path / "raw" / "1", header=patient_of(1), contours={**CONTOURS, "Enddarm": CONTOURS["Prostate"]})
    write_patient(tmp_path / "raw" / "2", header=patient_of(2))
    expected = {"Bladder": (2, "Bladder"), "PTV": (2, "PTV"), "Prostate": (2, "Prostate"), "Enddarm": (1, "")}
    assert dataset_of().roi_names(tmp_path / "raw") == expected
    shown = CliRunner().invoke(app, ["data", "names", str(tmp_path / "raw")])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"1  'Enddarm' +-\n4 names, 1 of which match no structure", shown.output)


NAMES = {
    "Prostate": ("Prostate", "CTV_Prostate"),
    "FemoralHeadRight": (
        "Femur_Head_R",
        "Right Femoral He",
        "Femoral Head Rig",
        "FemoralHead_Righ",
        "Femur_Head_Right",
    ),
    "FemoralHeadLeft": ("Femur_Head_L", "Left Femoral Hea", "Femoral Head Lef", "FemoralHead_Left", "Femoral Head Lt"),
    "PenileBulb": ("PenileBulb",),
    "SeminalVesicles": ("SeminalVes", "Seminal Vesicles"),
    "PTV": ("PTV", "PTV_7800", "PTVp_7800", "PTV_High", "PTV 78"),
    "": ("Femur_HeadNeck_L", "Femur_L", "Bladder_Wall", "PTV_Eval", "PTV-Rectum", "Bowel_Bag", "PTVn_5600"),
}


@pytest.mark.parametrize(("structure", "names"), NAMES.items(), ids=[*list(NAMES)[:-1], "none"])
def test_the_default_expressions_know_tg_263_and_names_cut_to_16_letters(structure, names):
    assert {name: RoiNames(DicomConfig())(name) for name in names} == dict.fromkeys(names, structure)


def test_another_site_of_the_body_is_a_matter_of_settings(tmp_path):
    """Head and neck with two levels of dose, read by the same code."""
    settings = {
        "structures": {
            "SpinalCord": ["(spinal[ _-]*)?cord"],
            "ParotidLeft": ["parotid[ _-]*l(eft)?"],
            "ParotidRight": ["parotid[ _-]*r(ight)?"],
            "PTV54": ["ptv[ _-]*54.*"],
            "PTV70": ["ptv[ _-]*70"],
        },
        "targets": ["PTV54", "PTV70"],
        "mirrored_pairs": [["ParotidLeft", "ParotidRight"]],
    }
    contours = {
        "Cord": CONTOURS["Bladder"],
        "PAROTID_L": CONTOURS["Prostate"],
        "PTV 70": CONTOURS["PTV"],
        "ptv_54_opti": CONTOURS["PTV"],
        "Prostate": CONTOURS["Prostate"],
    }
    write_patient(tmp_path / "raw" / "p", contours=contours, prescription_gy=70.0)
    dataset = dataset_of(**settings)
    assert dataset.spec.structures == ("SpinalCord", "ParotidLeft", "ParotidRight", "PTV54", "PTV70")
    assert tasks_of(dataset.spec)[0].mirrored_order == (0, 2, 1)
    case = dataset.read(dataset.find(tmp_path / "raw")[0])
    assert list(case.masks) == ["SpinalCord", "ParotidLeft", "PTV54", "PTV70", "possible_dose_mask", "dose_known"]
    assert case.facts == {"prescription_gy": 70.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structures": {"A": ["("], "PTV": ["ptv"]}}, r"A: '\(' is not a regular expression"),
        ({"targets": ["GTV"]}, "targets: GTV not in structures"),
        ({"structures": {"Heart": ["heart"], "PTV": ["ptv"]}}, "mirrored_pairs: FemoralHeadLeft, FemoralHeadRight"),
        ({"structures": {"PTV": ["ptv"]}, "mirrored_pairs": []}, "expected an organ besides the targets"),
        ({"structures": {"body contour": ["x"]}}, "'body contour' cannot be a name"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DicomConfig.model_validate(settings)


SIDED = {
    "left": ("FemoralHeadLeft", "LeftParotid", "Lung_L", "left_lung", "Eye.lt", "LungL", "Kidney-Left", "KidneyLPRV"),
    "right": ("FemoralHeadRight", "RightParotid", "Lung_R", "right_lung", "Eye.rt", "LungR", "Kidney-Right"),
    "": ("Prostate", "Rectum", "Larynx", "Liver", "SpinalCord", "Bladder", "LAD", "Rest", "Lens", "PTV", "Brightness"),
}


@pytest.mark.parametrize(("side", "names"), SIDED.items(), ids=["left", "right", "none"])
def test_the_side_of_a_structure_is_seen_in_its_name(side, names):
    assert {name: side_of(name) for name in names} == dict.fromkeys(names, side)


LUNG = {"structures": {"LungLeft": ["lung l"], "LungRight": ["lung r"], "PTV": ["ptv"]}, "mirrored_pairs": []}


def test_flips_with_sides_that_have_no_partner_are_refused():
    """Flips exchanged the labels of left and right."""
    chosen = {"data.dataset": "prostate", "data.options": LUNG}
    with pytest.raises(ConfigError, match="mirrored_pairs: LungLeft, LungRight of one side without a partner"):
        load_config("smoke", chosen)
    load_config("smoke", {**chosen, "data.options": {**LUNG, "mirrored_pairs": [["LungLeft", "LungRight"]]}})
    no_flips = {**chosen, "training.flip_probability": 0}
    load_config("smoke", no_flips)
    with pytest.raises(ConfigError, match="LungLeft, LungRight of one side without a partner"):
        load_config("smoke", {**no_flips, "evaluation.test_time_flip": True})
    with pytest.raises(ValueError, match=r"mirrored_pairs: \(LungRight, LungLeft\), expected the left structure first"):
        DicomConfig.model_validate({**LUNG, "mirrored_pairs": [["LungRight", "LungLeft"]]})


# Phantoms: written by other code, from masks


def test_the_masks_dose_and_ct_of_a_phantom_come_back(tmp_path):
    write_prostate_phantoms(tmp_path, 1, 0, 3)
    case = dataset_of().read(dataset_of().find(tmp_path)[0])
    patient = make_patient(3, 1)

    def in_case_axes(array):
        return np.transpose(array[::-1], (1, 2, 0))

    np.testing.assert_array_equal(case.images["ct"].astype(int) - 1024, in_case_axes(patient.hounsfield))
    assert case.spacing_mm == (patient.spacing_mm[1], patient.spacing_mm[2], patient.spacing_mm[0])
    assert case.facts == {"prescription_gy": patient.prescription_gy}
    contoured = [name for name in patient.roi_names if name != "Body"]
    assert set(case.masks) == {*contoured, "possible_dose_mask", "dose_known"}
    for name in contoured:
        np.testing.assert_array_equal(case.masks[name], in_case_axes(patient.masks[name]), err_msg=name)
    assert case.doses["dose"][case.masks["PTV"]].mean() == pytest.approx(patient.prescription_gy, rel=0.05)
