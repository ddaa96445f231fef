"""Folds: which training patients tune which model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable


def assign_folds(group_ids: Iterable[str], num_folds: int, seed: int) -> dict[str, int]:
    """Divide groups (patients, lesions) into folds.

    The result depends on the set of cases alone: not on their order, the platform or the Python version. Groups
    are taken largest first, equal ones in the order of a keyed hash, and each goes to the fold that has the fewest
    cases so far. With one case a group, fold sizes differ by one at most. With fewer groups than folds, the last
    folds stay empty.

    Args:
        group_ids: the group of every case; repeated when a group has several cases.
        num_folds: how many folds.
        seed: another seed gives another division.

    Returns:
        group id -> fold in 0..num_folds - 1.
    """
    num_cases = Counter(group_ids)

    def rank(group_id: str) -> tuple[int, str]:
        return -num_cases[group_id], hashlib.sha256(f"{seed}\0{group_id}".encode()).hexdigest()

    fold_sizes = [0] * num_folds
    folds = {}
    for group_id in sorted(num_cases, key=rank):
        fold = fold_sizes.index(min(fold_sizes))
        folds[group_id] = fold
        fold_sizes[fold] += num_cases[group_id]
    return folds
