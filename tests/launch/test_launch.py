"""Processes of one step: they know of each other, and end together with the message of the one that failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ctan.config import RunConfig
from ctan.errors import ConfigError, DataError
from ctan.ranks import num_processes
from ctan.settings import load_config
from tests.helpers.ranks import ROOT, in_processes

SECONDS = 15  # to notice and to end; the processes themselves would stay for two minutes


def test_the_first_process_answer_is_returned_and_cores_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert in_processes(3, "failing:say_of_oneself", tmp_path) == f"0 3 {threads}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert "OMP_NUM_THREADS" not in os.environ
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("error", DataError, "case-7: damaged"),
        ("bug", KeyError, "x"),
        ("exit", DataError, "process 1: exit code 3.*of 2; what they said is above. Try again."),
        ("kill", DataError, "process 1 of 2 was ended by SIGKILL.*the others were stopped. Try again."),
    ],
)
def test_a_process_that_fails_ends_all_with_its_own_error(how: str, kind: type[Exception], message: str) -> None:
    started = time.monotonic()
    with pytest.raises(kind, match=message):
        in_processes(2, "failing:fail", how)
    assert time.monotonic() - started < 100  # the first one would have slept for two minutes


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.helpers.ranks import in_processes\n"
        "in_processes(2, 'failing:say_and_stay', Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment) as process:
        while len(pids := [int(p.read_text() or 0) for p in tmp_path.iterdir()]) < 2 or not all(pids):
            time.sleep(0.05)
            assert process.poll() is None
        assert all(map(is_alive, pids))
        process.kill()
    for _ in range(10 * SECONDS):
        if not any(map(is_alive, pids)):
            break
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_auto_is_one_process_on_a_cpu() -> None:
    assert num_processes("auto", 8, "training.num_processes", "a batch of") == 1
    assert num_processes(3, 8, "training.num_processes", "a batch of") == 3


@pytest.mark.usefixtures("four_gpus")
def test_auto_is_every_visible_gpu_that_has_a_case() -> None:
    assert num_processes("auto", 8, "training.num_processes", "a batch of") == 4
    assert num_processes("auto", 2, "training.num_processes", "a batch of") == 2
    with pytest.raises(ConfigError, match=r"training\.num_processes: 5 processes for 4 visible GPUs"):
        num_processes(5, 8, "training.num_processes", "a batch of")


def test_more_processes_than_cases_a_step_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.num_processes: 4 processes for a batch of 2; use at most 2"):
        num_processes(4, 2, "training.num_processes", "a batch of")


def test_the_setting_takes_auto_or_a_number_and_names_no_other_checkpoint(tiny_config: RunConfig) -> None:
    assert tiny_config.training.num_processes == "auto"
    assert load_config("smoke", {"training.num_processes": 2}).training.num_processes == 2
    for wrong in (0, "many"):
        with pytest.raises(ConfigError, match=r"training\.num_processes"):
            load_config("smoke", {"training.num_processes": wrong})
