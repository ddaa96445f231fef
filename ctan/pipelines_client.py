"""Run a compiled pipeline on this machine: the same YAML a cluster gets, every step a process.

kfp runs in a child process with a session of its own, so that stopping the run stops every process of every step.
This module reads the child's output line by line, shows what the steps say and times them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ctan.cluster.compiled import CompiledPipeline, compiled_pipeline
from ctan.ending import end_here
from ctan.errors import CtanError
from ctan.files import read_json, write_json
from ctan.records import COMPARISON_FILE
from ctan.run_log import LogReader, Show, StepTime
from ctan.settings import CONFIG_FILE
from ctan.step_server import serving
from ctan.tracking.closing import close_quietly
from ctan.tracking.lineage import LOCAL_RUN_VARIABLE
from ctan.tracking.run_end import CANCELED, FAILED
from ctan.tracking.server import prepare
from ctan.workspace import workspace

LOG_FILE, REQUEST_FILE = "run.log", "request.json"
_GRACE_SECONDS = 20.0  # between asking steps to stop and killing them
_COLOUR = re.compile(r"\x1b\[\d*m")


@dataclass(frozen=True)
class RunResult:
    """What a finished run left behind. Paths are None when the pipeline made no such output.

    Attributes:
        run_dir: folder of the run.
        steps: in the order they ran.
        seconds: of the whole run.
        report: comparison report, HTML.
        validation_report: HTML.
        settings: all of them, YAML that `--profile` takes.
        comparison: `comparison.json`, see `ctan.records.ComparisonRecord`.
        decision: what was decided about promotion.
        finding: of the check whether to train again, `{"needed": ..., "reason": ...}`.
    """

    run_dir: Path
    steps: list[StepTime]
    seconds: float
    report: Path | None
    validation_report: Path | None
    settings: Path | None
    comparison: Path | None
    decision: dict[str, Any] | None
    finding: dict[str, Any] | None


def run_local(parameters: Mapping[str, Any], pipeline: Path | None = None, show: Show = print) -> RunResult:
    """Run a compiled pipeline in subprocesses and wait for it.

    Everything the run leaves lies in `<workspace>/runs/<time>`; the whole output of all steps is in its `run.log`.
    On SIGINT or SIGTERM every process of the running step is stopped before the exception goes on.

    Args:
        parameters: values for the pipeline's parameters; those not named keep their defaults.
        pipeline: compiled YAML; `compiled_pipeline()` when None.
        show: receives each line worth reading.

    Raises:
        StepError: when a step fails, naming it.
        TrackingError: when runs cannot be recorded.
    """
    run_dir = _new_run_dir()
    write_json(
        run_dir / REQUEST_FILE,
        {"pipeline": str(pipeline or compiled_pipeline()), "parameters": dict(parameters), "root": str(run_dir)},
    )
    start = time.monotonic()
    reader = LogReader(show)
    try:
        with tempfile.TemporaryDirectory(prefix="ctan-run-") as scratch, _stops_on_signals():
            return_code = _run_child(run_dir, Path(scratch), reader)
    except BaseException as error:
        state = CANCELED if isinstance(error, KeyboardInterrupt) else FAILED
        end_here(_name_of(pipeline), f"local/{run_dir.name}", state)
        raise
    finally:
        outputs = _collect(run_dir)
    if return_code != 0:
        failure = reader.error(run_dir / LOG_FILE)
        end_here(_name_of(pipeline), f"local/{run_dir.name}", FAILED, failure.step, failure.reason)
        raise failure
    return RunResult(run_dir, reader.steps, time.monotonic() - start, **outputs)


def _name_of(pipeline: Path | None) -> str:
    return CompiledPipeline.read(pipeline or compiled_pipeline()).name


def _new_run_dir() -> Path:
    runs = workspace() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        run_dir = runs / datetime.now().strftime("%Y-%m-%d-%H%M%S")
        try:
            run_dir.mkdir()
        except FileExistsError:  # another run started within the same second
            time.sleep(1)
        else:
            return run_dir


@contextmanager
def _stops_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `KeyboardInterrupt`, as SIGINT is, so that one way of stopping serves all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_child(run_dir: Path, scratch: Path, reader: LogReader) -> int:
    """Run kfp in a process group of its own and read its output to the end."""
    environment = os.environ | {
        "CTAN_WORKSPACE": str(workspace()),
        LOCAL_RUN_VARIABLE: run_dir.name,
        "PYTHONUNBUFFERED": "1",  # a step's output is a pipe: show each line when it is written
        "PYTHONSAFEPATH": "1",  # a folder named like a package beside the data must not be imported
        "TMPDIR": str(scratch),  # kfp leaves a folder a step behind
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "ctan.pipelines_client", str(run_dir / REQUEST_FILE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.PIPE,  # closes when this process dies, however it dies: see `_end_with_parent`
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        with _Preparation(child), (run_dir / LOG_FILE).open("w", encoding="utf-8") as log:
            assert child.stdout is not None
            _forward(child.stdout, log, reader)
            return 1 if reader.failed else child.wait()
    finally:
        _stop_group(child)


def _forward(output: IO[str], log: IO[str], reader: LogReader) -> None:
    """Hand on lines to their end, or to the first failure: kfp would still run the rest of the loop."""
    for line in output:
        plain = _COLOUR.sub("", line)
        log.write(plain)
        log.flush()
        reader.read(plain.rstrip("\n"))
        if reader.failed:
            return


class _Preparation:
    """Makes the tracking database ready beside the first steps, which do not use it; MLflow is slow to import."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._error: CtanError | None = None
        self._thread = threading.Thread(target=self._prepare, daemon=True)

    def _prepare(self) -> None:
        try:
            prepare()
            close_quietly()  # of runs here that were killed together with whoever would have closed theirs
        except CtanError as error:
            self._error = error
            _signal_group(self._child, signal.SIGTERM)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._thread.join()
            if self._error is not None:
                raise self._error


def _signal_group(child: subprocess.Popen[str], number: int) -> bool:
    """Signal every process of the child's group; return whether there was one."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    return True


def _stop_group(child: subprocess.Popen[str]) -> None:
    """End whatever is left of the group: ask first, then kill. A second Ctrl-C kills at once."""
    try:
        if _signal_group(child, signal.SIGTERM):
            deadline = time.monotonic() + _GRACE_SECONDS
            while time.monotonic() < deadline:
                child.poll()
                if not _signal_group(child, 0):
                    return
                time.sleep(0.05)
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _collect(run_dir: Path) -> dict[str, Any]:
    """Copy what a person wants to see from the steps' folders to the run's folder."""
    page = _newest(run_dir, "promote/decided") or _newest(run_dir, "compare/report")
    report = _copy(page, run_dir / "report.html")
    validation_report = _copy(_newest(run_dir, "validate/report"), run_dir / "validation.html")
    _copy(_newest(run_dir, "ingest/contact_sheet"), run_dir / "contact-sheet.html")
    _copy(_newest(run_dir, "ingest/manifest/plan.yaml"), run_dir / "plan.yaml")
    settings = _copy(_newest(run_dir, f"ingest/manifest/{CONFIG_FILE}"), run_dir / "settings.yaml")
    comparison = _copy(_newest(run_dir, f"compare/comparison/{COMPARISON_FILE}"), run_dir / COMPARISON_FILE)
    decision = _copy(_newest(run_dir, "promote/decision"), run_dir / "decision.json")
    finding = _copy(_newest(run_dir, "check/finding"), run_dir / "finding.json")
    return {
        "report": report,
        "validation_report": validation_report,
        "settings": settings,
        "comparison": comparison,
        "decision": _read_json(decision),
        "finding": _read_json(finding),
    }


def _newest(run_dir: Path, output: str) -> Path | None:
    """Find a step's output: kfp puts it under the pipeline's, the loop's or the condition's own folder."""
    found = [path for path in run_dir.glob(f"**/{output}") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _copy(source: Path | None, target: Path) -> Path | None:
    """Copy rather than link, so that the folder can be moved or sent."""
    if source is None:
        return None
    shutil.copyfile(source, target)
    return target


def _read_json(path: Path | None) -> dict[str, Any] | None:
    return None if path is None else read_json(path, "look into run.log beside it")


def _end_with_parent() -> None:
    """Kill this process group once the process that started it is gone, also when that was killed itself."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _main(request_file: str) -> None:
    """Run in the child process: hand the pipeline to kfp."""
    import warnings

    threading.Thread(target=_end_with_parent, daemon=True).start()

    request = read_json(Path(request_file), "run `ctan run` again")
    with serving(Path(tempfile.gettempdir())) as python:
        # What kfp warns about is by design: names and resources mean something on a cluster only.
        warnings.filterwarnings("ignore", module=r"kfp\.")
        from kfp import components, local

        sys.executable = python  # kfp pastes it into the shell command of every step
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=request["root"], raise_on_error=True)
        pipeline = components.load_component_from_file(request["pipeline"])
        try:
            pipeline(**request["parameters"])
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    _main(sys.argv[1])
