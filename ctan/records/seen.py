"""Which patients a model has seen, without naming them: what it learnt by heart it must not be scored on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

from ctan.cases.spec import Description

_DIGITS = 16  # 64 bits: a false hit in 10,000 x 10,000 comparisons is less likely than one in 100 billion


class SeenGroups(Description):
    """Salted hashes of groups (patients, lesions).

    Whoever has an id can ask whether it was seen; nobody can list the ids. An id that can be guessed, such as `pt_1`,
    can be tried: pseudonyms of planning data are keyed and cannot be.

    Attributes:
        salt: another one for every version of the data, so that lists of two models cannot be joined.
        hashes: of the groups, sorted.
    """

    salt: str
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, group_ids: Iterable[str], salt: str) -> SeenGroups:
        """Keep the hashes of groups."""
        return cls(salt=salt, hashes=tuple(sorted({_hash(group_id, salt) for group_id in group_ids})))

    def holds(self, group_id: str) -> bool:
        """Say whether a group was seen."""
        return _hash(group_id, self.salt) in self._known

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.hashes)


def _hash(group_id: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}\0{group_id}".encode()).hexdigest()[:_DIGITS]
