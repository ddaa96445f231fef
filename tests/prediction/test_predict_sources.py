"""`ctan predict` on pictures that lie in a bucket, that DVC pins, and that are made up on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.prediction import predict
from ctan.records import PredictionRecord
from tests.helpers.dvc import Repository
from tests.helpers.prediction import untrained_model
from tests.helpers.s3 import S3Server

pytest_plugins = ["tests.helpers.s3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(untrained_model(tmp_path_factory.mktemp("model") / "ham", "ham10000", [32, 32], None))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("pictures")
    get_dataset("ham10000").write_phantoms(folder, 2, 1, seed=1)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*/*.jpg"))}


def probabilities(folder: Path) -> dict[str, dict[str, float]]:
    found = [PredictionRecord.load(path.parent) for path in folder.glob("*/prediction.json")]
    return {record.case_id: dict(record.probabilities["diagnosis"]) for record in found}


@pytest.fixture(scope="module")
def expected(model: str, pictures: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("folder")
    for name, body in pictures.items():
        (folder / name).write_bytes(body)
    predict(model, str(folder), folder / "out", read_ahead=False)
    return probabilities(folder / "out")


def test_pictures_of_a_bucket(
    tmp_path: Path,
    model: str,
    pictures: dict,
    expected: dict,
    bucket: str,
    s3_server: S3Server,
    credentials: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    s3_server.put(bucket, {f"new/ward/{name}": body for name, body in pictures.items()})
    done = predict(model, f"s3://{bucket}/new", tmp_path / "out", read_ahead=False).done
    assert probabilities(tmp_path / "out") == expected
    assert set(done) == set(expected)
    with pytest.raises(DataError, match="nothing-here"):
        predict(model, f"s3://{bucket}/nothing-here", tmp_path / "other", read_ahead=False)


def test_pictures_that_dvc_pins(tmp_path: Path, model: str, pictures: dict, expected: dict) -> None:
    repository = Repository(tmp_path / "team")
    repository.commit(pictures, "v1")
    predict(model, f"dvc:{repository.folder}@v1:data/kbp", tmp_path / "out", read_ahead=False)
    assert probabilities(tmp_path / "out") == expected


def test_phantoms(tmp_path: Path, model: str, expected: dict) -> None:
    predict(model, "phantom:train=2,validation=1,seed=1", tmp_path / "out", read_ahead=False)
    assert probabilities(tmp_path / "out") == expected
