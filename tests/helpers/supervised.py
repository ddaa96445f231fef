"""What tests of the supervisor let its child do: no heavy library is needed for that."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from ctan.errors import DataError, KilledError
from ctan.supervise import halvings, restarts


def crash(folder: str, ends: list[str]) -> tuple[int, list[str], int]:
    """End in the given ways, one a try, then return number of tries, why earlier ones ended, how often memory did."""
    file = Path(folder) / "tries"
    number = len(file.read_text()) if file.exists() else 0
    file.write_text("." * (number + 1))
    how = ends[number] if number < len(ends) else ""
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    if how == "memory":
        raise MemoryError("cannot allocate 3 GiB")
    if how == "gpu":
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    if how == "rank":
        raise KilledError("process 1 of 2 was ended by SIGKILL, the others were stopped.")
    if how == "user":
        raise DataError("store: chunk 3 is damaged")
    if how == "bug":
        raise ZeroDivisionError("a bug")
    if how == "exit":
        sys.exit(7)
    return number + 1, restarts(), halvings()


def wait(folder: str, handles: bool) -> None:
    """Say that it waits, and end as a training does: 143 after SIGTERM."""

    def stop(number: int, _: object) -> None:
        with (Path(folder) / "received").open("a") as file:
            file.write(signal.Signals(number).name + "\n")
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    if handles:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
    (Path(folder) / "pid").write_text(str(os.getpid()))
    time.sleep(120)


def heavy() -> list[str]:
    """Return the heavy libraries that a child which did nothing has loaded."""
    return [name for name in ("torch", "mlflow", "kfp", "numpy", "pandas") if name in sys.modules]
