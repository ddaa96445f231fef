"""A number an image: target, loss, prediction, scores and chart, against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ctan.config import EvaluationConfig
from ctan.errors import DataError
from ctan.evaluation.summary import describe_selection_error, scores, selection_error
from ctan.metrics import RSquared
from ctan.tasks import Regression, fitted, task_from_json, tasks_of
from tests.helpers.tasks import photo_spec, reference_case, stored_case, table_of

AGE = Regression("age", unit="years", centre=50.0, spread=20.0)


def test_mean_and_spread_are_those_of_the_known_training_cases() -> None:
    (age,) = fitted((Regression("age"),), [{}] * 3, [{"age": 30.0}, {"size": 1.0}, {"age": 70.0}])
    assert (age.centre, age.spread) == (50.0, 20.0)
    assert fitted((age,), [{}], [{"age": 1.0}]) == (age,)  # what is known is kept
    assert task_from_json(json.loads(json.dumps(age.to_json()))) == age


@pytest.mark.parametrize("numbers", [[{"age": 7.0}, {"age": 7.0}], [{}]])
def test_without_spread_numbers_are_learnt_as_they_are(numbers: list[dict[str, float]]) -> None:
    (age,) = fitted((Regression("age"),), [{}] * len(numbers), numbers)
    assert age.spread == 1.0
    assert age.target(stored_case(numbers={"age": 9.0}), ())["number"] == 9.0 - age.centre


def test_the_target_is_standardised_and_an_unknown_number_is_marked() -> None:
    target = AGE.target(stored_case(numbers={"age": 80.0}), ())
    assert (target["number"], target["known"]) == (np.float32(1.5), True)
    assert not AGE.target(stored_case(), ())["known"]


def test_the_loss_is_squared_near_the_truth_linear_far_from_it_and_blind_to_the_unknown() -> None:
    output = torch.tensor([[0.5], [3.0], [9.0]], requires_grad=True)
    target = {"number": torch.tensor([0.0, 0.0, 0.0]), "known": torch.tensor([True, True, False])}
    loss = AGE.loss(output, target)
    assert loss.item() == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient.flatten().tolist() == pytest.approx([0.25, 0.5, 0.0])
    nothing = AGE.loss(output, target | {"known": torch.zeros(3, dtype=torch.bool)})
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, output)[0].abs().sum() == 0
    assert AGE.error(output, target) == pytest.approx((0.5 + 3.0) / 2)


def test_a_prediction_is_in_the_unit_of_the_number() -> None:
    assert AGE.activate(torch.tensor([[1.5], [-0.5]])).tolist() == [[80.0], [40.0]]


def test_rows_hold_both_numbers_and_their_difference() -> None:
    (row,) = AGE.rows(np.array([57.5]), reference_case(numbers={"age": 60.0}), photo_spec(AGE), EvaluationConfig())
    assert row == {"metric": "number", "structure": "", "value": 2.5, "count": 1, "predicted": 57.5, "planned": 60.0}
    assert AGE.rows(np.array([57.5]), reference_case(), photo_spec(AGE), EvaluationConfig()) == []
    assert AGE.caption([row]) == "age: 60, predicted 57.5 years"


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(0)
    true, predicted = rng.normal(50, 20, 30), rng.normal(50, 20, 30)
    spec, rows = photo_spec(AGE), {}
    for i in range(30):
        reference = reference_case(numbers={"age": true[i]})
        rows[f"c{i}"] = AGE.rows(predicted[i : i + 1], reference, spec, EvaluationConfig())
    found = scores(table_of(AGE, rows), [AGE])["age"]
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted))
    assert found["r_squared"] == pytest.approx(r2_score(true, predicted))
    assert selection_error({"age": found}, [AGE]) == pytest.approx(found["mae"] / 20)
    assert describe_selection_error([AGE]) == "MAE / 20 years"


def test_the_coefficient_of_determination_of_a_resample_is_that_of_its_cases() -> None:
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(1)
    patients = np.array([0, 0, 1, 2, 3, 3, 4])
    true, predicted = rng.normal(1e6, 1, 7), rng.normal(1e6, 1, 7)
    weights = rng.multinomial(5, np.full(5, 1 / 5), 20).astype(float)
    found = RSquared(predicted, true, patients, 5).of(weights)
    for value, times in zip(found, weights, strict=True):
        drawn = np.repeat(np.arange(7), times[patients].astype(int))
        expected = r2_score(true[drawn], predicted[drawn]) if len(set(drawn)) > 1 else np.nan
        assert value == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_equal_numbers_leave_nothing_to_determine() -> None:
    assert np.isnan(RSquared(np.array([1.0, 2.0]), np.array([7.0, 7.0]), np.array([0, 1]), 2).of(np.ones((1, 2))))


def test_the_unit_comes_from_the_description_of_the_data() -> None:
    (age,) = tasks_of(photo_spec(Regression("age"), numbers={"age": "years"}))
    assert age.primary_metric.heading == "MAE (years) ↓"
    with pytest.raises(DataError, match=r"photos: the task 'age' learns a number .* numbers: size\. Name it"):
        tasks_of(photo_spec(Regression("age"), numbers={"size": "mm"}))
