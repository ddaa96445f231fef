"""OpenKBP's dose score and DVH criteria against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctan.metrics import dose_score, dvh_curve, dvh_values, score_dose

BIG_VOXEL_MM3 = 1000.0  # 0.1 cc is less than half a voxel: the hottest voxel counts


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_the_dose_score_divides_the_error_of_all_voxels_by_the_voxels_of_the_mask() -> None:
    planned, predicted = row(10, 20, 0, 0), row(12, 17, 0, 0)
    assert dose_score(planned, predicted, row(1, 1, 0, 0) > 0) == pytest.approx((2 + 3) / 2)


def test_dose_predicted_outside_the_mask_is_punished() -> None:
    planned, mask = row(10, 20, 0, 0), row(1, 1, 0, 0) > 0
    assert dose_score(planned, row(10, 20, 0, 5), mask) == pytest.approx(5 / 2)
    assert dose_score(planned, row(10, 20, 0, -5), mask) == pytest.approx(5 / 2)


def test_the_dose_score_does_not_lose_digits_of_single_precision_doses() -> None:
    rng = np.random.default_rng(0)
    planned, predicted = (rng.random((32, 33, 34), np.float32) * 70 for _ in range(2))
    mask = rng.random(planned.shape) > 0.3
    expected = np.abs(planned.astype(np.float64) - predicted.astype(np.float64)).sum() / mask.sum()
    assert dose_score(planned, predicted, mask) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "mask", "message"),
    [
        (row(1, 2), row(0, 0) > 0, "mask is empty"),
        (row(1, 2, 3), row(1, 1) > 0, "shapes differ"),
        (row(1, np.nan), row(1, 1) > 0, "NaN"),
        (row(1, np.inf), row(1, 1) > 0, "infinity"),
    ],
)
def test_what_has_no_dose_score_is_refused(predicted: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dose_score(row(1, 2), predicted, mask)


def test_targets_are_judged_by_the_1st_5th_and_99th_percentile() -> None:
    dose = np.arange(101.0)[::-1]  # 0..100 Gy: percentile q is q Gy
    assert dvh_values(dose, True, 30.0) == {"D_99": 1.0, "D_95": 5.0, "D_1": 99.0}


def test_percentiles_between_two_voxels_are_interpolated() -> None:
    # positions 0.01 * 2, 0.05 * 2 and 0.99 * 2 in (10, 20, 40)
    assert dvh_values(np.array([40.0, 10.0, 20.0]), True, 30.0) == pytest.approx(
        {"D_99": 10.2, "D_95": 11.0, "D_1": 39.6}
    )


@pytest.mark.parametrize(
    ("voxel_volume_mm3", "num_hottest"),
    [
        (40.0, 2),  # 2.5 voxels: half to even
        (100 / 3.5, 4),  # 3.5 voxels: half to even
        (30.0, 3),  # 3.33
        (150.0, 1),  # 0.67
        (1000.0, 1),  # 0.1 rounds to 0, but at least one
    ],
)
def test_d01cc_leaves_out_as_many_voxels_as_fit_into_a_tenth_of_a_cubic_centimetre(
    voxel_volume_mm3: float, num_hottest: int
) -> None:
    dose = np.arange(200.0)
    expected = (100 - 100 * num_hottest / 200) / 100 * 199  # percentile of 0..199 by linear interpolation
    assert dvh_values(dose, False, voxel_volume_mm3)["D_0.1_cc"] == pytest.approx(expected, abs=1e-9)


def test_d01cc_of_a_structure_smaller_than_a_tenth_of_a_cubic_centimetre_is_its_lowest_dose() -> None:
    found = dvh_values(np.array([7.0, 3.0, 5.0]), False, 10.0)  # 10 of 3 voxels: percentile clipped to 0
    assert found == {"D_0.1_cc": 3.0, "mean": 5.0}


def test_a_structure_of_one_voxel_has_one_dose() -> None:
    assert set(dvh_values(np.array([42.0]), False, BIG_VOXEL_MM3).values()) == {42.0}
    assert set(dvh_values(np.array([42.0]), True, BIG_VOXEL_MM3).values()) == {42.0}


def test_ties_do_not_matter() -> None:
    assert dvh_values(np.full(50, 20.0), True, 30.0) == {"D_99": 20.0, "D_95": 20.0, "D_1": 20.0}
    # 4 voxels, 1 hottest: percentile 75, position 2.25 of (5, 9, 9, 9)
    assert dvh_values(np.array([9.0, 5.0, 9.0, 9.0]), False, BIG_VOXEL_MM3) == {"D_0.1_cc": 9.0, "mean": 8.0}


@pytest.mark.parametrize("num_voxels", [1, 2, 3, 7, 100, 4099])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_criteria_equal_numpys_percentiles(num_voxels: int, dtype: type) -> None:
    dose = (np.random.default_rng(num_voxels).random(num_voxels) * 70).astype(dtype)
    exact = dose.astype(np.float64)
    assert list(dvh_values(dose, True, 38.0).values()) == pytest.approx(
        np.percentile(exact, [1, 5, 99]).tolist(), abs=1e-9
    )
    percentile = np.clip(100 - 100 * np.maximum(1, np.round(100 / 38.0)) / num_voxels, 0, 100)
    assert list(dvh_values(dose, False, 38.0).values()) == pytest.approx(
        [np.percentile(exact, percentile), exact.mean()], abs=1e-9
    )


def test_a_patient_is_scored_on_the_structures_that_exist() -> None:
    planned, predicted = row(60, 50, 20, 0), row(57, 52, 21, 0)
    structures = {"Brainstem": row(0, 1, 1, 0) > 0, "Larynx": row(0, 0, 0, 0) > 0, "PTV70": row(1, 0, 0, 0) > 0}
    score, values = score_dose(
        planned, predicted, row(1, 1, 1, 0) > 0, structures, {"PTV70": 70.0, "PTV56": 56.0}, (10.0, 10.0, 10.0)
    )
    assert score == pytest.approx((3 + 2 + 1) / 3)
    found = {(v.structure, v.criterion): (v.planned, v.predicted, v.error) for v in values}
    assert found == {
        ("Brainstem", "D_0.1_cc"): (35.0, 36.5, 1.5),  # one hottest of two voxels: the median
        ("Brainstem", "mean"): (35.0, 36.5, 1.5),
        ("PTV70", "D_99"): (60.0, 57.0, 3.0),
        ("PTV70", "D_95"): (60.0, 57.0, 3.0),
        ("PTV70", "D_1"): (60.0, 57.0, 3.0),
    }


@pytest.mark.parametrize("occupied", [(0,), (5,), (2, 4), (0, 5)])
def test_a_structure_is_found_in_whichever_slices_it_lies(occupied: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    planned = rng.random((6, 5, 4)) * 70
    mask = np.zeros(planned.shape, bool)
    mask[list(occupied)] = rng.random((len(occupied), 5, 4)) > 0.5
    _, values = score_dose(planned, planned + 1, np.ones_like(mask), {"Larynx": mask}, {}, (3.0, 3.0, 3.0))
    assert {v.criterion: v.planned for v in values}["mean"] == pytest.approx(planned[mask].mean())
    assert [v.error for v in values] == pytest.approx([1.0, 1.0])


def test_a_dvh_curve_falls_from_the_whole_volume_to_none() -> None:
    curve = dvh_curve(np.array([10.0, 20.0, 20.0, 40.0]), np.array([0.0, 10.0, 10.5, 20.0, 40.0, 40.5]))
    assert curve.tolist() == [1.0, 1.0, 0.75, 0.75, 0.25, 0.0]


@given(
    dose=arrays(np.float64, st.integers(1, 60), elements=st.sampled_from([0.0, 20.0, 70.0]) | st.floats(0, 100)),
    edges=st.tuples(*[st.floats(0.5, 10)] * 3),
)
def test_any_dose_has_the_criteria_of_the_plain_code(dose: np.ndarray, edges: tuple[float, float, float]) -> None:
    """The challenge's way: one `numpy.percentile` a criterion, the percentile clipped."""
    volume_mm3 = edges[0] * edges[1] * edges[2]
    found = dvh_values(dose, True, volume_mm3)
    plain = {"D_99": np.percentile(dose, 1), "D_95": np.percentile(dose, 5), "D_1": np.percentile(dose, 99)}
    assert found == pytest.approx(plain, rel=0, abs=1e-9)
    hottest = np.maximum(1, np.round(100 / volume_mm3)) / len(dose) * 100
    plain = {"D_0.1_cc": np.percentile(dose, np.clip(100 - hottest, 0, 100)), "mean": dose.mean()}
    assert dvh_values(dose, False, volume_mm3) == pytest.approx(plain, rel=0, abs=1e-9)


def test_a_dose_that_is_not_known_is_not_0_gray() -> None:
    """2 Gy too high everywhere, 68% of it outside the dose grid: was a score of 0.64 Gy."""
    known = np.arange(100).reshape(-1, 1, 1) < 32
    planned = np.where(known, np.float32(20), 0)
    possible, predicted = np.ones_like(known), np.where(known, planned + 2, 30)
    assert dose_score(planned, predicted, possible, known) == pytest.approx(2.0)
    assert dose_score(planned, predicted, possible) > 20


def test_a_target_that_leaves_the_dose_grid_is_judged_where_its_dose_is_known() -> None:
    """7 of 100 voxels unknown: D95 was 0 Gy as planned and as predicted, 15 Gy too low a perfect score."""
    known = np.arange(100).reshape(-1, 1, 1) < 93
    planned, target = np.where(known, np.float32(60), 0), np.ones_like(known)
    arguments = (target, {"PTV": target, "Organ": target}, {"PTV": 60.0}, (1.0, 1.0, 1.0))
    _, values = score_dose(planned, np.where(known, planned - 15, 0), *arguments, known)
    # less than 95% known: its lowest doses may lie elsewhere
    assert {(v.structure, v.criterion): v.error for v in values} == {
        ("PTV", "D_1"): 15,
        ("Organ", "D_0.1_cc"): 15,
        ("Organ", "mean"): 15,
    }
    there = slice(97)  # 93 of 97 known
    arguments = (target[there], {"PTV": target[there]}, {"PTV": 60.0}, (1.0, 1.0, 1.0))
    _, values = score_dose(planned[there], planned[there] - 15, *arguments, known[there])
    assert {v.criterion: v.error for v in values} == {"D_99": 15, "D_95": 15, "D_1": 15}


def test_scores_are_the_same_to_the_digit_where_all_dose_is_known() -> None:
    rng = np.random.default_rng(1)
    planned, predicted = (rng.random((8, 9, 10), np.float32) * 70 for _ in range(2))
    masks = {name: rng.random(planned.shape) > 0.5 for name in ("PTV", "Organ")}
    arguments = (planned, predicted, rng.random(planned.shape) > 0.3, masks, {"PTV": 70.0}, (3.9, 3.9, 2.5))
    assert score_dose(*arguments) == score_dose(*arguments, np.ones(planned.shape, bool))
