"""A checkpoint: everything needed to go on exactly where a killed training stopped, in one file.

It ends with its place in the training and the SHA-256 of all before that, so that damage is found; `torch.load` reads
it as it is. Nothing in it depends on the number of processes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ctan import versions
from ctan.config import RunConfig
from ctan.errors import DataError
from ctan.files import atomic_path, sha256_of_json
from ctan.store import StorePointer
from ctan.tasks import Task

# Training settings that change how a training is done, not what comes out.
NOT_DECISIVE = (
    "checkpoint_minutes",
    "num_processes",
    "num_workers",
    "num_nodes",
    "gpus_per_node",
    "micro_batch",
    "recompute_activations",
    "compile",
    "cases_in_memory",
    "max_restarts",
)
_FORMAT = 2
_SEAL = re.compile(rb"ctan-checkpoint (\d{6}) (\d{9}) ([0-9a-f]{64})\n")  # epoch and step, SHA-256 of all before it
SEAL_BYTES = 98


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
        for name in NOT_DECISIVE:
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


@dataclass(frozen=True)
class Seal:
    """What a checkpoint says at its end: how far training was, and the SHA-256 of the bytes before and of that."""

    position: tuple[int, int]
    sha256: str

    @classmethod
    def read(cls, end: bytes) -> Seal | None:
        """Read the last bytes of a file; None when they are no seal."""
        found = _SEAL.fullmatch(end[-SEAL_BYTES:])
        return cls((int(found[1]), int(found[2])), found[3].decode()) if found else None

    @classmethod
    def of(cls, position: Sequence[int], digest: Any) -> Seal:
        """Return the seal of bytes whose running hash is `digest`."""
        digest = digest.copy()
        digest.update(_place(position))
        return cls((position[0], position[1]), digest.hexdigest())

    def to_bytes(self) -> bytes:
        """Return what `read` reads."""
        return _place(self.position) + f"{self.sha256}\n".encode()


def _place(position: Sequence[int]) -> bytes:
    return b"ctan-checkpoint %06d %09d " % tuple(position)


class DamagedError(Exception):
    """A checkpoint that is not as it was written."""


def write_checkpoint(path: Path, key: CheckpointKey, state: Mapping[str, Any]) -> Seal:
    """Write a checkpoint, atomically; return its seal."""
    with atomic_path(path) as beside, beside.open("wb") as stream:
        hashed = _Hashing(stream)
        torch.save({"format": _FORMAT, "key": asdict(key), "state": state}, hashed)  # type: ignore[arg-type]
        seal = Seal.of(state["position"], hashed.digest)
        stream.write(seal.to_bytes())
    return seal


def read_checkpoint(path: Path, key: CheckpointKey) -> dict[str, Any]:
    """Return the state in a checkpoint.

    Raises:
        DamagedError: when the file is not as it was written.
        DataError: when it belongs to another training (names what differs).
    """
    seal = seal_of(path)
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        left = path.stat().st_size - SEAL_BYTES
        while left > 0 and (chunk := stream.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
    if seal is None or seal != Seal.of(seal.position, digest):
        raise DamagedError("cut short" if seal is None else "its SHA-256 does not fit")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["key"], saved["state"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise DamagedError(str(error)) from error
    differing = [
        f"{name} {found.get(name)!r} instead of {value!r}"
        for name, value in asdict(key).items()
        if found.get(name) != value
    ]
    if differing or saved.get("format") != _FORMAT:
        raise DataError(
            f"{path}: checkpoint of another training: {', '.join(differing) or 'old format'}. "
            f"Remove the folder {key.folder} under the checkpoint root to train afresh."
        )
    return state


def seal_of(path: Path) -> Seal | None:
    """Return the seal of a file, None when it has none."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - SEAL_BYTES))
        return Seal.read(stream.read())


class _Hashing(io.RawIOBase):
    """A stream that hashes what it hands on."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._stream.write(content)
