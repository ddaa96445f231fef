"""Scores and relative improvement with their intervals against plain loops and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.special import expit, logit

from ctan.errors import DataError
from ctan.evaluation.cases import SCHEMA
from ctan.evaluation.improvement import relative_improvement, score
from ctan.evaluation.summary import label_strata, patients_of, scores
from ctan.metrics import improvement, probability_rows
from ctan.tasks import (
    AUC,
    BALANCED_ACCURACY,
    DICE_MEAN,
    DOSE_SCORE,
    DVH_SCORE,
    Classification,
    DoseRegression,
    Segmentation,
)

CONTOURING, DOSE = Segmentation("contouring", structures=("A", "B")), DoseRegression("dose")
COVID, SEVERITY = (Classification(name, classes=("no", "yes")) for name in ("covid", "severity"))
TASKS = (CONTOURING, DOSE)
CONFIDENCE = 0.95


def table(cases, arch="stl", fold=0, seed=0, role="evaluation") -> pa.Table:
    """Make a per-case table from `{case_id: {"dice": {structure: value}, "dose": Gy, "dvh": [Gy, ...]}}`."""
    rows = []
    for case_id, found in cases.items():
        base = {"arch": arch, "fold": fold, "seed": seed, "role": role, "case_id": case_id}
        base["group_id"] = found.get("group", case_id)
        for name, value in found.get("dice", {}).items():
            rows.append(base | {"task": "contouring", "metric": "dice", "structure": name, "value": value})
        if "dose" in found:
            rows.append(base | {"task": "dose", "metric": "dose_score", "structure": "", "value": found["dose"]})
        for i, value in enumerate(found.get("dvh", [])):
            rows.append(base | {"task": "dose", "metric": "dvh", "structure": f"A:{i}", "value": value})
    return pa.Table.from_pylist(rows, SCHEMA)


def random_cases(seed: int, count: int = 33, shift: float = 0.0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        f"pt_{i}": {
            "dice": {name: rng.uniform(0.5, 0.9) + shift / 50 for name in ("A", "B")[: rng.integers(1, 3)]},
            "dose": rng.uniform(2, 5) - shift,
            "dvh": rng.uniform(0, 4, rng.integers(3, 9)).tolist(),
        }
        for i in range(count)
    }


def test_mean_dice_is_the_mean_over_cases_of_the_mean_over_contoured_structures() -> None:
    cases = {"pt_1": {"dice": {"A": 0.9, "B": 0.5}}, "pt_2": {"dice": {"A": 0.0}}}
    assert scores(table(cases), TASKS) == {"contouring": {"dice_mean": pytest.approx((0.7 + 0.0) / 2)}}


def test_the_dvh_score_is_pooled_over_patients_and_criteria_while_the_dose_score_is_not() -> None:
    cases = {"pt_1": {"dose": 2.0, "dvh": [1.0, 2.0, 3.0]}, "pt_2": {"dose": 5.0, "dvh": [6.0]}}
    found = scores(table(cases), TASKS)
    assert found == {"dose": {"dose_score": pytest.approx(3.5), "dvh_score": pytest.approx(12 / 4)}}


def test_a_score_that_is_not_a_number_is_not_left_out() -> None:
    found = scores(table({"pt_1": {"dose": 2.0}, "pt_2": {"dose": float("nan")}}), TASKS)
    assert np.isnan(found["dose"]["dose_score"])


@pytest.mark.parametrize(
    ("new", "reference", "higher_is_better", "percent"),
    [
        (0.88, 0.8, True, 10.0),
        (0.72, 0.8, True, -10.0),
        (3.0, 4.0, False, 25.0),
        (5.0, 4.0, False, -25.0),
        (0.0, 0.0, True, 0.0),
    ],
)
def test_improvement_is_positive_where_the_new_model_is_better(
    new: float, reference: float, higher_is_better: bool, percent: float
) -> None:
    found = improvement(np.array([new]), np.array([reference]), higher_is_better)
    assert found.tolist() == pytest.approx([percent])


def test_improvement_is_a_ratio_of_means_and_the_average_is_over_tasks() -> None:
    new = table({"pt_1": {"dice": {"A": 0.9}, "dose": 1.0}, "pt_2": {"dice": {"A": 0.6}, "dose": 4.0}}, "ctan")
    old = table({"pt_1": {"dice": {"A": 0.6}, "dose": 2.0}, "pt_2": {"dice": {"A": 0.4}, "dose": 6.0}})
    found = relative_improvement(TASKS, [new], [old], CONFIDENCE)
    assert found["contouring"]["value"] == pytest.approx(50.0)  # 0.75 / 0.5
    assert found["dose"]["value"] == pytest.approx((4.0 - 2.5) / 4.0 * 100)
    assert found["average"]["value"] == pytest.approx((50.0 + 37.5) / 2)


def test_the_same_model_twice_improves_by_exactly_nothing() -> None:
    cases = random_cases(0)
    found = relative_improvement(TASKS, [table(cases, "ctan")], [table(cases)], CONFIDENCE)
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "patients": 33}
    assert found == dict.fromkeys(("contouring", "dose", "average"), nothing)


def test_patients_are_paired_so_that_a_constant_ratio_has_no_uncertainty() -> None:
    cases = random_cases(1)
    better = {name: {"dose": 0.9 * found["dose"]} for name, found in cases.items()}
    found = relative_improvement((DOSE,), [table(better, "ctan")], [table(cases)], CONFIDENCE)["dose"]
    assert [found["value"], found["low"], found["high"]] == pytest.approx([10.0, 10.0, 10.0])


def test_a_task_that_only_one_of_them_has_is_left_out() -> None:
    cases = random_cases(2)
    only_dose = {name: {"dose": found["dose"]} for name, found in cases.items()}
    assert set(relative_improvement(TASKS, [table(only_dose, "ctan")], [table(cases)], CONFIDENCE)) == {
        "dose",
        "average",
    }
    assert relative_improvement((CONTOURING,), [table(only_dose, "ctan")], [table(cases)], CONFIDENCE) == {}


def test_models_scored_on_different_cases_are_refused() -> None:
    cases = random_cases(3, 4)
    fewer = {name: found for name, found in cases.items() if name != "pt_0"}
    with pytest.raises(DataError, match=r"ctan and stl were not scored on the same cases \(0 only ctan, 1 only stl\)"):
        relative_improvement(TASKS, [table(fewer, "ctan")], [table(cases)], CONFIDENCE)


@pytest.mark.parametrize("metric", [DICE_MEAN, DOSE_SCORE, DVH_SCORE])
def test_every_weighted_metric_equals_that_of_the_patients_drawn(metric) -> None:
    cases = random_cases(4, 12)
    rows, task = table(cases), CONTOURING if metric is DICE_MEAN else DOSE
    patients = patients_of(rows)
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 20).astype(float)
    found = task.patient_metric(rows, metric, patients).of(weights)
    for drawn, value in zip(weights, found, strict=True):
        chosen = [cases[name] for name, count in zip(patients, drawn, strict=True) for _ in range(int(count))]
        if metric is DICE_MEAN:
            expected = np.mean([np.mean(list(case["dice"].values())) for case in chosen])
        elif metric is DOSE_SCORE:
            expected = np.mean([case["dose"] for case in chosen])
        else:
            expected = np.mean([value for case in chosen for value in case["dvh"]])
        assert value == pytest.approx(expected)


def test_of_the_dose_score_the_interval_is_that_of_students_t() -> None:
    cases = random_cases(5, 6)
    doses = [found["dose"] for found in cases.values()]
    found = score([table(cases)], DOSE, DOSE_SCORE).interval(0.9)
    expected = stats.ttest_1samp(doses, 0).confidence_interval(0.9)
    assert [found["value"], found["low"], found["high"]] == pytest.approx([np.mean(doses), *expected])
    assert found["patients"] == 6


def test_cases_of_a_patient_are_left_out_together() -> None:
    cases = {"a": {"dose": 1.0, "group": "p"}, "b": {"dose": 3.0, "group": "p"}, "c": {"dose": 8.0, "group": "q"}}
    found = score([table(cases)], DOSE, DOSE_SCORE)
    # without p the mean is 8, without q it is 2
    assert (found.value, found.num_patients) == (pytest.approx(4.0), 2)
    assert found.deviation == pytest.approx(np.std([8, 2]))


def test_the_interval_of_a_ratio_is_that_of_its_log_odds() -> None:
    """By hand: deviation / (p (1 - p)) on that scale, 2 degrees of freedom."""
    cases = {f"pt_{i}": {"dice": {"A": value}} for i, value in enumerate((0.99, 0.7, 0.98))}
    estimate = score([table(cases)], CONTOURING, DICE_MEAN)
    found = estimate.interval(CONFIDENCE, DICE_MEAN.bounds)
    mean, reach = estimate.value, stats.t.ppf(0.975, 2) * estimate.deviation
    expected = expit(logit(mean) + np.array([-1, 1]) * reach / (mean * (1 - mean)))
    assert [found["low"], found["high"]] == pytest.approx(expected.tolist())


def test_an_interval_ends_where_the_metric_does() -> None:
    found = score([table({f"pt_{i}": {"dose": dose} for i, dose in enumerate((1.0, 9.0))})], DOSE, DOSE_SCORE)
    assert found.interval(CONFIDENCE)["low"] < 0
    assert found.interval(CONFIDENCE, DOSE_SCORE.bounds)["low"] == 0


def test_a_patient_that_lacks_a_task_does_not_make_it_surer() -> None:
    cases = random_cases(5, 8)
    more = cases | {f"other_{i}": {"dice": {"A": 0.5}} for i in range(40)}
    assert score([table(more)], DOSE, DOSE_SCORE) == score([table(cases)], DOSE, DOSE_SCORE)
    assert score([table({"pt_0": {"dice": {"A": 0.5}}})], DOSE, DOSE_SCORE) is None


def test_a_single_patient_has_a_score_without_an_interval() -> None:
    found = score([table({"pt_0": {"dose": 4.0}})], DOSE, DOSE_SCORE).interval(CONFIDENCE, DOSE_SCORE.bounds)
    assert found["value"] == 4.0
    assert np.isnan([found["low"], found["high"]]).all()


def test_one_or_two_seeds_are_averaged_and_say_nothing_of_training() -> None:
    cases = random_cases(6, 9)
    worse = {name: {"dose": 2 * found["dose"]} for name, found in cases.items()}
    two = score([table(cases), table(worse, seed=1)], DOSE, DOSE_SCORE)
    one = score([table(cases)], DOSE, DOSE_SCORE)
    assert [two.value, two.deviation] == pytest.approx([1.5 * one.value, 1.5 * one.deviation])


def test_three_seeds_are_left_out_with_all_their_folds() -> None:
    """Patients are all the same, so that the interval is that of the seeds' means alone."""
    by_seed = {0: 1.0, 1: 10.0, 2: 100.0}
    tables = [
        table({f"pt_{i}": {"dose": value + fold} for i in range(5)}, fold=int(2 * fold), seed=seed)
        for seed, value in by_seed.items()
        for fold in (0, 0.5)
    ]
    found = score(tables, DOSE, DOSE_SCORE).interval(CONFIDENCE)
    expected = stats.ttest_1samp([value + 0.25 for value in by_seed.values()], 0).confidence_interval(CONFIDENCE)
    assert [found["low"], found["high"]] == pytest.approx(list(expected))


def test_with_three_seeds_the_interval_includes_the_variance_of_training() -> None:
    same = {f"pt_{i}": {"dose": 4.0} for i in range(10)}
    scale = [0.7, 0.9, 1.1]
    new = [table({n: {"dose": 4.0 * s} for n in same}, "ctan", seed=i) for i, s in enumerate(scale)]
    old = [table(same, seed=i) for i in range(3)]
    found = relative_improvement((DOSE,), new, old, CONFIDENCE)["dose"]
    expected = stats.ttest_1samp([30.0, 10.0, -10.0], 0).confidence_interval(CONFIDENCE)
    assert [found["low"], found["value"], found["high"]] == pytest.approx([expected.low, 10.0, expected.high])
    two = relative_improvement((DOSE,), new[:2], old[:2], CONFIDENCE)["dose"]
    assert [two["low"], two["high"]] == pytest.approx([20.0, 20.0])
    others = [table(same, seed=i) for i in range(7, 10)]  # of equal models: nothing is added
    unpaired = relative_improvement((DOSE,), new, others, CONFIDENCE)["dose"]
    assert [unpaired["low"], unpaired["high"]] == pytest.approx([found["low"], found["high"]])


def test_the_same_seeds_are_paired() -> None:
    """Every seed makes both models worse by as much: how much better one is does not depend on it."""
    scale = [0.7, 0.9, 1.1]
    old = [table({f"pt_{i}": {"dose": 4.0 * s} for i in range(10)}, seed=k) for k, s in enumerate(scale)]
    new = [table({f"pt_{i}": {"dose": 3.0 * s} for i in range(10)}, "ctan", seed=k) for k, s in enumerate(scale)]
    paired = relative_improvement((DOSE,), new, old, CONFIDENCE)["dose"]
    assert [paired["low"], paired["high"]] == pytest.approx([25.0, 25.0])
    apart = [table({f"pt_{i}": {"dose": 3.0 * s} for i in range(10)}, "ctan", seed=k + 5) for k, s in enumerate(scale)]
    assert relative_improvement((DOSE,), apart, old, CONFIDENCE)["dose"]["low"] < 20


def test_folds_are_tuned_on_different_cases_and_averaged() -> None:
    new = [table({f"pt_{f}": {"dose": 3.0 + f}}, "ctan", fold=f) for f in range(2)]
    old = [table({f"pt_{f}": {"dose": 4.0 + f}}, fold=f) for f in range(2)]
    assert relative_improvement((DOSE,), new, old, CONFIDENCE)["dose"]["value"] == pytest.approx(
        (4.5 - 3.5) / 4.5 * 100
    )


def diagnosed(cases: dict, arch: str = "stl", seed: int = 0) -> pa.Table:
    """Make a per-case table from `{case_id: {task: (label, probability of yes), "dose": Gy, "group": id}}`."""
    rows = []
    for case_id, found in cases.items():
        base = {"arch": arch, "fold": 0, "seed": seed, "role": "evaluation", "case_id": case_id}
        base["group_id"] = found.get("group", case_id)
        if "dose" in found:
            rows.append(base | {"task": "dose", "metric": "dose_score", "structure": "", "value": found["dose"]})
        for task in (COVID, SEVERITY):
            label, probability = found.get(task.name, (None, 0.5))
            base = base | {"task": task.name}
            rows += [base | row for row in probability_rows(task.classes, label, (1 - probability, probability))]
    return pa.Table.from_pylist(rows, SCHEMA)


def random_diagnoses(seed: int, skill: float, count: int = 30) -> dict:
    rng = np.random.default_rng(seed)
    cases = {}
    for i in range(count):
        ill, severe = i % 3 == 0, i % 9 == 0
        cases[f"pt_{i}"] = {
            "covid": ("yes" if ill else "no", float(np.clip(rng.normal(0.5 + skill * (ill - 0.5), 0.2), 0, 1))),
            "dose": rng.uniform(2, 5),
        }
        if ill:  # severity is only known of those who have it
            cases[f"pt_{i}"]["severity"] = ("yes" if severe else "no", float(rng.random()))
    return cases


def test_the_labels_of_a_patient_are_those_of_all_its_cases_in_any_table() -> None:
    cases = {
        "a": {"group": "p", "covid": ("yes", 0.5)},
        "b": {"group": "p", "covid": ("no", 0.5)},
        "c": {"group": "q", "dose": 1.0},
        "d": {"group": "r", "severity": ("no", 0.5)},
    }
    first, second = diagnosed(cases), diagnosed({name: cases[name] for name in "ac"}, "ctan")
    expected = [(("covid", "no"), ("covid", "yes")), (), (("severity", "no"),)]
    patients = patients_of(first)
    assert list(patients) == ["p", "q", "r"]
    assert label_strata([first], patients) == label_strata([second, first], patients) == expected
    assert label_strata([second], {"q": 1, "p": 0}) == [(("covid", "yes"),), ()]


def test_the_improvement_of_an_auc_has_an_interval() -> None:
    new, old = (diagnosed(random_diagnoses(i, skill), arch) for i, skill, arch in ((1, 0.5, "ctan"), (2, 0.2, "stl")))
    found = relative_improvement((COVID, DOSE), [new], [old], CONFIDENCE)
    ours, theirs = (scores(rows, [COVID])["covid"]["auc"] for rows in (new, old))
    assert found["covid"]["value"] == pytest.approx((ours - theirs) / theirs * 100)
    assert found["average"]["value"] == pytest.approx((found["covid"]["value"] + found["dose"]["value"]) / 2)
    assert found["covid"]["low"] < found["covid"]["value"] < found["covid"]["high"]


def test_the_dose_of_a_model_with_diagnoses_is_paired_as_they_are() -> None:
    cases = random_diagnoses(3, 0.4)
    better = {name: found | {"dose": 0.9 * found["dose"]} for name, found in cases.items()}
    only_dose = {name: {"dose": found["dose"]} for name, found in better.items()}
    new, old = diagnosed(better, "ctan"), diagnosed(cases)
    assert relative_improvement((COVID,), [new], [old], CONFIDENCE)["covid"] == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
        "patients": 30,
    }
    for table_ in (new, diagnosed(only_dose, "ctan")):  # also against a model that learned dose alone
        gain = relative_improvement((DOSE,), [table_], [old], CONFIDENCE)["dose"]
        assert [gain["low"], gain["high"]] == pytest.approx([10.0, 10.0])


def test_the_interval_of_an_auc_is_about_hanley_and_mcneils() -> None:
    rng = np.random.default_rng(8)
    ill = np.arange(300) < 100
    # exponential scores, so that Hanley and McNeil's (1982) variance, which assumes them, is right
    raw = rng.exponential(np.where(ill, 3.0, 1.0))
    cases = {
        f"pt_{i}": {"covid": ("yes" if y else "no", float(1 - np.exp(-x)))}
        for i, (y, x) in enumerate(zip(ill, raw, strict=True))
    }
    rows = diagnosed(cases)
    found = score([rows], COVID, AUC)
    area = found.value
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 99 * (q1 - area**2) + 199 * (q2 - area**2)) / (100 * 200)
    assert found.deviation == pytest.approx(np.sqrt(variance), rel=0.15)


def test_diagnoses_that_are_all_right_are_not_sure_to_stay_so() -> None:
    """By hand: Wilson's interval with z = 2 ends at 1 - 4 / (n + 4); of 10 cases of each class."""
    cases = {f"pt_{i}": {"covid": ("yes" if i < 10 else "no", 0.9 if i < 10 else 0.1)} for i in range(20)}
    area, accuracy = (score([diagnosed(cases)], COVID, metric) for metric in (AUC, BALANCED_ACCURACY))
    assert (area.value, accuracy.value) == (1.0, 1.0)
    assert area.deviation == pytest.approx(2 / 14)
    assert accuracy.deviation == pytest.approx(np.sqrt(2) * 2 / 14 / 2)
    assert accuracy.interval(CONFIDENCE, AUC.bounds)["high"] == 1.0
