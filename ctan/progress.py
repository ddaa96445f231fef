"""Progress of long work: a live bar on a terminal, a line now and then in a pipe or log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

STEP_PREFIX = "ctan step: "  # the first line a step prints; `ctan.run_log` shows a step's output from here on
T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 15.0


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
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            left = (now - start) / done * (total - done)
            print(f"{what}: {done}/{total}, {now - start:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)
            last = now
