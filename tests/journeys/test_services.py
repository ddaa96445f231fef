"""The pipeline against real services: MLflow as the manifests start it, PostgreSQL, S3; and the database goes away."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ctan.errors import TrackingError
from ctan.tracking import Decision, prepare, promote, training_run
from ctan.tracking.ledger import Ledger
from tests.helpers.promotion import LINEAGE, Site
from tests.helpers.small import SMALL
from tests.helpers.tracking import pointer_at, small_config
from tests.helpers.workloads import ADMIN, ADMIN_PASSWORD, http_status, wait_until

if TYPE_CHECKING:
    from tests.helpers.s3 import S3Server
    from tests.helpers.services import MlflowServer, Postgres

pytest_plugins = ["tests.helpers.s3", "tests.helpers.services"]
pytestmark = pytest.mark.slow

EPOCHS = 12
HOUR = timedelta(hours=1)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Postgres]:
    """PostgreSQL, which runs again after the test whatever happened."""
    yield postgres
    postgres.stop()
    postgres.start()


@pytest.fixture
def server(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The tracking server, with the login of the steps in the environment."""
    for name, value in mlflow_server.login().items():
        monkeypatch.setenv(name, value)
    return mlflow_server


def client() -> Any:
    import mlflow

    prepare()
    return mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def passwords_of(server: MlflowServer) -> list[str]:
    """Return what may be written nowhere: every secret but the names of users, and the database's password alone."""
    names = ("admin-username", "username", "access-key-id")
    secrets = [value for keys in server.secrets.values() for name, value in keys.items() if name not in names]
    database_password = re.search(r":([^:@/]+)@", server.secrets["mlflow-database"]["uri"])[1]
    return [database_password, *(value for value in secrets if not value.startswith("<"))]


def test_the_mlflow_server_answers_its_own_names_and_asks_for_a_login(mlflow_server: MlflowServer) -> None:
    port, login = mlflow_server.port, f"{ADMIN}:{ADMIN_PASSWORD}"
    runs = f"{mlflow_server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    for host in (f"mlflow:{port}", f"mlflow.ctan.svc:{port}", "mlflow.localhost"):
        assert http_status(runs, host, login) == 200, host
    assert http_status(runs, f"mlflow:{port}") == 401
    assert http_status(runs, f"mlflow:{port}", f"{ADMIN}:wrong") == 401
    assert http_status(runs, "evil.example", login) == 403
    assert http_status(f"{mlflow_server.url}/health", f"10.1.2.3:{port}") == 200, "probes use the pod's address"


def test_no_secret_is_on_a_command_line_or_in_the_log_of_the_server(mlflow_server: MlflowServer) -> None:
    parent = psutil.Process(mlflow_server.process.pid)
    processes = [parent, *parent.children(recursive=True)]
    assert len(processes) > 2, "the server has workers"
    seen = "\n".join(" ".join(process.cmdline()) for process in processes) + mlflow_server.log.read_text()
    assert not [secret for secret in passwords_of(mlflow_server) if secret in seen]


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_refused_login_is_one_line_that_says_what_to_set(
    password: str, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    if not password:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(TrackingError) as raised:
        prepare()
    message = str(raised.value)
    assert message.startswith(f"{server.url}: the tracking server {'did not accept' if password else 'asks for'} a ")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in message
    assert "\n" not in message
    assert "wrong" not in message


def test_a_name_that_the_server_does_not_know_is_told_apart_from_a_wrong_login(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
    with pytest.raises(TrackingError, match=r"does not know itself by this name.*MLFLOW_SERVER_ALLOWED_HOSTS"):
        prepare()


def test_a_server_with_a_certificate_of_ones_own_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HTTPServer(("127.0.0.1", 0), EmptyServer) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        Thread(target=web.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://localhost:{web.server_port}")
        with pytest.raises(TrackingError, match=r"does not answer \(SSLError\).*MLFLOW_TRACKING_SERVER_CERT_PATH"):
            prepare()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        assert prepare() == f"https://localhost:{web.server_port}"
        web.shutdown()


class EmptyServer(BaseHTTPRequestHandler):
    """Answers every request with an empty JSON object, as a tracking server that holds nothing does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"{}")

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def write_certificate(folder: Path) -> Path:
    """Write a key and a certificate for localhost that it signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + HOUR)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(private + builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path


def run_with_an_outage(command: list[str], server: MlflowServer, database: Postgres) -> tuple[int, list[str]]:
    """Run a pipeline; the database is away from the first epoch of a training until after the last.

    Returns:
        Exit status and output.
    """
    lines: list[str] = []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        bound = Timer(900, run.kill)
        bound.start()
        for line in run.stdout:
            lines.append(line)
            if "stl fold 0 seed 0: epoch 1/" in line:
                stop_while_all_stand_still(database, run.pid)
            elif f"stl fold 0 seed 0: epoch {EPOCHS}/" in line:
                wait_for_a_refusal(server)
                database.start()
        bound.cancel()
    return run.returncode, lines


def stop_while_all_stand_still(database: Postgres, pid: int) -> None:
    """Stop the database in the middle of a training, however fast that is."""
    steps = psutil.Process(pid).children(recursive=True)
    for step in steps:
        step.suspend()
    database.stop()
    for step in steps:
        step.resume()


def wait_for_a_refusal(server: MlflowServer) -> None:
    """Wait until the server has once more answered that it is unavailable for the moment."""

    def number_refused() -> int:
        return server.log.read_text().count('" 503')

    before = number_refused()
    wait_until(lambda: number_refused() > before, server.process)


def test_a_run_survives_that_the_database_is_restarted_in_the_middle_of_a_training(
    database: Postgres, server: MlflowServer, s3_server: S3Server, own_workspace: Path
) -> None:
    command = [str(Path(sys.executable).with_name("ctan")), "run", "--profile", "smoke", "--epochs", str(EPOCHS)]
    command += ["--source", "phantom:train=6,validation=2,seed=0", "--arch", "stl", "--promote"]
    command += [word for setting in SMALL for word in ("--set", setting)]
    status, lines = run_with_an_outage(command, server, database)
    output = "".join(lines)
    assert status == 0, output
    training = output[output.index("== train stl") : output.index("== evaluate stl")]
    assert re.search(r"figures of epoch \d+ are kept for later", training)
    assert f"warning: {server.url}: the tracking server or its database is away, trying again" in training

    (run_dir,) = (own_workspace / "runs").iterdir()
    trained = {
        json.loads(path.read_text())["run_id"]: path.parent for path in run_dir.glob("**/train/**/model/model.json")
    }
    assert len(trained) == 1
    for run_id, model_dir in trained.items():
        assert_recorded(run_id, model_dir, server, s3_server)
    decision = json.loads((run_dir / "decision.json").read_text())
    alias = "champion" if decision["promoted"] else "challenger"
    champion = client().get_model_version_by_alias("ctan-openkbp-phantom", alias)
    assert champion.version == decision["version"]
    assert champion.run_id in trained
    files = [path for path in own_workspace.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files) + output.encode()
    assert not [secret for secret in passwords_of(server) if secret.encode() in written]


def assert_recorded(run_id: str, model_dir: Path, server: MlflowServer, s3_server: S3Server) -> None:
    """See that the server has every epoch's loss, and S3 the weights, as the training itself wrote them."""
    run = client().get_run(run_id)
    assert run.info.status == "FINISHED"
    history = [row for row in pq.read_table(model_dir / "history.parquet").to_pylist() if row["task"] == ""]
    logged = {metric.step: metric.value for metric in client().get_metric_history(run_id, "train/loss")}
    assert logged == {row["epoch"]: row["loss"] for row in history}
    assert sorted(logged) == list(range(1, EPOCHS + 1))
    assert run.data.metrics["evaluation/dose/dose_score_gy"] > 0
    bucket, _, prefix = server.destination.removeprefix("s3://").partition("/")
    pages = s3_server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    weights = [item["Key"] for page in pages for item in page["Contents"] if item["Key"].endswith(".safetensors")]
    bodies = [s3_server.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in weights]
    assert (model_dir / "model.safetensors").read_bytes() in bodies
    described = json.dumps([run.data.params, run.data.tags])
    assert not [secret for secret in passwords_of(server) if secret in described]


def test_a_resumed_training_whose_run_is_gone_goes_on_in_another(
    server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also for a user to whom the server need not tell what does not exist."""
    gone = "0" * 32
    with training_run(small_config(), pointer_at(tmp_path), "stl", 0, 0, run_id=gone) as run:
        assert run.run_id != gone
    assert f"run {gone} is not there for this user at {server.url}" in capsys.readouterr().err


def promote_as(name: str, site: Site, model_dir: Path) -> Decision:
    pointer, config = pointer_at(site.store_root), small_config(promotion={"model_name": name})
    comparisons = sorted(site.folder.glob("comparison-*")) or [site.compare(model_dir)]
    return promote(pointer, comparisons[0], [model_dir], config, LINEAGE)


def stop_after_the_ledger(database: Postgres, monkeypatch: pytest.MonkeyPatch) -> Event:
    """Let the database go away once, between the entry in the ledger and the alias: the worst moment."""
    append, stopped = Ledger.append, Event()

    def then_stop(ledger: Ledger, entry: dict[str, Any]) -> None:
        append(ledger, entry)
        database.stop()
        stopped.set()

    monkeypatch.setattr(Ledger, "append", then_stop)
    return stopped


def test_a_promotion_waits_for_the_database_and_ends_well(
    database: Postgres, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    model_dir = site.train(seed=0)
    stopped = stop_after_the_ledger(database, monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        promotion = thread.submit(promote_as, "waits", site, model_dir)
        wait_until(stopped.is_set, server.process)
        wait_for_a_refusal(server)
        database.start()
        decision = promotion.result()
    assert (decision.promoted, decision.version) == (True, "1")
    assert client().get_registered_model("waits").aliases == {"champion": "1"}
    assert not client().search_registered_models("name = 'waits.lock'")


def test_a_person_approves_and_goes_back_with_an_ordinary_login(
    database: Postgres, server: MlflowServer, tmp_path: Path
) -> None:
    from ctan.tracking.approval import Approval

    site = Site(tmp_path)
    name, waits = "reviewed", {"promotion": {"model_name": "reviewed", "approval": "required"}}
    pointer = pointer_at(site.store_root)
    model_dir = site.train(seed=0)
    decision = promote(pointer, site.compare(model_dir), [model_dir], small_config(**waits), LINEAGE)
    assert decision.waits
    assert client().get_registered_model(name).aliases == {"candidate": "1"}
    approval = Approval(f"models:/{name}@candidate")
    approval.carry_out(approval.plan_approval(), "A. Meier", "20 plans reviewed")
    assert client().get_registered_model(name).aliases == {"champion": "1"}
    assert len(Approval(name).verify()) == 2
    approval.carry_out(Approval(name).plan_rollback(), "A. Meier", "fails on the new scanner")
    assert "champion" not in client().get_registered_model(name).aliases


def test_a_promotion_that_lost_the_database_is_finished_by_the_next(
    database: Postgres, server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    model_dir = site.train(seed=0)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # an outage longer than any patience
        stop_after_the_ledger(database, patch)
        with pytest.raises(
            TrackingError, match=f"{server.url}: the tracking server or database failed while promoting"
        ):
            promote_as("stopped", site, model_dir)
    database.start()
    ledger = Ledger(str(site.store_root), "stopped")
    (decided,) = ledger.entries()
    assert decided["champion_after"] == "1"
    assert client().get_registered_model("stopped").aliases == {}
    client().set_registered_model_tag("stopped.lock", "expires_at_unix_s", "0")  # five minutes later
    decision = promote_as("stopped", site, model_dir)
    assert (decision.promoted, decision.version) == (True, "1")
    assert client().get_registered_model("stopped").aliases == {"champion": "1"}
    assert ledger.entries() == [decided]
