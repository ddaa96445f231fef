"""What kfp logs of a run on this machine, read line by line: which step runs, what it says, how it ended."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctan.errors import CtanError
from ctan.progress import STEP_PREFIX

Show = Callable[[str], None]

_TAIL_LINES = 30
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} - (?:INFO|WARNING|ERROR) - (.*)")
_STARTED = re.compile(r"Executing task '(.+)'")
_ENDED = re.compile(r"Task '(.+)' finished with status (SUCCESS|FAILURE)")
_WORK = re.compile(r"done, .*?([\d.]+) s work")
_USER_ERROR = re.compile(r"ctan\.errors\.(\w+): (.*)")
_UNRESOLVED = "Could not resolve CEL parameter"  # kfp then takes the condition for false and goes on
_EXECUTOR_LINE = "[KFP Executor "


class StepError(CtanError):
    """A step of the pipeline failed.

    Attributes:
        step: its name, with what it worked on.
        kind: name of the error's class in `ctan.errors`; empty for any other failure.
        reason: why.
    """

    def __init__(self, step: str, message: str, kind: str = "") -> None:
        super().__init__(f"step {step} failed: {message}")
        self.step = step
        self.kind = kind
        self.reason = message


@dataclass
class StepTime:
    """How long a step took.

    Attributes:
        name: step and what it worked on, such as `"train ctan, fold 0, seed 0"`.
        seconds: from start to end of its process.
        work_seconds: thereof after its libraries were loaded.
    """

    name: str
    seconds: float
    work_seconds: float


@dataclass
class LogReader:
    """Understands kfp's log: which step runs, what it says, how it ended."""

    show: Show
    steps: list[StepTime] = field(default_factory=list)
    failed: str = ""
    _name: str = ""
    _started: float = 0.0
    _work: float = 0.0
    _talking: bool = False
    _traceback: bool = False
    _planned: list[str] = field(default_factory=list)
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    def read(self, line: str) -> None:
        """Take one line of the child's output, without colours."""
        entry = _LOG_LINE.fullmatch(line)
        if entry is not None:
            self._log_entry(entry[1])
        elif line.startswith("    ") and self._name:
            self._step_output(line[4:])
        elif line.strip() and not self._name:
            self._tail.append(line)  # kfp itself; shown when it fails
            if _UNRESOLVED in line:
                self.failed = "(a condition)"

    def _log_entry(self, text: str) -> None:
        if started := _STARTED.fullmatch(text):
            self._name, self._started, self._work, self._talking = started[1], time.monotonic(), 0.0, False
            self._traceback = False
            self._tail.clear()
        elif ended := _ENDED.fullmatch(text):
            self.steps.append(StepTime(self._name, time.monotonic() - self._started, self._work))
            if ended[2] == "FAILURE":
                self.failed = self._name
            self._name = ""

    def _step_output(self, line: str) -> None:
        if line.startswith(STEP_PREFIX):
            self._heading(line.removeprefix(STEP_PREFIX))
        elif line.startswith(_EXECUTOR_LINE):
            self._talking = self._talking and "Got executor_input" not in line
        else:
            if line.strip():
                self._tail.append(line)
            if self._talking:
                self._say(line)

    def _heading(self, text: str) -> None:
        if work := _WORK.match(text):
            self._work = float(work[1])
            return
        self._name, self._talking = text, True
        self._tail.clear()
        self.show("")
        number = f" (training {self._planned.index(text) + 1} of {len(self._planned)})" if text in self._planned else ""
        self.show(f"== {text}{number}")

    def _say(self, line: str) -> None:
        """Show a line, but not a traceback: the error is told once, at the end."""
        self._traceback = self._traceback or line.startswith("Traceback (most recent call last)")
        if self._name == "plan" and line.startswith("train "):  # as the training's own heading will say
            self._planned.append(line)
        if line.strip() and (not self._traceback or os.environ.get("CTAN_DEBUG")):
            self.show(f"   {line}")

    def error(self, log: Path) -> StepError:
        """Return what to tell of the failure."""
        lines, step = list(self._tail), self.failed or self._name or "(before the first one)"
        if known := user_error(lines):
            return StepError(step, known[1], known[0])
        return StepError(step, "\n".join([*lines, f"The whole output is in {log}"]))


def user_error(lines: Sequence[str]) -> tuple[str, str] | None:
    """Return class and message of the last error of ours in a step's output; None where there is none."""
    for number in range(len(lines) - 1, -1, -1):
        if known := _USER_ERROR.fullmatch(lines[number]):
            return known[1], "\n".join([known[2], *lines[number + 1 :]])
    return None


def said(lines: Iterable[str]) -> list[str]:
    """Return what a step said between its heading and its end, a traceback aside."""
    spoken: list[str] = []
    talking = False
    for line in lines:
        if line.startswith(STEP_PREFIX):
            talking = not _WORK.match(line.removeprefix(STEP_PREFIX))
        elif line.startswith(("Traceback (most recent call last)", _EXECUTOR_LINE)):
            talking = False
        elif talking and line.strip():
            spoken.append(line)
    return spoken
