"""Work in processes of its own: one that dies or hangs costs its item, and none outlives the process that began it."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from ctan.errors import CtanError, DataError

_WORTH_STARTS = 2.0  # times the start of a process that its work must take, for it to be started
_START_SECONDS = 300.0  # that a new process may take to import what it needs


@dataclass(frozen=True)
class Lost:
    """What stands for the result of an item that gave none.

    Attributes:
        reason: why, in words.
        died: its process died; with other work beside it that may not be the item's fault.
    """

    reason: str
    died: bool = False


def run_isolated(
    function: Callable[[Any], Any], items: Sequence[Any], num_workers: int, seconds: float
) -> Iterator[tuple[int, Any]]:
    """Yield the position and the result of every item, or `Lost`, in any order.

    A process that dies is replaced; its item is tried once more when all others are done, alone, so that a neighbour
    that took all memory does not cost it.

    Args:
        function: of one item; can be pickled. A `CtanError` that it raises ends all work; other errors cost the item.
        items: what to work on; can be pickled.
        num_workers: processes at a time.
        seconds: that one item may take.

    Raises:
        CtanError: that `function` raised.
        DataError: when processes cannot be started.
    """
    again = []
    for position, result in _run(function, list(enumerate(items)), num_workers, seconds):
        if isinstance(result, Lost) and result.died:
            again.append((position, items[position]))
        else:
            yield position, result
    yield from _run(function, again, 1, seconds)


def exit_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and the item that it has been given; None until it is ready for the first."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    seconds: float = _START_SECONDS
    position: int | None = None
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.since = time.monotonic()

    @property
    def deadline(self) -> float:
        return self.since + self.seconds

    def give(self, position: int, item: Any, seconds: float) -> None:
        self.position, self.seconds, self.since = position, seconds, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # died since: seen when its answer is received
            self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _start(function: Callable[[Any], Any]) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork of a process whose libraries run threads can hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Answer one item after the other, in a process of its own."""
    from ctan.memory import keep_freed_memory

    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one that began it decides
    keep_freed_memory()
    pipe.send(None)  # ready
    while True:
        item = pipe.recv()
        try:
            answer = function(item)
        except CtanError as error:
            answer = error
        except Exception as error:
            answer = Lost(type(error).__name__)
        pipe.send(answer)


class _Growth:
    """Says when one more process pays: by how long the first took to start, and an item to work on."""

    def __init__(self) -> None:
        self._start_seconds = math.inf
        self._item_seconds = 0.0
        self.due = math.inf  # when an item that takes long should be seen, though it has no result

    def note(self, worker: _Worker) -> None:
        """Note that a process has become ready, or done with an item."""
        now = time.monotonic()
        if worker.position is None:
            self._start_seconds = now - worker.since
        else:
            self._item_seconds = now - worker.since
        self.due = now + _WORTH_STARTS * self._start_seconds

    def pays(self, num_left: int, num_workers: int) -> bool:
        """Say whether the items that are left take the processes there are long enough."""
        if time.monotonic() >= self.due:
            self.due = math.inf
            return num_left > 0
        return num_left * self._item_seconds / num_workers > _WORTH_STARTS * self._start_seconds


def _run(
    function: Callable[[Any], Any], todo: list[tuple[int, Any]], num_workers: int, seconds: float
) -> Iterator[tuple[int, Any]]:
    left = deque(todo)
    growth = _Growth()
    workers = [_start(function)] if todo else []
    try:
        while workers:
            # One more at a time, while starting it costs less than it saves: imports outlast a little work.
            if len(workers) < num_workers and growth.pays(len(left), len(workers)):
                workers.append(_start(function))
            next_look = min([worker.deadline for worker in workers] + ([growth.due] if left else []))
            wait([worker.pipe for worker in workers], max(0.0, next_look - time.monotonic()))
            for worker in list(workers):
                if not worker.pipe.poll() and time.monotonic() < worker.deadline:
                    continue
                result = _answer(worker)
                if isinstance(result, CtanError):
                    raise result
                position = worker.position
                growth.note(worker)
                if left and worker.process.is_alive():
                    worker.give(*left.popleft(), seconds)  # before the result is handed out: it works on meanwhile
                else:
                    worker.end()
                    workers.remove(worker)
                    workers += [_start(function)] if left else []
                if position is not None:
                    yield position, result
    finally:
        for worker in workers:
            worker.end()


def _answer(worker: _Worker) -> Any:
    """Return what a worker says; `Lost` when it died, or took too long and was ended for that."""
    if worker.pipe.poll():
        try:
            return worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            found = Lost(f"the process that worked on it died ({how}); out of memory?", died=True)
    else:
        worker.process.kill()
        worker.process.join()
        found = Lost(f"not done after {worker.seconds:g} s")
    if worker.position is None:
        raise DataError(
            f"a worker process did not start: {found.reason} Try --workers 1; a script of your own that reads cases "
            f'needs `if __name__ == "__main__":`'
        )
    return found


__all__ = ["Lost", "exit_with_parent", "run_isolated"]
