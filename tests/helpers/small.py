"""Settings with which the pipeline takes seconds a step, and what tests of killed processes share."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

# OpenKBP phantoms on a coarse grid and a narrow network: overrides of the profile smoke.
SMALL = [
    "preprocess.grid_shape=[16,24,24]",
    "preprocess.grid_spacing_mm=[16.0,16.0,16.0]",
    "network.base_width=4",
    "evaluation.num_bootstrap=100",
    "data.num_folds=2",
]


def kill_at(text: str, command: list[str]) -> None:
    """Run a command and kill it (SIGKILL) at the first line on stderr that holds a text."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if text in line:
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL


def files_of(folder: Path) -> dict[str, bytes]:
    """Return path below the folder -> bytes of each file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
