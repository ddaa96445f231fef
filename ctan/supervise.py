"""Survival inside a step: its work runs in a child process, which is started again where it crashed.

Kubeflow does not try a step again that was killed or ran out of memory, and most machines have nobody who would. This
process imports none of the heavy libraries, so that it outlives what they die of. What an error of ours or of the code
is would fail again: it is passed on, not tried again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.errors import CtanError, DataError, KilledError
from ctan.limits import oom_kills
from ctan.process import end_with

RESTARTS_VARIABLE = "CTAN_RESTARTS"  # JSON: why each earlier try ended
HALVINGS_VARIABLE = "CTAN_MEMORY_HALVINGS"  # how often memory was not enough
_WORK, _RESULT, _ERROR = "work.pickle", "result.pickle", "error.pickle"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OUT_OF_MEMORY = "out of memory"
_FORKED_VARIABLE = "_KFP_RUNTIME"  # set by `ctan.step_server`


@dataclass(frozen=True)
class _End:
    """How a try ended: with a result, with an error to pass on, or by a crash.

    Attributes:
        result: what the function returned, in a tuple; None without.
        error: to be raised here.
        crash: what ended it, where it may be tried again.
    """

    result: tuple[Any] | None = None
    error: BaseException | None = None
    crash: str = ""


def supervised(
    function: str, arguments: Mapping[str, Any], max_restarts: int, say: Callable[[str], None] = print
) -> Any:
    """Call a function in a child process; start it again when it crashes. It must itself go on from where it was.

    A crash is a signal, memory that ran out, or a process of several that was killed. SIGTERM, SIGINT and SIGHUP are
    passed on to the child once each, and end this process as they end the child.

    Args:
        function: `"module:name"`.
        arguments: keyword arguments; can be pickled, as what it returns.
        max_restarts: crashes after which it is started again.
        say: told of each restart.

    Raises:
        CtanError: that the function raised; `KilledError` when it crashed once more than it may.
        RuntimeError: for any other error.
        SystemExit, KeyboardInterrupt: when it was told to stop.
    """
    crashes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ctan-") as name, _passing_on() as stop:
        folder = Path(name)
        (folder / _WORK).write_bytes(pickle.dumps((function, dict(arguments), os.getpid())))
        while True:
            end = _try(folder, crashes, stop)
            if end.result is not None:
                return end.result[0]
            if end.error is not None:
                raise end.error
            crashes.append(end.crash)
            if len(crashes) > max_restarts:
                times = f"{len(crashes)} times" if len(crashes) > 1 else "once"
                raise KilledError(
                    f"the work of this step crashed {times} ({', '.join(dict.fromkeys(crashes))}), more than "
                    f"training.max_restarts={max_restarts} allows. The same command goes on from the last checkpoint"
                )
            less = ", with half the cases at a time" if end.crash == _OUT_OF_MEMORY else ""
            say(f"crashed: {end.crash}; started again from its checkpoint{less} ({len(crashes)} of {max_restarts})")


class _Forked:
    """A child that is a copy of this process, which has loaded what the work needs."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_copy(folder, environment))

    def wait(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


_Child = _Forked | subprocess.Popen[bytes]


def _has_loaded_the_libraries() -> bool:
    """Whether this is a step of a run on this machine, forked by `ctan.step_server` from a process that loaded them."""
    return os.environ.get(_FORKED_VARIABLE) == "true" and "torch" in sys.modules and threading.active_count() == 1


def _copy(folder: Path, environment: Mapping[str, str]) -> int:
    """Do the work in a forked child; return its exit code."""
    code = 1
    try:
        os.setsid()
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(environment)
        _work(folder)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    return code


class _Stop:
    """A signal that was received, and the child to pass it on to."""

    def __init__(self) -> None:
        self.number = 0
        self.child: _Child | None = None

    def receive(self, number: int, _frame: object = None) -> None:
        self.number = self.number or number
        if self.child is not None and self.child.returncode is None:
            os.kill(self.child.pid, number)


@contextmanager
def _passing_on() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _try(folder: Path, crashes: list[str], stop: _Stop) -> _End:
    for name in (_RESULT, _ERROR):
        (folder / name).unlink(missing_ok=True)
    environment = os.environ | {
        RESTARTS_VARIABLE: json.dumps(crashes),
        HALVINGS_VARIABLE: str(crashes.count(_OUT_OF_MEMORY)),
    }
    killed_before = oom_kills()
    sys.stdout.flush()
    sys.stderr.flush()
    # In a session of its own: Ctrl-C reaches it through this process alone, once.
    child: _Child = (
        _Forked(folder, environment)
        if _has_loaded_the_libraries()
        else subprocess.Popen(
            [sys.executable, "-m", "ctan.supervise", str(folder)],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    )
    stop.child = child
    if stop.number:  # came before there was a child
        os.kill(child.pid, stop.number)
    code = child.wait()
    if (folder / _RESULT).exists():
        return _End(result=(_load(folder / _RESULT),))
    stopped = stop.number or {128 + signal.SIGTERM: signal.SIGTERM, -signal.SIGTERM: signal.SIGTERM}.get(code, 0)
    if stopped == signal.SIGINT:
        return _End(error=KeyboardInterrupt())
    if stopped:
        return _End(error=SystemExit(128 + stopped))
    if (folder / _ERROR).exists():
        error = _load(folder / _ERROR)
        if error == _OUT_OF_MEMORY:
            return _End(crash=_OUT_OF_MEMORY)
        return _End(crash=str(error).partition(",")[0]) if isinstance(error, KilledError) else _End(error=error)
    if code == -signal.SIGKILL and oom_kills() > killed_before:
        return _End(crash=_OUT_OF_MEMORY)
    if code < 0:
        return _End(crash=f"ended by {signal.Signals(-code).name}")
    return _End(error=DataError(f"the work of this step ended with exit code {code} and no word; see above"))


def _load(file: Path) -> Any:
    """Return what parent and child tell each other, in a folder that nobody else can write to."""
    return pickle.loads(file.read_bytes())  # noqa: S301


def restarts() -> list[str]:
    """Return why each earlier try of this step ended, in the child; empty outside of one."""
    return list(json.loads(os.environ.get(RESTARTS_VARIABLE) or "[]"))


def halvings() -> int:
    """Return how often memory was not enough in earlier tries of this step."""
    return int(os.environ.get(HALVINGS_VARIABLE) or 0)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU; without importing PyTorch."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        "RuntimeError" in names and ("can't allocate memory" in text or "CUDA out of memory" in text)
    )


def _work(folder: Path) -> None:
    """Do the work, in the child."""
    function, arguments, parent = _load(folder / _WORK)
    end_with(parent)
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
        beside = folder / f"{_RESULT}.tmp"
        beside.write_bytes(pickle.dumps(result))
        beside.replace(folder / _RESULT)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if not isinstance(error, CtanError):
            traceback.print_exc()
        content: Any = _OUT_OF_MEMORY if _is_out_of_memory(error) else error
        beside = folder / f"{_ERROR}.tmp"
        beside.write_bytes(_pickled(content))
        beside.replace(folder / _ERROR)
        sys.stderr.flush()
        sys.exit(1)


def _pickled(content: Any) -> bytes:
    """Return an error pickled; one that does not survive that as its text."""
    try:
        data = pickle.dumps(content)
        pickle.loads(data)  # noqa: S301 - what was pickled on the line above
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(content).__name__}: {content}"))
    return data


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
