"""Estimates with bounds that hold for few patients."""

import numpy as np
import pytest
from scipy import stats

from ctan.metrics import AUC, BalancedAccuracy, Brier, MetricSums, improvement, jackknife


def test_of_a_mean_it_is_the_t_interval() -> None:
    values = np.random.default_rng(0).exponential(size=12)
    found = jackknife(MetricSums(values, np.ones(12)).of, 12)
    assert found.value == pytest.approx(values.mean())
    assert found.degrees == pytest.approx(11)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert found.lower(0.05) == pytest.approx(expected.low)


def test_patients_of_several_cases_count_once() -> None:
    """By hand: a ratio's linearised variance, n / (n - 1) * sum (total - value * count)^2 / count.sum()^2."""
    rng = np.random.default_rng(1)
    count = rng.integers(1, 4, 200).astype(float)
    total = count * 0.7 + rng.normal(size=200)
    found = jackknife(MetricSums(total, count).of, 200)
    residual = total - found.value * count
    assert found.deviation == pytest.approx(np.sqrt(200 / 199 * (residual**2).sum()) / count.sum(), rel=0.01)


def test_one_patient_and_a_class_of_one_give_no_bound() -> None:
    assert not jackknife(MetricSums(np.ones(1), np.ones(1)).of, 1).is_finite
    area = AUC(np.arange(12.0), np.arange(12) == 11, np.arange(12))
    assert np.isnan(jackknife(area.of, 12).lower(0.05))


def test_equal_models_have_a_bound_of_zero_but_equal_answers_do_not_prove_equality() -> None:
    same = jackknife(MetricSums(np.zeros(10), np.ones(10)).of, 10)
    assert (same.value, same.lower(0.05)) == (0, 0)
    labels = np.repeat([0, 1], 10)
    accuracy = BalancedAccuracy(np.eye(2)[labels], labels, np.arange(20), 20)
    difference = jackknife(lambda w: accuracy.of(w) - accuracy.of(w), 20, labels, accuracy.least_deviation)
    # Agresti and Min: sqrt(2) / 12 / 2 with ten cases of each class
    assert difference.deviation == pytest.approx(np.sqrt(2) / 24)
    assert difference.lower(0.05) < -0.1


def test_the_bound_of_a_difference_of_areas_holds_with_few_positive_cases() -> None:
    """Six positive cases of 60, two models that are equally good."""
    rng, wrong, samples = np.random.default_rng(2), 0, 300
    positive = np.arange(60) < 6
    for _ in range(samples):
        shared = positive + 0.7 * rng.normal(size=60)
        one, two = (AUC(shared + 0.7 * rng.normal(size=60), positive, np.arange(60)) for _ in range(2))
        found = jackknife(lambda w, one=one, two=two: one.of(w) - two.of(w), 60, positive.tolist())
        wrong += found.lower(0.05) > 0
    assert wrong / samples <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / samples)


def test_the_brier_score_is_half_the_squared_distance() -> None:
    score = Brier(np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([0, 1]), np.arange(2), 2)
    assert score.of(np.array([[1.0, 1.0], [1.0, 0.0]])).tolist() == pytest.approx([(0.04 + 0.25) / 2, 0.04])


@pytest.mark.parametrize("count", [3, 6, 10, 33, 100])
def test_intervals_miss_the_truth_about_as_often_as_they_say(count: int) -> None:
    """Of mean Dice (skewed) and of a relative improvement; whole tables: `benchmarks/coverage.py`."""
    rng, samples = np.random.default_rng(count), 400
    missed = {"dice": 0, "gain": 0}
    for _ in range(samples):
        found = jackknife(MetricSums(rng.beta(8, 2, count), np.ones(count)).of, count).interval(0.95, (0.0, 1.0))
        missed["dice"] += not found["low"] <= 0.8 <= found["high"]
        shared = rng.gamma(9, 1 / 3, count)
        old, new = (MetricSums(f * shared * rng.gamma(25, 1 / 25, count), np.ones(count)) for f in (1, 0.9))
        gain = jackknife(lambda w, new=new, old=old: improvement(new.of(w), old.of(w), False), count).interval(0.95)
        missed["gain"] += not gain["low"] <= 10 <= gain["high"]
    for name, times in missed.items():
        assert 0.02 <= times / samples <= 0.08, name
