"""The full pipeline against real services: MLflow of the manifests with a login, on PostgreSQL, artifacts in S3.

PostgreSQL is shut down in the middle of a training and comes back some seconds later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers_s3 import ACCESS_KEY, SECRET_KEY, S3Server
from helpers_services import ADMIN, PASSWORD, mlflow_server

from ctan.errors import TrackingError
from ctan.tracking.server import prepare

if TYPE_CHECKING:
    from helpers_services import PostgreSQL

pytest_plugins = ["helpers_s3", "helpers_services"]
pytestmark = pytest.mark.slow

CTAN = str(Path(sys.executable).with_name("ctan"))
EPOCHS = 60  # of a tenth of a second: the database is away for a part of them
SECONDS_AWAY = 5.0
SMALL = [
    "preprocess.grid_shape=[16,24,24]",
    "preprocess.grid_spacing_mm=[16.0,16.0,16.0]",
    "network.base_width=4",
    "evaluation.num_bootstrap=100",
]
RUN = ["run", "--source", "phantom:train=6,validation=2,seed=0", "--arch", "stl", "--epochs", str(EPOCHS)]
RUN += [word for setting in SMALL for word in ("--set", setting)]


@dataclass
class Services:
    """Where they are, and how to speak to them."""

    address: str
    bucket: str
    s3: S3Server
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }

    def objects(self) -> list[str]:
        pages = self.s3.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


@pytest.fixture(scope="module")
def services(
    migrated: dict[str, str], s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    bucket = f"mlflow-{uuid.uuid4().hex[:8]}"
    s3_server.client.create_bucket(Bucket=bucket)
    environment = migrated | {
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{bucket}/artifacts",
        "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
    }
    with mlflow_server(environment, tmp_path_factory.mktemp("mlflow")) as (address, process):
        yield Services(address, bucket, s3_server, process)


@pytest.fixture
def client(services: Services, monkeypatch: pytest.MonkeyPatch) -> Any:
    from ctan.tracking.server import connect

    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    return connect()


def run_while_the_database_restarts(services: Services, postgres: PostgreSQL) -> tuple[int, str]:
    """Run the pipeline; shut PostgreSQL down at the third epoch of the training."""
    environment = os.environ | services.environment | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [CTAN, *RUN], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines, restarted = [], False
        for line in process.stdout:
            lines.append(line)
            if f"epoch 3/{EPOCHS}" in line:
                postgres.stop()
                time.sleep(SECONDS_AWAY)
                postgres.start()
                restarted = True
        assert restarted, "".join(lines)
        return process.wait(), "".join(lines)


def test_a_run_survives_a_restart_of_the_database_and_nothing_is_missing(
    services: Services, postgres: PostgreSQL, client: Any, own_workspace: Path
) -> None:
    code, said = run_while_the_database_restarts(services, postgres)
    assert code == 0, said[-4000:]
    assert "warning: figures of epoch" in said, "the database was away while figures were sent"

    (experiment,) = [one for one in client.search_experiments() if one.name == "ctan-openkbp"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, EPOCHS + 1))
    assert "evaluation.dose.dose_score" in run.data.metrics

    (version,) = client.search_model_versions("name='ctan-openkbp'")
    decision = json.loads(next((own_workspace / "runs").glob("*/decision.json")).read_text())
    alias = "champion" if decision["promoted"] else "challenger"
    assert client.get_registered_model("ctan-openkbp").aliases == {alias: version.version}
    assert version.tags["decision"] == ("promoted" if decision["promoted"] else "kept")

    kept = services.objects()
    assert any(key.endswith("model.safetensors") for key in kept)
    assert any(key.endswith(f"{run.info.run_id}/artifacts/config.yaml") for key in kept)
    assert not (own_workspace / "mlflow.db").exists()
    assert not (own_workspace / "mlartifacts").exists()

    everything = said + json.dumps([run.data.tags, run.data.params, version.tags])
    everything += "".join(
        path.read_text(errors="replace") for path in (own_workspace / "runs").rglob("*") if path.is_file()
    )
    for secret in (PASSWORD, SECRET_KEY, postgres.password):
        assert secret not in everything

    fetched = subprocess.run(
        [sys.executable, "-c", FETCH, version.version, str(own_workspace / "fetched")],
        env=os.environ | services.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert fetched.returncode == 0, fetched.stderr
    assert f"{services.address}/#/models/ctan-openkbp/versions/{version.version}" in said


FETCH = """
import sys
from ctan.tracking.server import connect
from ctan.tracking.reference import download_model
from ctan.inference import load_network
from pathlib import Path
version = connect().get_model_version("ctan-openkbp", sys.argv[1])
Path(sys.argv[2]).mkdir()
load_network(download_model(version, Path(sys.argv[2])))
"""


def test_no_password_is_on_a_command_line(services: Services, postgres: PostgreSQL) -> None:
    """Every process of the node can read those."""
    import psutil

    server = psutil.Process(services.process.pid)
    lines = [" ".join(one.cmdline()) for one in [server, *server.children(recursive=True)]]
    assert "mlflow" in lines[0]
    for secret in (PASSWORD, SECRET_KEY, postgres.password):
        assert not any(secret in line for line in lines)


@pytest.mark.parametrize(
    ("login", "problem"),
    [
        ({}, "asks for a login"),
        ({"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": "wrong-one"}, "did not accept a login"),
    ],
)
def test_a_refused_login_names_the_variables_at_once(
    services: Services, login: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (login | {"MLFLOW_TRACKING_URI": services.address}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError) as error:
        prepare()
    said = str(error.value)
    assert said.startswith(f"{services.address}: the tracking server {problem}; set MLFLOW_TRACKING_USERNAME and")
    assert "wrong-one" not in said


def test_a_name_that_the_server_does_not_know_is_explained(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.address.replace("127.0.0.1", "127.1"))
    with pytest.raises(TrackingError, match="have the name added to MLFLOW_SERVER_ALLOWED_HOSTS"):
        prepare()
