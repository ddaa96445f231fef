"""Progress of long work: a live bar on a terminal, a line now and then in a pipe or log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

STEP_PREFIX = "ctan step: "  # the first line a step prints; `ctan.run_log` shows a step's output from here on
T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_TO_ESTIMATE = 5.0  # after the first item, which has to wait until the work is under way


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done and how long the rest will take.

    Args:
        items: the work.
        total: how many there are.
        what: label, such as `"ingest"`.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, total=total, description=what, console=Console(stderr=True))
        return
    start = first = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        first = now if done == 1 else first
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            left = _left(done - 1, total - done, now - first)
            print(f"{what}: {done}/{total}, {now - start:.0f} s{left}", file=sys.stderr, flush=True)
            last = now


def _left(done: int, to_do: int, seconds: float) -> str:
    """Say how long the rest takes when `done` items took some seconds; nothing while that would be a guess."""
    if to_do and (done == 0 or seconds < _SECONDS_TO_ESTIMATE):
        return ""
    return f", about {seconds / max(done, 1) * to_do:.0f} s left"
