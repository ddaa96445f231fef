"""The table of sides: which patients (lesions) train, which measure, which are sealed; nobody ever moves.

The first division is balanced over strata and written down. Groups that come later join the side that is furthest below
its share; those that are known stay. So a new case neither trains on what measured nor measures what was trained on.

`resolve` alone writes the table, `store_root/sides/<name>.json`, and names what it holds of the source at hand by a
hash. Every later step takes sides from there and compares the hash, so that ingestion is a function of its inputs.
Phantoms have no table: their numbers say everything.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ctan import versions
from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION, RawCase
from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.files import sha256_of_json
from ctan.intake.own_split import OwnSplit
from ctan.intake.sides_files import read_sides, updated
from ctan.intake.splits import Placed, assign_folds, assign_splits, hash_rank, join
from ctan.sources import open_source
from ctan.sources.origin import Origin
from ctan.store.manifest import NO_FOLD
from ctan.workspace import workspace

SIDES = (SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST)
_RANK_DIGITS = 16


@dataclass(frozen=True)
class Row:
    """A group's row in the table.

    Attributes:
        side: `"train"`, `"validation"` or `"test"`.
        rank: hash that orders the groups of a side: limits of cases take the lowest.
        cases: number of its cases by stratum, when it joined.
        folds: fold by number of folds; empty outside training.
    """

    side: str
    rank: str
    cases: Mapping[str, int]
    folds: Mapping[str, int] = field(default_factory=dict)

    def fold(self, num_folds: int) -> int:
        """Return the fold of a division into so many."""
        return self.folds[str(num_folds)] if self.side == SPLIT_TRAIN else NO_FOLD

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return {"side": self.side, "rank": self.rank, "cases": dict(self.cases), "folds": dict(self.folds)}


@dataclass(frozen=True)
class Table:
    """Sides of groups: a value, never changed.

    Attributes:
        groups: group id -> its row.
        seen: version of the data -> hash of its sides, and how many groups joined with it.
        pseudonyms: tells the key of the group ids, see `Dataset.pseudonyms`.
    """

    groups: Mapping[str, Row] = field(default_factory=dict)
    seen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pseudonyms: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Table:
        """Read what `to_json` returned."""
        return cls(
            {group: Row(**row) for group, row in value["groups"].items()}, value["seen"], value.get("pseudonyms", "")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON-able values."""
        rows = {group: self.groups[group].to_json() for group in sorted(self.groups)}
        seen = {name: dict(self.seen[name]) for name in sorted(self.seen)}
        return {"groups": rows, "seen": seen, "pseudonyms": self.pseudonyms}

    def joined(self, cases: Sequence[RawCase], data: DataConfig, has_strata: bool, own: OwnSplit) -> Table:
        """Return the table with a place for every group of these cases; those that have one keep it.

        Args:
            cases: as they were listed; official sides are theirs.
            data: shares, folds and seed.
            has_strata: whether the data set balances by anything.
            own: a split of the user's; empty where there is none.

        Raises:
            DataError: when an official side or the user's contradicts the table, naming a case.
        """
        fixed = _fixed(cases, own)
        for case in cases:
            known = self.groups.get(case.group_id)
            if known and fixed.get(case.group_id, known.side) != known.side:
                raise DataError(
                    f"{case.case_id}: is on the side {known.side!r} since it was first seen, and now said to be "
                    f"{fixed[case.group_id]!r}. Nobody changes sides: models may have learnt from it. To divide anew, "
                    f"name a new table: data.sides=NAME"
                )
        new = [case for case in cases if case.group_id not in self.groups]
        sides = {case.group_id: fixed[case.group_id] for case in new if case.group_id in fixed}
        sides |= self._chosen([case for case in new if case.group_id not in fixed], sides, data, has_strata)
        counts = _counts(new, has_strata)
        rows = {
            group: Row(side, hash_rank(group, data.split_seed)[:_RANK_DIGITS], counts[group])
            for group, side in sides.items()
        }
        return replace(self, groups=self._with_folds({**self.groups, **rows}, data, own.folds))

    def _chosen(
        self, cases: Sequence[RawCase], fixed: Mapping[str, str], data: DataConfig, has_strata: bool
    ) -> dict[str, str]:
        """Give a side to cases that have none: divide the first ones, let later ones join."""
        shares = {SPLIT_VALIDATION: data.evaluation_share, SPLIT_TEST: data.test_share}
        groups = [case.group_id for case in cases]
        strata = [_stratum(case, has_strata) for case in cases]
        if not self.groups and not fixed:
            return assign_splits(groups, shares, data.split_seed, strata)
        rest = {SPLIT_TRAIN: 1 - sum(shares.values())} | {side: share for side, share in shares.items() if share}
        known = [Placed(row.side, row.cases) for row in self.groups.values()]
        return join(known, groups, rest, data.split_seed, strata)

    def _with_folds(self, rows: Mapping[str, Row], data: DataConfig, own: Mapping[str, int]) -> dict[str, Row]:
        """Give a fold of a division into `data.num_folds` to every training group that has none."""
        number = str(data.num_folds)
        training = {group: row for group, row in rows.items() if row.side == SPLIT_TRAIN}
        folds = {group: row.folds[number] for group, row in training.items() if number in row.folds}
        folds |= {group: own[group] for group in training if group not in folds and group in own}
        pairs = [
            (group, stratum)
            for group, row in training.items()
            if group not in folds
            for stratum, count in row.cases.items()
            for _ in range(count)
        ]
        groups, strata = [group for group, _ in pairs], [stratum for _, stratum in pairs]
        if folds:
            known = [Placed(fold, training[group].cases) for group, fold in folds.items()]
            free = [fold for fold in range(data.num_folds) if fold not in own.values()] if own else []
            choice = free or range(data.num_folds)
            shares = dict.fromkeys(choice, 1 / len(choice))
            folds |= join(known, groups, shares, data.split_seed, strata)
        else:
            folds = assign_folds(groups, data.num_folds, data.split_seed, strata)
        return {
            group: replace(row, folds={**row.folds, number: folds[group]}) if group in folds else row
            for group, row in rows.items()
        }

    def sha256(self, groups: Iterable[str], num_folds: int) -> str:
        """Return the hash of what the table says of groups, and of nobody else."""
        found = {group: self.groups[group] for group in groups}
        return sha256_of_json(sorted([group, row.side, row.fold(num_folds), row.rank] for group, row in found.items()))


def settle(origin: Origin, config: RunConfig, store_root: str) -> Origin:
    """Give a side to every group of a source, in the table, and name the result in the origin.

    A version of the data that was seen before is not opened again.

    Args:
        origin: names the source and its version.
        config: settings of the run.
        store_root: folder or `s3://bucket/prefix` of the stores; empty: in the workspace.

    Raises:
        DataError: when the table cannot be read or written, or a side contradicts it.
    """
    if origin.data_version.startswith("phantom:"):
        return origin
    dataset, data = get_dataset(config.data), config.data
    name = table_name(dataset.spec.dataset, data, origin.synthetic)
    root = store_root or str(workspace() / "store")
    decides = [dataset.decisive_options, versions.of_store(dataset), data.num_folds, OwnSplit.content_hash(data)]
    pseudonyms = dataset.pseudonyms
    version = sha256_of_json([origin.data_version, pseudonyms, *decides])
    known = read_sides(root, name)
    if version not in known["seen"]:
        with open_source(origin.source, dataset) as raw_dir:
            cases = dataset.find(raw_dir)
        has_strata, own = bool(dataset.spec.strata), OwnSplit.of(data, cases)

        def change(value: Mapping[str, Any]) -> dict[str, Any]:
            before = Table.from_json(value)
            if before.groups and before.pseudonyms != pseudonyms:
                raise DataError(
                    f"table of sides {name} in {root}: was made with another key of pseudonyms, so that every patient "
                    f"would look new and change sides. Use that key, or begin a new table: data.sides=NAME"
                )
            after = before.joined(cases, data, has_strata, own)
            groups = {case.group_id for case in cases}
            new = Counter(after.groups[group].side for group in groups - set(before.groups))
            seen = {
                "hash": after.sha256(groups, data.num_folds),
                "known": len(groups) - new.total(),
                "joined": {side: new[side] for side in SIDES if new[side]},
            }
            return replace(after, seen={**before.seen, version: seen}, pseudonyms=pseudonyms).to_json()

        known = updated(root, name, change)
    return replace(origin, sides={"root": root, "table": name, **known["seen"][version]})


def table_name(dataset: str, data: DataConfig, synthetic: bool) -> str:
    """Return the name of the table: another seed is another division, and phantoms never join patients."""
    return f"{data.sides or dataset}{'-phantom' if synthetic else ''}-seed{data.split_seed}"


def table_for(cases: Sequence[RawCase], config: RunConfig, sides: Mapping[str, Any]) -> Table:
    """Return a table that holds every group of these cases, as `resolve` left it.

    Where there is no table, such as for phantoms and in a container that keeps nothing, it is made again.

    Args:
        cases: as they were listed.
        config: settings of the run.
        sides: of the origin; empty for phantoms.

    Raises:
        DataError: when the sides are not those that `resolve` found.
    """
    dataset, data = get_dataset(config.data), config.data
    before = Table.from_json(read_sides(sides["root"], sides["table"])) if sides else Table()
    after = before.joined(cases, data, bool(dataset.spec.strata), OwnSplit.of(data, cases))
    if sides and after.sha256({case.group_id for case in cases}, data.num_folds) != sides["hash"]:
        raise DataError(
            f"table of sides {sides['table']} in {sides['root']}: not what the step `resolve` found; the raw files or "
            f"the table changed since then, or store_root is not shared by all steps. Run again from the first step"
        )
    return after


def in_words(sides: Mapping[str, Any]) -> str:
    """Say how many groups joined with this version of the data, and that none moved."""
    if not sides:
        return "sides: as the numbers of the phantoms say"
    joined = ", ".join(f"{count:,} {side}" for side, count in sides["joined"].items())
    if not sides["known"]:
        return f"sides: first division of {sum(sides['joined'].values()):,} groups ({joined}), table {sides['table']}"
    return (
        f"sides: {sides['known']:,} groups known, none moved; "
        f"{sum(sides['joined'].values()):,} joined{f' ({joined})' if joined else ''}, table {sides['table']}"
    )


def _fixed(cases: Iterable[RawCase], own: OwnSplit) -> dict[str, str]:
    """Return the side of each group that has an official one or one of the user's."""
    fixed = {case.group_id: case.split for case in cases if case.split}
    for group, side in own.sides.items():
        if fixed.get(group, side) != side:
            raise DataError(f"data.split: puts {group} on the side {side!r}, its official one is {fixed[group]!r}")
    return fixed | dict(own.sides)


def _stratum(case: RawCase, has_strata: bool) -> str:
    return json.dumps(list(case.strata)) if has_strata else ""


def _counts(cases: Iterable[RawCase], has_strata: bool) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        counts[case.group_id][_stratum(case, has_strata)] += 1
    return {group: dict(sorted(count.items())) for group, count in counts.items()}
