"""Progress in bytes: a live bar on a terminal, a line now and then in a pipe or log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

_SECONDS_BETWEEN_LINES = 15.0


class ByteProgress:
    """Counts bytes and files of a transfer; used by several threads.

    Args:
        what: label.
        num_files: files to fetch.
        num_bytes: their size together, 0 when unknown.
    """

    def __init__(self, what: str, num_files: int, num_bytes: int) -> None:
        self._what, self._num_files, self._num_bytes = what, num_files, num_bytes
        self._files = self._bytes = 0
        self._lock = threading.Lock()
        self._start = self._last = time.monotonic()
        self._bar = None
        if num_files and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.progress import TransferSpeedColumn as Speed

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=num_bytes or None)

    def __enter__(self) -> ByteProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, num_bytes: int) -> None:
        """Count bytes that arrived; negative when some are fetched again."""
        with self._lock:
            self._bytes += num_bytes
            if self._bar:
                self._bar.update(self._task, completed=self._bytes)
            elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
                self._print()

    def file_done(self) -> None:
        """Count a complete file."""
        with self._lock:
            self._files += 1
            if self._bar:
                self._bar.update(self._task, description=f"{self._what} {self._files}/{self._num_files}")
            elif self._files == self._num_files:
                self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._start
        rate = self._bytes / max(seconds, 1e-3)
        left = max(0.0, self._num_bytes - self._bytes) / rate if rate and self._num_bytes else 0.0
        print(
            f"{self._what}: {self._files}/{self._num_files} files, {self._bytes / 1e6:.1f} of "
            f"{self._num_bytes / 1e6:.1f} MB, {seconds:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
