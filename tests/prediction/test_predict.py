"""`ctan predict` from the command to the files: every format without the truth, resumed, with broken cases."""

import csv
import json
import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from typer.testing import CliRunner

from ctan.cases.working import to_working
from ctan.cli import app
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.sparse_csv import read_mask, read_values
from ctan.errors import ConfigError, DataError
from ctan.files import sha256_of_file
from ctan.inference import load_network
from ctan.inputs import network_input
from ctan.prediction import predict as predict_ahead
from ctan.prediction.ask import ask
from ctan.prediction.measure import uncertainty
from ctan.records import PredictionRecord
from tests.helpers.dicom import CONTOURS, HEADER, KEY, PatientHeader, write_ct_series, write_patient
from tests.helpers.prediction import untrained_model

predict = partial(predict_ahead, read_ahead=False)  # starting a process a test takes seconds
KBP_GRID, KBP_SPACING = [16, 24, 24], [16.0, 16.0, 16.0]
DICOM_GRID, DICOM_SPACING = [16, 16, 8], [4.0, 5.0, 4.0]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Two phantom patients of OpenKBP as they are before anything was planned: CT, targets, possible-dose mask."""
    folder = tmp_path_factory.mktemp("kbp")
    get_dataset("openkbp").write_phantoms(folder, 2, 0, seed=3)
    for path in folder.glob("*/pt_*/*.csv"):
        if not re.match(r"ct|voxel_dimensions|possible_dose_mask|PTV", path.stem):
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def kbp_model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("models") / "kbp", "openkbp", KBP_GRID, KBP_SPACING)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures without masks and table."""
    folder = tmp_path_factory.mktemp("pictures")
    get_dataset("ham10000").write_phantoms(folder / "all", 2, 0, seed=1)
    (folder / "raw").mkdir()
    for path in (folder / "all").glob("*/*.jpg"):
        shutil.copy(path, folder / "raw")
    return folder / "raw"


@pytest.fixture(scope="module")
def picture_model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("models") / "ham", "ham10000", [32, 32], None)


@pytest.fixture(scope="module")
def planning_model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("models") / "rt", "prostate", DICOM_GRID, DICOM_SPACING)


def planning(folder, header=HEADER, contours=("PTV",)):
    """Write what exists before a plan: CT, targets and the prescription."""
    write_patient(folder, header=header, contours={name: CONTOURS[name] for name in contours})
    (folder / "rd").unlink()


def run(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_patients_of_openkbp_without_dose_and_organs_become_a_submission(tmp_path, patients, kbp_model):
    out = tmp_path / "out"
    result = run(kbp_model, patients, "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (out / "submission").iterdir()) == ["pt_1.csv", "pt_2.csv"]
    content = (out / "submission" / "pt_1.csv").read_bytes()
    dose = read_values(content, 128**3, np.float32)
    mask = (patients / "train-pats" / "pt_1" / "possible_dose_mask.csv").read_bytes()
    possible = read_mask(mask, 128**3)
    assert dose.max() > 0
    assert not dose[~possible].any()
    indices = [int(line.split(",")[0]) for line in content.decode().splitlines()[1:]]
    assert indices == sorted(indices)
    record = PredictionRecord.load(out / "pt_1")
    assert record.label == "PREDICTED, RESEARCH USE ONLY"
    assert record.models[0].weights_sha256 == sha256_of_file(kbp_model / "model.safetensors")
    written = [path for path in (out / "pt_1").iterdir() if path.suffix in (".csv", ".gz")]
    assert record.files == {path.name: sha256_of_file(path) for path in written}
    assert record.shape == (128, 128, 128)
    brainstem = read_mask((out / "pt_1" / "Brainstem.csv").read_bytes(), 128**3)
    voxel_cc = np.prod(record.spacing_mm) / 1000
    assert record.volumes_cc["Brainstem"] == pytest.approx(brainstem.sum() * voxel_cc, abs=1e-3)
    inside = read_values((out / "pt_1" / "pt_1.csv").read_bytes(), 128**3, np.float32)[brainstem]
    assert record.dose_gy["Brainstem"]["mean"] == pytest.approx(inside.mean(), abs=2e-3)
    page = (out / "pt_1" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # slices, DVH, where the mirror image's answer differs
    assert {"contouring_spread.nii.gz", "dose_spread.nii.gz"} <= set(record.files)
    assert 0 < record.uncertainty["contouring"]["Brainstem"] < 0.5
    assert record.uncertainty["dose"][""] > 0
    assert "How sure" in page
    assert "PREDICTED, RESEARCH USE ONLY" in page
    assert 'href="pt_2/report.html"' in (out / "report.html").read_text()


def test_a_killed_prediction_goes_on_with_what_is_missing(tmp_path, pictures, picture_model):
    out = tmp_path / "out"
    first, second = predict(str(picture_model), str(pictures), out).done
    before = {path: path.stat().st_mtime_ns for path in (out / first).iterdir()}
    shutil.rmtree(out / second)
    unfinished = out / f".{second}.0123abcd.tmp"  # what a killed process leaves
    unfinished.mkdir()
    (unfinished / "mask.png").write_bytes(b"half")
    again = predict(str(picture_model), str(pictures), out)
    assert (again.done, again.kept) == ((second,), (first,))
    assert not unfinished.exists()
    assert {path: path.stat().st_mtime_ns for path in (out / first).iterdir()} == before
    assert len((out / "predictions.csv").read_text().splitlines()) == 3


def test_what_changed_is_predicted_again(tmp_path, pictures, picture_model):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(pictures, raw)
    first, second = predict(str(picture_model), str(raw), out).done
    one, other = sorted(raw.iterdir())
    one.write_bytes(other.read_bytes())
    assert predict(str(picture_model), str(raw), out).done == (first,)  # other bytes
    (out / second / f"{second}_segmentation.png").write_bytes(b"")
    assert predict(str(picture_model), str(raw), out).done == (second,)  # somebody changed a result
    assert predict(str(picture_model), str(raw), out, test_time_flip=True).done == (first, second)


def test_a_broken_case_is_reported_and_the_others_are_done(tmp_path, pictures, picture_model):
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(pictures, raw)
    broken, whole = sorted(raw.iterdir())
    broken.write_bytes(broken.read_bytes()[:900])
    result = run(picture_model, raw, "--out", out)
    assert result.exit_code == 1
    assert f"error: {broken.stem}: {broken.name}: " in result.output
    assert "1 cases predicted, 1 failed" in result.output
    assert not (out / broken.stem).exists()
    assert (out / whole.stem / "prediction.json").is_file()
    failed = json.loads((out / "prediction.json").read_text())["failed"]
    assert list(failed) == [broken.stem]
    assert "Not predicted: 1" in (out / "report.html").read_text()


def test_a_patient_without_targets_is_named(tmp_path, planning_model):
    planning(tmp_path / "raw" / "x", contours=("Prostate",))
    (reason,) = predict(str(planning_model), str(tmp_path / "raw"), tmp_path / "out").failed.values()
    assert reason == "the model needs a contoured target (PTV), which the case does not have"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("possible_dose_mask", "the model needs where dose is possible (possible_dose_mask)"),
        ("ct", None),
        ("voxel_dimensions", "voxel_dimensions.csv missing"),
    ],
)
def test_what_a_model_needs_and_a_patient_lacks_is_named(tmp_path, patients, kbp_model, name, reason):
    raw = tmp_path / "pt_1"
    shutil.copytree(patients / "train-pats" / "pt_1", raw)
    (raw / f"{name}.csv").unlink()
    if reason is None:
        with pytest.raises(DataError, match=r"no patient, expected a folder with ct\.csv"):
            predict(str(kbp_model), str(raw), tmp_path / "out")
        return
    assert predict(str(kbp_model), str(raw), tmp_path / "out").failed["pt_1"].startswith(reason)


def test_planning_ct_and_targets_become_dose_and_structures(tmp_path, planning_model):
    model = planning_model
    planning(tmp_path / "raw" / "Doe_John")
    other = PatientHeader(key="b", patient_id="MRN 5")
    planning(tmp_path / "raw" / "Roe_Jane", other)
    (tmp_path / "raw" / "Roe_Jane" / "rp").unlink()
    out = tmp_path / "out"
    summary = predict(str(model), str(tmp_path / "raw"), out)
    assert len(summary.done) == 2
    (unknown,) = [warnings for warnings in summary.warnings.values() if any("prescribed" in w for w in warnings)]
    assert "dose is not predicted: the prescribed dose is not known (RTPLAN, or --set" in " ".join(unknown)
    found = {path.name: sorted(file.name for file in path.iterdir()) for path in out.glob("pat-*")}
    alone = ["RTSTRUCT.dcm", "contouring_spread.nii.gz", "prediction.json", "report.html"]
    assert sorted(found.values()) == [sorted([*alone, "RTDOSE.dcm", "dose_spread.nii.gz"]), alone]
    for path in out.rglob("*"):
        if path.is_file():
            for secret in ("Doe_John", "MRN 4711", "MRN 5", HEADER.patient_name, str(tmp_path)):
                assert secret.encode() not in path.read_bytes(), path
    again = predict(str(model), str(tmp_path / "raw"), out, overrides=["data.options.prescription_gy=60"])
    assert len(again.done) == 2
    assert len(list(out.glob("pat-*/RTDOSE.dcm"))) == 2


def test_a_model_of_the_image_alone_takes_a_ct_alone(tmp_path):
    overrides = {"data.inputs": "ct", "data.options.prescription_gy": 60.0}
    model = untrained_model(tmp_path / "model", "prostate", DICOM_GRID, DICOM_SPACING, overrides=overrides)
    write_patient(tmp_path / "raw" / "x")
    for name in ("rd", "rs", "rp"):
        (tmp_path / "raw" / "x" / name).unlink()
    summary = predict(str(model), str(tmp_path / "raw"), tmp_path / "out", identified=True)
    (case_id,) = summary.done
    dose = pydicom.dcmread(tmp_path / "out" / case_id / "RTDOSE.dcm")
    assert dose.PatientID == HEADER.patient_id
    assert dose.pixel_array.shape == (8, 30, 36)


def test_a_ct_longer_than_the_grid_is_covered_by_windows(tmp_path):
    """A single window of 8 slices of 4 mm shows 32 of 120 mm; the ends were silently left out."""
    overrides = {"data.inputs": "ct", "data.options.prescription_gy": 60.0}
    model = untrained_model(tmp_path / "model", "prostate", DICOM_GRID, DICOM_SPACING, overrides=overrides)
    body = np.full((40, 30, 36), -1000, np.int16)
    body[:, 4:26, 4:32] = 40
    write_ct_series(tmp_path / "raw" / "x", body, (3.0, 2.0, 2.0), (0.0, 0.0, 0.0), patient=HEADER)
    summary = predict(str(model), str(tmp_path / "raw"), tmp_path / "out")
    record = PredictionRecord.load(tmp_path / "out" / summary.done[0])
    assert record.windows > 4
    assert record.uncovered_slices == ()
    dose = pydicom.dcmread(tmp_path / "out" / summary.done[0] / "RTDOSE.dcm").pixel_array
    assert all(plane.any() for plane in dose)


def test_pictures_without_masks_and_table(tmp_path, pictures, picture_model):
    out = tmp_path / "out"
    summary = predict(str(picture_model), str(pictures), out)
    paths = sorted(pictures.iterdir())
    assert summary.done == tuple(path.stem for path in paths)
    with (out / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case_id"] for row in rows] == list(summary.done)
    classes = [name for name in rows[0] if name.startswith("diagnosis_")]
    assert len(classes) == 7
    assert sum(float(rows[0][name]) for name in classes) == pytest.approx(1, abs=1e-5)
    for path in paths:
        mask = Image.open(out / path.stem / f"{path.stem}_segmentation.png")
        assert mask.size == Image.open(path).size
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    one = predict(str(picture_model), str(paths[0]), tmp_path / "one")
    assert one.done == (paths[0].stem,)
    assert (tmp_path / "one" / "predictions.csv").read_text().splitlines()[1] == ",".join(rows[0].values())


def test_scans_of_stoic_without_a_table(tmp_path):
    model = untrained_model(tmp_path / "model", "stoic", [16, 16, 16], [12.0, 16.0, 12.0])
    get_dataset("stoic").write_phantoms(tmp_path / "all", 1, 0, seed=1)
    shutil.rmtree(tmp_path / "all" / "metadata")
    (scan,) = (tmp_path / "all").rglob("*.mha")
    summary = predict(str(model), str(tmp_path / "all"), tmp_path / "out")
    assert summary.done == (scan.stem,)
    header, row = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert header == "PatientID,probCOVID,probSevere"
    probabilities = PredictionRecord.load(tmp_path / "out" / scan.stem).probabilities
    assert row.split(",") == [
        scan.stem,
        str(probabilities["covid"]["positive"]),
        str(probabilities["severity"]["severe"]),
    ]
    plain = tmp_path / "plain" / "patient.nii.gz"
    plain.parent.mkdir()
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(plain))
    assert predict(str(model), str(plain), tmp_path / "nifti").done == ("patient",)


def test_plain_volumes_come_back_on_their_own_grid(tmp_path):
    overrides = {"data.options.prescription_gy": 60.0}
    model = untrained_model(tmp_path / "model", "prostate", DICOM_GRID, DICOM_SPACING, overrides=overrides)
    rng = np.random.default_rng(0)
    values = np.full((20, 40, 44), -1000.0, np.float32)
    values[:, 6:34, 6:38] = rng.normal(30, 20, (20, 28, 32))
    image = sitk.GetImageFromArray(values.astype(np.int16))
    image.SetSpacing((2.5, 1.9, 3.1))
    image.SetOrigin((-31.0, 12.0, 205.0))
    image = sitk.DICOMOrient(image, "SAR")
    target = sitk.Image(image > 60)
    possible = sitk.Image(image > -300)
    raw = tmp_path / "raw"
    raw.mkdir()
    sitk.WriteImage(image, str(raw / "a.nii.gz"))
    sitk.WriteImage(target, str(raw / "a.PTV.nii.gz"))
    sitk.WriteImage(possible, str(raw / "a.possible_dose_mask.nii.gz"))
    summary = predict(str(model), str(raw), tmp_path / "out")
    assert (summary.done, summary.failed) == (("a",), {})
    dose, like = (sitk.ReadImage(str(path)) for path in (tmp_path / "out" / "a" / "dose.nii.gz", raw / "a.nii.gz"))
    assert dose.GetSize() == like.GetSize()
    assert (dose.GetOrigin(), dose.GetSpacing(), dose.GetDirection()) == (
        like.GetOrigin(),
        like.GetSpacing(),
        like.GetDirection(),
    )
    inside = sitk.GetArrayFromImage(possible).astype(bool)
    found = sitk.GetArrayFromImage(dose)
    assert found.dtype == np.float32
    assert found[inside].any()
    assert not found[~inside].any()


def test_the_spread_is_that_of_the_answers_and_changes_none(picture_model, pictures):
    """By hand from what the two networks say of the picture and of its mirror image."""
    loaded = load_network(picture_model, test_time_flip=False)
    other = replace(loaded, record=loaded.record)
    reader = get_dataset(DataConfig(dataset="ham10000"), "predict")
    case = reader.read(reader.find(pictures)[0])
    plain, told = ask([loaded, other], case), ask([loaded, other], case, spread=True)
    np.testing.assert_array_equal(plain.prediction.masks["Lesion"], told.prediction.masks["Lesion"])
    stored, _ = to_working(case, loaded.spec, (32, 32), None)
    image = network_input(stored, loaded.spec, loaded.inputs)[None]
    straight, mirrored = loaded.predict_batch(image), loaded.predict_batch(image[:, :, ::-1].copy())
    expected = np.abs(straight["diagnosis"] - mirrored["diagnosis"])[0] / 2  # the deviation of two values, twice each
    np.testing.assert_allclose(told.spread["diagnosis"], expected, atol=1e-6)
    found = uncertainty(told, loaded.tasks, loaded.spec)
    shares = np.array(list(told.prediction.probabilities["diagnosis"].values()))
    assert found["diagnosis"]["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(7), abs=1e-4)
    inside = told.spread["lesion"][0][told.prediction.masks["Lesion"]].mean()
    assert found["lesion"]["Lesion"] == pytest.approx(inside, abs=1e-4)
    assert plain.spread == {}


def test_the_page_says_what_an_answer_hangs_on_when_asked(tmp_path, picture_model, pictures):
    summary = predict(str(picture_model), str(min(pictures.iterdir())), tmp_path / "out", why=True)
    page = (tmp_path / "out" / summary.done[0] / "report.html").read_text()
    assert "What speaks for the predicted diagnosis" in page
    assert "What tasks take" not in page


def test_an_ensemble_is_the_mean_of_its_models(tmp_path, pictures):
    folders = [
        untrained_model(tmp_path / f"m{seed}", "ham10000", [32, 32], None, fold=0, seed=seed) for seed in range(3)
    ]
    untrained_model(tmp_path / "other", "ham10000", [64, 64], None, seed=5)  # of another grid: not one of them
    source = str(min(pictures.iterdir()))
    alone = []
    for number, folder in enumerate(folders):
        summary = predict(str(folder), source, tmp_path / f"out{number}")
        alone.append(PredictionRecord.load(summary.folder / summary.done[0]).probabilities["diagnosis"])
    together = predict(str(folders[0]), source, tmp_path / "ensemble", ensemble=True)
    record = PredictionRecord.load(together.folder / together.done[0])
    assert [model.name for model in record.models] == ["m0", "m1", "m2"]
    for name, value in record.probabilities["diagnosis"].items():
        assert value == pytest.approx(np.mean([one[name] for one in alone]), abs=1e-6)
    with pytest.raises(DataError, match="no other fold or seed of hps was trained with it"):
        predict(str(tmp_path / "other"), source, tmp_path / "no", ensemble=True)


def test_what_is_no_model_no_input_and_no_output_is_named(tmp_path, planning_model):
    with pytest.raises(ConfigError, match="expected models:/NAME@ALIAS"):
        predict("ctan-openkbp", str(tmp_path), tmp_path / "out")
    with pytest.raises(DataError, match="is not a folder"):
        predict(str(planning_model), str(tmp_path / "none"), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("my thesis")
    with pytest.raises(DataError, match="exists and is no earlier prediction"):
        predict(str(planning_model), str(tmp_path), tmp_path / "mine")
    with pytest.raises(ConfigError, match="prescription"):
        predict(str(planning_model), str(tmp_path), tmp_path / "out", overrides=["data.options.prescription=60"])


def test_other_code_before_the_model_is_named(tmp_path, pictures):
    model = untrained_model(tmp_path / "model", "ham10000", [32, 32], None, versions={"pictures": 0, "packer": 1})
    result = run(model, min(pictures.iterdir()), "--out", tmp_path / "out")
    told = r"warning: pictures: cases are read by version \d+, the model learned from version 0"
    assert re.search(told, result.output)
    assert "the model learned from version 0" in next(tmp_path.glob("out/ISIC*/report.html")).read_text()
