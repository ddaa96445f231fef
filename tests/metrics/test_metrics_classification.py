"""Figures of merit of diagnoses against scikit-learn, and against values worked out by hand."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from ctan.errors import DataError
from ctan.evaluation.cases import SCHEMA
from ctan.evaluation.summary import describe_selection_error, scores, selection_error
from ctan.metrics import (
    AUC,
    BalancedAccuracy,
    MacroAUC,
    PatientMetric,
    calibration_error,
    confusion_matrix,
    probability_rows,
    reliability,
    roc_curve,
    thresholded_jaccard,
    true_positive_rate_at,
)
from ctan.tasks import Classification, Diagnoses, Segmentation, diagnoses, task_from_json

LESION = Classification("diagnosis", classes=("akiec", "bcc", "nv", "vasc"))
COVID = Classification("covid", classes=("no", "yes"))
NUM_PATIENTS = 40
Random = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def everyone(metric: PatientMetric, num_patients: int) -> float:
    return float(metric.of(np.ones((1, num_patients)))[0])


@pytest.fixture(params=range(4))
def random(request: pytest.FixtureRequest) -> Random:
    """Probabilities (60, 4) with many ties, labels, patients of one to several cases, weights (30, 40) with zeros.

    Labels have a rare class, which the first resample lacks.
    """
    rng = np.random.default_rng(request.param)
    probabilities = np.round(rng.dirichlet(np.ones(4), 60), 1)  # they need not add up to 1
    labels = rng.choice(4, 60, p=[0.5, 0.3, 0.17, 0.03])
    labels[:4] = range(4)
    patients, weights = rng.integers(0, NUM_PATIENTS, 60), rng.poisson(0.7, (30, NUM_PATIENTS)).astype(float)
    weights[0, patients[labels == 3]] = 0
    return probabilities, labels, patients, weights


def test_the_auc_of_every_resample_is_that_of_scikit_learn(random: Random) -> None:
    from sklearn import metrics as sklearn_metrics

    probabilities, labels, patients, weights = random
    positive = labels == 1
    found = AUC(probabilities[:, 1], positive, patients).of(weights)
    expected = [
        sklearn_metrics.roc_auc_score(positive, probabilities[:, 1], sample_weight=w[patients]) for w in weights
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_macro_auc_is_the_mean_of_scikit_learns_over_the_classes_that_a_resample_has(random: Random) -> None:
    from sklearn import metrics as sklearn_metrics

    probabilities, labels, patients, weights = random
    found = MacroAUC(probabilities, labels, patients).of(weights)
    num_lacking = 0
    for drawn, value in zip(weights, found, strict=True):
        case_weights = drawn[patients]
        present = [k for k in range(4) if case_weights[labels == k].sum() > 0]
        num_lacking += len(present) < 4
        areas = [
            sklearn_metrics.roc_auc_score(labels == k, probabilities[:, k], sample_weight=case_weights) for k in present
        ]
        assert value == pytest.approx(np.mean(areas), rel=1e-12)
    assert num_lacking > 0


def test_the_macro_auc_is_scikit_learns_one_against_rest_average() -> None:
    from sklearn import metrics as sklearn_metrics

    rng = np.random.default_rng(5)
    probabilities, labels = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    found = everyone(MacroAUC(probabilities, labels, np.arange(50)), 50)
    assert found == pytest.approx(sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_the_balanced_accuracy_of_every_resample_is_that_of_scikit_learn(random: Random) -> None:
    from sklearn import metrics as sklearn_metrics

    probabilities, labels, patients, weights = random
    found = BalancedAccuracy(probabilities, labels, patients, NUM_PATIENTS).of(weights)
    predicted = probabilities.argmax(axis=1)
    for drawn, value in zip(weights, found, strict=True):
        case_weights = drawn[patients]
        kept = case_weights > 0  # scikit-learn makes NaN of a class whose cases all have weight 0
        expected = sklearn_metrics.balanced_accuracy_score(
            labels[kept], predicted[kept], sample_weight=case_weights[kept]
        )
        assert value == pytest.approx(expected, rel=1e-12)


def test_cases_of_equal_score_count_half() -> None:
    scores_, positive = np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    assert everyone(AUC(scores_, positive, np.arange(4)), 4) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_a_case_that_is_drawn_twice_counts_twice() -> None:
    scores_, positive = np.array([0.1, 0.4, 0.3]), np.array([False, False, True])  # wins against one, loses to one
    found = AUC(scores_, positive, np.arange(3)).of(np.array([[1, 1, 1], [2, 1, 1], [1, 3, 2.0]]))
    assert found.tolist() == pytest.approx([1 / 2, 2 / 3, 1 / 4])


@pytest.mark.parametrize(
    "make",
    [
        lambda p, y, who: AUC(p[:, 1], y == 1, who),
        lambda p, y, who: MacroAUC(p, y, who),
        lambda p, y, who: BalancedAccuracy(p, y, who, 3),
    ],
)
def test_nobody_drawn_has_no_score_and_no_warning(make: Callable[..., PatientMetric]) -> None:
    metric = make(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), np.array([0, 1]))
    found = metric.of(np.array([[1, 1, 1], [0, 0, 5.0]]))
    assert found[0] == 1.0
    assert math.isnan(found[1])


def test_an_auc_without_negative_cases_is_undefined_while_recall_is_not() -> None:
    probabilities, labels, patients = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), np.array([0, 1])
    only_positive = np.array([[0.0, 1.0]])
    assert math.isnan(AUC(probabilities[:, 1], labels == 1, patients).of(only_positive)[0])
    assert BalancedAccuracy(probabilities, labels, patients, 2).of(only_positive).tolist() == [1.0]


def test_ten_thousand_resamples_of_two_thousand_cases_and_seven_classes_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(7, 2000, p=[0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01])
    probabilities, patients = rng.dirichlet(np.ones(7), 2000), rng.integers(0, 1500, 2000)
    weights = rng.integers(0, 3, (10_001, 1500)).astype(float)
    tracemalloc.start()
    for metric in (MacroAUC(probabilities, labels, patients), BalancedAccuracy(probabilities, labels, patients, 1500)):
        assert 0 < metric.of(weights).mean() < 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("decimals", [1, 12])
def test_the_roc_curve_is_that_of_scikit_learn(decimals: int) -> None:
    from sklearn import metrics as sklearn_metrics

    rng = np.random.default_rng(1)
    positive = rng.random(50) < 0.4
    scores_ = np.round(rng.random(50) + 0.3 * positive, decimals)
    false_rate, true_rate = roc_curve(scores_, positive)
    expected = sklearn_metrics.roc_curve(positive, scores_, drop_intermediate=False)
    np.testing.assert_allclose(false_rate, expected[0])
    np.testing.assert_allclose(true_rate, expected[1])
    area = everyone(AUC(scores_, positive, np.arange(50)), 50)
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(area)


def test_a_roc_curve_without_negative_cases_has_no_false_positive_rate() -> None:
    false_rate, true_rate = roc_curve(np.array([0.3, 0.7]), np.array([True, True]))
    assert np.isnan(false_rate).all()
    assert true_rate.tolist() == [0.0, 0.5, 1.0]


def test_curves_are_read_at_the_upper_end_of_a_vertical_stretch() -> None:
    scores_, positive = np.array([0.9, 0.8, 0.4, 0.2]), np.array([True, True, False, False])
    assert true_positive_rate_at(np.array([0.0, 0.5, 1.0]), scores_, positive).tolist() == [1.0, 1.0, 1.0]
    assert true_positive_rate_at(np.array([0.0, 0.5, 1.0]), np.zeros(4), positive).tolist() == [0.0, 0.5, 1.0]


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    from sklearn import metrics as sklearn_metrics

    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(4))
    assert confusion_matrix(labels, predicted, 4).tolist() == expected.tolist()


def test_reliability_is_that_of_scikit_learn_in_bins_of_equal_size() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(3)
    predicted = rng.random(200)
    happened = rng.random(200) < predicted
    mean, observed, count = reliability(predicted, happened, 10)
    expected = calibration_curve(happened, predicted, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(observed, expected[0])
    np.testing.assert_allclose(mean, expected[1])
    assert count.tolist() == [20] * 10


def test_the_calibration_error_is_the_mean_distance_of_prediction_and_frequency() -> None:
    predicted = np.repeat([0.2, 0.9], [30, 10])
    happened = np.concatenate([np.arange(30) < 9, np.arange(10) < 7])  # 0.3 and 0.7 of them
    assert calibration_error(predicted, happened, 2) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40)
    assert calibration_error(np.full(10, 0.5), np.arange(10) < 4, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(("overlap", "expected"), [(65, 0.65), (64, 0.0), (100, 1.0), (0, 0.0)])
def test_an_overlap_below_the_threshold_counts_as_none(overlap: int, expected: float) -> None:
    reference, predicted = np.ones(100, bool), np.arange(100) < overlap
    assert thresholded_jaccard(reference, predicted) == pytest.approx(expected)


def test_the_overlap_of_two_empty_masks_is_undefined() -> None:
    assert math.isnan(thresholded_jaccard(np.zeros(3, bool), np.zeros(3, bool)))


def table(rows: list[dict]) -> pa.Table:
    base = {"arch": "stl", "fold": 0, "seed": 0, "role": "evaluation"}
    return pa.Table.from_pylist([base | row for row in rows], SCHEMA)


def case(case_id: str, task: Classification, label: str, probabilities: list[float]) -> list[dict]:
    identity = {"case_id": case_id, "group_id": case_id, "task": task.name}
    return [identity | row for row in probability_rows(task.classes, label, probabilities)]


def test_rows_of_the_per_case_table_become_probabilities_and_labels() -> None:
    rows = [*case("b", LESION, "nv", [0.1, 0.2, 0.6, 0.1]), *case("a", LESION, "akiec", [0.3, 0.3, 0.2, 0.2])]
    rows += case("a", COVID, "yes", [0.5, 0.5])  # another task
    found = diagnoses(table(rows[::-1]), LESION)
    assert isinstance(found, Diagnoses)
    assert (found.case_ids, found.labels.tolist()) == (("a", "b"), [0, 2])
    assert found.probabilities.tolist() == [[0.3, 0.3, 0.2, 0.2], [0.1, 0.2, 0.6, 0.1]]


def test_a_case_of_unknown_label_has_no_rows() -> None:
    assert probability_rows(COVID.classes, None, [0.5, 0.5]) == []
    assert diagnoses(table([]), COVID) is None


@pytest.mark.parametrize("damage", ["lacks a class", "has one twice", "unknown class", "two true", "not a number"])
def test_a_case_without_one_probability_of_each_class_is_named(damage: str) -> None:
    rows = case("good", LESION, "nv", [0.1, 0.2, 0.6, 0.1]) + case("bad", LESION, "nv", [0.1, 0.2, 0.6, 0.1])
    if damage == "lacks a class":
        rows.pop()
    elif damage == "has one twice":
        rows.append(rows[-1])
    elif damage == "unknown class":
        rows.append(rows[-1] | {"structure": "mel"})
    elif damage == "two true":
        rows[-1] |= {"planned": 1.0}
    else:
        rows[-1] |= {"value": math.nan}
    with pytest.raises(DataError, match=r"case bad: expected one probability of each class of 'diagnosis' \(akiec, "):
        diagnoses(table(rows), LESION)


def test_two_classes_are_scored_by_their_auc_and_more_by_balanced_accuracy() -> None:
    assert [metric.name for metric in COVID.metrics] == ["auc", "balanced_accuracy"]
    assert [metric.name for metric in LESION.metrics] == ["balanced_accuracy", "macro_auc"]
    assert COVID.primary_metric.name == "auc"
    rows = (
        case("a", COVID, "yes", [0.4, 0.6]) + case("b", COVID, "no", [0.7, 0.3]) + case("c", COVID, "yes", [0.8, 0.2])
    )
    assert scores(table(rows), [COVID]) == {"covid": {"auc": 0.5, "balanced_accuracy": 0.75}}


def test_models_are_ranked_by_one_minus_these_metrics() -> None:
    found = {"covid": {"auc": 0.8}, "diagnosis": {"balanced_accuracy": 0.6}}
    assert selection_error(found, [COVID, LESION]) == pytest.approx((0.2 + 0.4) / 2)
    assert describe_selection_error([COVID, LESION]) == "1 - AUC and 1 - Balanced accuracy"


def test_lesions_are_scored_by_thresholded_jaccard_where_the_task_asks_for_it() -> None:
    lesion = Segmentation("contour", structures=("lesion",), thresholded_jaccard=True)
    base = {"group_id": "g", "task": "contour", "structure": "lesion"}
    rows = [base | {"case_id": f"c{v}", "metric": m, "value": v} for v in (0.0, 0.7) for m in ("dice", "jaccard65")]
    assert scores(table(rows), [lesion]) == {"contour": {"dice_mean": 0.35, "jaccard65": 0.35}}
    assert lesion.primary_metric.name == "dice_mean"
    assert "jaccard65" not in {metric.name for metric in Segmentation("contour").metrics}


@pytest.mark.parametrize(
    "task", [COVID, LESION, Segmentation("contour", structures=("lesion",), thresholded_jaccard=True)]
)
def test_a_task_survives_json_with_its_metrics(task: Classification | Segmentation) -> None:
    again = task_from_json(task.to_json())
    assert (again, again.metrics) == (task, task.metrics)
    assert "metrics" not in task.to_json()
