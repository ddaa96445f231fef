"""What a person sees while a network trains: a live bar on a terminal, one line an epoch in a pipe."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_SECONDS_TO_SHOW = 0.5
_EPOCHS_TO_ESTIMATE = 3  # the last ones: another process may have taken the cores, or given them back


class Console:
    """Shows progress on standard error.

    Args:
        label: what is trained, such as `"ctan fold 0 seed 0"`.
        num_epochs: epochs in all.
        num_steps: steps of one epoch.
        quiet: show nothing (all processes but the first).
    """

    def __init__(self, label: str, num_epochs: int, num_steps: int, quiet: bool = False) -> None:
        self.label, self.num_epochs, self.num_steps, self.quiet = label, num_epochs, num_steps, quiet
        self._bar: Progress | None = None
        self._task: TaskID
        self._shown = -_SECONDS_TO_SHOW
        self._ends: deque[float] = deque(maxlen=_EPOCHS_TO_ESTIMATE + 1)

    @contextmanager
    def live(self) -> Iterator[Console]:
        """Keep the bar on the terminal while the context lasts."""
        if self.quiet or not sys.stderr.isatty():
            yield self
            return
        from rich import console, progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[losses]}"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=console.Console(stderr=True)) as self._bar:
            self._task = self._bar.add_task(self.label, total=self.num_epochs * self.num_steps, losses="")
            yield self
        self._bar = None

    @property
    def is_due(self) -> bool:
        """Whether somebody watches who has not seen a step for a while: its losses have to be read from the device."""
        return self._bar is not None and time.monotonic() - self._shown >= _SECONDS_TO_SHOW

    def step(self, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        """Show that `step` steps of `epoch` (from 0) are done, with the epoch's mean losses so far."""
        if self._bar is not None:
            self._shown = time.monotonic()
            self._bar.update(self._task, completed=epoch * self.num_steps + step, losses=_format(losses))

    def epoch(self, epoch: int, losses: Mapping[str, float], seconds: float, note: str = "") -> None:
        """Report a complete epoch (from 0) in one line."""
        if self.quiet:
            return
        now = time.monotonic()
        self._ends.extend([now] if self._ends else [now - seconds, now])
        per_epoch = (now - self._ends[0]) / (len(self._ends) - 1)
        left = per_epoch * (self.num_epochs - epoch - 1)
        line = (
            f"{self.label}: epoch {epoch + 1}/{self.num_epochs}, {_format(losses)}{note}, "
            f"{seconds:.1f} s, about {left:.0f} s left"
        )
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Report anything else in one line."""
        if not self.quiet:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)


def _format(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name or 'loss'} {value:.4f}" for name, value in losses.items())
