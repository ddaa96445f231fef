"""Checkpoints: everything needed to go on exactly where a killed run stopped, in one atomic file."""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctan import versions
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.files import atomic_path, sha256_of_json
from ctan.sources.buckets import cache_folder, check_root, check_writable, fetch, is_remote, join, upload_file
from ctan.store import StorePointer
from ctan.tasks import Task

# Training settings that change how a training is done, not what comes out.
_NOT_DECISIVE = ("checkpoint_minutes", "num_workers")
_FORMAT = 1
_FILE = "last.pt"
_LAST_TRIES = 5  # to upload what must arrive


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
    def of(
        cls, pointer: StorePointer, arch: str, tasks: Sequence[Task], fold: int, seed: int, config: RunConfig
    ) -> CheckpointKey:
        """Return the key of one training."""
        decides = config.model_dump(
            mode="json",
            include={"data": {"inputs", "signed_distance"}, "network": True, "preprocess": True, "training": True},
        )
        for name in _NOT_DECISIVE:
            decides["training"].pop(name)
        code_hash = versions.sha256_of(versions.of_training(arch, tasks))
        return cls(arch, fold, seed, pointer.key, sha256_of_json(decides), code_hash)

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
    with atomic_path(folder / _FILE) as path:
        torch.save({"format": _FORMAT, "key": asdict(key), "state": state}, path)


def load_checkpoint(folder: Path, key: CheckpointKey) -> dict[str, Any] | None:
    """Return the state in `last.pt`, None when there is no checkpoint yet.

    Raises:
        DataError: when the file is damaged or belongs to another training (names what differs).
    """
    path = folder / _FILE
    return _read(path, key) if path.exists() else None


def _read(path: Path, key: CheckpointKey) -> dict[str, Any]:
    advice = f"Remove the folder {key.folder} under the checkpoint root to train afresh."
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["key"], saved["state"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: the checkpoint cannot be read ({error}). {advice}") from error
    expected = asdict(key)
    differing = [
        f"{name} {found.get(name)!r} instead of {value!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if differing or saved.get("format") != _FORMAT:
        raise DataError(f"{path}: checkpoint of another training: {', '.join(differing) or 'old format'}. {advice}")
    return state


class Checkpoints:
    """The checkpoint of one training: in a folder, or in object storage with a local copy in the workspace.

    In object storage the bucket decides. What could not be uploaded is marked in the local copy, and uploaded by the
    next save or, after the process died, by the next start in the same workspace.

    Args:
        root: folder, or `s3://bucket/prefix`.
        key: what is trained.
    """

    def __init__(self, root: str | Path, key: CheckpointKey) -> None:
        check_root(root, "checkpoint_root")
        self._key, self._root = key, root
        local = cache_folder("checkpoints", str(root)) if is_remote(root) else Path(root)
        self._folder = local / key.folder
        self._address = join(str(root), key.folder) if is_remote(root) else ""
        self._late = local / f".{key.folder}.late"

    def prepare(self) -> None:
        """See that checkpoints can be kept, and upload what an earlier process could not. In one process only.

        Raises:
            DataError: when bucket or folder cannot be written to.
        """
        check_writable(self._root)
        if not self._address:
            return
        if self._late.exists():
            late = self._late.with_suffix(".pt")
            if not late.exists() and (self._folder / _FILE).exists():
                (self._folder / _FILE).replace(late)
            there, here = self.load(), _read(late, self._key) if late.exists() else None
            if here is not None and (there is None or here["position"] > there["position"]):
                upload_file(late, join(self._address, _FILE), tries=_LAST_TRIES)
            late.unlink(missing_ok=True)
            self._late.unlink()  # after the file: a process may die in between

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last, None when there is none.

        Raises:
            DataError: when it is damaged or belongs to another training, or the bucket cannot be used.
        """
        if self._address:
            fetch(self._address, self._folder)
        return load_checkpoint(self._folder, self._key)

    def save(self, state: dict[str, Any], last: bool = False) -> None:
        """Keep a state. When the bucket is away this warns: a finished training is worth more than its checkpoint.

        Args:
            state: see `Session.state`.
            last: no other save comes to make up for it: ask the bucket more patiently.
        """
        if self._address:
            self._late.parent.mkdir(parents=True, exist_ok=True)
            self._late.touch()
        save_checkpoint(self._folder, self._key, state)
        if self._address:
            self._upload(last)

    def _upload(self, last: bool) -> None:
        try:
            upload_file(self._folder / _FILE, join(self._address, _FILE), tries=_LAST_TRIES if last else 1)
        except DataError as error:
            then = f"it lies in {self._folder} and goes with the next start here" if last else "the next save will be"
            print(f"warning: checkpoint not uploaded, {then} ({error})", file=sys.stderr, flush=True)
        else:
            self._late.unlink()
