"""Checkpoints: everything needed to go on exactly where a killed run stopped, in one atomic file."""

from __future__ import annotations

import pickle
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.files import atomic_path, code_hash, sha256_of_json
from ctan.store import StorePointer

# The rooms whose code decides the weights: a change in one of them starts training afresh.
CODE_ROOMS = ("inputs", "losses", "networks", "precision", "tasks", "training")
_FORMAT = 1


@dataclass(frozen=True)
class CheckpointKey:
    """What a checkpoint belongs to; its hash names the folder."""

    arch: str
    fold: int
    seed: int
    store_key: str
    config_hash: str
    code_hash: str

    @classmethod
    def of(cls, pointer: StorePointer, arch: str, fold: int, seed: int, config: RunConfig) -> CheckpointKey:
        """Return the key of one training."""
        config_hash = config.hash("data", "preprocess", "network", "training")
        return cls(arch, fold, seed, pointer.key, config_hash, code_hash(*CODE_ROOMS))

    @property
    def folder(self) -> str:
        """Name of the checkpoint folder, readable and unique."""
        return f"{self.arch}-fold{self.fold}-seed{self.seed}-{sha256_of_json(asdict(self))[:12]}"


@dataclass
class Position:
    """How far training is: `epoch` epochs are complete and `step` steps of the next one."""

    epoch: int = 0
    step: int = 0


def rng_state() -> dict[str, Any]:
    """Return the state of every random number generator."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Undo `rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def save_checkpoint(folder: Path, key: CheckpointKey, state: dict[str, Any]) -> None:
    """Write `last.pt`, atomically."""
    with atomic_path(folder / "last.pt") as path:
        torch.save({"format": _FORMAT, "key": asdict(key), "state": state}, path)


def load_checkpoint(folder: Path, key: CheckpointKey) -> dict[str, Any] | None:
    """Return the state in `last.pt`, None when there is no checkpoint yet.

    Raises:
        DataError: when the file is damaged or belongs to another training (names what differs).
    """
    path = folder / "last.pt"
    if not path.exists():
        return None
    advice = f"Remove the folder {folder.name} under the checkpoint root to train afresh."
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["key"], saved["state"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: the checkpoint cannot be read ({error}). {advice}") from error
    expected = asdict(key)
    differing = [f"{name} {found.get(name)!r} instead of {value!r}" for name, value in expected.items()
                 if found.get(name) != value]  # fmt: skip
    if differing or saved.get("format") != _FORMAT:
        raise DataError(f"{path}: checkpoint of another training: {', '.join(differing) or 'old format'}. {advice}")
    return state
