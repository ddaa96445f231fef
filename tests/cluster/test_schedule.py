"""Scheduling: what `ctan schedule` makes of the recurring runs on a Kubeflow Pipelines server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from ctan.cluster import image
from ctan.cluster.client import packaged
from ctan.cluster.cron import Cron
from ctan.cluster.endpoint import ClusterError
from ctan.cluster.schedule import Schedules
from ctan.cluster.values import Values
from ctan.commands.schedule import schedule
from ctan.errors import ConfigError
from tests.helpers.compiled import COMPILED, RETRAIN

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp"]

GPU = Path(__file__).parents[2] / "infra" / "values" / "gpu.yaml"
MONDAYS = Cron("0 0 3 * * 1")
TUESDAYS = Cron("0 0 3 * * 2")
# In a file of its own: kfp reads a component's source, and cannot read annotations that are text as in this module.
PIPELINE = """
from kfp import dsl

@dsl.component(base_image="python:3.11")
def step(source: str, epochs: int, rate: float, archs: list) -> str:
    return source

@dsl.pipeline(name="ctan-retrain")
def retrain(source: str, epochs: int = 5, rate: float = 0.1, archs: list = []):
    step(source=source, epochs=epochs, rate=rate, archs=archs)
"""


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "RELEASE", tmp_path / "no-release.json")
    monkeypatch.delenv(image.VARIABLE, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KFP_EXISTING_TOKEN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline one of whose parameters has no default, compiled."""
    from kfp import compiler

    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "retrain.py").write_text(PIPELINE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("a_pipeline", folder / "retrain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compiler.Compiler().compile(module.retrain, str(folder / "retrain.yaml"))
    return folder / "retrain.yaml"


@pytest.fixture
def text(pipeline: Path) -> str:
    return pipeline.read_text(encoding="utf-8")


def ctan(server: KfpServer | None, pipeline: Path, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(schedule)
    endpoint = ["--endpoint", server.url] if server else []
    return CliRunner().invoke(app, [*arguments, "--pipeline", str(pipeline), *endpoint])


def only(server: KfpServer) -> dict[str, Any]:
    (answer,) = server.recurring.values()
    return answer


def changes(server: KfpServer) -> list[str]:
    """Requests that change something, without the numbers in them."""
    made = [request for request in server.requests if not request.startswith("GET")]
    return [request.split("-")[0] + (request[request.index(":") :] if ":" in request else "") for request in made]


def test_a_schedule_is_enabled_typed_and_neither_overlaps_nor_catches_up(kfp_server: KfpServer, pipeline: Path) -> None:
    source = "dvc:https://host/team/data@main:data/openkbp"
    items = [f"source={source}", "epochs=50", "rate=1", 'archs=["stl","ctan"]']
    done = ctan(kfp_server, pipeline, "--cron", "0 3 * * 1", *items)
    assert done.exit_code == 0, done.output
    made = only(kfp_server)
    assert made["display_name"] == "ctan-retrain"
    assert kfp_server.experiments[made["experiment_id"]] == "ctan-retrain"
    assert made["mode"] == "ENABLE"
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert (made["max_concurrency"], made["no_catchup"]) == ("1", True)
    assert made["runtime_config"]["parameters"] == {
        "source": source,
        "epochs": 50,
        "rate": 1,
        "archs": ["stl", "ctan"],
    }
    assert f"{kfp_server.url}/#/recurringrun/details/{made['recurring_run_id']}" in done.output
    assert done.output.count(" 03:00:00") == 3
    assert done.output.count("  Mon 20") == 3
    assert "UTC" in done.output
    assert "CRON_SCHEDULE_TIMEZONE" in done.output


@pytest.mark.parametrize("item", ["promote=false", 'overrides=["promotion.enabled=false"]'])
def test_a_schedule_that_would_train_every_time_is_refused(kfp_server: KfpServer, item: str, tmp_path: Path) -> None:
    """Without a decision no version is a reason not to train again."""
    done = ctan(kfp_server, RETRAIN, "--cron", "@daily", "source=phantom", item)
    assert isinstance(done.exception, ConfigError)
    assert "every retraining would train again although nothing changed" in str(done.exception)
    values = tmp_path / "values.yaml"
    values.write_text("parameters: {promote: false}\n", encoding="utf-8")
    done = ctan(kfp_server, RETRAIN, "--cron", "@daily", "source=phantom", "--values", str(values))
    assert isinstance(done.exception, ConfigError)
    assert kfp_server.recurring == {}
    assert ctan(kfp_server, COMPILED, "--cron", "@daily", item).exit_code == 0, "trains every time, as it says"


def test_the_same_command_again_changes_nothing(kfp_server: KfpServer, pipeline: Path) -> None:
    for said in ("created", "unchanged", "unchanged"):
        done = ctan(kfp_server, pipeline, "--cron", "@daily", "source=phantom", "rate=1.0", "archs=[]")
        assert f"schedule 'ctan-retrain': {said}" in done.output
    assert changes(kfp_server) == ["POST /recurringruns"]


def test_values_and_their_service_account_belong_to_the_schedule(kfp_server: KfpServer) -> None:
    cluster, text = Schedules(kfp_server.url), COMPILED.read_text(encoding="utf-8")
    mine = Values(service_account="ctan-step")
    assert cluster.apply(MONDAYS, packaged(text, {}, mine)).change == "created"
    assert only(kfp_server)["service_account"] == "ctan-step"
    assert cluster.apply(MONDAYS, packaged(text, {}, mine)).change == "unchanged"
    for other in (None, Values(service_account="ctan-step", image="ctan:2")):
        applied = cluster.apply(MONDAYS, packaged(text, {}, other))
        assert applied.change == "replaced"
        assert applied.reasons == ("pipeline, values or service account",)
        assert cluster.apply(MONDAYS, packaged(text, {}, other)).change == "unchanged"
    done = ctan(kfp_server, COMPILED, "--cron", "0 3 * * 1", "--values", str(GPU))
    assert "replaced" in done.output
    executors = only(kfp_server)["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["resources"]["accelerator"]["resourceCount"] == "1"


def test_what_differs_is_told_and_replaced_without_two_at_once(kfp_server: KfpServer, pipeline: Path) -> None:
    ctan(kfp_server, pipeline, "--cron", "0 3 * * 1", "source=phantom", "epochs=5")
    first = only(kfp_server)["recurring_run_id"]
    kfp_server.requests.clear()
    done = ctan(kfp_server, pipeline, "--cron", "0 4 * * 1", "source=phantom", "rate=0.2")
    assert "schedule 'ctan-retrain': replaced" in done.output
    assert "  cron: 0 0 3 * * 1 -> 0 0 4 * * 1\n  epochs: 5 -> its default\n  rate: its default -> 0.2\n" in done.output
    made = only(kfp_server)
    assert made["recurring_run_id"] != first
    assert made["mode"] == "ENABLE"
    assert changes(kfp_server) == [
        "POST /recurringruns",
        "DELETE /recurringruns/recurring",
        "POST /recurringruns/recurring:enable",
    ]


def test_a_refused_replacement_leaves_the_old_one_running(kfp_server: KfpServer, text: str) -> None:
    cluster = Schedules(kfp_server.url)
    old = cluster.apply(MONDAYS, packaged(text, {"source": "a"})).schedule
    kfp_server.broken = ["POST /recurringruns"]
    with pytest.raises(ClusterError, match="cannot create schedule ctan-retrain: the server answered 503"):
        cluster.apply(TUESDAYS, packaged(text, {"source": "a"}))
    assert cluster.all() == [old]
    assert old.enabled


def test_a_replacement_that_stops_half_way_is_never_two_at_once(kfp_server: KfpServer, text: str) -> None:
    cluster, package = Schedules(kfp_server.url), packaged(text, {"source": "a"})
    old = cluster.apply(MONDAYS, package).schedule
    kfp_server.broken = [f"DELETE /recurringruns/{old.schedule_id}"]
    with pytest.raises(ClusterError, match="cannot delete") as caught:
        cluster.apply(TUESDAYS, package)
    assert {one.schedule_id for one in cluster.all() if one.enabled} == {old.schedule_id}
    (paused,) = (one.schedule_id for one in cluster.all() if not one.enabled)
    assert f"ctan schedule --delete --name {paused}" in str(caught.value)


def test_the_same_command_ends_a_replacement_that_lacked_the_last_step(kfp_server: KfpServer, text: str) -> None:
    cluster, package = Schedules(kfp_server.url), packaged(text, {"source": "a"})
    cluster.apply(MONDAYS, package)
    kfp_server.broken = [":enable"]
    with pytest.raises(ClusterError, match=r"may still be paused; the same command again resumes it"):
        cluster.apply(TUESDAYS, package)
    kfp_server.broken = []
    assert cluster.apply(TUESDAYS, package).change == "resumed"
    assert [(one.trigger, one.enabled) for one in cluster.all()] == [(TUESDAYS.text, True)]


def test_pausing_resuming_and_deleting_may_be_said_twice(kfp_server: KfpServer, pipeline: Path) -> None:
    ctan(kfp_server, pipeline, "--cron", "0 3 * * 1", "source=phantom")
    said = []
    for action in ("--pause", "--pause", "--resume", "--resume", "--delete", "--delete"):
        done = ctan(kfp_server, pipeline, action)
        assert done.exit_code == 0, done.output
        said.append(done.output.partition(": ")[2].partition(":")[0].strip())
    assert said[:2] == ["paused; a run that is going on is not stopped", "is paused already"]
    assert said[2].startswith("enabled; next run Mon ")
    assert said[3] == "is enabled already"
    assert said[4] == "deleted; runs that it started stay"
    assert done.output == "no schedule 'ctan-retrain'; nothing to delete\n"
    assert kfp_server.deletions == ["ORPHAN"], "Kubernetes would delete a running training with its schedule"


def test_a_paused_schedule_that_is_scheduled_again_is_enabled_and_says_so(
    kfp_server: KfpServer, pipeline: Path
) -> None:
    command = ("--cron", "0 3 * * 1", "source=phantom")
    ctan(kfp_server, pipeline, *command)
    ctan(kfp_server, pipeline, "--pause")
    assert only(kfp_server)["mode"] == "DISABLE"
    assert "was paused, is enabled again" in ctan(kfp_server, pipeline, *command).output
    assert only(kfp_server)["mode"] == "ENABLE"


def test_the_list_shows_every_schedule_of_every_page(kfp_server: KfpServer, pipeline: Path, text: str) -> None:
    assert "no schedule" in ctan(kfp_server, pipeline, "--list").output
    cluster = Schedules(kfp_server.url)
    for name in ("c", "a", "b"):
        cluster.apply(MONDAYS, packaged(text, {"source": "phantom", "epochs": 7}), name)
    cluster.switch(cluster.all()[1], False)
    kfp_server.recurring["by-hand"] = {
        "recurring_run_id": "by-hand",
        "display_name": "d",
        "trigger": {"periodic_schedule": {"interval_second": "3600"}},
        "status": "ENABLED",
        "max_concurrency": "10",
    }
    kfp_server.largest_page = 2
    assert [one.name for one in cluster.all()] == ["a", "b", "c", "d"]
    done = ctan(kfp_server, pipeline, "--list")
    assert done.exit_code == 0, done.output
    rows = {line.split()[1]: line for line in done.output.splitlines() if line.startswith("│ ") and line[2] != " "}
    assert "0 0 3 * * 1" in rows["a"]
    assert "enabled" in rows["a"]
    assert "Mon 20" in rows["a"]
    assert "paused" in rows["b"]
    assert "Mon" not in rows["b"]
    assert "every 3600 s" in rows["d"]
    assert "epochs=7" in done.output
    for one in cluster.all():
        assert f"{one.schedule_id} {one.name}: {one.url}" in done.output


def test_several_of_one_name_are_left_alone_until_one_is_named_by_id(
    kfp_server: KfpServer, pipeline: Path, text: str
) -> None:
    cluster = Schedules(kfp_server.url)
    for name in ("x", "ctan-retrain"):
        cluster.apply(MONDAYS, packaged(text, {"source": "phantom"}), name)
    for answer in kfp_server.recurring.values():
        answer["display_name"] = "ctan-retrain"
    first, second = kfp_server.recurring
    for action in (["--cron", "@daily", "source=phantom"], ["--pause"], ["--resume"], ["--delete"]):
        done = ctan(kfp_server, pipeline, *action)
        assert isinstance(done.exception, ClusterError)
        assert "2 schedules have this name" in str(done.exception)
        assert first in str(done.exception)
        assert second in str(done.exception)
    assert ctan(kfp_server, pipeline, "--delete", "--name", first).exit_code == 0
    assert set(kfp_server.recurring) == {second}


def test_pausing_a_schedule_that_is_not_there_names_those_that_are(
    kfp_server: KfpServer, pipeline: Path, text: str
) -> None:
    Schedules(kfp_server.url).apply(MONDAYS, packaged(text, {"source": "phantom"}), "nightly")
    done = ctan(kfp_server, pipeline, "--pause")
    assert "no schedule 'ctan-retrain' (there are: nightly)" in str(done.exception)


def test_a_profile_is_asked_for_its_schedules_alone(kfp_server: KfpServer, pipeline: Path) -> None:
    ctan(kfp_server, pipeline, "--cron", "@daily", "source=phantom", "--namespace", "alice")
    ctan(kfp_server, pipeline, "--list", "--namespace", "alice")
    assert set(kfp_server.namespaces) == {"alice"}
    assert len(kfp_server.namespaces) == 5, "list, find the experiment, create it, look for a pipeline to pin, list"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"expected one of --cron, --list, --pause, --resume, --delete, found none"),
        (["--list", "--pause"], "found --list and --pause"),
        (["--cron", "0 3 * * 1", "--delete"], "found --cron and --delete"),
        (["--pause", "epochs=5"], "epochs=5: goes with --cron only"),
        (["--cron", "0 3 * * 1"], r"retrain\.yaml: give source=\.\.\.; there is no default"),
        (["--cron", "0 3 * * 1", "epoch=5"], "did you mean 'epochs'"),
        (["--cron", "mondays", "source=a"], "--cron 'mondays'"),
        (["--cron", "0 3 * * 1", "source=a", "--name", " "], "--name: expected the name of a schedule"),
    ],
)
def test_a_command_that_does_not_fit_sends_nothing(
    kfp_server: KfpServer, pipeline: Path, arguments: list[str], message: str
) -> None:
    done = ctan(kfp_server, pipeline, *arguments)
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise done.exception
    assert kfp_server.tokens == []


def test_without_an_endpoint_two_lines_say_what_to_set(pipeline: Path) -> None:
    done = ctan(None, pipeline, "--list")
    assert isinstance(done.exception, ClusterError)
    assert len(str(done.exception).splitlines()) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_told_with_what_opens_the_server(
    kfp_server: KfpServer, pipeline: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    kfp_server.refuse = status
    done = ctan(kfp_server, pipeline, "--list")
    assert f"access refused ({status} " in str(done.exception)
    assert "KFP_EXISTING_TOKEN" in str(done.exception)
    assert "Traceback" not in caplog.text, "of kfp's client"
    assert len(kfp_server.tokens) == 2, "asked without and with a token, once each"


def test_a_token_that_expires_is_told_too(kfp_server: KfpServer) -> None:
    cluster = Schedules(kfp_server.url)
    kfp_server.refuse = 401
    with pytest.raises(ClusterError, match="cannot list schedules: access refused"):
        cluster.all()


def test_where_the_server_keeps_pipelines_a_schedule_is_pinned_to_a_version(kfp_server: KfpServer) -> None:
    kfp_server.keeps_pipelines = True
    daily = ("--cron", "@daily", "source=phantom")
    assert ctan(kfp_server, RETRAIN, *daily, "--values", str(GPU)).exit_code == 0
    first = only(kfp_server)["pipeline_version_reference"]
    assert "pipeline_spec" not in only(kfp_server)
    assert "unchanged" in ctan(kfp_server, RETRAIN, *daily, "--values", str(GPU)).output
    assert ctan(kfp_server, RETRAIN, *daily).exit_code == 0
    second = only(kfp_server)["pipeline_version_reference"]
    assert first["pipeline_id"] == second["pipeline_id"] == "pipeline-ctan-retrain"
    assert first["pipeline_version_id"] != second["pipeline_version_id"]
    assert ctan(kfp_server, RETRAIN, *daily, "--values", str(GPU)).exit_code == 0
    assert only(kfp_server)["pipeline_version_reference"] == first, "the same content is uploaded once"
    assert len(kfp_server.pipelines["ctan-retrain"]) == 3, "the first upload's own, and two"
