"""A supervisor outlives what its child dies of: crashes are gone on from, errors passed on, signals handed down."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ctan import limits
from ctan.errors import DataError, KilledError
from ctan.supervise import supervised
from tests.helpers.ranks import ROOT

PROGRAM = """
import sys
from ctan.supervise import supervised
supervised("tests.helpers.supervised:wait", {"folder": sys.argv[1], "handles": sys.argv[2] == "1"}, 3)
"""


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def crash(tmp_path: Path, *ends: str, most: int = 3, said: list[str] | None = None) -> Any:
    arguments = {"folder": str(tmp_path), "ends": list(ends)}
    return supervised("tests.helpers.supervised:crash", arguments, most, (said if said is not None else []).append)


def tries(tmp_path: Path) -> int:
    return len((tmp_path / "tries").read_text())


def test_the_process_that_supervises_loads_no_heavy_library() -> None:
    code = (
        "import sys; import ctan.supervise; print([m for m in ('torch', 'mlflow', 'numpy', 'kfp') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert supervised("tests.helpers.supervised:heavy", {}, 0) == [], "nor does a child before its work"


def test_a_crash_is_gone_on_from_and_said_with_its_reason(tmp_path: Path) -> None:
    said: list[str] = []
    found = crash(tmp_path, "SIGSEGV", "rank", said=said)
    assert found == (3, ["ended by SIGSEGV", "process 1 of 2 was ended by SIGKILL"], 0)
    assert said == [
        "crashed: ended by SIGSEGV; started again from its checkpoint (1 of 3)",
        "crashed: process 1 of 2 was ended by SIGKILL; started again from its checkpoint (2 of 3)",
    ]


def test_memory_that_was_not_enough_is_told_to_the_next_try(tmp_path: Path) -> None:
    said: list[str] = []
    assert crash(tmp_path, "memory", "gpu", said=said) == (3, ["out of memory"] * 2, 2)
    assert (
        said[0] == "crashed: out of memory; started again from its checkpoint, with half the cases at a time (1 of 3)"
    )


def test_a_kill_by_the_kernel_for_memory_is_told_apart_by_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([4, 5, 5])  # before the first try, after it, before the second
    monkeypatch.setattr("ctan.supervise.oom_kills", lambda: next(counts))
    assert crash(tmp_path, "SIGKILL") == (2, ["out of memory"], 1)


def test_after_the_last_restart_it_is_an_error_that_names_the_crashes(tmp_path: Path) -> None:
    with pytest.raises(
        KilledError, match=r"crashed 2 times \(ended by SIGSEGV, ended by SIGABRT\), more than training.max"
    ):
        crash(tmp_path, "SIGSEGV", "SIGABRT", "SIGSEGV", most=1)
    assert tries(tmp_path) == 2


@pytest.mark.parametrize(
    ("end", "kind", "text"),
    [
        ("user", DataError, "store: chunk 3 is damaged"),
        ("bug", ZeroDivisionError, "a bug"),
        ("exit", DataError, "exit code 7 and no word"),
    ],
)
def test_what_would_fail_again_is_passed_on_and_not_tried_again(
    tmp_path: Path, end: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        crash(tmp_path, end)
    assert tries(tmp_path) == 1


def started(tmp_path: Path, handles: bool) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(int(handles))], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, psutil.Process(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("handles", [True, False])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_reaches_the_child_once_and_ends_both(
    tmp_path: Path, number: signal.Signals, code: int, handles: bool
) -> None:
    process, child = started(tmp_path, handles)
    process.send_signal(number)
    assert process.wait(60) == code
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    if handles:
        assert (tmp_path / "received").read_text() == f"{number.name}\n"


def test_a_child_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    process, child = started(tmp_path, handles=True)
    process.kill()
    process.wait(60)
    child.wait(60)


def test_kills_for_memory_are_counted_where_the_kernel_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_ROOT", tmp_path)
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    assert limits.oom_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    (tmp_path / "memory.peak").write_text("2147483648\n")
    assert (limits.oom_kills(), limits.memory_peak_bytes()) == (2, 2**31)


FORKED = """
import os, sys, types
os.environ["_KFP_RUNTIME"] = "true"  # as in a step that ctan.step_server forked
sys.modules["torch"] = types.ModuleType("torch")
from ctan.supervise import supervised
from tests.helpers import supervised as helper
arguments = {"folder": sys.argv[1], "ends": ["SIGSEGV", "memory"]}
helper.restarts = lambda: ["a copy of this process"]  # a new one would not know it
print(supervised("tests.helpers.supervised:crash", arguments, 3, lambda _: None))
"""


def test_where_the_libraries_are_loaded_a_copy_of_the_process_does_the_work(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "(3, ['a copy of this process'], 1)\n", done.stderr
