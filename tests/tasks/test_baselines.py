"""Baselines of contours, classes and numbers: what they learn, and what they predict for every case."""

from __future__ import annotations

import numpy as np
import pytest

from ctan.config import EvaluationConfig
from ctan.evaluation.summary import scores
from ctan.tasks import Classification, Regression, Segmentation
from tests.helpers.tasks import photo_spec, reference_case, stored_case, table_of

LIVER = Segmentation("organs", ("Liver", "Spleen"))
SPEC = photo_spec(LIVER, structures=("Heart", "Liver", "Spleen"))


def square(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((4, 6), bool)
    mask[rows, columns] = True
    return mask


def as_it_is(array: np.ndarray, outside: float) -> np.ndarray:
    """The way to a native grid that is the working grid."""
    assert outside == 0.0
    return array.astype(np.float32)


def test_the_mean_mask_is_where_most_training_cases_have_the_structure() -> None:
    baselines = LIVER.baselines(SPEC)
    heart, spleen = np.ones((4, 6), bool), square(slice(0, 1), slice(0, 1))
    for columns in (slice(0, 3), slice(1, 4), slice(2, 5)):
        masks = np.stack([heart, square(slice(0, 2), columns), spleen])
        baselines.learn(stored_case(masks=masks))
    found = baselines.predict(reference_case(), as_it_is)
    assert set(found) == set(baselines.labels) == {"baseline-empty", "baseline-mean-mask"}
    assert not found["baseline-empty"].any()
    assert found["baseline-empty"].shape == (2, 4, 6)
    np.testing.assert_array_equal(found["baseline-mean-mask"][0], square(slice(0, 2), slice(1, 4)))  # 2 of 3 cases
    np.testing.assert_array_equal(found["baseline-mean-mask"][1], spleen)
    assert baselines.mean[0, 0, :6] == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0])


def test_a_case_without_a_contour_says_nothing_about_the_structure() -> None:
    known, with_unknown = LIVER.baselines(SPEC), LIVER.baselines(SPEC)
    masks = np.stack([square(slice(0, 2), slice(0, n)) for n in (1, 2, 3)])
    for baselines in (known, with_unknown):
        baselines.learn(stored_case(masks=masks))
    for _ in range(3):
        with_unknown.learn(stored_case(masks=np.zeros((3, 4, 6), bool), known=(True, False, False)))
    np.testing.assert_array_equal(known.mean, with_unknown.mean)
    assert known.mean.max() == 1


def test_a_structure_that_no_training_case_has_is_nowhere() -> None:
    baselines = LIVER.baselines(SPEC)
    baselines.learn(stored_case(masks=np.zeros((3, 4, 6), bool), known=(True, False, False)))
    assert not baselines.predict(reference_case(), as_it_is)["baseline-mean-mask"].any()


def test_nothing_contoured_scores_a_dice_of_zero_and_no_distance() -> None:
    reference = reference_case(masks={"Liver": square(slice(0, 2), slice(0, 2))})
    nothing = LIVER.baselines(SPEC)
    nothing.learn(stored_case(masks=np.zeros((3, 4, 6), bool)))
    native = nothing.predict(reference, as_it_is)["baseline-empty"]
    rows = LIVER.rows(native, reference, SPEC, EvaluationConfig(hd95=True))
    assert scores(table_of(LIVER, {"a": rows}), [LIVER]) == {"organs": {"dice_mean": 0.0, "surface_dice": 0.0}}


def test_class_frequencies_are_as_good_as_chance() -> None:
    lesion = Classification("diagnosis", classes=("akiec", "bcc", "nv", "vasc"))
    spec = photo_spec(lesion, labels={"diagnosis": lesion.classes})
    baselines = lesion.baselines(spec)
    for label in ["nv"] * 6 + ["bcc"] * 3 + ["vasc"] + [None] * 7:
        baselines.learn(stored_case(labels={"diagnosis": label} if label else {}))
    rows = {}
    for i in range(12):
        reference = reference_case(labels={"diagnosis": lesion.classes[i % 4]})
        (native,) = baselines.predict(reference, as_it_is).values()
        rows[f"c{i}"] = lesion.rows(native, reference, spec, EvaluationConfig())
    assert [row["value"] for row in rows["c0"]] == [0.0, 0.3, 0.6, 0.1]
    assert lesion.rows(native, reference_case(), spec, EvaluationConfig()) == []  # of unknown label
    assert scores(table_of(lesion, rows), [lesion]) == {"diagnosis": {"balanced_accuracy": 1 / 4, "macro_auc": 0.5}}


def test_without_a_known_label_to_learn_from_every_class_is_as_likely() -> None:
    covid = Classification("covid", classes=("no", "yes"))
    baselines = covid.baselines(photo_spec(covid))
    baselines.learn(stored_case())
    assert baselines.predict(reference_case(), as_it_is)["baseline-frequency"].tolist() == [0.5, 0.5]
    assert not baselines.reads_arrays


def test_the_mean_of_the_known_numbers_is_said_of_every_case() -> None:
    age = Regression("age", unit="years")
    baselines = age.baselines(photo_spec(age, numbers={"age": "years"}))
    for number in (20.0, None, 70.0):
        baselines.learn(stored_case(numbers={} if number is None else {"age": number}))
    assert baselines.predict(reference_case(numbers={"age": 33.0}), as_it_is)["baseline-mean-number"].tolist() == [45.0]
    assert not baselines.reads_arrays
