"""Waiting for a run on a cluster: `ctan submit --wait` on recorded answers of Kubeflow and on simulated runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kfp_server_api
import pytest
import typer
from typer.testing import CliRunner

from ctan.cluster import image, logs, watch
from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.nodes import Nodes, places
from ctan.cluster.progress import Progress
from ctan.commands import cluster as commands
from ctan.evaluation.words import in_words
from tests.helpers.compiled import COMPILED, RETRAIN
from tests.helpers.kfp_runs import RECORDED, WORKFLOW, SimulatedRun, pod_of, recorded
from tests.helpers.report import ARCHS, record_of, write_inputs

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer
    from tests.helpers.s3 import S3Server

pytest_plugins = ["tests.helpers.kfp", "tests.helpers.storage"]

# The pipelines that the recorded runs ran.
RAN, RAN_RETRAIN = RECORDED / "ctan.yaml", RECORDED / "retrain.yaml"
ANSWERS = {  # name of the recorded answer -> pipeline, entries in its list
    "run-succeeded-ctan-plain": (RAN, 77),
    "run-failed-gate": (RAN, 34),
    "run-canceled-in-train": (RAN, 61),
    "run-retrain-first": (RAN_RETRAIN, 97),
    "run-retrain-nothing-to-do": (RAN_RETRAIN, 21),
}
ONE = 'architectures=["hps"]'  # as the recorded runs were submitted
GATE_LOG = """I1129 12:57:40.101010      17 launcher_v2.go:151] PIP_DISABLE_PIP_VERSION_CHECK=1
[KFP Executor 2026-11-29 12:57:42,000 INFO]: --component_module_path is not specified
ctan step: validate
Traceback (most recent call last):
  File "/opt/ctan/ctan/validation/gate.py", line 20, in validate
ctan.errors.GateError: 6 of 6 cases fail, allowed are 5 %: dose_max_gy at most 1 (train-1, train-2, ...)
F1129 12:58:20.000000      17 main.go:57] failed to execute component: exit status 1
"""


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "RELEASE", tmp_path / "no-release.json")
    monkeypatch.delenv(image.VARIABLE, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for name in ("KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN", logs.ROOT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def read(answer: dict[str, Any]) -> Any:
    """Return an answer as kfp's client does."""
    return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(answer)), "V2beta1Run")


def progress_of(name: str) -> Progress:
    path, num_entries = ANSWERS[name]
    answer = recorded(name)
    assert len(answer["run_details"]["task_details"]) == num_entries
    return Progress(read(answer), CompiledPipeline.read(path))


def submit(server: KfpServer, *arguments: str, follow: bool = False) -> Any:
    app = typer.Typer()
    app.command()(commands.submit)
    waiting = "--follow" if follow else "--wait"
    return CliRunner().invoke(app, [*arguments, "--endpoint", server.url, waiting, "--poll-seconds", "0.05"])


def told(output: str) -> list[str]:
    """Return the lines that carry a time of day, without it and without seconds."""
    lines = [line for line in output.splitlines() if line[2:3] == ":" and line[5:6] == ":"]
    return [line[9:].rpartition(", ")[0] if line.endswith(" s") else line[9:] for line in lines]


def simulate(server: KfpServer, run: SimulatedRun) -> None:
    server.states = run.answers()
    server.logs = run.logs


def children(task: Any) -> set[str]:
    return {child.pod_name for child in task.child_tasks or []}


# ---- what a recorded answer means


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("run-succeeded-ctan-plain", (9, 9)),
        ("run-failed-gate", (2, 9)),
        ("run-canceled-in-train", (5, 9)),
        ("run-retrain-first", (11, 11)),
        ("run-retrain-nothing-to-do", (2, 2)),
    ],
)
def test_each_step_counts_once_whatever_else_the_server_lists(name: str, count: tuple[int, int]) -> None:
    assert progress_of(name).count == count


def test_steps_are_told_in_the_order_they_ran_with_the_iteration_of_the_loop() -> None:
    steps = progress_of("run-succeeded-ctan-plain").steps
    assert [step.label for step in steps] == [
        "resolve",
        "ingest",
        "validate",
        "plan",
        "preprocess",
        "train 1/1",
        "evaluate 1/1",
        "compare",
        "promote",
    ]
    assert {step.in_words for step in steps} == {"SUCCEEDED"}, "ingest and validate ran: the cache holds their record"


def test_a_step_that_was_never_reached_is_neither_failed_nor_left_out() -> None:
    states = {step.label: step.state for step in progress_of("run-failed-gate").steps}
    assert [label for label, state in states.items() if state == "FAILED"] == ["validate"]
    assert {states[label] for label in ("preprocess", "plan", "train 1/1", "compare", "promote")} == {"WAITING"}


def test_what_a_false_condition_holds_is_left_out() -> None:
    states = [(step.label, step.state) for step in progress_of("run-retrain-nothing-to-do").steps]
    assert states[:2] == [("resolve", "SUCCEEDED"), ("check", "SUCCEEDED")]
    assert {state for _, state in states[2:]} == {"SKIPPED"}
    assert len(states) == 11


def test_a_canceled_run_is_known_by_its_history() -> None:
    assert recorded("run-canceled-in-train")["state"] == "FAILED"
    assert progress_of("run-canceled-in-train").state == "CANCELED"
    assert progress_of("run-failed-gate").state == "FAILED"


@pytest.mark.parametrize("name", ANSWERS)
def test_every_pod_found_is_a_child_that_the_server_named(name: str) -> None:
    """Ids are hashes of paths: were a path or the hash wrong, no step of a real answer would be found."""
    answer = recorded(name)
    pipeline = CompiledPipeline.read(ANSWERS[name][0])
    tasks = read(answer).run_details.task_details
    nodes = Nodes(tasks)
    ids = {
        child["pod_name"].rpartition("-")[2]
        for t in answer["run_details"]["task_details"]
        for child in t.get("child_tasks", [])
    }
    ran = {task.display_name for task in tasks if task.state in ("SUCCEEDED", "FAILED")}
    for place in places(pipeline.placed_steps(), 1):
        pods = nodes.pods(place)
        if place.step.name in ran and (name != "run-retrain-nothing-to-do" or len(place.step.path) == 1):
            assert len(pods) == 1, place
            assert pods[0].rpartition("-")[2] in ids
            (mine,) = nodes.children(place)
            assert [task.display_name for task in tasks if mine in children(task)] == [place.step.name]
        else:
            assert pods == [], place


# ---- waiting, on recorded answers


def test_the_gates_text_and_the_end_of_its_log_are_told_once(kfp_server: KfpServer) -> None:
    kfp_server.states = [recorded("run-failed-gate")]
    kfp_server.logs = {"ctan-3xbam-system-container-impl-3379713448": GATE_LOG}
    done = submit(kfp_server, str(RAN), ONE)
    assert done.exit_code == 1
    assert told(done.output) == ["FAILED, 2 of 9 steps done"]
    assert done.output.count("validate: ") == 1
    assert "validate: 6 of 6 cases fail, allowed are 5 %: dose_max_gy at most 1 (train-1, train-2, ...)" in done.output
    assert "last lines of its log (pod or archive, by Kubeflow's pages):" in done.output
    assert "launcher" not in done.output
    assert "executor" not in done.output


def test_where_nobody_has_the_log_the_command_for_it_is_told(kfp_server: KfpServer) -> None:
    kfp_server.states = [recorded("run-failed-gate")]
    done = submit(kfp_server, str(RAN))
    assert done.exit_code == 1
    assert (
        "validate: failed; nobody here has its log, ask: kubectl logs --namespace kubeflow "
        "ctan-3xbam-system-container-impl-3379713448 --container main"
    ) in done.output


def test_a_step_that_failed_by_itself_left_its_log_in_the_pipeline_root(
    kfp_server: KfpServer, server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp_server.states = [recorded("run-failed-gate")]
    below = "v2/artifacts/ctan/run-0"
    server.put(
        bucket,
        {
            f"{below}/validate/6f1c/executor-logs": GATE_LOG.encode(),
            f"{below}/ingest/77aa/executor-logs": b"of another step",
        },
    )
    monkeypatch.setenv(logs.ROOT_VARIABLE, f"s3://{bucket}/v2/artifacts")
    done = submit(kfp_server, str(RAN), ONE)
    assert "validate: 6 of 6 cases fail" in done.output
    assert "last lines of its log (artifact executor-logs):" in done.output


def test_a_canceled_run_ends_with_3(kfp_server: KfpServer) -> None:
    kfp_server.states = [recorded("run-canceled-in-train")]
    done = submit(kfp_server, str(RAN), ONE)
    assert done.exit_code == 3
    assert "canceled; under way: train 1/1\n" in done.output


def test_a_run_that_has_nothing_to_do_says_why(kfp_server: KfpServer) -> None:
    kfp_server.states = [recorded("run-retrain-nothing-to-do")]
    why = "nothing to do: version 3 of ctan-openkbp comes from the same data, settings and code"
    pod = "ctan-retrain-gcdis-system-container-impl-3807873615"
    kfp_server.logs = {pod: f"ctan step: check\n{why}\nctan step: done, 1.0 s loading libraries, 0.1 s work\n"}
    done = submit(kfp_server, str(RAN_RETRAIN), ONE, "source=phantom:train=4,validation=2")
    assert done.exit_code == 0, done.output
    assert told(done.output) == ["SUCCEEDED, 2 of 2 steps done, 9 left out"]
    assert f"check: {why}\n" in done.output


def test_the_comparison_is_told_in_a_line_an_architecture(tmp_path: Path) -> None:
    content, _ = write_inputs(tmp_path)
    comparison = record_of(content)
    first, *rows, last = in_words(comparison).splitlines()
    assert first.startswith("scores on ")
    assert [row.partition(":")[0].removesuffix(" (best)") for row in rows] == list(ARCHS)
    dice = comparison.architectures[0].scores["evaluation"]["contouring"]["dice_mean"].value
    assert f"contouring Dice {dice:.3f}, " in rows[0]
    assert all(" % against stl" in row for row in rows[1:])
    assert last.startswith(f"best: {comparison.best.arch}, fold 0, seed 0 (")


# ---- waiting, on simulated runs


def test_a_run_is_followed_to_its_result(kfp_server: KfpServer) -> None:
    run = SimulatedRun(
        CompiledPipeline.read(COMPILED),
        iterations=3,
        outcomes={"ingest": "cached", "validate": "cached"},
        said={
            "compare": "ctan step: compare 3 models\nstl (best): Dice 0.665\nbest: stl\nctan step: done, 1 s work",
            "promote": "ctan step: promote\nctan-openkbp version 1 promoted to champion\nhttps://mlflow/1\n",
        },
    )
    simulate(kfp_server, run)
    done = submit(kfp_server, 'architectures=["stl","hps","ctan"]', follow=True)
    assert done.exit_code == 0, done.output
    lines = told(done.output)
    assert lines[0] == "PENDING, 0 of 15 steps done", "9 steps beside the loop of 3 times 2, with promote and close"
    assert [line for line in lines if line.startswith("  ingest")] == ["  ingest: SUCCEEDED (cached)"]
    trained = ["train 1/3", "train 2/3", "train 3/3"]
    assert [line for line in lines if "train" in line and "RUNNING:" not in line and line.startswith("  ")] == [
        f"  {label}: {state}" for label in trained for state in ("RUNNING", "SUCCEEDED")
    ]
    assert lines[-1] == "SUCCEEDED, 15 of 15 steps done (2 cached)"
    assert "compare: stl (best): Dice 0.665\ncompare: best: stl\n" in done.output
    assert "promote: ctan-openkbp version 1 promoted to champion\npromote: https://mlflow/1\n" in done.output
    assert "driver" not in done.output
    assert done.output.endswith(f"SUCCEEDED: {kfp_server.url}/#/runs/details/run-0\n")


def test_many_trainings_at_once_keep_their_numbers() -> None:
    run = SimulatedRun(CompiledPipeline.read(COMPILED), iterations=90, outcomes={"train[71]": "failed"})
    progress = Progress(read(run.answers(only_the_last=True)[-1]), run.pipeline, 90)
    assert [step.label for step in progress.steps if step.state == "FAILED"] == ["train 72/90"]
    assert progress.count == (7 + 71 * 2, 9 + 90 * 2)


def test_one_failed_training_of_several_is_named_with_its_own_log(kfp_server: KfpServer) -> None:
    said = {"train": "ctan step: train\nctan.errors.DataError: store: chunk 3 is damaged"}
    run = SimulatedRun(CompiledPipeline.read(COMPILED), iterations=3, outcomes={"train[1]": "failed"}, said=said)
    simulate(kfp_server, run)
    item = f"{WORKFLOW}(0).root(0).exit-handler-1(0).for-loop-2(0).iteration-iterations(1:1)(0).iteration-item(0)"
    failed = pod_of(f"{item}.train(0).executor(0)")
    assert failed in run.logs
    kfp_server.logs = {failed: run.logs[failed]}
    done = submit(kfp_server, 'architectures=["stl","hps","ctan"]')
    assert done.exit_code == 1
    assert "train 2/3: store: chunk 3 is damaged\n" in done.output
    assert "train 1/3: " not in done.output
    assert "train 3/3: " not in done.output


def test_a_run_whose_time_is_over_says_so(kfp_server: KfpServer, tmp_path: Path) -> None:
    pipeline = CompiledPipeline.read(COMPILED)
    run = SimulatedRun(pipeline, outcomes={"train": "overrun"}, deadline_seconds=7200)
    simulate(kfp_server, run)
    values = tmp_path / "values.yaml"
    values.write_text("deadline_seconds: 7200\n", encoding="utf-8")
    done = submit(kfp_server, ONE, "--values", str(values))
    assert done.exit_code == 1
    assert "its time is over: the run was ended after 2 h, its deadline" in done.output
    assert "train 1/1: failed" in done.output


def test_canceling_is_told_and_ends_with_3(kfp_server: KfpServer) -> None:
    simulate(kfp_server, SimulatedRun(CompiledPipeline.read(COMPILED), outcomes={"train": "canceled"}))
    done = submit(kfp_server, 'architectures=["stl"]')
    assert done.exit_code == 3
    assert [line.split(",")[0] for line in told(done.output)] == ["PENDING", "RUNNING", "CANCELING", "CANCELED"]


def test_a_run_whose_conditions_are_false_says_what_was_left_out(kfp_server: KfpServer) -> None:
    run = SimulatedRun(
        CompiledPipeline.read(RETRAIN),
        conditions=("condition-2",),
        said={"check": "ctan step: check\nnothing to do: same data"},
    )
    simulate(kfp_server, run)
    done = submit(kfp_server, str(RETRAIN), ONE, "source=phantom")
    assert done.exit_code == 0
    assert "check: nothing to do: same data\n" in done.output
    assert told(done.output)[-1] == "SUCCEEDED, 3 of 3 steps done, 10 left out"


def test_a_container_that_does_not_start_is_told_once_with_the_causes(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "START_SECONDS", 0.0)
    run = SimulatedRun(CompiledPipeline.read(COMPILED), outcomes={"resolve": "stuck"})
    stuck = run.answers()
    kfp_server.states = [*stuck, stuck[-1], stuck[-1], recorded("run-canceled-in-train")]
    done = submit(kfp_server)
    assert done.exit_code == 3, "somebody cancels it"
    assert done.output.count("no step has started yet; resolve: its container has not started for 0 s") == 1
    assert "its image cannot be pulled" in done.output
    assert f"kubectl describe pod --namespace kubeflow {WORKFLOW}-system-container-impl-" in done.output


def test_a_run_that_not_even_begins_is_told(kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "START_SECONDS", 0.0)
    kfp_server.states = ["PENDING", "PENDING", {"state": "RUNNING"}, "FAILED"]
    done = submit(kfp_server)
    assert done.exit_code == 1
    assert done.output.count("no step has started for 0 s, and no container is waiting") == 1
    assert "Kubeflow names no step that failed and no reason" in done.output


def test_a_step_whose_container_runs_is_not_taken_for_one_that_waits(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimulatedRun(CompiledPipeline.read(COMPILED))
    waiting = [Progress(read(answer), run.pipeline).waiting for answer in run.answers()]
    assert sum(bool(one) for one in waiting) == 11, "each step once, while its container is pending"
    assert {len(one) for one in waiting} == {0, 1}
    monkeypatch.setattr(watch, "START_SECONDS", 60.0)
    simulate(kfp_server, run)
    assert "has not started" not in submit(kfp_server, 'architectures=["stl"]').output
