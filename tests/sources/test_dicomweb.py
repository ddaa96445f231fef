"""Planning data from a real DICOMweb server (Orthanc), and predictions to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from ctan.cases.prediction import LABEL
from ctan.dicom.writers import PatientHeader
from ctan.errors import ConfigError, DataError
from ctan.settings import load_config
from ctan.sources import open_source
from ctan.sources.dicomweb import PASSWORD, TOKEN, USER, DicomWeb, _first_part, send
from ctan.sources.origin import Origin
from ctan.sources.places import recalled, recorded, remember
from tests.helpers.dicom import HEADER, KEY, dataset_of, read, write_patient

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LOGIN = ("reader", "of-tests-only")
OTHER = PatientHeader(key="other", patient_id="MRN 4712")
needs_orthanc = pytest.mark.skipif(
    not (Path(ORTHANC).is_file() and PLUGIN.exists()),
    reason="Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv(USER, LOGIN[0])
    monkeypatch.setenv(PASSWORD, LOGIN[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """A server with a login; yields the address of its DICOMweb services."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dicom_port = probe.getsockname()[1], other.getsockname()[1]
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomPort": dicom_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {LOGIN[0]: LOGIN[1]},
        "OverwriteInstances": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                if requests.get(f"{address}/system", auth=LOGIN, timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text())
        yield f"{address}/dicom-web"
    finally:
        process.terminate()
        process.wait(30)


def upload(orthanc, path):
    """Put a file into the server by its own API, not by ours."""
    answer = requests.post(f"{orthanc.removesuffix('/dicom-web')}/instances", path.read_bytes(), auth=LOGIN, timeout=30)
    assert answer.ok, answer.text


@pytest.fixture(scope="module")
def patients(tmp_path_factory, orthanc):
    folder = tmp_path_factory.mktemp("patients")
    for name, header in (("first", HEADER), ("second", OTHER)):
        write_patient(folder / name, header=header)
        for path in folder.joinpath(name).rglob("*"):
            if path.is_file():
                upload(orthanc, path)
    return folder


@needs_orthanc
def test_a_patient_of_a_server_is_the_patient_of_the_files(orthanc, patients):
    source = f"dicomweb:{orthanc}?PatientID=*4711"  # Orthanc's plug-in finds no value that holds a space
    dataset = dataset_of()
    with open_source(source, dataset) as folder:
        (raw,) = dataset.find(folder)
        found = dataset.read(raw)
    expected = read(patients / "first")
    assert found.case_id == expected.case_id
    np.testing.assert_array_equal(found.images["ct"], expected.images["ct"])
    np.testing.assert_array_equal(found.doses["dose"], expected.doses["dose"])
    for name in expected.masks:
        np.testing.assert_array_equal(found.masks[name], expected.masks[name])


@needs_orthanc
def test_the_version_is_of_contents_and_a_corrected_contour_changes_it(orthanc, patients):
    source = f"dicomweb:{orthanc}"
    config = load_config("smoke", {"data.dataset": "prostate", "data.options.prescription_gy": 60})
    before = Origin.of(source, config)
    assert Origin.of(source, config).data_version == before.data_version
    path = patients / "second" / "rs"
    original, dataset = path.read_bytes(), pydicom.dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [value + 0.5 if n % 3 == 0 else value for n, value in enumerate(contour.ContourData)]
    dataset.save_as(path)
    upload(orthanc, path)  # the same UID, as a planning system writes it again
    assert Origin.of(source, config).data_version != before.data_version
    path.write_bytes(original)
    upload(orthanc, path)
    assert Origin.of(source, config).data_version == before.data_version


@needs_orthanc
def test_images_are_fetched_once_and_what_the_server_removed_is_removed(orthanc, patients, tmp_path):
    from ctan.sources.dicomweb import open_dicomweb

    query = f"dicomweb:{orthanc}?PatientID=*4712"
    with open_dicomweb(query, tmp_path) as folder:
        files = {path: path.stat().st_ino for path in folder.rglob("*.dcm")}
        kinds = {path: pydicom.dcmread(path, stop_before_pixels=True).Modality for path in files}
        (folder / "old.dcm").write_bytes(b"of a study that is gone")
    with open_dicomweb(query, tmp_path) as folder:
        again = {path: path.stat().st_ino for path in folder.rglob("*.dcm")}
    assert again.keys() == files.keys()
    assert {kinds[path] for path in files if again[path] == files[path]} == {"CT"}


@needs_orthanc
def test_what_is_wrong_is_said_without_login_or_query(orthanc, patients, monkeypatch):
    dataset, query = dataset_of(), "?PatientName=Surname"

    def said(source):
        with pytest.raises(DataError) as error, open_source(source, dataset):
            pass
        assert LOGIN[1] not in str(error.value)
        assert "Surname" not in str(error.value)
        return str(error.value)

    assert "no study fits the query" in said(f"dicomweb:{orthanc}{query}")
    assert "is it the address of its DICOMweb services?" in said(f"dicomweb:{orthanc}/elsewhere{query}")
    monkeypatch.setenv(PASSWORD, "wrong")
    assert f"no access (HTTP 401); set {TOKEN}" in said(f"dicomweb:{orthanc}{query}")
    assert "no answer" in said(f"dicomweb:http://127.0.0.1:9{query}")


def predicted(path, source, **changes):
    dataset = pydicom.dcmread(source)
    dataset.SeriesDescription, dataset.PatientIdentityRemoved = LABEL, "YES"
    dataset.PatientName = dataset.PatientID = "pat-0123"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.4711"
    dataset.SeriesInstanceUID = "2.25.4712"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


@needs_orthanc
def test_predictions_are_stored_and_sent_again_are_the_same_objects(orthanc, patients, tmp_path):
    predicted(tmp_path / "out" / "pat-0123" / "RTDOSE.dcm", patients / "first" / "rd")
    for _ in range(2):
        assert send(tmp_path / "out", f"dicomweb:{orthanc}") == 1
    found = requests.get(f"{orthanc}/instances?PatientID=pat-0123", auth=LOGIN, timeout=30).json()
    assert [item["00080018"]["Value"] for item in found] == [["2.25.4711"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"SeriesDescription": "Dose"}, "does not say that it was predicted"),
        ({"PatientIdentityRemoved": "NO"}, "holds who the patient is"),
    ],
)
def test_nothing_is_sent_that_is_no_prediction_or_says_who_the_patient_is(tmp_path, changes, said):
    write_patient(tmp_path / "in")
    predicted(tmp_path / "out" / "a.dcm", tmp_path / "in" / "rd")
    predicted(tmp_path / "out" / "b.dcm", tmp_path / "in" / "rd", **changes)
    with pytest.raises(DataError, match=rf"b.dcm: {said}.*nothing was sent") as error:
        send(tmp_path / "out", "dicomweb:https://127.0.0.1:9/dicom-web")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("dicomweb:https://user:secret@host/dicom-web", "holds a login"),
        ("dicomweb:host/dicom-web", "expected dicomweb:https"),
        ("dicomweb:http://host/dicom-web", "not encrypted"),
    ],
)
def test_addresses_that_would_give_secrets_away_are_refused(source, said):
    os.environ.pop("CTAN_INSECURE", None)
    with pytest.raises(ConfigError, match=said) as error:
        DicomWeb.parse(source)
    assert "secret" not in str(error.value)


def test_a_query_is_recorded_as_a_hash_and_found_again_here():
    source = "dicomweb:https://host/dicom-web?PatientID=4711"
    name = recorded(source)
    assert name.startswith("dicomweb:https://host/dicom-web?query=")
    assert "4711" not in name.partition("?")[2][:6]
    assert recorded(name) == name
    assert recorded("dicomweb:https://host/dicom-web") == "dicomweb:https://host/dicom-web"
    assert recalled(name) == ""
    remember(source)
    assert recalled(name) == source


def test_the_first_part_of_an_answer_is_cut_out_to_the_byte():
    content = b"\r\n--other\r\n\r\nDICM\0\r\n"
    body = b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--mark--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=mark'
    assert _first_part(body, kind) == content
    assert _first_part(content, "application/dicom") == content
