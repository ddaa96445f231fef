"""A served model answers what `ctan predict` writes: in this process, by MLflow, and by real servers."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from ctan.datasets import get_dataset
from ctan.datasets.folder.description import ImageSection
from ctan.errors import ConfigError, CtanError
from ctan.files import sha256_of_file
from ctan.inference.form import answer_columns, example, npy
from ctan.prediction import predict as predict_ahead
from ctan.prediction.models import Model
from ctan.prediction.served import ServedModel
from ctan.prediction.server import rows_of_request, serve
from ctan.records import PredictionRecord
from tests.helpers.prediction import untrained_model
from tests.helpers.s3 import free_ports
from tests.helpers.workloads import http_status, wait_until

predict = partial(predict_ahead, read_ahead=False)
GRID, SPACING = [12, 16, 8], [16.0, 16.0, 16.0]
PATIENT = "pt_1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "volumes": untrained_model(folder / "kbp", "openkbp", GRID, SPACING),
        "pictures": untrained_model(folder / "ham", "ham10000", [32, 32], None),
    }


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> dict[str, ServedModel]:
    return {name: ServedModel.open([Model.of(name, folder)]) for name, folder in models.items()}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    get_dataset("ham10000").write_phantoms(folder, 1, 0, seed=1)
    return next(folder.glob("*/*.jpg"))


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A patient as NIfTI, a target and where dose is possible beside it, and the same as a request.

    Axes of the files are (superior, posterior, left), those of a request (posterior, left, inferior).
    """
    z, y, x = np.indices((12, 20, 16))
    body = (y - 9.5) ** 2 + (x - 7.5) ** 2 < 45
    hounsfield = np.where(body, 40 + 5 * z, -1000).astype(np.int16)
    masks = {"PTV70": body & (x > 8) & (abs(y - 9) < 3) & (z > 3), "possible_dose_mask": body}
    files = {"": hounsfield, **{f".{name}": mask.astype(np.uint8) for name, mask in masks.items()}}
    folder = tmp_path_factory.mktemp("nifti")
    for name, array in files.items():
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((9.0, 8.0, 10.0))  # x, y, z
        sitk.WriteImage(image, str(folder / f"{PATIENT}{name}.nii.gz"))
    row = {"image": npy(hounsfield.transpose(1, 2, 0)[..., ::-1]), "spacing_mm": [8.0, 9.0, 10.0]}
    return folder, row | {name: npy(mask.transpose(1, 2, 0)[..., ::-1]) for name, mask in masks.items()}


def text_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: b64encode(one).decode() if isinstance(one, bytes) else one for name, one in row.items()}


def post(address: str, value: Any, kind: str = "application/json", host: str = "") -> tuple[int, dict[str, Any]]:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    request = urllib.request.Request(address, body, {"Content-Type": kind, **({"Host": host} if host else {})})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}


def assert_as_predicted(answer: dict[str, Any], folder: Path) -> None:
    """Compare with the NIfTI that `ctan predict` wrote."""
    for name in ("dose", "Brainstem"):
        found = np.load(io.BytesIO(answer[name]))
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / PATIENT / f"{name}.nii.gz")))
        assert np.count_nonzero(found) > 10
        np.testing.assert_array_equal(found, written.transpose(1, 2, 0)[..., ::-1])


# ---- in this process


def test_a_picture_is_answered_with_what_predict_writes(
    tmp_path: Path, served: dict[str, ServedModel], models: dict[str, Path], picture: Path
) -> None:
    answer = served["pictures"].answer({"image": picture.read_bytes()})
    predict(str(models["pictures"]), str(picture), tmp_path / "out")
    record = PredictionRecord.load(tmp_path / "out" / picture.stem)
    classes = record.probabilities["diagnosis"]
    assert {name: answer[f"diagnosis_{name}"] for name in classes} == classes
    assert answer["diagnosis"] == max(classes, key=lambda name: classes[name])
    written = np.asarray(Image.open(tmp_path / "out" / picture.stem / f"{picture.stem}_segmentation.png"))
    found = np.asarray(Image.open(io.BytesIO(answer["Lesion"])))
    assert 0 < np.count_nonzero(found) < found.size
    np.testing.assert_array_equal(found, written)


def test_arrays_with_spacing_are_answered_with_what_predict_writes(
    tmp_path: Path, served: dict[str, ServedModel], models: dict[str, Path], patient: tuple[Path, dict[str, Any]]
) -> None:
    folder, row = patient
    answer = served["volumes"].answer(row)
    predict(str(models["volumes"]), str(folder), tmp_path / "out")
    assert_as_predicted(answer, tmp_path / "out")
    coarser = served["volumes"].answer(row | {"spacing_mm": [2 * edge for edge in row["spacing_mm"]]})
    assert coarser["dose"] != answer["dose"], "spacing must decide"


def test_images_of_any_value_have_an_example_too(served: dict[str, ServedModel]) -> None:
    """Today's wrong output was an OverflowError at the end of every training on MR that is kept as float32."""
    record = served["volumes"].record
    image = ImageSection(files=("{case}.nii",), modality="mr").spec()
    row = example(record.model_copy(update={"spec": record.spec.model_copy(update={"image": image})}))
    values = np.load(io.BytesIO(row["image"]))
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == (0, 1000)


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_a_model_answers_its_own_example_with_the_columns_that_it_names(
    served: dict[str, ServedModel], kind: str
) -> None:
    answer = served[kind].answer(text_of(example(served[kind].record)))
    types = {"binary": bytes, "string": str, "double": float, "strings": list}
    named = {column.name: types[column.kind] for column in answer_columns(served[kind].record)}
    assert {name: type(value) for name, value in answer.items()} == named


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": None}, "image: is missing"),
        ({"spacing_mm": [1.0, float("nan"), 1.0]}, "spacing_mm: expected edges of a voxel in mm"),
        ({"spacing_mm": ["1", 1.0, 1.0]}, "as numbers"),
        ({"spacing_mm": [1.0, 1.0]}, "spacing_mm: expected 3 numbers, found 2"),
        ({"spacing_mm": [1.0, 1.0, -1.0]}, "expected positive voxel edges"),
        ({"image": "no base64!"}, "image: not base64"),
        ({"image": b"\x93NUMPY and no more"}, "expected the bytes of a .npy file"),
        ({"image": npy(np.zeros((4, 4), np.int16))}, "expected 3 axes"),
        ({"image": npy(np.zeros((4, 4, 4), np.int16))[:-3]}, "cut off"),
        ({"image": npy(np.full((4, 4, 4), np.nan, np.float32))}, "NaN or infinite"),
        ({"PTV70": npy(np.zeros((4, 4, 4), np.uint8))}, "PTV70: has the shape"),
        ({"PTV70": npy(np.full((8, 8, 8), 3, np.uint8))}, "PTV70: expected 0 and 1"),
        ({"Dose": 1.0}, "unknown column 'Dose'"),
        ({"PTV56": None, "PTV63": None, "PTV70": None}, "needs a contoured target"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    served: dict[str, ServedModel], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(CtanError, match=re.escape(said)):
        served["volumes"].answer(example(served["volumes"].record) | change)


def test_an_array_that_would_run_code_is_not_unpickled(served: dict[str, ServedModel]) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(CtanError, match="expected whole or floating-point numbers"):
        served["volumes"].answer(example(served["volumes"].record) | {"image": stream.getvalue()})


@pytest.mark.parametrize(
    "value",
    [
        {"dataframe_records": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
        {"inputs": {"a": [1, 3], "b": [2, 4]}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_every_form_that_mlflow_takes_is_taken(value: Any) -> None:
    assert rows_of_request(json.dumps(value).encode()) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


@pytest.mark.parametrize(
    "value",
    [b"{", b"[]", b'{"rows": []}', b'{"instances": []}', b'{"instances": [1]}', b'{"inputs": {"a": [1], "b": []}}',
     b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', b'{"inputs": {}, "instances": []}'],
)  # fmt: off
def test_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(CtanError):
        rows_of_request(value)


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded(models: dict[str, Path]) -> None:
    (port,) = free_ports(1)
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            serve([Model.of("ham", models["pictures"])], "127.0.0.1", port, 1, None, print)


# ---- real servers


@pytest.fixture(scope="module")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of `ctan serve`, that takes 1 MB, and its log."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-c", "from ctan.cli import main; main()", "serve", str(models["pictures"])]
    command += ["--port", "0", "--max-request-mb", "1"]
    with log.open("w") as file:
        environment = os.environ | {"PATH": "/nowhere"}  # nothing is taken from there
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        wait_until(lambda: "/invocations" in log.read_text(), process, log)
        yield re.search(r"http://[\d.:]+", log.read_text())[0], log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


def test_a_server_answers_as_predict_does_and_keeps_what_it_was_sent_to_itself(
    server: tuple[str, Path], served: dict[str, ServedModel], models: dict[str, Path], picture: Path
) -> None:
    address, log = server
    status, found = post(f"{address}/invocations", {"dataframe_records": [text_of({"image": picture.read_bytes()})]})
    expected = served["pictures"].answer({"image": picture.read_bytes()})
    (answer,) = found["predictions"]
    assert status == 200
    assert b64decode(answer.pop("Lesion")) == expected.pop("Lesion")
    numbers = {name for name, value in expected.items() if isinstance(value, float)}
    assert {name: answer[name] for name in numbers} == pytest.approx({name: expected[name] for name in numbers})
    assert answer["diagnosis"] == expected["diagnosis"]

    marker = "bmFtZS1vZi1hLXBhdGllbnQ="
    for value in ({"instances": [{"image": marker}]}, {"instances": [{"image": marker, "x": marker}]}, marker.encode()):
        status, said = post(f"{address}/invocations", value)
        assert (status, marker in json.dumps(said)) == (400, False)
    assert marker not in log.read_text()


def test_a_server_says_what_it_is_and_when_it_is_ready(server: tuple[str, Path], models: dict[str, Path]) -> None:
    address, _ = server
    assert http_status(f"{address}/ping", "127.0.0.1") == http_status(f"{address}/health", "localhost") == 200
    head = urllib.request.Request(f"{address}/ping", method="HEAD")
    assert urllib.request.urlopen(head, timeout=60).status == 200
    with urllib.request.urlopen(f"{address}/model", timeout=60) as answer:
        described = json.load(answer)
    assert described["models"][0]["weights_sha256"] == sha256_of_file(models["pictures"] / "model.safetensors")
    assert [column["name"] for column in described["request"]] == ["image"]


def test_a_server_refuses_what_is_too_large_and_what_a_strangers_page_could_send(server: tuple[str, Path]) -> None:
    address, _ = server
    large = {"instances": [{"image": "A" * 2**20}]}
    assert post(f"{address}/invocations", large)[0] == 413
    assert post(f"{address}/invocations", b"{}", kind="text/plain")[0] == 415
    assert post(f"{address}/invocations", b"{}", host="evil.example")[0] == 400
    assert http_status(f"{address}/ping", "evil.example") == 400


@pytest.fixture(scope="module")
def registered(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace where both models are registered as champions."""
    import mlflow

    from ctan.inference.pyfunc import log_pyfunc
    from ctan.tracking import prepare

    workspace = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("CTAN_WORKSPACE", str(workspace))
        prepare()
        experiment = mlflow.create_experiment("served", (workspace / "mlartifacts").as_uri())
        for name, folder in models.items():
            with mlflow.start_run(experiment_id=experiment):
                model_id = log_pyfunc(folder, "model", {})
            mlflow.register_model(f"models:/{model_id}", f"ctan-{name}")
            mlflow.MlflowClient().set_registered_model_alias(f"ctan-{name}", "champion", "1")
    return workspace


@pytest.mark.slow
def test_mlflows_own_server_and_command_answer_with_the_same_numbers(
    tmp_path: Path,
    registered: Path,
    served: dict[str, ServedModel],
    models: dict[str, Path],
    patient: tuple[Path, dict[str, Any]],
    picture: Path,
) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{registered}/mlflow.db"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow takes uvicorn from there
    mlflow = [sys.executable, "-m", "mlflow", "models"]
    (port,) = free_ports(1)
    command = [*mlflow, "serve", "-m", "models:/ctan-volumes@champion", "--env-manager", "local", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        asked, answered = tmp_path / "asked.json", tmp_path / "answered.json"
        asked.write_text(json.dumps({"dataframe_records": [text_of({"image": picture.read_bytes()})]}))
        command = [*mlflow, "predict", "-m", "models:/ctan-pictures@champion", "--env-manager", "local"]
        subprocess.run([*command, "-i", asked, "-o", answered, "-t", "json"], env=environment, check=True)
        (found,) = json.loads(answered.read_text())["predictions"]
        expected = served["pictures"].answer({"image": picture.read_bytes()})
        assert b64decode(found["Lesion"]) == expected["Lesion"]
        assert found["diagnosis_mel"] == pytest.approx(expected["diagnosis_mel"])

        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: http_status(f"{address}/ping", "127.0.0.1") == 200, process, log)
        row = text_of(patient[1])
        status, answer = post(
            f"{address}/invocations", {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}
        )
        assert status == 200, answer
        predict(str(models["volumes"]), str(patient[0]), tmp_path / "out")
        (row,) = answer["predictions"]
        assert_as_predicted({name: b64decode(row[name]) for name in ("dose", "Brainstem")}, tmp_path / "out")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
