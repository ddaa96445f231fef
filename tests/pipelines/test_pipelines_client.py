"""Running compiled pipelines here: what a user sees of steps that work, fail, or are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ctan.pipelines_client import run_local
from ctan.progress import STEP_PREFIX
from ctan.run_log import StepError

kfp = pytest.importorskip("kfp")
from kfp import compiler, dsl  # noqa: E402


@dsl.component(base_image="ctan:test", install_kfp_package=False)
def speak(what: str, seconds: float, failure: str, said: dsl.Output[dsl.Dataset]):
    """Say something, wait, and fail as told."""
    import os
    import time
    from pathlib import Path

    print(f"ctan step: speak {what}")
    print(f"process {os.getpid()}")
    Path(said.path).write_text(what)
    time.sleep(seconds)
    if failure == "gate":
        from ctan.errors import GateError

        raise GateError("2 of 4 cases failed:\n  pt_1: PTV70 is missing")
    if failure:
        raise ZeroDivisionError(failure)
    print("ctan step: done, 0.5 s loading libraries, 0.0 s work")


@dsl.component(base_image="ctan:test", install_kfp_package=False)
def plan() -> list[dict[str, str]]:
    """List what to say."""
    return [{"word": "one"}, {"word": "two"}]


@dsl.component(base_image="ctan:test", install_kfp_package=False)
def compare(said: dsl.Input[list[dsl.Dataset]], comparison: dsl.Output[dsl.Artifact], report: dsl.Output[dsl.HTML]):
    """Put together what was said, where the client looks for a comparison."""
    import json
    from pathlib import Path

    Path(comparison.path).mkdir()
    words = [Path(one.path).read_text() for one in said]
    Path(comparison.path, "comparison.json").write_text(json.dumps({"words": words}))
    Path(report.path).write_text("<html></html>")


@dsl.component(base_image="ctan:test", install_kfp_package=False)
def promote(decision: dsl.Output[dsl.Artifact]):
    """Decide something."""
    from pathlib import Path

    Path(decision.path).write_text('{"promoted": true}')


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @dsl.pipeline(name="talk")
    def pipeline(seconds: float = 0.0, failure: str = "", promoting: bool = True):
        with dsl.ParallelFor(plan().output, parallelism=1) as item:
            spoken = speak(what=item.word, seconds=seconds, failure=failure).set_cpu_request("1").set_display_name("S")
        compared = compare(said=dsl.Collected(spoken.outputs["said"]))
        with dsl.If(promoting == True):  # noqa: E712
            promote().after(compared)

    path = tmp_path_factory.mktemp("compiled") / "talk.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path


def test_a_run_leaves_its_results_in_one_folder_and_tells_where_time_went(talk: Path, own_workspace: Path) -> None:
    shown: list[str] = []
    result = run_local({}, talk, show=shown.append)
    assert result.run_dir.parent == own_workspace / "runs"
    assert result.report == result.run_dir / "report.html"
    assert result.report.read_text() == "<html></html>"
    assert json.loads(result.comparison.read_text()) == {"words": ["one", "two"]}
    assert result.decision == {"promoted": True}
    assert result.validation_report is None
    assert [step.name for step in result.steps] == ["plan", "speak one", "speak two", "compare", "promote"]
    assert all(0 <= step.work_seconds <= step.seconds for step in result.steps)
    assert sum(step.seconds for step in result.steps) <= result.seconds
    said = [line for line in shown if line.strip() and "process" not in line]
    assert said == ["== speak one", "== speak two"], "no noise of kfp"
    assert "Got executor_input" in (result.run_dir / "run.log").read_text(), "the whole output is kept"


def test_a_condition_that_is_false_leaves_no_decision(talk: Path) -> None:
    result = run_local({"promoting": False}, talk, show=lambda _: None)
    assert result.decision is None
    assert "promote" not in [step.name for step in result.steps]


def test_a_users_error_in_a_step_is_told_without_traceback_and_nothing_runs_after_it(talk: Path) -> None:
    shown: list[str] = []
    with pytest.raises(StepError) as caught:
        run_local({"failure": "gate"}, talk, show=shown.append)
    assert str(caught.value) == "step speak one failed: 2 of 4 cases failed:\n  pt_1: PTV70 is missing"
    assert caught.value.kind == "GateError"
    assert not any("Traceback" in line or "speak two" in line for line in shown)


def test_any_other_failure_shows_the_end_of_the_steps_output_and_names_the_log(talk: Path) -> None:
    with pytest.raises(StepError, match="step speak one failed") as caught:
        run_local({"failure": "it's broken"}, talk, show=lambda _: None)
    assert "ZeroDivisionError: it's broken" in str(caught.value)
    assert "run.log" in str(caught.value)
    assert caught.value.kind == ""


def test_a_pipeline_that_does_not_start_is_an_error(talk: Path) -> None:
    with pytest.raises(StepError, match=r"unexpected keyword argument .nonsense"):
        run_local({"nonsense": 1}, talk, show=lambda _: None)


def test_a_workspace_path_with_spaces_and_quotes_works(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "it's my workspace"))
    comparison = run_local({}, talk, show=lambda _: None).comparison
    assert json.loads(comparison.read_text()) == {"words": ["one", "two"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_stopping_a_run_stops_the_process_of_the_step_that_is_running(talk: Path, number: signal.Signals) -> None:
    program = (
        "from pathlib import Path\n"
        "from ctan.pipelines_client import run_local\n"
        f"run_local({{'seconds': 300.0}}, Path({str(talk)!r}), show=lambda line: print(line, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    step = next(int(line.split()[1]) for line in parent.stdout if "process" in line)
    assert _runs(step)
    parent.send_signal(number)
    assert parent.wait(timeout=300) != 0  # MLflow alone takes a while to load on a busy machine
    deadline = time.monotonic() + 10
    while _runs(step) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(step)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_step_functions_announce_themselves_the_way_the_client_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ctan import steps
    from ctan.datasets import get_dataset
    from ctan.settings import load_config
    from ctan.sources.origin import Origin
    from ctan.store.manifest import MANIFEST_FILE, SCHEMA, write_manifest

    spec = get_dataset("openkbp").spec
    spec.save(tmp_path)
    write_manifest([], tmp_path / MANIFEST_FILE, SCHEMA(spec))
    settings = load_config("smoke", ["promotion.enabled=false"]).to_yaml()
    (tmp_path / "config.yaml").write_text(settings, encoding="utf-8")
    Origin.of("phantom:train=2,validation=1", load_config("smoke")).save(tmp_path)
    items = steps.plan(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(json.dumps(items)) == items
    assert lines[0] == f"{STEP_PREFIX}plan"
    assert lines[-1].startswith(f"{STEP_PREFIX}done, ")
    assert lines[-1].endswith(" s work")


@dsl.component(base_image="ctan:test", install_kfp_package=False)
def look() -> NamedTuple("Looked", verdict=str, reason=str):  # type: ignore[valid-type]
    """Return two named values."""
    return ("go", "because")


def test_a_condition_that_kfp_cannot_resolve_fails_the_run_instead_of_being_false(tmp_path: Path) -> None:
    @dsl.pipeline(name="condition")
    def pipeline():
        with dsl.If(look().outputs["verdict"] == "go"):
            promote()

    compiler.Compiler().compile(pipeline, str(tmp_path / "condition.yaml"))
    with pytest.raises(StepError, match="Could not resolve CEL parameter: pipelinechannel--look-verdict"):
        run_local({}, tmp_path / "condition.yaml", show=lambda _: None)
