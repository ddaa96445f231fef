"""A step's process, forked from one that has loaded the libraries, is what a Python of its own would be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ctan import step_server
from ctan.step_server import serving

SAID = """
import json, os, random, sys
from pathlib import Path
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "here": os.environ.get("HERE"), "gone": os.environ.get("GONE"),
    "typed": sys.stdin.read(), "main": __name__, "parent": os.getppid(), "draw": random.random(),
    "loaded": "kfp.dsl.executor_main" in sys.modules, "open": len(os.listdir("/proc/self/fd")),
}))
print("aside", file=sys.stderr)
"""
ENDS = """
import atexit, os, signal, sys, time
from pathlib import Path
how = sys.argv[1]
atexit.register(print, "at exit")
if how == "raise": raise ZeroDivisionError("of the step")
if how == "exit": sys.exit(7)
if how == "text": sys.exit("in words")
if how == "stay":
    Path(sys.argv[2]).write_text(str(os.getpid()))
    time.sleep(120)
os.kill(os.getpid(), int(how))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The words that stand for a step's Python, with two modules in reach."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "said.py").write_text(SAID)
    (folder / "ends.py").write_text(ENDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("GONE", "from the server")
        with serving(folder) as words:
            assert "step_client" in words
            yield words


def step(python: str, what: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", f"{python} {what}"], capture_output=True, text=True, timeout=60, **more)  # type: ignore[call-overload]


def test_a_step_has_its_own_arguments_folder_environment_input_and_output(python: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GONE"} | {"HERE": "the step's \udcff"}
    done = step(python, "-m said 'one two' --three", cwd=tmp_path, env=environment, input="typed")
    said = json.loads(done.stdout)
    assert done.returncode == 0
    assert said["arguments"] == ["one two", "--three"]
    assert (said["folder"], said["typed"], said["main"]) == (str(tmp_path), "typed", "__main__")
    assert (said["here"], said["gone"]) == (environment["HERE"], None)
    assert done.stderr == "aside\n"
    assert said["loaded"], "the server has loaded it before"
    assert said["open"] < 10, "no descriptors of the server are left"


def test_steps_draw_other_random_numbers_and_have_one_parent(python: str) -> None:
    first, second = (json.loads(step(python, "-m said", input="").stdout) for _ in range(2))
    assert first["draw"] != second["draw"]
    assert first["parent"] == second["parent"] != os.getpid()


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("raise", 1, "ZeroDivisionError: of the step"), ("exit", 7, ""), ("text", 1, "in words")],
)
def test_a_step_that_fails_ends_as_a_python_would(python: str, how: str, code: int, said: str) -> None:
    done = step(python, f"-m ends {how}")
    assert (done.returncode, done.stdout) == (code, "at exit\n")
    assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda n: n.name)
def test_a_step_that_is_killed_looks_killed_and_the_next_one_runs(python: str, number: signal.Signals) -> None:
    done = subprocess.run([*python.split(), "-m", "ends", str(int(number))], timeout=60, check=False)
    assert done.returncode == -number
    assert step(python, "-m ends exit").returncode == 7


def test_a_step_is_asked_to_end_when_nobody_waits_for_it_any_more(python: str, tmp_path: Path) -> None:
    client = subprocess.Popen([*python.split(), "-m", "ends", "stay", str(tmp_path / "pid")])
    process = wait_for_number(tmp_path / "pid")
    client.kill()
    assert client.wait() == -signal.SIGKILL
    wait_until_gone(process)


def test_without_a_server_the_client_becomes_the_python(python: str, tmp_path: Path) -> None:
    words = python.split()
    nowhere = [*words[:-1], str(tmp_path / "nowhere")]
    done = subprocess.run([*nowhere, "-m", "ends", "exit"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, "at exit\n")


def test_the_server_ends_with_the_context_and_the_client_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(tmp_path) as words:
        command = [*words.split(), "-m", "ends", "stay", str(tmp_path / "pid")]
        client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        process = wait_for_number(tmp_path / "pid")
    assert client.wait(timeout=60) == 1
    os.kill(process, signal.SIGKILL)
    assert "the process that starts the steps of this run has ended" in client.communicate(timeout=60)[1]


def test_an_address_that_is_too_long_for_a_socket_means_a_plain_python(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with serving(deep) as words:
        assert words == sys.executable


def test_what_steps_share_can_be_imported() -> None:
    names = {name for names in step_server._SHARED.values() for name in names} | set(step_server._ALL_STEPS)
    program = f"import importlib\nfor name in {sorted(names)!r}: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def wait_for_number(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)
    return int(path.read_text())


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.02)
        pytest.fail(f"process {process} still runs")
