"""The gate on made-up per-case tables whose right decision is known, and simulated: how often is it wrong?"""

import numpy as np
import pytest
from scipy import stats

from ctan.records import SeenGroups
from ctan.tracking.gate import Criterion, Rival, Verdict, error_of_look
from tests.helpers.contests import CONTOURS, DIAGNOSIS, DOSE, decide, level, record, table


def row(verdict: Verdict, name: str) -> Criterion:
    return next(row for row in verdict.criteria if row.criterion.startswith(name))


def failed(verdict: Verdict) -> list[str]:
    return [row.criterion for row in verdict.criteria if row.passed is False]


# What the gate of release 0.1 decided wrongly, as measured


def test_a_first_champion_with_dice_0_is_refused() -> None:
    """Contours had no baseline: "first candidate for champion: ctan beats baseline-mean ...; promoted"."""
    nothing = Rival("baseline-empty", level(0.0, None))
    verdict = decide(level(0.0, 3.5), None, [nothing, Rival("baseline-mean", level(None, 21.0))])
    assert not verdict.promoted
    assert failed(verdict) == ["contours better than baseline-empty"]


@pytest.mark.parametrize(
    ("challenger", "champion"),
    [
        ((0.001, 10.5), (0.000, 3.5)),  # was promoted at "+inf %"
        ((0.08, 7.0), (0.02, 3.5)),  # was promoted: +300 % and -100 %
        ((0.50, 1.5), (0.665, 3.5)),  # was promoted: -25 % and +57 %
    ],
)
def test_no_gain_in_one_task_pays_for_a_loss_in_another(challenger: tuple, champion: tuple) -> None:
    verdict = decide(level(*challenger), level(*champion, seed=1))
    assert not verdict.promoted
    assert {"contours not worse", "dose not worse"} & set(failed(verdict))
    assert all(row.number is None or np.isfinite(row.number) for row in verdict.criteria)


def test_a_gain_that_chance_explains_is_not_promoted() -> None:
    """Was promoted: the mean was above 0, the interval was computed and ignored."""
    rng = np.random.default_rng(0)
    champion = rng.normal(3.5, 0.5, 33)
    found = rng.normal(champion, 0.4)
    found += champion.mean() - 0.02 - found.mean()  # 0.02 Gy better in this sample
    verdict = decide(
        table([{"dose": gy} for gy in found]),
        table([{"dose": gy} for gy in champion]),
        own=record((DOSE,)),
        champions=record((DOSE,)),
    )
    assert failed(verdict)[0] == "mean improvement"
    assert verdict.numbers["mean_improvement"]["percent"] == pytest.approx(100 * 0.02 / 7.9)


def test_a_better_model_is_promoted_and_the_reason_says_by_how_much() -> None:
    verdict = decide(level(0.70, 3.0), level(0.665, 3.5, seed=1))
    assert verdict.promoted
    assert "ctan against the champion, version 1, 33 cases: mean improvement: passed (+" in verdict.reason
    assert "97.5 % bound" in verdict.reason
    # (0.70 - 0.665) * 100 and 0.5 / 7.9 * 100
    assert verdict.numbers["tasks"]["contours"]["percent"] == pytest.approx(3.5, abs=0.5)
    assert verdict.numbers["tasks"]["dose"]["percent"] == pytest.approx(6.3, abs=0.6)


def test_numbers_that_are_none_do_not_pass() -> None:
    verdict = decide(level(float("nan"), 3.0), level(0.5, 3.5, seed=1))
    assert not verdict.promoted
    assert "finite numbers" in failed(verdict)
    assert row(verdict, "finite numbers").note == "contours: 66 scores are no number"


# Like with like


def test_scores_are_paired_by_case_and_structure() -> None:
    """Was promoted: the means were of other structures, 0.9 of A against 0.7 of A and B."""
    easy = table([{"dice": {"A": 0.9}, "dose": 3.0} for _ in range(20)])
    both = table([{"dice": {"A": 0.9, "B": 0.5}, "dose": 3.0} for _ in range(20)])
    verdict = decide(easy, both)
    assert not verdict.promoted
    assert verdict.numbers["tasks"]["contours"]["percent"] == 0
    assert "the candidate lacks B (contours)" in row(verdict, "every task compared").note
    assert "the candidate lacks B of 20 cases (contours)" in verdict.reason


def test_what_the_champion_lacks_is_named_and_left_out() -> None:
    cases = [{"dice": {"A": 0.9, "B": 0.5}, "dose": 3.0} for _ in range(20)]
    fewer = [
        {**case, "dice": {"A": 0.8}} if i < 3 else {**case, "dice": {"A": 0.8, "B": 0.4}}
        for i, case in enumerate(cases)
    ]
    verdict = decide(table(cases), table(fewer))
    assert verdict.numbers["tasks"]["contours"]["percent"] == pytest.approx(10)
    assert "the champion, version 1 lacks B of 3 cases (contours)" in verdict.reason
    assert row(verdict, "every task compared").passed


@pytest.mark.parametrize("missing", ["ours", "theirs"])
def test_a_task_that_one_of_them_lacks_blocks_promotion(missing: str) -> None:
    """Dropped out: the dose was not looked at, and the better contours were promoted."""
    ours, theirs = level(0.8, 3.0 if missing == "theirs" else None), level(0.6, 3.0 if missing == "ours" else None)
    mine, champions = (record((CONTOURS, DOSE) if missing != side else (CONTOURS,)) for side in ("ours", "theirs"))
    verdict = decide(ours, theirs, own=mine, champions=champions)
    assert not verdict.promoted
    assert row(verdict, "every task compared").note == "nothing to compare in dose"


# Few cases, cases that were learned


def test_below_ten_cases_nothing_is_decided_and_no_row_carries_a_verdict() -> None:
    verdict = decide(level(0.9, 1.0, count=4), level(0.5, 5.0, count=4, seed=1))
    assert not verdict.promoted
    assert verdict.reason.startswith("4 cases are too few for a decision, 10 are needed (promotion.min_cases)")
    assert row(verdict, "mean improvement").passed is None
    assert "promot" not in verdict.reason.replace("promotion.min_cases", "")
    assert decide(level(0.9, 1.0, count=4), level(0.5, 5.0, count=4, seed=1), min_cases=4).promoted


def test_cases_that_either_model_learned_from_leave_the_comparison() -> None:
    """The champion was scored on cases that it knew by heart: Dice 0.99 there, 0.5 elsewhere."""
    known = {f"pt_{i}" for i in range(10)}
    champion = table([{"dice": {"A": 0.99 if f"pt_{i}" in known else 0.5 + i / 1e3}, "dose": 3.0} for i in range(30)])
    ours = table([{"dice": {"A": 0.6 + i / 1e3}, "dose": 3.0} for i in range(30)])
    newer = record(seen=SeenGroups.of(["pt_29", "pt_400"], "one version of the data"))
    older = record(seen=SeenGroups.of(known, "another"))
    verdict = decide(ours, champion, own=newer, champions=older)
    assert verdict.promoted
    assert row(verdict, "enough common cases").number == 19
    assert "11 cases that one of the models learned from are left out, 19 remain" in verdict.reason
    assert "learned from is not recorded" not in verdict.reason
    old = decide(ours, champion, own=newer, champions=record())
    assert "which cases the champion learned from is not recorded" in old.reason
    refused = decide(ours, champion, own=newer, champions=older, min_cases=20)
    assert refused.reason.startswith("19 cases are too few for a decision, 20 are needed")


# The other criteria


def test_a_subgroup_of_twenty_that_suffers_blocks_and_a_smaller_one_is_reported() -> None:
    champion = table([{"dice": {"A": 0.7}, "dose": 3.0} for _ in range(100)])
    ours = table([{"dice": {"A": 0.5 if i < 20 else 0.9}, "dose": 3.0 - i / 1e4} for i in range(100)])
    names = [f"pt_{i}" for i in range(100)]
    verdict = decide(ours, champion, groups={"sex = F": names[:20]})
    assert failed(verdict) == ["contours not worse where sex = F (20 cases)"]
    small = decide(ours, champion, groups={"sex = F": names[:19]})
    assert small.promoted
    assert row(small, "contours not worse where sex = F").passed is None
    assert row(small, "contours not worse where sex = F").number == pytest.approx(-20)


def test_a_cheaper_model_that_is_not_inferior_replaces_the_champion_where_that_is_wanted() -> None:
    ours, champion = level(0.70, 3.0), level(0.70, 3.0, seed=1)
    cheap, dear = record(macs_per_case=5), record(macs_per_case=10)
    assert not decide(ours, champion, own=cheap, champions=dear).promoted
    assert decide(ours, champion, own=cheap, champions=dear, non_inferior=True).promoted
    assert not decide(ours, champion, own=dear, champions=cheap, non_inferior=True).promoted


def test_a_model_that_is_right_as_often_but_too_sure_is_refused() -> None:
    rng = np.random.default_rng(0)
    true = rng.random(200) < 0.5
    modest = np.clip(np.where(true, 0.6, 0.4) + 0.15 * rng.normal(size=200), 0.01, 0.99)
    sure = np.where(modest > 0.5, 1 - (1 - modest) / 20, modest / 20)  # the same order: the same AUC
    ours, champion = (
        table([{"yes": float(p), "true": bool(t)} for p, t in zip(probability, true, strict=True)])
        for probability in (sure, modest)
    )
    verdict = decide(ours, champion, (), record((DIAGNOSIS,)), record((DIAGNOSIS,)))
    assert row(verdict, "diagnosis not worse").number == pytest.approx(0)
    assert row(verdict, "diagnosis: calibration not worse").passed is False


@pytest.mark.parametrize(
    ("change", "criterion"),
    [
        ({"lacking": ["data_version"]}, "lineage complete"),
        ({"validated": False}, "data validation passed"),
        ({"baselines": ()}, "better than a simple baseline"),
        ({"baselines": [Rival("baseline-distance", level(None, 2.9, seed=3))]}, "dose better than baseline-distance"),
    ],
)
def test_every_other_criterion_can_block_alone(change: dict, criterion: str) -> None:
    verdict = decide(level(0.70, 3.0), level(0.6, 3.5, seed=1), **change)
    assert failed(verdict) == [criterion]


def test_a_task_that_no_baseline_judges_is_named() -> None:
    only_dose = [Rival("baseline-mean", level(None, 21.0))]
    assert decide(level(0.7, 3.0), None, only_dose).reason.endswith("; no baseline judges contours")
    assert "no baseline judges" not in decide(level(0.7, 3.0), None).reason


def test_every_look_makes_the_bound_stricter_and_a_split_that_is_used_up_is_named() -> None:
    assert sum(error_of_look(look) for look in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    ours, champion = level(0.670, 3.435, noise=0.01), level(0.665, 3.5, noise=0.01, seed=1)
    assert decide(ours, champion, look=1).promoted
    late = decide(ours, champion, look=40)
    assert not late.promoted
    assert "have been looked at 40 times and are used up (promotion.max_looks is 10): take new ones" in late.reason


# How often is it wrong?

CASES, CHALLENGERS = 33, 1000


def challengers(gain_percent: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and dose score of champion and challenger, (count, 2, CASES) each, a champion for every challenger.

    Cases are easy or hard for both; two trainings differ by 0.03 in the Dice and by 0.3 Gy in the dose of a case.
    """
    rng = np.random.default_rng(seed)
    patient = rng.normal(size=(count, 1, CASES))
    dice = 0.75 + 0.05 * patient + 0.03 / np.sqrt(2) * rng.normal(size=(count, 2, CASES))
    dose = 3.0 - 0.4 * patient + 0.3 / np.sqrt(2) * rng.normal(size=(count, 2, CASES))
    better = np.array([0, gain_percent / 100])[:, None]
    return dice + better, dose - 7.9 * better


def promoted(dice: np.ndarray, dose: np.ndarray) -> np.ndarray:
    """Return what the gate decides, in arrays: Student's t by hand, the default thresholds, a first look."""
    gains = np.stack([100 * np.diff(dice, axis=1)[:, 0], -100 / 7.9 * np.diff(dose, axis=1)[:, 0]])

    def lower(values: np.ndarray, confidence: float) -> np.ndarray:
        spread = values.std(axis=-1, ddof=1) / np.sqrt(CASES)
        return values.mean(axis=-1) - stats.t.ppf(confidence, CASES - 1) * spread

    return (lower(gains.mean(axis=0), 0.975) > 0) & (lower(gains, 0.95) > -3).all(axis=0)


def test_the_gate_decides_as_the_simulation_below_assumes() -> None:
    dice, dose = challengers(0.7, 40, seed=0)
    expected, model = promoted(dice, dose), record()
    tables = [
        [
            table([{"dice": {"A": a}, "dose": b} for a, b in zip(*values, strict=True)])
            for values in zip(*pair, strict=True)
        ]
        for pair in zip(dice, dose, strict=True)
    ]
    found = [decide(ours, champion, own=model, champions=model).promoted for champion, ours in tables]
    assert found == expected.tolist()
    assert 0 < sum(found) < 40


def test_of_a_thousand_challengers_that_are_no_better_at_most_five_percent_are_promoted() -> None:
    """Every second one was."""
    assert promoted(*challengers(0.0, CHALLENGERS, seed=1)).mean() <= 0.05


def test_of_a_thousand_challengers_that_are_one_and_a_half_percent_better_four_in_five_are_promoted() -> None:
    assert promoted(*challengers(1.5, CHALLENGERS, seed=2)).mean() >= 0.80


def test_looking_ten_times_at_the_same_cases_promotes_one_that_is_no_better_at_most_once_in_twenty() -> None:
    dice, dose = challengers(0.0, CHALLENGERS * 10, seed=3)
    gains = (100 * np.diff(dice, axis=1)[:, 0] - 100 / 7.9 * np.diff(dose, axis=1)[:, 0]) / 2
    ratio = gains.mean(axis=-1) / gains.std(axis=-1, ddof=1) * np.sqrt(CASES)
    bounds = stats.t.ppf([1 - error_of_look(look) for look in range(1, 11)], CASES - 1)
    assert (ratio.reshape(CHALLENGERS, 10) > bounds).any(axis=1).mean() <= 0.05
