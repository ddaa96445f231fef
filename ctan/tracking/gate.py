"""The gate in front of the alias `champion`: a table of criteria, all of which must be passed.

Gains are in percent of each task's scale, see `ctan.evaluation.pairing`; bounds are one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ctan.metrics import Estimate
from ctan.tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa

    from ctan.config import PromotionConfig
    from ctan.evaluation.pairing import Pair
    from ctan.records import ModelRecord

ERROR = 0.05  # of a bound: one-sided 95 %


@dataclass(frozen=True)
class Criterion:
    """A row of the decision.

    Attributes:
        criterion: what is asked.
        number: what was found; None where there is no number.
        threshold: what it is held against.
        passed: None: only reported.
        note: in words.
    """

    criterion: str
    number: float | None = None
    threshold: float | None = None
    passed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        promoted: whether the candidate becomes champion.
        reason: why, as a sentence.
        criteria: the table.
        numbers: what the verdict rests on besides.
    """

    promoted: bool
    reason: str
    criteria: tuple[Criterion, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rival:
    """Who is to be beaten.

    Attributes:
        name: such as `"champion, version 3"`, or of a baseline.
        cases: its per-case rows on the evaluation cases.
        record: of a model; None of a baseline.
    """

    name: str
    cases: pa.Table
    record: ModelRecord | None = None


@dataclass(frozen=True)
class Contest:
    """What is decided about.

    Attributes:
        record: of the candidate.
        cases: its per-case rows on the evaluation cases.
        champion: the present one; None for a first candidate.
        baselines: simple predictions.
        look: the how manyth comparison on these evaluation cases this is, from 1.
        groups: configured subgroups, such as `"sex = F"` -> its cases.
        lacking: of the lineage.
        validated: whether the data passed validation.
        remarks: sentences that belong to the reason.
    """

    record: ModelRecord
    cases: pa.Table
    champion: Rival | None
    baselines: Sequence[Rival]
    look: int = 1
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)
    lacking: Sequence[str] = ()
    validated: bool = True
    remarks: Sequence[str] = ()


def error_of_look(look: int) -> float:
    """Return the error that is spent on the k-th look at the same cases, `0.05 / (k (k + 1))`: 0.05 over all looks."""
    return ERROR / (look * (look + 1))


def judge(contest: Contest, config: PromotionConfig) -> Verdict:
    """Judge a candidate.

    Args:
        contest: what is decided about.
        config: thresholds.
    """
    return _Judge(contest, config).verdict()


class _Judge:
    """Fills the table row by row."""

    def __init__(self, contest: Contest, config: PromotionConfig) -> None:
        self.contest, self.config = contest, config
        self.rows: list[Criterion] = []
        self.remarks = list(contest.remarks)
        self.error = error_of_look(contest.look)
        self.numbers: dict[str, Any] = {"look": contest.look, "bound_percent": round(100 * (1 - self.error), 3)}

    def verdict(self) -> Verdict:
        from ctan.evaluation.pairing import estimate_mean

        kept = self._unlearned()
        rival = self.contest.champion
        pairs = self._pairs(rival, kept) if rival else []
        against = [(baseline, self._pairs(baseline, kept)) for baseline in self.contest.baselines]
        enough = self._cases(pairs or self._pairs(Rival("", self.contest.cases, self.contest.record), kept))
        self._finite(pairs or [pair for _, found in against for pair in found])
        if rival:
            self._same_things(rival, pairs)
            self._improvement(rival, estimate_mean(pairs), enough)
            for pair in pairs:
                self._protected(pair, enough)
            self._subgroups(pairs, enough)
        self._baselines(against, enough)
        self._add("data validation passed", passed=self.contest.validated)
        lacking = ", ".join(self.contest.lacking)
        self._add("lineage complete", passed=not lacking, note=f"lacks {lacking}" if lacking else "")
        if self.contest.look > self.config.max_looks:
            self.remarks.append(
                f"these evaluation cases have been looked at {self.contest.look} times and are used up "
                f"(promotion.max_looks is {self.config.max_looks}): take new ones"
            )
        failed = [row for row in self.rows if row.passed is False]
        return Verdict(not failed, self._reason(failed, enough), tuple(self.rows), self.numbers)

    def _add(
        self,
        criterion: str,
        number: float | None = None,
        threshold: float | None = None,
        passed: bool | None = None,
        note: str = "",
    ) -> None:
        shown = None if number is None or not math.isfinite(number) else round(number, 6)
        self.rows.append(Criterion(criterion, shown, threshold, passed, note))

    def _unlearned(self) -> set[str]:
        """Return the evaluation cases of patients that neither model has seen in training."""
        cases = set(zip(*(self.contest.cases[name].to_pylist() for name in ("case_id", "group_id")), strict=True))
        champion = self.contest.champion
        models = [("candidate", self.contest.record.seen)]
        models += [("champion", champion.record.seen)] if champion and champion.record else []
        if unknown := [name for name, seen in models if seen is None]:
            self.remarks.append(f"which cases the {' and the '.join(unknown)} learned from is not recorded")
        seen = [groups for _, groups in models if groups is not None]
        kept = {case for case, group in cases if not any(groups.holds(group) for groups in seen)}
        if out := len(cases) - len(kept):
            self.remarks.append(f"{out} cases that one of the models learned from are left out, {len(kept)} remain")
        self.numbers["cases_left_out"] = out
        return kept

    def _pairs(self, rival: Rival, kept: Collection[str]) -> list[Pair]:
        """Return a pair a task of either side; of a baseline those that it predicts."""
        import pyarrow.compute as pc

        from ctan.evaluation.pairing import pair

        tasks = {
            task.name: task for task in (*(rival.record.tasks if rival.record else ()), *self.contest.record.tasks)
        }
        keep = pc.field("case_id").isin(sorted(kept))
        ours, theirs = (table.filter(keep) for table in (self.contest.cases, rival.cases))
        pairs = [pair(task, ours, theirs) for task in tasks.values()]
        return pairs if rival.record else [found for found in pairs if found.theirs.num_rows]

    def _cases(self, pairs: Sequence[Pair]) -> bool:
        fewest = min((pair.num_patients for pair in pairs if pair.ours.num_rows), default=0)
        enough = fewest >= self.config.min_cases
        self._add("enough common cases", fewest, self.config.min_cases, enough)
        return enough

    def _finite(self, pairs: Sequence[Pair]) -> None:
        wrong = {pair.task.name: pair.not_finite for pair in pairs if pair.not_finite}
        note = ", ".join(f"{name}: {count} scores are no number" for name, count in wrong.items())
        self._add("finite numbers", sum(wrong.values()), 0, not wrong, note)

    def _same_things(self, rival: Rival, pairs: Sequence[Pair]) -> None:
        missing = [pair.task.name for pair in pairs if not pair.ours.num_rows]
        lost = [f"{name} ({pair.task.name})" for pair in pairs for name in pair.lost]
        notes = [f"nothing to compare in {' and '.join(missing)}"] if missing else []
        notes += [f"the candidate lacks {', '.join(lost)}"] if lost else []
        self._add("every task compared", len(missing) + len(lost), 0, not (missing or lost), "; ".join(notes))
        for who, side in (("the candidate", "only_theirs"), (f"the {rival.name}", "only_ours")):
            lacking = [f"{text} ({pair.task.name})" for pair in pairs for text in getattr(pair, side)]
            self.remarks += [f"{who} lacks {', '.join(lacking)}"] if lacking else []

    def _improvement(self, rival: Rival, mean: Estimate | None, enough: bool) -> None:
        needed, what = self.config.min_improvement_percent, "mean improvement"
        if self.config.non_inferior:
            needed, what = -self.config.margin_percent, "not inferior on average"
        low = mean.lower(self.error) if mean else math.nan
        note = f"{_percent(mean.value)}, {_bound(self.error)} {_percent(low)}" if mean else "cannot be compared"
        self._add(what, low, needed, (low > needed) if enough else None, note)
        if self.config.non_inferior and rival.record:
            ours, theirs = self.contest.record.macs_per_case, rival.record.macs_per_case
            self._add("cheaper (multiply-accumulates a case)", ours, theirs, ours < theirs)
        if mean:
            self.numbers["mean_improvement"] = _plain(mean, self.error)

    def _protected(self, pair: Pair, enough: bool) -> None:
        from ctan.evaluation.pairing import calibration_gain, estimate_task

        margin = self.config.task_margins_percent.get(pair.task.name, self.config.margin_percent)
        found = estimate_task(pair) if pair.ours.num_rows else None
        self._not_worse(f"{pair.task.name} not worse", found, margin, enough)
        if found:
            self.numbers.setdefault("tasks", {})[pair.task.name] = _plain(found, ERROR)
        calibration = estimate_task(pair, calibration_gain) if pair.ours.num_rows else None
        if calibration is not None:
            name = f"{pair.task.name}: calibration not worse (Brier score)"
            self._not_worse(name, calibration, self.config.calibration_margin_percent, enough)

    def _not_worse(self, name: str, found: Estimate | None, margin: float, judged: bool) -> None:
        low = found.lower(ERROR) if found else math.nan
        note = f"{_percent(found.value)}, {_bound(ERROR)} {_percent(low)}" if found else "cannot be compared"
        self._add(name, low, -margin, (low > -margin) if judged else None, note)

    def _subgroups(self, pairs: Sequence[Pair], enough: bool) -> None:
        from ctan.evaluation.pairing import estimate_task

        for name, case_ids in self.contest.groups.items():
            for pair in pairs:
                part = pair.of(case_ids)
                count, judged = part.num_patients, enough and part.num_patients >= self.config.min_subgroup_cases
                found = estimate_task(part) if count else None
                title = f"{pair.task.name} not worse where {name} ({count} cases)"
                self._not_worse(title, found, self.config.subgroup_margin_percent, judged)

    def _baselines(self, against: Sequence[tuple[Rival, Sequence[Pair]]], enough: bool) -> None:
        from ctan.evaluation.pairing import estimate_task

        judged: set[str] = set()
        for baseline, pairs in against:
            for pair in pairs:
                judged.add(pair.task.name)
                found = estimate_task(pair)
                low = found.lower(self.error) if found else math.nan
                note = f"{_percent(found.value)}, {_bound(self.error)} {_percent(low)}" if found else ""
                name = f"{pair.task.name} better than {baseline.name}"
                self._add(name, low, 0.0, low > 0 if enough else None, note)
        tasks: Sequence[Task] = self.contest.record.tasks
        if unjudged := [task.name for task in tasks if task.name not in judged]:
            self.remarks.append(f"no baseline judges {' and '.join(unjudged)}")
        if not judged:
            self._add("better than a simple baseline", passed=False, note="no simple baseline was evaluated")

    def _reason(self, failed: Sequence[Criterion], enough: bool) -> str:
        fewest, champion, arch = self.rows[0].number or 0, self.contest.champion, self.contest.record.name
        rival = f"the {champion.name}" if champion else "no champion yet"
        if not enough:
            reason = (
                f"{fewest:.0f} cases are too few for a decision, {self.config.min_cases} are needed "
                f"(promotion.min_cases)"
            )
            failed = [row for row in failed if row is not self.rows[0]]
            others = f"; besides: {'; '.join(_sentence(row) for row in failed)}" if failed else ""
            return "; ".join([f"{reason}{others}", *self.remarks])
        if failed:
            reason = f"{arch} against {rival}, {fewest:.0f} cases: {'; '.join(_sentence(row) for row in failed)}"
        else:
            main = [row for row in self.rows if row.criterion.startswith(("mean improvement", "not inferior"))]
            shown = main or [row for row in self.rows if " better than " in row.criterion]
            passed = sum(row.passed is True for row in self.rows)
            reason = (
                f"{arch} against {rival}, {fewest:.0f} cases: {'; '.join(_sentence(row) for row in shown)}; all "
                f"{passed} criteria are passed"
            )
        return "; ".join([reason, *self.remarks])


def _sentence(row: Criterion) -> str:
    """Return a row as it stands in the reason."""
    verdict = "not judged" if row.passed is None else "passed" if row.passed else "not passed"
    limit = f", above {row.threshold:+g} % needed" if row.threshold is not None and "bound" in row.note else ""
    return f"{row.criterion}: {verdict}" + (f" ({row.note}{limit})" if row.note else "")


def _percent(value: float) -> str:
    return f"{value:+.2f} %" if math.isfinite(value) else "undefined"


def _bound(error: float) -> str:
    return f"{100 * (1 - error):.6g} % bound"


def _plain(found: Estimate, error: float) -> dict[str, float]:
    return {
        "percent": found.value,
        "deviation": found.deviation,
        "lower": found.lower(error),
        "cases": found.num_patients,
    }
