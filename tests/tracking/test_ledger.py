"""The chain of the ledger: no decision can be changed, dropped, added or moved without being found."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ctan.errors import DataError
from ctan.tracking.ledger import Ledger
from tests.helpers.mutation import mutated


def entry(number: int) -> dict[str, Any]:
    version = str(number)
    return {
        "decision": "promoted",
        "version": version,
        "champion_before": None,
        "champion_after": version,
        "run_id": "r" * 32,
        "weights_sha256": "w" * 64,
        "comparison_hash": f"{number:064d}",
        "evaluation_hash": "e" * 64,
        "data_hash": "d" * 64,
        "numbers": {"dose": 4.25 - number},
    }


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(str(tmp_path), "model")
    made.check_writable()
    for number in range(1, 5):
        made.append(entry(number))
    return made


def lines(ledger: Ledger) -> list[bytes]:
    return ledger.path.read_bytes().splitlines(keepends=True)


def test_what_was_decided_comes_back(ledger: Ledger) -> None:
    assert ledger.entries() == [entry(number) for number in range(1, 5)]
    assert ledger.verify(ledger.head) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda found: [found[0], found[1].replace(b"2.25", b"9.25"), *found[2:]],
        lambda found: [found[0], *found[2:]],
        lambda found: found[1:],
        lambda found: [found[0], found[2], found[1], found[3]],
        lambda found: [*found[:2], found[1], *found[2:]],
        lambda found: [found[0], json.dumps(entry(9)).encode() + b"\n", *found[1:]],
    ],
    ids=["changed", "dropped", "first dropped", "exchanged", "doubled", "added"],
)
def test_a_changed_history_is_found(ledger: Ledger, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Before, every one of these was accepted."""
    ledger.path.write_bytes(b"".join(change(lines(ledger))))
    with pytest.raises(DataError, match=r"line \d does not follow from the lines before it"):
        ledger.entries()


def test_a_cut_end_is_found_by_the_head_that_was_noted(ledger: Ledger) -> None:
    early, late = Ledger(str(ledger.path.parent.parent), "model").head, ledger.head
    assert early == late
    ledger.path.write_bytes(b"".join(lines(ledger)[:-1]))
    assert ledger.verify() == 3, "nothing says that there was more"
    with pytest.raises(DataError, match="does not hold all decisions that were made"):
        ledger.verify(late)


def test_a_ledger_of_release_0_1_is_read_and_sealed_by_the_next_decision(tmp_path: Path) -> None:
    made = Ledger(str(tmp_path), "model")
    made.check_writable()
    old = [json.dumps(entry(number), sort_keys=True).encode() + b"\n" for number in (1, 2)]
    made.path.write_bytes(b"".join(old))
    assert made.verify() == 2
    made.append(entry(3))
    assert made.entries() == [entry(number) for number in (1, 2, 3)]
    made.path.write_bytes(made.path.read_bytes().replace(b"2.25", b"9.25"))
    with pytest.raises(DataError, match="line 3 does not follow"):
        made.entries()


def test_no_mutation_is_read_as_another_history(ledger: Ledger) -> None:
    attack(ledger, int(os.environ.get("CTAN_MUTATIONS", "300")))


def attack(ledger: Ledger, num_mutations: int) -> None:
    """Change the file at random: it is refused, or what it says is what was decided (or a cut end, see `head`)."""
    rng = random.Random(0)
    content, head = ledger.path.read_bytes(), ledger.head
    expected = ledger.entries()
    for number in range(num_mutations):
        ledger.path.write_bytes(mutated(content, rng))
        try:
            ledger.verify(head)
        except DataError:
            continue
        found = ledger.entries()
        assert found[: len(expected)] == expected, number
        assert len(found) == len(expected), number


def test_a_table_that_was_changed_is_refused_and_one_of_release_0_1_is_not(ledger: Ledger) -> None:
    ledger.keep_table("w" * 64, "e" * 64, pa.table({"value": [1.0, 2.0]}))
    path = ledger.table_path("w" * 64, "e" * 64)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="was changed since it was kept"):
        ledger.table_path("w" * 64, "e" * 64)
    Path(f"{path}.sha256").unlink()
    assert ledger.table_path("w" * 64, "e" * 64) == path
