"""Submitting: what `ctan submit` sends to a Kubeflow Pipelines server, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from ctan import steps
from ctan.cluster import image
from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import ClusterError, find_endpoint
from ctan.cluster.parameters import check_complete, parse_parameters
from ctan.cluster.submit import Cluster
from ctan.commands import cluster as commands
from ctan.errors import ConfigError
from tests.helpers.compiled import COMPILED, RETRAIN

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp"]

GPU = Path(__file__).parents[2] / "infra" / "values" / "gpu.yaml"
NOBODY = "http://127.0.0.1:1"  # port 1 is not served


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "RELEASE", tmp_path / "no-release.json")
    monkeypatch.delenv(image.VARIABLE, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for name in (
        "KFP_ENDPOINT",
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_UI_ENDPOINT",
        "KFP_NAMESPACE",
        "KFP_EXISTING_TOKEN",
        "KUBERNETES_SERVICE_HOST",
    ):
        monkeypatch.delenv(name, raising=False)


def ctan(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(commands.submit)
    app.command()(commands.render)
    return CliRunner().invoke(app, arguments)


def parsed(*items: str) -> dict[str, Any]:
    return parse_parameters(CompiledPipeline.read(COMPILED), items)


def test_parameters_get_the_types_of_the_pipeline() -> None:
    assert parsed(
        "dataset=openkbp",
        "model_name=007",
        "source=phantom:train=12,validation=4,seed=0",
        "epochs=50",
        "learning_rate=1e-4",
        "promote=False",
        'architectures=["stl","ctan"]',
        "folds=[0, 1]",
    ) == {
        "dataset": "openkbp",
        "model_name": "007",
        "source": "phantom:train=12,validation=4,seed=0",
        "epochs": 50,
        "learning_rate": 1e-4,
        "promote": False,
        "architectures": ["stl", "ctan"],
        "folds": [0, 1],
    }


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["epoch=5"], "epoch: the pipeline ctan has no such parameter; did you mean 'epochs'? it has: architectures, "),
        (["epochs=five"], "epochs: expected a whole number, found 'five'"),
        (["epochs=1.5"], "epochs: expected a whole number, found '1.5'"),
        (["learning_rate=nan"], "learning_rate: expected a number, found 'nan'"),
        (["promote=yes"], "promote: expected true or false, found 'yes'"),
        (["promote=1"], "promote: expected true or false, found '1'"),
        (["architectures=stl,ctan"], "architectures: expected a JSON list, such as"),
        (["epochs"], "'epochs': expected KEY=VALUE"),
        (["epochs=1", "epochs=2"], "epochs: given twice"),
    ],
)
def test_a_parameter_that_does_not_fit_is_told_with_what_would(items: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(*items)
    assert message in str(caught.value)


def test_a_parameter_without_default_must_be_given() -> None:
    pipeline = CompiledPipeline.read(COMPILED)
    del pipeline.parameters["source"]["defaultValue"]
    del pipeline.parameters["source"]["isOptional"]
    with pytest.raises(ConfigError, match=r"give source=\.\.\.; there is no default"):
        check_complete(pipeline, {"epochs": 1})
    check_complete(pipeline, {"source": "phantom"})


def test_a_run_is_created_with_experiment_parameters_and_values(kfp_server: KfpServer) -> None:
    done = ctan("submit", "dataset=openkbp", "epochs=50", "--values", str(GPU), "--endpoint", kfp_server.url)
    assert done.exit_code == 0, done.output
    (run,) = kfp_server.runs
    assert kfp_server.experiments == {"experiment-0": "ctan"}
    assert run.display_name.startswith("ctan 20")
    assert run.runtime_config.parameters == {"dataset": "openkbp", "epochs": 50}
    assert done.output.strip().endswith(f"{kfp_server.url}/#/runs/details/run-0")
    executors = run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["resources"]["accelerator"]["resourceCount"] == "1"
    kubernetes = run.pipeline_spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [mount["mountPath"] for mount in kubernetes["exec-train"]["emptyDirMounts"]] == ["/dev/shm"]


def test_without_values_the_pipeline_is_sent_as_compiled(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_ENDPOINT", kfp_server.url + "/")
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "a-token")
    options = ["--experiment", "mine", "--run-name", "first try", "--namespace", "alice"]
    for _ in range(2):
        assert ctan("submit", str(COMPILED), *options).exit_code == 0
    assert [run.display_name for run in kfp_server.runs] == ["first try", "first try"]
    assert list(kfp_server.experiments.values()) == ["mine"], "an experiment that exists is used again"
    assert set(kfp_server.namespaces) == {"alice"}
    assert kfp_server.tokens[-1] == "Bearer a-token"
    assert kfp_server.runs[0].pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"] == "ctan"


@pytest.mark.parametrize("path", [COMPILED, RETRAIN], ids=lambda path: path.stem)
def test_without_the_cache_every_step_runs_those_of_an_inner_pipeline_too(kfp_server: KfpServer, path: Path) -> None:
    for option in ("--cache", "--no-cache"):
        assert ctan("submit", str(path), "source=phantom", option, "--endpoint", kfp_server.url).exit_code == 0
    with_cache, without = (str(run.pipeline_spec).count("'enableCache': True") for run in kfp_server.runs)
    assert with_cache >= 2, "ingest and validate"
    assert without == 0


def test_outputs_that_the_cache_names_and_nobody_has_are_told_with_what_to_do(tmp_path: Path) -> None:
    """The launcher downloads nothing, without an error: the step finds no folder, or an empty one."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"the output of an earlier step is empty.*ctan submit --no-cache"):
            steps.plan(str(folder))


def test_an_unknown_parameter_sends_nothing(kfp_server: KfpServer) -> None:
    done = ctan("submit", "epoch=5", "--endpoint", kfp_server.url)
    assert isinstance(done.exception, ConfigError)
    assert kfp_server.runs == []
    assert kfp_server.tokens == []


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("SKIPPED", 0), ("FAILED", 1), ("CANCELED", 3)])
def test_waiting_ends_with_the_state_of_the_run(kfp_server: KfpServer, state: str, code: int) -> None:
    kfp_server.states = ["PENDING", "RUNNING", "RUNNING", state]
    done = ctan("submit", "--endpoint", kfp_server.url, "--wait", "--poll-seconds", "0.05")
    assert done.exit_code == code
    told = [line.split()[1].rstrip(",") for line in done.output.splitlines() if line.endswith(" s")]
    assert told == ["PENDING", "RUNNING", state], "a line a change, none for the same state"


def test_waiting_outlives_a_restart_of_the_server(kfp_server: KfpServer) -> None:
    cluster = Cluster(kfp_server.url)
    run = cluster.submit(COMPILED.read_text(encoding="utf-8"), {})
    kfp_server.failing = 3
    lines: list[str] = []
    assert cluster.wait(run, lines.append, poll_seconds=0.01).succeeded
    assert sum("asking again" in line for line in lines) == 3
    kfp_server.failing = 100
    with pytest.raises(ClusterError, match="503: the server is starting"):
        cluster.wait(run, lines.append, poll_seconds=0.01)


def test_an_unknown_run_is_not_waited_for(kfp_server: KfpServer) -> None:
    cluster = Cluster(kfp_server.url)
    run = cluster.submit(COMPILED.read_text(encoding="utf-8"), {})
    with pytest.raises(ClusterError, match="404: GET /apis/v2beta1/runs/nobody is not here"):
        cluster.wait(replace(run, run_id="nobody"), print, poll_seconds=0.01)


def test_without_an_endpoint_two_lines_say_what_to_set() -> None:
    with pytest.raises(ClusterError) as caught:
        find_endpoint()
    assert "export KFP_ENDPOINT=" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("endpoint", [NOBODY, "http://[", "nonsense://x"])
def test_an_endpoint_where_nobody_answers_is_one_message(endpoint: str) -> None:
    with pytest.raises(ClusterError):
        Cluster(endpoint)


@pytest.mark.parametrize("status", [404, 503])
def test_another_server_is_not_taken_for_kubeflow_pipelines(kfp_server: KfpServer, status: int) -> None:
    kfp_server.refuse = status
    with pytest.raises(ClusterError, match=f"answers {status}"):
        Cluster(kfp_server.url)
    assert len(kfp_server.tokens) == 1, "asked once"


def test_a_kubeconfig_is_an_endpoint_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: a, user: {}}]\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = find_endpoint()
    assert (found.url, found.probe) == (None, NOBODY)


def test_render_writes_the_file_that_submit_would_send(tmp_path: Path, kfp_server: KfpServer) -> None:
    output = tmp_path / "rendered.yaml"
    assert ctan("render", "--values", str(GPU), "-o", str(output)).exit_code == 0
    assert ctan("submit", str(output), "--endpoint", kfp_server.url).exit_code == 0
    assert ctan("submit", "--values", str(GPU), "--endpoint", kfp_server.url).exit_code == 0
    rendered, submitted = kfp_server.runs
    assert rendered.pipeline_spec == submitted.pipeline_spec
