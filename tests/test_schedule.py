"""`ctan schedule` against a server that speaks KFP's API: what is asked for, said, and left alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("kfp")

from helpers_kfp import KfpServer
from hypothesis import given
from hypothesis import strategies as st

from ctan.cli import app
from ctan.cluster.cron import next_times, six_fields
from ctan.cluster.endpoint import ClusterError
from ctan.errors import ConfigError
from pipelines.retrain import COMPILED

pytest_plugins = ["helpers_kfp"]

SOURCE = "dvc:https://git.example.org/team/data@main:data/openkbp"
WEEKLY = ["--cron", "0 3 * * 1", f"source={SOURCE}"]


@pytest.fixture(autouse=True)
def endpoint(kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KF_PIPELINES_UI_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_ENDPOINT", kfp_server.url)


def schedule(*arguments: str) -> str:
    """Return what the command prints; errors are raised."""
    result = CliRunner().invoke(app, ["schedule", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def only(server: KfpServer) -> dict[str, Any]:
    (run,) = server.recurring.values()
    found: dict[str, Any] = run
    return found


def test_it_is_made_enabled_typed_without_overlap_and_without_catching_up(kfp_server: KfpServer) -> None:
    said = schedule(
        *WEEKLY, "epochs=5", "learning_rate=1", "promote=false", 'architectures=["stl","ctan"]', "model_name=007"
    )
    run = only(kfp_server)
    assert run["display_name"] == "ctan-retrain"
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert (run["mode"], run["status"], int(run["max_concurrency"]), run["no_catchup"]) == (
        "ENABLE",
        "ENABLED",
        1,
        True,
    )
    assert run["runtime_config"]["parameters"] == {
        "source": SOURCE,
        "epochs": 5,
        "learning_rate": 1.0,
        "promote": False,
        "architectures": ["stl", "ctan"],
        "model_name": "007",
    }
    assert kfp_server.experiments[run["experiment_id"]] == "ctan-retrain"
    assert f"ctan-retrain created: {kfp_server.url}/#/recurringrun/details/{run['recurring_run_id']}" in said
    assert said.count("Mon 20") == 3
    assert said.count("03:00:00") == 3


def test_the_same_again_changes_nothing(kfp_server: KfpServer) -> None:
    schedule(*WEEKLY, "epochs=5")
    before = only(kfp_server)
    assert "ctan-retrain unchanged" in schedule(*WEEKLY, "epochs=5")
    assert "ctan-retrain unchanged" in schedule("--cron", "0  0 3 * * 1", f"source={SOURCE}", "epochs=5")
    assert only(kfp_server) == before


@pytest.mark.parametrize(
    "changed",
    [
        ["--cron", "0 4 * * 1", f"source={SOURCE}"],
        [*WEEKLY, "epochs=6"],
        [*WEEKLY, "--experiment", "nightly"],
        [*WEEKLY, "--values", "VALUES"],
    ],
    ids=["time", "parameter", "experiment", "values"],
)
def test_a_change_takes_the_place_of_the_old_one(kfp_server: KfpServer, changed: list[str], tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("service_account: ctan-step\nimage: registry.example.org/ctan@sha256:" + "0a" * 32 + "\n")
    schedule(*WEEKLY)
    before = only(kfp_server)
    assert "ctan-retrain replaced" in schedule(*[str(values) if item == "VALUES" else item for item in changed])
    after = only(kfp_server)
    assert after["recurring_run_id"] != before["recurring_run_id"]
    if "VALUES" in changed:
        assert after["service_account"] == "ctan-step"
        assert "@sha256:0a0a" in json.dumps(after["pipeline_spec"])


def test_a_failure_between_making_and_deleting_leaves_both_and_the_next_call_mends_it(kfp_server: KfpServer) -> None:
    schedule(*WEEKLY)
    kfp_server.broken_verbs = ("DELETE",)
    with pytest.raises(ClusterError, match="the database is away"):
        schedule(*WEEKLY, "epochs=6")
    assert len(kfp_server.recurring) == 2
    kfp_server.broken_verbs = ()
    assert "ctan-retrain unchanged" in schedule(*WEEKLY, "epochs=6")
    assert only(kfp_server)["runtime_config"]["parameters"]["epochs"] == 6


def test_pausing_resuming_and_deleting_may_be_repeated(kfp_server: KfpServer) -> None:
    schedule(*WEEKLY)
    assert "ctan-retrain paused" in schedule("--pause")
    assert only(kfp_server)["status"] == "DISABLED"
    assert "was paused already" in schedule("--pause")
    assert "paused" in schedule("--list")
    assert "ctan-retrain resumed" in schedule("--resume")
    assert only(kfp_server)["status"] == "ENABLED"
    assert "was not paused" in schedule("--resume")
    schedule("--pause")
    assert "ctan-retrain resumed" in schedule(*WEEKLY)  # scheduling what is paused starts it again, and says so
    assert only(kfp_server)["status"] == "ENABLED"
    assert "deleted" in schedule("--delete")
    assert not kfp_server.recurring
    with pytest.raises(ClusterError, match="no recurring run is named 'ctan-retrain'; there are: none"):
        schedule("--delete")


def test_all_are_listed_over_several_pages(kfp_server: KfpServer) -> None:
    kfp_server.page_size = 2
    for number in range(5):
        schedule(*WEEKLY, "--name", f"model-{number}", f"model_name=model-{number}")
    said = schedule("--list")
    assert all(f"model-{number}" in said for number in range(5))
    assert "0 0 3 * * 1" in said
    assert "enabled" in said
    assert "deleted" in schedule("--delete", "--name", "model-3")
    assert "model-3" not in schedule("--list")


def test_an_empty_list_says_how_to_begin() -> None:
    assert "nothing is scheduled; `ctan schedule --cron" in schedule("--list")


def test_what_somebody_else_made_is_left_alone(kfp_server: KfpServer) -> None:
    schedule(*WEEKLY)
    only(kfp_server)["description"] = "my own"
    for arguments in (WEEKLY, ["--pause"], ["--delete"]):
        with pytest.raises(ClusterError, match=r"'ctan-retrain' \(recurring-0-0\) was not made by `ctan schedule`"):
            schedule(*arguments)
    assert "ctan-retrain" in schedule("--list")
    assert len(kfp_server.recurring) == 1


def test_the_namespace_reaches_the_server(kfp_server: KfpServer) -> None:
    schedule(*WEEKLY, "--namespace", "team-a")
    schedule("--list", "--namespace", "team-a")
    assert set(kfp_server.namespaces) == {"team-a"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give exactly one of --cron, --list, --pause, --resume, --delete"),
        (["--list", "--pause"], "found --list, --pause"),
        (["--cron", "0 3 * * 1"], "give source=...; there is no default"),
        ([*WEEKLY, "epoch=3"], "did you mean 'epochs'"),
        (["--cron", "3 o'clock", f"source={SOURCE}"], "expected five fields, minute hour day month weekday"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(kfp_server: KfpServer, arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        schedule(*arguments)
    assert not kfp_server.recurring


def test_without_an_endpoint_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KFP_ENDPOINT")
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    with pytest.raises(ClusterError, match="no Kubeflow Pipelines endpoint"):
        schedule("--list")


def test_another_pipeline_is_scheduled_under_its_own_name(kfp_server: KfpServer) -> None:
    schedule(str(COMPILED.with_name("ctan.yaml")), "--cron", "@daily")
    assert only(kfp_server)["display_name"] == "ctan"


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)  # a Thursday


@pytest.mark.parametrize(
    ("written", "read", "first"),
    [
        ("0 3 * * 1", "0 0 3 * * 1", "2026-01-05T03:00:00"),
        ("30 0 3 * * *", "30 0 3 * * *", "2026-01-02T03:00:30"),
        ("*/15 * * * *", "0 */15 * * * *", "2026-01-01T12:15:00"),
        ("0 3 ? * MON-FRI", "0 0 3 ? * MON-FRI", "2026-01-02T03:00:00"),
        ("0 0 1,15 feb *", "0 0 0 1,15 feb *", "2026-02-01T00:00:00"),
        ("@weekly", "0 0 0 * * 0", "2026-01-04T00:00:00"),
        (" @Daily ", "0 0 0 * * *", "2026-01-02T00:00:00"),
    ],
)
def test_expressions_get_their_seconds_and_come_true_when_they_should(written: str, read: str, first: str) -> None:
    assert six_fields(written) == read
    (time,) = next_times(read, 1, NOON)
    assert time.isoformat() == f"{first}+00:00"


@pytest.mark.parametrize(
    "expression",
    ["", "3 * * *", "60 3 * * *", "0 25 * * *", "0 0 31 2 *", "0 3 * * 7", "0 3 * * 1-7", "0 3 L * *", "0 3 * * 1#2",
     "@every 6h", "@reboot", "0 0 0 3 * * 1", "a b c d e", "*/0 * * * *"],
)  # fmt: skip
def test_what_kubeflow_would_refuse_or_read_otherwise_is_refused(expression: str) -> None:
    with pytest.raises(ConfigError, match=r"such as '0 3|weekdays are 0"):
        six_fields(expression)


@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 6))
def test_a_weekly_time_comes_true_on_its_day_and_hour(minute: int, hour: int, weekday: int) -> None:
    for time in next_times(six_fields(f"{minute} {hour} * * {weekday}"), 3, NOON):
        assert (time.minute, time.hour, time.second) == (minute, hour, 0)
        assert time.isoweekday() % 7 == weekday
