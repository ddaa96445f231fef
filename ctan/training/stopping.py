"""Being told to stop: by Ctrl-C, by the end of a lease, by somebody who cancels.

From a terminal and as a job of its own a training finishes its step, saves, and ends. Below KFP's launcher it has about
one second, whatever the grace period of the pod, and whatever it prints is lost: it notes the end, and no more. A
second signal ends it at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POD_VARIABLES = ("KFP_POD_NAME", "KFP_RUN_ID")  # in the pod of a step; a TrainJob's pods have neither
_MARK_SECONDS = 0.8


def under_launcher() -> bool:
    """Whether this process is a step in a pod of Kubeflow Pipelines, whose launcher dies of the same signal."""
    return any(os.environ.get(name) for name in _POD_VARIABLES)


class Stop:
    """Whether somebody wants this training to end.

    Attributes:
        marks: what to do first when there is only a second; called at the same time, each may take half of it.
    """

    def __init__(self) -> None:
        self.marks: list[Callable[[], None]] = []
        self._signal = 0

    @property
    def is_wanted(self) -> bool:
        """Whether to end after this step."""
        return bool(self._signal)

    def end(self) -> None:
        """End the process the way the signal asks for.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
            SystemExit: with 128 and the number of another signal.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._signal)

    def receive(self, number: int, _frame: object = None) -> None:
        """Take note of a signal; the second one is not waited for."""
        if self._signal:
            self.end()
        self._signal = number

    def mark_and_exit(self, number: int) -> None:
        """Note the end and exit, in a second: no printing, no library that waits for a server."""
        threads = [threading.Thread(target=mark, daemon=True) for mark in self.marks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_MARK_SECONDS / len(threads))
        os._exit(128 + number)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Listen for signals as long as the context lasts; only in the main thread, elsewhere they are somebody else's."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    with _at_once(stop) if under_launcher() else _after_the_step(stop):
        yield stop


@contextmanager
def _after_the_step(stop: Stop) -> Iterator[None]:
    before = {number: signal.signal(number, stop.receive) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _at_once(stop: Stop) -> Iterator[None]:
    """Let a thread of its own act: Python calls a handler only between two operations, which may take seconds."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGTERM:
                stop.mark_and_exit(number[0])

    threading.Thread(target=listen, name="ctan-stopping", daemon=True).start()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # without a handler nothing is written to the pipe
    wakeup = signal.set_wakeup_fd(writing)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)
