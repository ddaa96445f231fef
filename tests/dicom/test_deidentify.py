"""What identifies a patient stays outside: planted in every place of every file, it is in nothing that is read."""

import dataclasses
import hashlib
import hmac
import io
import logging
import pickle
import re
import warnings

import numpy as np
import pydicom
import pytest

from ctan.dicom.deidentify import (
    Pseudonymiser,
    deidentified,
    is_placeholder,
    normalised_patient_id,
    read_key,
)
from ctan.dicom.names import RoiNames
from ctan.errors import CtanError, DataError
from ctan.intake.measure import case_row
from tests.helpers.dicom import CONTOURS, HEADER, KEY, TEST_DATA, dataset_of, needs_test_data, slices_of, write_patient

PSEUDONYMISER = Pseudonymiser(KEY.encode())

# keyword -> value, of everything that PS3.15 annex E calls identifying and that planning files hold
PLANTED = {
    "PatientName": "Secretname^Erika",
    "PatientID": "SECRETID-90210",
    "OtherPatientIDs": "SECRETOTHER-1",
    "OtherPatientNames": "Secretalias^E",
    "PatientBirthDate": "19441203",
    "PatientBirthName": "Secretmaiden",
    "PatientAge": "077Y",
    "PatientAddress": "Secret Road 12",
    "PatientTelephoneNumbers": "+41 61 555 0199",
    "PatientMotherBirthName": "Secretmother",
    "PatientComments": "secretcomment on Erika",
    "EthnicGroup": "SECRETETHNIC",
    "Occupation": "secretoccupation",
    "MilitaryRank": "SECRETRANK",
    "MedicalRecordLocator": "SECRETLOCATOR",
    "AdditionalPatientHistory": "secrethistory",
    "AccessionNumber": "SECRETACC777",
    "InstitutionName": "Secret Hospital",
    "InstitutionAddress": "Secret Street 5",
    "InstitutionalDepartmentName": "Secretdepartment",
    "ReferringPhysicianName": "Secretreferrer^A",
    "PhysiciansOfRecord": "Secretrecord^B",
    "PerformingPhysicianName": "Secretperformer^C",
    "OperatorsName": "Secretoperator^D",
    "StationName": "SECRETSTATION",
    "DeviceSerialNumber": "SECRETSERIAL-5",
    "StudyDescription": "secretstudydescription",
    "SeriesDescription": "secretseriesdescription",
    "StudyID": "SECRETSTUDYID",
    "ProtocolName": "secretprotocol",
    "StudyDate": "20190817",
    "StudyTime": "101112.131415",
    "SeriesDate": "20190818",
    "AcquisitionDate": "20190819",
    "RequestedProcedureDescription": "secretprocedure",
    "ImageComments": "secretimagecomment",
    "PositionReferenceIndicator": "SECRETPOSITION",
    "StructureSetLabel": "SECRETLABEL",
    "StructureSetName": "secretsetname",
    "StructureSetDescription": "secretsetdescription",
    "DoseComment": "secretdosecomment",
    "RTPlanLabel": "SECRETPLAN",
    "RTPlanName": "secretplanname",
    "ApprovalStatus": "SECRETAPPROVAL",
    "ReviewerName": "Secretreviewer^F",
    "Manufacturer": "Secretmaker",
    "SoftwareVersions": "secretversion",
    "ImageType": ["ORIGINAL", "PRIMARY", "SECRETTYPE"],
}
ROI_NAME = "Secretroi Frau Meier"
FILE_NAME = "Secretfile_Erika"


def plant(dataset):
    """Write identifying values into every place of a data set, also into its sequences and private attributes."""
    for keyword, value in PLANTED.items():
        setattr(dataset, keyword, value)
    block = dataset.private_block(0x0099, "SECRETCREATOR", create=True)
    block.add_new(0x01, "LO", "secretprivate")
    item = pydicom.Dataset()
    item.PatientID, item.TypeOfPatientID = "SECRETNESTED", "TEXT"
    dataset.OtherPatientIDsSequence = [item]
    for keyword in (
        "StructureSetROISequence",
        "ROIContourSequence",
        "DoseReferenceSequence",
        "BeamSequence",
        "FractionGroupSequence",
    ):
        for inner in dataset.get(keyword, []):
            inner.ROIDescription, inner.BeamName = "secretroidescription", "SECRETBEAM"
            inner.DoseReferenceDescription, inner.BeamDescription = "secrettarget", "secretbeamtext"
            inner.private_block(0x0099, "SECRETCREATOR", create=True).add_new(0x01, "LO", "secretprivate")


def uids_of(dataset):
    found = []
    dataset.walk(
        lambda _, element: found.extend(
            [str(element.value)] if element.VR == "UI" and str(element.value).startswith("2.25.") else []
        )
    )
    return found


def leaks(text, uids=()):
    """Return what of the planted is in a text."""
    secrets = [str(value) for keyword, value in PLANTED.items() if keyword not in ("ImageType", "PatientAge")]
    secrets += re.split(r"[\^ ]", " ".join(secrets)) + [ROI_NAME, FILE_NAME, KEY]
    found = [secret for secret in secrets if len(secret) > 4 and secret.lower() in text.lower()]
    return found + re.findall("(?i)secret|meier|erika", text) + [uid for uid in uids if uid in text]


@pytest.fixture
def planted(tmp_path):
    """A patient with identifying values in every file, and all of its UIDs."""
    folder = tmp_path / "raw" / f"{FILE_NAME}_folder"
    folder.mkdir(parents=True)
    write_patient(folder, contours={**CONTOURS, ROI_NAME: CONTOURS["PTV"]})
    uids = []
    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        uids += uids_of(dataset)
        plant(dataset)
        dataset.save_as(folder / f"{FILE_NAME}_{number}")
        path.unlink()
    assert len(PLANTED) >= 30
    assert len(set(uids)) > 10
    return folder, sorted(set(uids))


def everything(value):
    """Return every text in a value, however deep."""
    if dataclasses.is_dataclass(value):
        return everything({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, dict):
        return " ".join(everything(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set):
        return " ".join(everything(part) for part in value)
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "buif"
        return ""
    return str(value)


def test_nothing_identifying_is_in_a_case(planted, caplog, capfd):
    folder, uids = planted
    dataset = dataset_of()
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        (raw,) = dataset.find(folder.parent)
        remarks = dataset.remarks(folder.parent)
        case = dataset.read(raw)
    printed = capfd.readouterr()
    assert remarks == [
        "1 of 4 ROIs match no structure of data.options.structures and are left out; ctan data names shows them"
    ]
    seen = [
        everything(case),
        everything(case_row(case, dataset.spec, -1)),
        raw.case_id,
        raw.group_id,
        *remarks,
        caplog.text,
        *[str(w.message) for w in warned],
        printed.out,
        printed.err,
        repr(raw.files),
    ]
    for text in seen:
        assert leaks(text, uids) == []
    for array in (*case.images.values(), *case.masks.values(), *case.doses.values()):
        assert b"ecret" not in array.tobytes()
    assert raw.case_id == raw.group_id == PSEUDONYMISER.pseudonym(PLANTED["PatientID"])


def damage_at(share):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def damage_value(keyword):
    """Put a text where numbers belong."""

    def damage(path):
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            if keyword in dataset:
                dataset[keyword] = pydicom.DataElement(keyword, "LO", "secretnumber")
            dataset.save_as(path)

    return damage


DAMAGES = {
    "cut in the header": damage_at(0.1),
    "cut in the middle": damage_at(0.5),
    "cut near the end": damage_at(0.99),
    "removed": lambda path: path.unlink(),
    "text as a position": damage_value("ImagePositionPatient"),
    "text as a slope": damage_value("RescaleSlope"),
    "text as a dose": damage_value("DoseGridScaling"),
    "text as a frame": damage_value("FrameOfReferenceUID"),
    "text as rows": damage_value("Rows"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_nothing_identifying_is_in_messages_about_damaged_files(planted, caplog, damage, capfd):
    folder, uids = planted
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    paths = sorted(contents)
    messages = []
    for path in [*paths[1:3], *paths[-3:]]:  # slices, structure set, dose and plan
        damage(path)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                dataset = dataset_of()
                dataset.read(dataset.find(folder.parent)[0])
            except CtanError as error:
                chained = (error.__cause__, None if error.__suppress_context__ else error.__context__)
                messages += [str(error), *map(str, chained)]
        messages += [str(w.message) for w in warned]
        path.write_bytes(contents[path])
    printed = capfd.readouterr()
    for text in [*messages, caplog.text, printed.out, printed.err]:
        assert leaks(text, uids) == []
        assert str(folder.parent) not in text


def test_the_identified_folder_is_not_needed_to_read_a_case_in_another_process(planted):
    folder, _ = planted
    (raw,) = dataset_of().find(folder.parent)
    again = pickle.loads(pickle.dumps(raw))
    assert dataset_of().read(again).sha256 == dataset_of().read(raw).sha256


# The allow-list


def test_a_deidentified_copy_holds_what_is_allowed_and_nothing_else(planted):
    folder, uids = planted
    names = RoiNames(dataset_of().options)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        before = str(dataset)
        found = deidentified(dataset, PSEUDONYMISER, names)
        assert str(dataset) == before
        assert leaks(str(found) + str(found.file_meta), uids) == []
        assert not [element for element in found.iterall() if element.tag.is_private]
        assert found.PatientID == PSEUDONYMISER.pseudonym("SECRETID-90210")
        assert found.PatientIdentityRemoved == "YES"
        assert found.SOPClassUID == dataset.SOPClassUID
        assert "StudyDate" not in found
        if "PixelData" in dataset:
            np.testing.assert_array_equal(found.pixel_array, dataset.pixel_array)
        if "ROIContourSequence" in dataset:
            assert [item.ROIName for item in found.StructureSetROISequence] == ["Prostate", "Bladder", "PTV", ""]
            assert str(found.ROIContourSequence[0].ContourSequence[0].ContourData) == str(
                dataset.ROIContourSequence[0].ContourSequence[0].ContourData
            )


def test_references_between_the_files_of_a_patient_stay_whole(tmp_path):
    write_patient(tmp_path)
    names = RoiNames(dataset_of().options)
    found = [deidentified(pydicom.dcmread(path), PSEUDONYMISER, names) for path in sorted(tmp_path.iterdir())]
    instances = {str(dataset.SOPInstanceUID) for dataset in found}
    structure_set = next(dataset for dataset in found if dataset.Modality == "RTSTRUCT")
    dose = next(dataset for dataset in found if dataset.Modality == "RTDOSE")
    images = structure_set.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    referred = {
        str(item.ReferencedSOPInstanceUID) for item in images.RTReferencedSeriesSequence[0].ContourImageSequence
    }
    assert len(referred) == 8
    assert referred | {str(dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID)} < instances
    assert len({str(dataset.FrameOfReferenceUID) for dataset in found if dataset.Modality != "RTSTRUCT"}) == 1


def test_a_deidentified_copy_can_be_written_and_read(tmp_path):
    write_patient(tmp_path)
    path = slices_of(tmp_path)[0]
    copy = deidentified(pydicom.dcmread(path), PSEUDONYMISER, str)
    copy.save_as(tmp_path / "copy.dcm", enforce_file_format=True)
    again = pydicom.dcmread(tmp_path / "copy.dcm")
    np.testing.assert_array_equal(again.pixel_array, pydicom.dcmread(path).pixel_array)
    assert again.ImagePositionPatient == pydicom.dcmread(path).ImagePositionPatient


def test_dates_of_a_patient_are_shifted_together():
    found = []
    for study, series in (("20200229", "20200301"), ("20191231", "not a day")):
        dataset = pydicom.Dataset()
        dataset.PatientID, dataset.PatientBirthDate = "4711", "19500101"
        with pydicom.config.disable_value_validation():
            dataset.StudyDate, dataset.SeriesDate = study, series
        found.append(deidentified(dataset, PSEUDONYMISER, str, dates="shift"))
    days = PSEUDONYMISER.date_offset_days(" 4711 ")
    assert -3650 <= days <= -1
    for copy, original in zip(found, ("2020-02-29", "2019-12-31"), strict=True):
        assert np.datetime64(f"{copy.StudyDate[:4]}-{copy.StudyDate[4:6]}-{copy.StudyDate[6:]}") - np.datetime64(
            original
        ) == np.timedelta64(days, "D")
        assert "PatientBirthDate" not in copy
    assert found[1].SeriesDate == ""
    assert PSEUDONYMISER.date_offset_days("4712") != days


def test_a_text_in_place_of_a_number_is_refused_without_quoting_it():
    dataset = pydicom.Dataset()
    dataset.add_new("PixelSpacing", "LO", "Secretname")
    with pytest.raises(DataError, match=r"^PixelSpacing: expected numbers, found text$"):
        deidentified(dataset, PSEUDONYMISER, str)


@needs_test_data
@pytest.mark.parametrize("name", ["rtss", "rtplan", "ct.0"])
def test_a_real_file_keeps_its_numbers_and_loses_its_names(name):
    dataset = pydicom.dcmread(TEST_DATA / "dicom-rt" / f"{name}.dcm")
    found = deidentified(dataset, PSEUDONYMISER, RoiNames(dataset_of().options))
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    for value in ("boost", "physician", "123456", "institution", "station", "operator", "1.2.246.352", "1.840.113662"):
        assert value.encode() not in buffer.getvalue(), value
    if name == "ct.0":
        np.testing.assert_array_equal(found.pixel_array, dataset.pixel_array)
        assert found.PixelSpacing == dataset.PixelSpacing
    if name == "rtss":
        assert found.StructureSetROISequence[0].ROIName == "body contour"


# Pseudonyms


def test_a_pseudonym_is_the_hmac_of_the_normalised_id():
    expected = hmac.new(KEY.encode(), b"MRN 47 A", hashlib.sha256).hexdigest()[:12]
    for written in ("MRN 47 A", " mrn  47 a ", "ＭＲＮ 47 Ａ", "mrn 47 a\0"):
        assert PSEUDONYMISER.pseudonym(written) == f"pat-{expected}"
    assert PSEUDONYMISER.pseudonym("MRN 47 B") != f"pat-{expected}"
    assert Pseudonymiser(b"another key of a test").pseudonym("MRN 47 A") != f"pat-{expected}"
    assert normalised_patient_id(None) == ""


def test_uids_become_valid_ones_that_depend_on_the_key():
    found = PSEUDONYMISER.uid("1.2.840.113619.2.55.3")
    assert re.fullmatch(r"2\.25\.\d{1,39}", found)
    assert pydicom.uid.UID(found).is_valid
    assert int(found.removeprefix("2.25.")) < 2**128
    assert PSEUDONYMISER.uid("1.2.840.113619.2.55.3\0") == found
    assert PSEUDONYMISER.uid("1.2.840.113619.2.55.4") != found
    assert Pseudonymiser(b"another key of a test").uid("1.2.840.113619.2.55.3") != found
    assert PSEUDONYMISER.uid("") == ""


@pytest.mark.parametrize(
    "text", ["", "  ", "ANON", "anonymous", "Anonymized", "0", "0000", "n/a", "XXX", "-", "no_id", None]
)
def test_placeholders_are_recognised(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["4711", "ANON-17", "A0", "10", HEADER.patient_id])
def test_ids_are_not_placeholders(text):
    assert not is_placeholder(text)


def test_the_key_comes_from_a_file_or_the_environment_and_is_never_shown(tmp_path, monkeypatch):
    assert read_key() == KEY.encode()
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123\n")
    assert read_key(str(path)) == b"0123456789abcdef0123"
    path.write_text("too short\n")
    with pytest.raises(DataError, match=r"the key has 9 characters, expected at least 16") as found:
        read_key(str(path))
    assert "too short" not in str(found.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_key(str(tmp_path / "none"))
    monkeypatch.delenv("CTAN_DEID_KEY")
    with pytest.raises(DataError, match=r'make one with python -c "import secrets; print\(secrets.token_hex\(32\)\)"'):
        read_key()
    assert KEY not in repr(Pseudonymiser(KEY.encode())) + str(vars(Pseudonymiser).keys())
    with pytest.raises(DataError, match="expected at least 16"):
        Pseudonymiser(b"short")
