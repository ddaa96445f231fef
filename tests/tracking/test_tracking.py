"""MLflow runs: real SQLite databases, a real server, real models."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ctan.errors import TrackingError
from ctan.inference.form import example
from ctan.prediction.models import Model
from ctan.prediction.served import ServedModel
from ctan.provenance import git_commit
from ctan.records import ModelRecord
from ctan.telemetry import disable_telemetry
from ctan.tracking import log_results, prepare, tracking_uri, training_run
from ctan.tracking.server import without_password
from tests.helpers.tracking import make_database, pointer_at, small_config, write_model

CONFIG = small_config()


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("database"))


@pytest.fixture
def database(workspace: Path, empty_database: Path) -> None:
    """Start with tables in place: creating them takes a second."""
    shutil.copytree(empty_database, workspace)


def client() -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri())


def open_run(tmp_path: Path, **more: Any) -> Any:
    return training_run(CONFIG, pointer_at(tmp_path / "store"), "ctan", 0, 7, **more)


def test_importing_the_tracking_room_imports_no_heavy_library() -> None:
    code = (
        "import sys, ctan.tracking, ctan.telemetry; "
        "print([m for m in ('mlflow', 'torch', 'pandas', 'pyarrow', 'kfp') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_telemetry_is_off_for_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    disable_telemetry()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DVC_NO_ANALYTICS"] == os.environ["DO_NOT_TRACK"] == "1"


def test_preparing_twice_keeps_one_database_in_the_workspace(workspace: Path) -> None:
    assert prepare() == prepare() == f"sqlite:///{workspace / 'mlflow.db'}"
    assert (workspace / "mlflow.db").stat().st_size > 0


@pytest.mark.usefixtures("database")
def test_a_run_holds_settings_data_losses_tags_and_config(tmp_path: Path, workspace: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.url == f"runs:/{run.run_id}"
        assert run.tracking_uri == tracking_uri()
        for epoch in (1, 2):
            run.log_epoch(epoch, {"train/loss": 1 / epoch, "learning_rate": 1e-3})
        run.set_tags({"precision": "fp32"})
    found = client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["training.epochs"] == str(CONFIG.training.epochs)
    assert found.data.params["network.base_width"] == "4"
    assert len(found.data.params) > 50
    history = client().get_metric_history(run.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    tags = {"arch": "ctan", "fold": "0", "seed": "7", "store_key": "k" * 64, "data_hash": "d" * 64}
    assert tags.items() <= found.data.tags.items()
    assert found.data.tags["config_hash"] == CONFIG.hash()
    assert found.data.tags["precision"] == "fp32"
    assert found.data.tags.get("git_commit") == git_commit()
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("openkbp", "d" * 36)
    assert found.info.artifact_uri.startswith((workspace / "mlartifacts").as_uri())
    assert [file.path for file in client().list_artifacts(run.run_id)] == ["config.yaml"]
    assert client().get_experiment(found.info.experiment_id).name == "ctan-openkbp"


@pytest.mark.usefixtures("database")
def test_system_metrics_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with open_run(tmp_path) as run:
        time.sleep(0.8)
    metrics = client().get_run(run.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= metrics.keys()


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("diverged"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
@pytest.mark.usefixtures("database")
def test_a_run_that_does_not_finish_says_so(tmp_path: Path, error: BaseException, status: str) -> None:
    run_ids = []

    def train() -> None:
        with open_run(tmp_path) as run:
            run_ids.append(run.run_id)
            raise error

    with pytest.raises(type(error)):
        train()
    assert client().get_run(run_ids[0]).info.status == status


@pytest.mark.usefixtures("database")
def test_a_resumed_training_goes_on_in_its_run(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.log_epoch(1, {"train/loss": 1.0})
    # A setting that does not change the weights may differ: the first value stays, nothing breaks.
    other = small_config(evaluation={"num_figure_cases": 7})
    with training_run(other, pointer_at(tmp_path / "store"), "ctan", 0, 7, run_id=run.run_id) as resumed:
        resumed.log_epoch(2, {"train/loss": 0.5})
    assert resumed.run_id == run.run_id
    found = client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["evaluation.num_figure_cases"] == "5"
    assert [m.step for m in client().get_metric_history(run.run_id, "train/loss")] == [1, 2]


@pytest.mark.usefixtures("database")
def test_a_resumed_training_whose_run_is_gone_gets_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path) as run:
        pass
    client().delete_run(run.run_id)
    with open_run(tmp_path, run_id=run.run_id) as second:
        pass
    with open_run(tmp_path, run_id="0" * 32) as third:
        pass
    assert len({run.run_id, second.run_id, third.run_id}) == 3
    warnings = capsys.readouterr().err
    assert "has been deleted" in warnings
    assert "does not exist" in warnings


@pytest.mark.usefixtures("database")
def test_two_trainings_that_got_the_same_run_have_their_own_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, both wrote into the injected run, and the lineage of one architecture's version named the other."""
    from ctan.step_environment import step

    prepare()
    injected = client().create_run("0").info.run_id
    found = []
    for arch in ("stl", "hps"):
        monkeypatch.setenv("MLFLOW_RUN_ID", injected)
        with step("train"), training_run(CONFIG, pointer_at(tmp_path / "store"), arch, 0, 7) as run:
            assert "MLFLOW_RUN_ID" not in os.environ
        found.append(client().get_run(run.run_id).data.tags)
    monkeypatch.delenv("CTAN_PARENT_RUN")
    assert [tags["arch"] for tags in found] == ["stl", "hps"]
    assert [tags["mlflow.parentRunId"] for tags in found] == [injected, injected]
    assert "arch" not in client().get_run(injected).data.tags


def test_nothing_is_chosen_by_metrics_that_mlflow_keeps() -> None:
    """Of a resumed run `run.data.metrics` holds the greatest (step, time, value), not the last that was logged."""
    import ctan

    for path in sorted(Path(ctan.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert ".data.metrics" not in text, path
        assert "metrics." not in "".join(re.findall(r"search_runs\([^)]*\)|order_by=\[[^]]*\]", text)), path


@pytest.mark.usefixtures("database")
def test_where_no_run_is_injected_the_trainings_of_a_pipeline_run_make_their_parent(tmp_path: Path) -> None:
    """Before, on a cluster without KFP's MLflow plug-in the trainings of a pipeline run lay side by side."""
    from ctan.tracking.parents import ABOVE, parent_tags

    parents = []
    for pipeline_run, seed in (("one", 0), ("one", 1), ("two", 0)):
        lineage = {"pipeline_run": pipeline_run, "pipeline_run_url": f"https://kfp/{pipeline_run}"}
        with training_run(CONFIG, pointer_at(tmp_path / "store"), "stl", 0, seed, lineage=lineage) as run:
            parents.append(client().get_run(run.run_id).data.tags["mlflow.parentRunId"])
            # a resumed one keeps its own
        with training_run(CONFIG, pointer_at(tmp_path / "store"), "stl", 0, seed, run.run_id, lineage=lineage):
            assert client().get_run(run.run_id).data.tags["mlflow.parentRunId"] == parents[-1]
    assert parents[0] == parents[1] != parents[2]
    first = client().get_run(parents[0])
    assert (first.info.status, first.info.run_name, first.data.tags[ABOVE]) == ("FINISHED", "pipeline one", "one")
    assert first.data.tags["pipeline_run_url"] == "https://kfp/one"
    assert "pipeline_run" not in first.data.tags, "it is no training, and must not be counted as one"
    with training_run(CONFIG, pointer_at(tmp_path / "store"), "stl", 0, 2) as alone:
        assert "mlflow.parentRunId" not in client().get_run(alone.run_id).data.tags

    # two that make one at once: the older stays
    experiment = first.info.experiment_id
    older = client().create_run(experiment, start_time=1, tags={ABOVE: "three"}).info.run_id
    assert parent_tags(client(), experiment, {"pipeline_run": "three"}) == {"mlflow.parentRunId": older}
    from ctan.tracking import parents as module

    made = module._made(client(), experiment, {"pipeline_run": "three"})
    assert made == older
    left = client().search_runs([experiment], f"tags.{ABOVE} = 'three'")
    assert [run.info.run_id for run in left] == [older]


@pytest.mark.usefixtures("database")
def test_the_experiment_can_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "head and neck")
    with open_run(tmp_path) as run:
        pass
    experiment = client().get_experiment(client().get_run(run.run_id).info.experiment_id)
    assert experiment.name == "head and neck"


@pytest.mark.usefixtures("database")
def test_a_logged_model_loads_by_name_and_predicts_the_same(tmp_path: Path) -> None:
    import mlflow

    with open_run(tmp_path) as run:
        folder = write_model(tmp_path / "model", CONFIG, run_id=run.run_id)
        model_id = run.log_model(folder)
        assert run.log_model(folder) == model_id  # once only
    logged = mlflow.pyfunc.load_model(f"models:/{model_id}")
    served = ServedModel.open([Model.of("model", folder)])
    row = example(served.record)
    found = logged.predict(pd.DataFrame([row, row])).to_dict(orient="records")
    assert found == [served.answer(row)] * 2
    assert np.load(io.BytesIO(found[0]["dose"])).std() > 0
    signature = logged.metadata.signature
    assert signature.inputs.input_names() == [column.name for column in served.request]
    assert signature.outputs.input_names() == list(found[0])
    assert pd.DataFrame(logged.input_example)[["image"]].equals(pd.DataFrame([row])[["image"]])
    with pytest.raises(mlflow.MlflowException, match="spacing_mm"):
        logged.predict(pd.DataFrame([row]).drop(columns="spacing_mm"))


@pytest.mark.usefixtures("database")
def test_a_logged_model_holds_no_pickle_and_names_nothing_that_an_index_could_replace(
    tmp_path: Path, workspace: Path
) -> None:
    import torch

    import ctan

    with open_run(tmp_path) as run:
        model_id = run.log_model(write_model(tmp_path / "model", CONFIG, run_id=run.run_id))
    files = {path.name: path for path in (workspace / "mlartifacts" / "models").rglob("*") if path.is_file()}
    assert {"MLmodel", "model.safetensors", "model.json", "requirements.txt"} <= files.keys()
    assert not [name for name in files if name.endswith((".pkl", ".pt", ".pth", ".bin"))]
    lines = files["requirements.txt"].read_text().splitlines()
    required = dict(line.split("==") for line in lines)
    assert {"torch", "mlflow", "safetensors", "numpy"} <= required.keys()
    assert "ctan" not in required
    assert required["torch"] == torch.__version__.partition("+")[0]
    assert client().get_logged_model(model_id).tags["ctan_version"] == ctan.__version__


@pytest.mark.usefixtures("database")
def test_results_are_added_to_a_finished_run_and_its_model(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        model_id = run.log_model(write_model(tmp_path / "model", CONFIG, run_id=run.run_id))
    (tmp_path / "cases.parquet").write_bytes(b"table")
    log_results(
        run.run_id, {"evaluation/dose/dose_score": 3.5, "undefined": float("nan")}, [tmp_path / "cases.parquet"]
    )
    found = client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["evaluation/dose/dose_score"] == 3.5
    assert "undefined" not in found.data.metrics
    assert [file.path for file in client().list_artifacts(run.run_id, "results")] == ["results/cases.parquet"]
    assert {m.key: m.value for m in client().get_logged_model(model_id).metrics} == {"evaluation/dose/dose_score": 3.5}


@pytest.mark.usefixtures("database")
def test_results_of_an_unknown_run_are_refused() -> None:
    with pytest.raises(TrackingError, match="0000"):
        log_results("0" * 32, {"a": 1.0})


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.helpers.tracking import small_config, pointer_at
from ctan.tracking import training_run
with training_run(small_config(), pointer_at(Path("store")), "hps", 0, int(sys.argv[1])) as run:
    for epoch in range(40):
        run.log_epoch(epoch, {{f"train/{{i}}": 1.0 for i in range(10)}})
print(run.run_id)
"""


@pytest.mark.slow
def test_two_processes_may_start_on_no_database_and_write_at_once(tmp_path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for seed in (0, 1)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for stdout, stderr in outputs:
        assert stderr == ""
        assert len(client().get_metric_history(stdout.strip(), "train/9")) == 40


def test_a_database_of_an_older_mlflow_is_migrated(tmp_path: Path, workspace: Path) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    workspace.mkdir()
    engine = create_engine(tracking_uri())
    Base.metadata.create_all(engine)
    settings = _get_alembic_config(tracking_uri())
    newest = ScriptDirectory.from_config(settings).get_revision("head")
    command.upgrade(settings, str(newest.down_revision))
    engine.dispose()
    prepare()
    with open_run(tmp_path) as run:
        pass
    assert client().get_run(run.run_id).info.status == "FINISHED"


def test_a_database_that_is_not_one_is_refused(workspace: Path) -> None:
    workspace.mkdir()
    (workspace / "mlflow.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db: not a usable SQLite database"):
        prepare()


def test_a_workspace_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "file" / "workspace"))
    with pytest.raises(TrackingError, match=r"cannot be written .*CTAN_WORKSPACE"):
        prepare()


def test_credentials_in_an_address_are_not_passed_on() -> None:
    assert without_password("postgresql://ctan:secret@db:5432/mlflow") == "postgresql://db:5432/mlflow"
    assert without_password("https://user:p%40ss@mlflow.example/path@2") == "https://mlflow.example/path@2"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_server_is_reported_and_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: (calls.append(to), connect(self, to))[1])
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    message = rf"http://127\.0\.0\.1:{port}: the tracking server does not answer"
    with pytest.raises(TrackingError, match=message) as raised, open_run(tmp_path):
        pass
    assert calls.count(("127.0.0.1", port)) == 1
    assert "secret" not in str(raised.value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        for _ in range(480):  # importing the server takes a minute on a busy machine
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        else:
            pytest.fail("the tracking server did not start within four minutes")
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.mark.slow
def test_a_tracking_server_holds_run_and_model(
    tmp_path: Path,
    server: tuple[str, "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    uri, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with open_run(tmp_path) as run:
        run.log_epoch(1, {"train/loss": 1.0})
        folder = write_model(tmp_path / "model", CONFIG, run_id=run.run_id)
        model_id = run.log_model(folder)
    assert run.url == f"{uri}/#/experiments/{client().get_run(run.run_id).info.experiment_id}/runs/{run.run_id}"
    row = example(ModelRecord.load(folder))
    found = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(pd.DataFrame([row]))
    assert found["dose"][0] == ServedModel.open([Model.of("model", folder)]).answer(row)["dose"]

    def train_while_the_server_goes_away() -> None:
        with open_run(tmp_path) as run:
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
            run.log_epoch(1, {"train/loss": 1.0})  # training goes on
            assert "kept for later" in capsys.readouterr().err
        pytest.fail("figures were lost silently")

    with pytest.raises(TrackingError, match="logging metrics"):
        train_while_the_server_goes_away()
