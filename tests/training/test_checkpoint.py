"""Checkpoints: the last two are kept, damage is found and the one before is used, writing costs training no time."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ctan.errors import DataError
from ctan.training import checkpoints as module
from ctan.training.checkpoint import CheckpointKey, DamagedError, read_checkpoint, write_checkpoint
from ctan.training.checkpoints import Checkpoints

KEY = CheckpointKey("hps", 0, 0, "store", "config", "code")


def state(epoch: int, step: int = 0, size: int = 50) -> dict[str, Any]:
    network = {"weight": torch.arange(float(size)) + 1000 * epoch + step, "bias": torch.zeros(3)}
    return {"position": [epoch, step], "network": network, "history": [{"loss": 0.5}], "run_id": "r"}


def kept(root: Path) -> Checkpoints:
    return Checkpoints(root, KEY, 0)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["position"] == b["position"] and bool((a["network"]["weight"] == b["network"]["weight"]).all())


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / KEY.folder).iterdir() if not path.name.startswith("owner"))


def test_the_last_two_are_kept_and_the_newest_is_found_by_whoever_comes(tmp_path: Path) -> None:
    one = kept(tmp_path)
    assert one.load() is None
    for epoch in range(1, 6):
        one.save(state(epoch), last=True)
        assert len(files(tmp_path)) == min(epoch, 2)
    other = kept(tmp_path)
    found = other.load()
    assert found is not None
    assert equal(found, state(5))
    other.save(state(5, 7), last=True)
    (tmp_path / KEY.folder / module._FILES[0]).unlink()  # 5 lay there: the newest was not written over
    assert equal(kept(tmp_path).load() or {}, state(5, 7)) or equal(kept(tmp_path).load() or {}, state(5))


def test_a_checkpoint_is_what_torch_loads(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", KEY, state(2))
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert equal(saved["state"], state(2))


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "longer", "other place"])
def test_a_damaged_one_is_named_and_set_aside_and_the_one_before_is_used(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, 36 of 45 damaged checkpoints were resumed from without a word."""
    one = kept(tmp_path)
    for epoch in (1, 2):
        one.save(state(epoch), last=True)
    newest = tmp_path / KEY.folder / one._newest
    content = newest.read_bytes()
    if kind == "flipped":
        # In the middle of the weights: torch.load takes it without an error, and other weights would go on.
        at = content.index(torch.tensor([2001.0]).numpy().tobytes())
        content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    changed = {
        "cut": content[: len(content) // 2],
        "flipped": content,
        "empty": b"",
        "longer": content + b"\0",
        "other place": content.replace(b"checkpoint 000002", b"checkpoint 000009"),
    }[kind]
    newest.write_bytes(changed)
    capsys.readouterr()
    found = kept(tmp_path).load()
    assert found is not None
    assert equal(found, state(1))
    said = capsys.readouterr().err
    assert f"{newest}: the checkpoint is damaged" in said
    assert "the one before is used" in said
    (aside,) = (tmp_path / KEY.folder).glob("damaged-*")
    assert aside.read_bytes() == changed


def test_no_mutation_of_a_checkpoint_is_taken_for_one(tmp_path: Path) -> None:
    """By a fixed seed; two thousand in `make test-hard`."""
    attack(tmp_path, int(os.environ.get("CTAN_MUTATIONS", "60")))


def attack(folder: Path, num_mutations: int) -> None:
    """Change a checkpoint at random; whatever is read must be what was written."""
    rng = random.Random(0)
    path = folder / "a.pt"
    write_checkpoint(path, KEY, state(3, 5))
    content = path.read_bytes()
    for _ in range(num_mutations):
        path.write_bytes(mutated(content, rng))
        if path.read_bytes() != content:
            with pytest.raises(DamagedError):
                read_checkpoint(path, KEY)


def mutated(content: bytes, rng: random.Random) -> bytes:
    from tests.helpers.mutation import mutated as of_bytes

    return of_bytes(content, rng)


def test_two_damaged_ones_start_afresh(tmp_path: Path) -> None:
    one = kept(tmp_path)
    for epoch in (1, 2):
        one.save(state(epoch), last=True)
    for path in (tmp_path / KEY.folder).glob("?.pt"):
        path.write_bytes(b"nothing")
    assert kept(tmp_path).load() is None
    assert len(list((tmp_path / KEY.folder).glob("damaged-*"))) == 2


def test_writing_goes_on_beside_training_and_keeps_what_was_true_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    original = module.write_checkpoint

    def slowly(*arguments: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return original(*arguments)

    monkeypatch.setattr(module, "write_checkpoint", slowly)
    one, training = kept(tmp_path), state(1)
    assert one.is_due
    one.save(training)
    assert begun.wait(30)
    assert not one.is_due, "one is being written"
    training["network"]["weight"] += 1  # the next step
    training["history"].append({"loss": 0.25})
    go_on.set()
    one.wait()
    assert one.is_due
    found = kept(tmp_path).load()
    assert found is not None
    assert equal(found, state(1))
    assert found["history"] == [{"loss": 0.5}]


def test_they_are_kept_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = Checkpoints(tmp_path, KEY, 1.5)

    def due_at(seconds: float) -> bool:
        now[0] = seconds
        return one.is_due

    assert [due_at(seconds) for seconds in (1001, 1089, 1090, 1300)] == [False, False, True, True]
    one.save(state(1), last=True)
    assert [due_at(seconds) for seconds in (1389, 1391)] == [False, True]


def test_whoever_lost_the_training_writes_nothing_more(tmp_path: Path) -> None:
    one = kept(tmp_path)
    with one.owned(print):
        one.save(state(1), last=True)
        (tmp_path / KEY.folder / f"owner-{one.owner._number + 1:06d}.json").write_text("{}")
        with pytest.raises(DataError, match="has taken this training over"):
            one.save(state(2), last=True)
    assert equal(kept(tmp_path).load() or {}, state(1))


def test_one_of_another_training_is_refused(tmp_path: Path) -> None:
    kept(tmp_path).save(state(1), last=True)
    other = CheckpointKey("ctan", 0, 0, "store", "config", "code")
    (tmp_path / KEY.folder).rename(tmp_path / other.folder)
    with pytest.raises(DataError, match="another training: arch 'hps' instead of 'ctan'"):
        Checkpoints(tmp_path, other, 0).load()
