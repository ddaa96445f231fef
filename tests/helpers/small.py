"""Settings with which the pipeline takes seconds a step, and what tests of killed processes share."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from ctan.config import RunConfig
from ctan.store import StorePointer

# OpenKBP phantoms on a coarse grid and a narrow network: overrides of the profile smoke.
SMALL = [
    "preprocess.grid_shape=[16,24,24]",
    "preprocess.grid_spacing_mm=[16.0,16.0,16.0]",
    "network.base_width=4",
    "data.num_folds=2",
]


_TRAIN = """
import sys, threading
from pathlib import Path
from ctan.settings import config_from_yaml
from ctan.store import StorePointer
from ctan.training import train
from ctan.training.console import Console

tell = Console.epoch

def epoch(self, *given):
    for thread in threading.enumerate():  # a checkpoint is written in the background
        if thread.name == "ctan-checkpoint":
            thread.join()
    tell(self, *given)

Console.epoch = epoch
arch, checkpoints, pointer, config, model = sys.argv[1:]
pointer, config = StorePointer.load(Path(pointer)), config_from_yaml(Path(config))
train(pointer, arch, 0, 0, config, checkpoints, Path(model))
"""


def train_and_kill(
    pointer: StorePointer, arch: str, config: RunConfig, checkpoints: str | Path, folder: Path, told: str = "epoch 1/3"
) -> None:
    """Train in another process and kill it (SIGKILL) when it tells of an epoch, whose checkpoint is written then."""
    folder.mkdir(exist_ok=True)
    pointer.save(folder / "pointer.json")
    (folder / "config.yaml").write_text(config.to_yaml())
    given = [arch, checkpoints, *(folder / name for name in ("pointer.json", "config.yaml", "model"))]
    command = [sys.executable, "-c", _TRAIN, *map(str, given)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if told in line:
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "model").exists()


def files_of(folder: Path) -> dict[str, bytes]:
    """Return path below the folder -> bytes of each file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
