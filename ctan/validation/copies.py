"""One content in several cases: the same patient, lesion or picture under two ids, which would leak between sides.

Equal bytes, images and doses are found by their hashes. Images that look alike are found by shared bits of a difference
hash (`ctan.intake.content.looks`): pairs are compared only where they agree in one of some bands of bits (locality-
sensitive hashing; Indyk and Motwani, STOC 1998), so that the time grows with the cases and not with their square.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import DataSpec

Row = Mapping[str, Any]

_KINDS = {"sha256": "files", "image_sha256": "image", "dose_sha256": "dose"}
_ALIKE = {2: 0.04, 3: 0.06}  # share of bits in which near copies differ at most; other people's differ in 4%, 8%
_BANDS, _BITS_PER_BAND = 32, 32  # a pair at these shares misses all bands once in 25,000 and once in 100
_NEIGHBOURS = 16  # that a case is compared with in one band, so that a thousand blank pictures cost no million pairs


@dataclass(frozen=True)
class Pair:
    """Two cases of one content.

    Attributes:
        first, second: their ids.
        what: they share: `"files"`, `"image"`, `"dose"`, or `"looks"`.
        finding: what is made of it: `"error"`, `"warning"` or `"report"`.
        reason: in words.
    """

    first: str
    second: str
    what: str
    finding: str
    reason: str


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        pairs: of the cases with a case of another group, or with another answer; errors first.
        across: case id -> the case on another side that it is a copy of.
        contradicting: case id -> the case of the same image with other labels.
    """

    pairs: tuple[Pair, ...] = ()
    across: Mapping[str, str] = field(default_factory=dict)
    contradicting: Mapping[str, str] = field(default_factory=dict)

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for each kind of finding that does not stop a case."""
        found = Counter(pair.reason for pair in self.pairs if pair.finding != "error")
        return tuple(f"{count:,} {'pair' if count == 1 else 'pairs'}: {reason}" for reason, count in found.items())


def find_copies(rows: Sequence[Row], spec: DataSpec) -> Copies:
    """Return which cases hold the same content.

    Args:
        rows: of a manifest.
        spec: of the data set.
    """
    across: dict[str, str] = {}
    contradicting: dict[str, str] = {}
    pairs: dict[tuple[str, str], Pair] = {}
    for column, what in _KINDS.items():
        for same in _buckets(rows, column):
            if what != "dose":
                _contradictions(same, spec, contradicting, pairs)
            _across(same, what, across, pairs)
    known = set(pairs)
    for one, other in _alike(rows, spec.spatial_dims):
        key = _key(one, other)
        if key in known or one["group_id"] == other["group_id"]:
            continue
        where = "on different sides" if _side(one) != _side(other) else "on one side"
        pairs[key] = Pair(*key, "looks", "report", f"images of two groups, {where}, look alike")
    order = {"error": 0, "warning": 1, "report": 2}
    return Copies(tuple(sorted(pairs.values(), key=lambda pair: order[pair.finding])), across, contradicting)


def columns_of_copies(spec: DataSpec) -> list[str]:
    """Return the columns of a manifest that `find_copies` looks at."""
    answers = [f"label_{name}" for name in spec.labels] + [f"number_{name}" for name in spec.numbers]
    hashes = [column for column in _KINDS if column != "dose_sha256" or spec.has_dose]
    contours = [f"voxels_{name}" for name in spec.structures]
    return ["case_id", "group_id", "split", "fold", *hashes, "looks", *answers, *contours]


def _buckets(rows: Sequence[Row], column: str) -> list[list[Row]]:
    """Return the rows that have the same value, where several do."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get(column):
            found.setdefault(row[column], []).append(row)
    return [same for same in found.values() if len(same) > 1]


def _across(same: Sequence[Row], what: str, across: dict[str, str], pairs: dict[tuple[str, str], Pair]) -> None:
    """Note the members of other groups that each case meets: on another side an error, on its own a warning."""
    by_side: dict[Hashable, dict[str, Row]] = {}  # of each side one case of each of two groups: enough for a partner
    for row in same:
        known = by_side.setdefault(_side(row), {})
        if len(known) < 2:
            known.setdefault(row["group_id"], row)
    for row in same:
        partners = [
            (side == _side(row), other)
            for side, groups in by_side.items()
            for group, other in groups.items()
            if group != row["group_id"]
        ]
        if not partners:
            continue
        inside, other = min(partners, key=lambda partner: partner[0])  # another side first
        key = _key(row, other)
        if not inside:
            across.setdefault(row["case_id"], other["case_id"])
            pairs.setdefault(key, Pair(*key, what, "error", f"two groups on different sides hold the same {what}"))
        else:
            pairs.setdefault(key, Pair(*key, what, "warning", f"two groups on one side hold the same {what}"))


def _contradictions(
    same: Sequence[Row], spec: DataSpec, contradicting: dict[str, str], pairs: dict[tuple[str, str], Pair]
) -> None:
    """Note cases of one image whose labels or numbers differ (an error) or whose contours do (a warning)."""
    for prefix, names in (("label_", spec.labels), ("number_", spec.numbers), ("voxels_", spec.structures)):
        for name in names:
            column = f"{prefix}{name}"
            first: dict[Any, Row] = {}
            for row in same:
                if row.get(column) is not None:
                    first.setdefault(row[column], row)
            if len(first) < 2:
                continue
            one, other = list(first.values())[:2]
            for row in same:
                if (value := row.get(column)) is None:
                    continue
                partner = other if value == one[column] else one
                key = _key(row, partner)
                if prefix == "voxels_":
                    pairs.setdefault(key, Pair(*key, "image", "warning", f"one image has other contours of {name}"))
                else:
                    contradicting.setdefault(row["case_id"], partner["case_id"])
                    pairs[key] = Pair(*key, "image", "error", f"one image has two values of {name}")


def _alike(rows: Sequence[Row], spatial_dims: int) -> list[tuple[Row, Row]]:
    """Return pairs of rows whose images look alike."""
    with_bits = [row for row in rows if row.get("looks")]
    found = []
    lengths = sorted({len(row["looks"]) for row in with_bits})
    for length in lengths:
        own = [row for row in with_bits if len(row["looks"]) == length]
        bits = np.array([np.frombuffer(bytes.fromhex(row["looks"]), np.uint8) for row in own])
        listed = candidates(bits)
        for pairs in np.array_split(listed, 1 + len(listed) // 10_000):
            differing = np.bitwise_count(bits[pairs[:, 0]] ^ bits[pairs[:, 1]]).sum(axis=1) / (bits.shape[1] * 8)
            near = differing <= _ALIKE[spatial_dims]
            found += [(own[i], own[j]) for i, j in pairs[near]]
    return found


def candidates(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return pairs (N, 2) of rows that agree in all bits of at least one band.

    Args:
        bits: (rows, bytes), packed.
    """
    rng = np.random.default_rng(0)
    single = np.unpackbits(bits, axis=1)
    found = []
    for _ in range(_BANDS):
        band = np.packbits(single[:, rng.choice(single.shape[1], _BITS_PER_BAND, replace=False)], axis=1)
        value = np.ascontiguousarray(band).view(np.uint32)[:, 0]
        order = rng.permutation(len(value))  # other neighbours in every band where many are equal
        order = order[np.argsort(value[order], kind="stable")]
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            equal = value[order[step:]] == value[order[:-step]]
            if not equal.any():
                break
            found.append(np.stack([order[:-step][equal], order[step:][equal]], axis=1))
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _side(row: Row) -> tuple[str, int]:
    return row["split"], row["fold"]


def _key(one: Row, other: Row) -> tuple[str, str]:
    first, second = sorted((str(one["case_id"]), str(other["case_id"])))
    return first, second
