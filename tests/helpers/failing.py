"""What tests of processes that end badly let each of them do. Imports no heavy library."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ctan.errors import DataError


def fail(how: str) -> str:
    """Fail in the second process while the first is at work."""
    if os.environ["RANK"] == "0":
        time.sleep(120)
    elif how == "error":
        raise DataError("case-7: damaged")
    elif how == "bug":
        raise KeyError("x")
    elif how == "exit":
        os._exit(3)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def say_of_oneself(folder: Path) -> str:
    """Leave this process' id in a folder; return what it knows of itself."""
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    return " ".join(os.environ[name] for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS"))


def say_and_stay(folder: Path) -> None:
    """Leave this process' id in a folder, and go on for minutes."""
    say_of_oneself(folder)
    time.sleep(120)
