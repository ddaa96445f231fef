"""Splits and folds: which cases only measure, and which training cases tune which model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from ctan.cases import SPLIT_TRAIN, SPLIT_VALIDATION


def assign_folds(
    group_ids: Iterable[str], num_folds: int, seed: int, strata: Iterable[Hashable] | None = None
) -> dict[str, int]:
    """Divide groups (patients, lesions) into folds that are alike in size and, given strata, in their mix.

    The result depends on the set of cases alone: not on their order, the platform or the Python version. Groups
    are taken largest first, equal ones in the order of a keyed hash, and each goes to the fold that has the fewest
    cases so far. With one case a group, fold sizes differ by one at most. With fewer groups than folds, the last
    folds stay empty.

    With strata, groups of the rarest stratum come first, and each goes to the fold that has the fewest cases of its
    stratum, then the fewest cases. Where a group lies within one stratum, the folds' numbers of cases of a stratum
    differ by its largest group at most, and by one at most with one case a group.

    Args:
        group_ids: the group of every case; repeated when a group has several cases.
        num_folds: how many folds.
        seed: another seed gives another division.
        strata: what the folds are balanced by, such as the diagnosis, one value a case in the order of `group_ids`.

    Returns:
        group id -> fold in 0..num_folds - 1.
    """
    cases_of_stratum: list[Counter[Hashable]] = [Counter() for _ in range(num_folds)]
    fold_sizes = [0] * num_folds
    folds = {}
    for group in _ranked_groups(group_ids, seed, strata):

        def load(fold: int, group: _Group = group) -> tuple[int, ...]:
            return *(cases_of_stratum[fold][stratum] for stratum in group.cases), fold_sizes[fold]

        fold = min(range(num_folds), key=load)
        folds[group.group_id] = fold
        cases_of_stratum[fold].update(group.cases)
        fold_sizes[fold] += group.size
    return folds


def assign_splits(
    group_ids: Iterable[str], evaluation_share: float, seed: int, strata: Iterable[Hashable] | None = None
) -> dict[str, str]:
    """Set groups aside that only measure, where a data set has no official split.

    Groups are ranked as in `assign_folds`, and one goes to the validation split whenever the cases there have fallen
    behind their share of the cases so far by half the group's size or more. So the validation split has the share of
    all cases within half the largest group, and of a stratum, where groups lie within one, within the largest group.
    With two groups or more, neither split is empty, even where that misses the share by more.

    Args:
        group_ids: the group of every case; repeated when a group has several cases.
        evaluation_share: share of the cases in the validation split, between 0 and 1.
        seed: another seed gives another division.
        strata: what the splits are balanced by, one value a case in the order of `group_ids`.

    Returns:
        group id -> `"train"` or `"validation"`.
    """
    splits: dict[str, str] = {}
    num_cases = num_validation = 0
    for group in _ranked_groups(group_ids, seed, strata):
        num_cases += group.size
        behind = evaluation_share * num_cases - num_validation >= group.size / 2
        num_validation += group.size if behind else 0
        splits[group.group_id] = SPLIT_VALIDATION if behind else SPLIT_TRAIN
    if len(splits) > 1 and len(set(splits.values())) == 1:  # few or very unequal groups
        last = next(reversed(splits))
        splits[last] = SPLIT_TRAIN if splits[last] == SPLIT_VALIDATION else SPLIT_VALIDATION
    return splits


def hash_rank(group_id: str, seed: int) -> str:
    """Return what groups are ordered by where nothing else decides: a keyed hash, the same on every platform."""
    return hashlib.sha256(f"{seed}\0{group_id}".encode()).hexdigest()


@dataclass(frozen=True)
class _Group:
    """Cases that belong together. `cases` counts them by stratum, the rarest stratum of the data set first."""

    group_id: str
    size: int
    cases: Mapping[Hashable, int]


def _ranked_groups(group_ids: Iterable[str], seed: int, strata: Iterable[Hashable] | None) -> list[_Group]:
    """Return the groups by rarest stratum, then largest first, then in the order of a keyed hash."""
    groups = list(group_ids)
    cases = Counter(zip(groups, [None] * len(groups) if strata is None else strata, strict=True))
    of_stratum: Counter[Hashable] = Counter()
    for (_, stratum), count in cases.items():
        of_stratum[stratum] += count
    rarest_first = sorted(of_stratum, key=lambda stratum: (of_stratum[stratum], repr(stratum)))
    of_group: dict[str, dict[Hashable, int]] = {group_id: {} for group_id in groups}
    rank = {stratum: position for position, stratum in enumerate(rarest_first)}
    for group_id, stratum in sorted(cases, key=lambda pair: rank[pair[1]]):
        of_group[group_id][stratum] = cases[group_id, stratum]

    def order(group: _Group) -> tuple[int, int, str]:
        return rank[next(iter(group.cases))], -group.size, hash_rank(group.group_id, seed)

    return sorted((_Group(key, sum(counts.values()), counts) for key, counts in of_group.items()), key=order)
