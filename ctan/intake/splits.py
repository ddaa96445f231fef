"""Splits and folds: which cases only measure, and which training cases tune which model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctan.cases import SPLIT_TRAIN


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
    group_ids: Iterable[str], shares: Mapping[str, float], seed: int, strata: Iterable[Hashable] | None = None
) -> dict[str, str]:
    """Divide groups into sides for the first time, where a data set has no official split.

    Groups are ranked as in `assign_folds`, and one goes to the side whose cases have fallen furthest behind their share
    of the cases so far, where that is half the group's size or more, else to training. So a single measuring side has
    its share of all cases within half the largest group, and of a stratum, where groups lie within one, within the
    largest group. With enough groups no side that has a share is empty, even where that misses the share by more.

    Args:
        group_ids: the group of every case; repeated when a group has several cases.
        shares: share of the cases by side, beside training, which has the rest.
        seed: another seed gives another division.
        strata: what the splits are balanced by, one value a case in the order of `group_ids`.

    Returns:
        group id -> side.
    """
    sides: dict[str, str] = {}
    num_cases = 0
    taken = dict.fromkeys(shares, 0)
    for group in _ranked_groups(group_ids, seed, strata):
        num_cases += group.size
        behind = {side: share * num_cases - taken[side] for side, share in shares.items() if share}
        side = max(behind, key=behind.__getitem__, default=SPLIT_TRAIN)
        if behind and behind[side] >= group.size / 2:
            taken[side] += group.size
        else:
            side = SPLIT_TRAIN
        sides[group.group_id] = side
    _fill_empty(sides, (SPLIT_TRAIN, *(side for side, share in shares.items() if share)))
    return sides


def _fill_empty(sides: dict[str, str], wanted: Sequence[str]) -> None:
    """Give a side that got nothing, among few or very unequal groups, the last one of a side that has several."""
    for side in wanted:
        if side not in sides.values():
            counts = Counter(sides.values())
            spare = next((group for group in reversed(sides) if counts[sides[group]] > 1), None)
            if spare is not None:
                sides[spare] = side


@dataclass(frozen=True)
class Placed:
    """A group that has its place already.

    Attributes:
        place: its side or fold.
        cases: number of its cases by stratum.
    """

    place: Any
    cases: Mapping[Any, int]


def join(
    known: Iterable[Placed],
    group_ids: Iterable[str],
    shares: Mapping[Any, float],
    seed: int,
    strata: Iterable[Hashable] | None = None,
) -> dict[str, Any]:
    """Give later groups a place beside those that have one; these stay where they are.

    Groups come in the order of a keyed hash, and each goes to the place (side, fold) that is furthest below its share
    of the cases of the group's rarest stratum, the group counted; of equal ones to the furthest below its share of all
    cases. So strata stay balanced to within the largest group, however few join at a time.

    Args:
        known: groups that have a place.
        group_ids: the group of every case that has none.
        shares: of all places that can be joined; they sum to 1.
        seed: another seed gives another order.
        strata: one value a case in the order of `group_ids`.

    Returns:
        group id -> place.
    """
    counts: dict[Hashable, Counter[Hashable]] = {place: Counter() for place in shares}
    for group in known:
        if group.place in counts:
            counts[group.place].update(group.cases)
    sums = {place: count.total() for place, count in counts.items()}
    places: dict[str, Any] = {}
    for new in sorted(_ranked_groups(group_ids, seed, strata), key=lambda one: hash_rank(one.group_id, seed)):
        stratum = next(iter(new.cases))
        of_stratum = sum(count[stratum] for count in counts.values()) + new.cases[stratum]
        of_all = sum(sums.values()) + new.size

        def behind(place: Hashable, stratum: Hashable = stratum, here: int = of_stratum, all_: int = of_all) -> Any:
            share = shares[place]
            return round(share * here - counts[place][stratum], 9), round(share * all_ - sums[place], 9)

        place = max(shares, key=behind)
        places[new.group_id] = place
        counts[place].update(new.cases)
        sums[place] += new.size
    return places


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
