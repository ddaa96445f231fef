"""Splits and folds are balanced, reproducible, and never divide a group."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctan.intake.splits import assign_folds, assign_splits

groups = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=60)
diagnoses = st.sampled_from(["nv", "mel", "df", None])
cases = st.lists(st.tuples(st.text(min_size=1, max_size=2), diagnoses), min_size=1, max_size=80)  # (group, stratum)
shares = st.floats(0.05, 0.95)


@given(groups, st.integers(2, 7), st.integers(0, 5), st.randoms())
def test_folds_do_not_depend_on_the_order_of_the_cases(group_ids, num_folds, seed, random):
    shuffled = list(group_ids)
    random.shuffle(shuffled)
    assert assign_folds(shuffled, num_folds, seed) == assign_folds(group_ids, num_folds, seed)


@given(groups, st.integers(2, 7), st.integers(0, 5))
def test_every_group_gets_exactly_one_fold_in_range(group_ids, num_folds, seed):
    folds = assign_folds(group_ids, num_folds, seed)
    assert set(folds) == set(group_ids)
    assert all(0 <= fold < num_folds for fold in folds.values())


@given(st.sets(st.text(min_size=1), min_size=1, max_size=60), st.integers(2, 7), st.integers(0, 5))
def test_fold_sizes_differ_by_one_at_most_with_one_case_a_group(group_ids, num_folds, seed):
    sizes = Counter(assign_folds(group_ids, num_folds, seed).values())
    assert max(sizes.values()) - min(sizes[fold] for fold in range(num_folds)) <= 1


@given(groups, st.integers(2, 7))
def test_fold_sizes_differ_by_the_largest_group_at_most(group_ids, num_folds):
    folds = assign_folds(group_ids, num_folds, seed=0)
    sizes = Counter(folds[group_id] for group_id in group_ids)
    assert max(sizes.values()) - min(sizes[fold] for fold in range(num_folds)) <= max(Counter(group_ids).values())


def test_the_division_is_pinned_so_that_another_platform_or_version_must_agree():
    # Sorted by sha256(seed, 0 byte, id), then dealt out in turn.
    import hashlib

    patients = [f"pt_{n}" for n in range(1, 8)]
    dealt = sorted(patients, key=lambda p: hashlib.sha256(b"0\0" + p.encode()).digest())
    assert assign_folds(patients, 3, seed=0) == {p: i % 3 for i, p in enumerate(dealt)}
    assert assign_folds(patients, 3, seed=0) == PINNED


def test_another_seed_divides_differently():
    patients = [f"pt_{n}" for n in range(50)]
    assert assign_folds(patients, 5, seed=0) != assign_folds(patients, 5, seed=1)


def test_with_fewer_groups_than_folds_each_group_has_its_own():
    assert sorted(assign_folds(["a", "b"], 5, seed=0).values()) == [0, 1]


# Strata


def columns(cases):
    return [group for group, _ in cases], [stratum for _, stratum in cases]


def pure(cases):
    """Give every group the stratum of its first case."""
    first = dict(reversed(cases))
    return [(group, first[group]) for group, _ in cases]


def largest_group(group_ids):
    return max(Counter(group_ids).values())


@given(groups, st.integers(2, 7), st.integers(0, 5))
def test_one_stratum_for_all_divides_as_none_does(group_ids, num_folds, seed):
    one = assign_folds(group_ids, num_folds, seed, ["nv"] * len(group_ids))
    assert one == assign_folds(group_ids, num_folds, seed)
    assert list(one.items()) == list(assign_folds(group_ids, num_folds, seed).items())


@given(cases, st.integers(2, 7), shares, st.integers(0, 5), st.randoms())
def test_strata_do_not_make_the_order_of_the_cases_matter(cases, num_folds, share, seed, random):
    shuffled = list(cases)
    random.shuffle(shuffled)
    (group_ids, strata), (other_ids, other_strata) = columns(cases), columns(shuffled)
    folds = assign_folds(group_ids, num_folds, seed, strata)
    assert folds == assign_folds(other_ids, num_folds, seed, other_strata)
    assert set(folds) == set(group_ids)
    splits = assign_splits(group_ids, {"validation": share}, seed, strata)
    assert splits == assign_splits(other_ids, {"validation": share}, seed, other_strata)
    assert set(splits) == set(group_ids)


@given(cases.map(pure), st.integers(2, 7), st.integers(0, 5))
def test_a_stratum_is_spread_over_the_folds_within_its_largest_group(cases, num_folds, seed):
    group_ids, strata = columns(cases)
    folds = assign_folds(group_ids, num_folds, seed, strata)
    for stratum in set(strata):
        of_stratum = [group for group, other in cases if other == stratum]
        sizes = Counter(folds[group] for group in of_stratum)
        assert max(sizes.values()) - min(sizes[fold] for fold in range(num_folds)) <= largest_group(of_stratum)


@given(st.lists(diagnoses, min_size=1, max_size=80), st.integers(2, 7), st.integers(0, 5))
def test_with_one_case_a_group_folds_and_strata_differ_by_one_at_most(strata, num_folds, seed):
    folds = assign_folds([f"pt_{n}" for n in range(len(strata))], num_folds, seed, strata)
    for stratum in (*set(strata), "all"):
        sizes = Counter(folds[f"pt_{n}"] for n, other in enumerate(strata) if stratum in ("all", other))
        assert max(sizes.values()) - min(sizes[fold] for fold in range(num_folds)) <= 1


def test_a_group_with_two_diagnoses_is_placed_by_the_rarer_one():
    strata = {"a": ["nv", "df"], "b": ["df"], "c": ["nv"] * 4}
    pairs = [(group, stratum) for group, all_of in strata.items() for stratum in all_of]
    folds = assign_folds(*columns(pairs)[:1], 2, 0, columns(pairs)[1])
    assert folds["a"] != folds["b"]
    assert folds["c"] == folds["b"]


def test_every_case_needs_a_stratum():
    with pytest.raises(ValueError, match="zip"):
        assign_folds(["a", "b"], 2, seed=0, strata=["nv"])


# Splits


@given(cases.map(pure), shares, st.integers(0, 5))
def test_the_validation_split_has_its_share_of_the_cases_and_of_every_stratum(cases, share, seed):
    group_ids, strata = columns(cases)
    splits = assign_splits(group_ids, {"validation": share}, seed, strata)
    assert set(splits.values()) == {"train", "validation"} or len(splits) == 1
    largest = largest_group(group_ids)
    rescued = Counter(splits.values()).most_common()[-1][1] == 1  # the only group of a split may have been put there
    for stratum in (*set(strata), "all"):
        chosen = [splits[group] for group, other in cases if stratum in ("all", other)]
        off = abs(chosen.count("validation") - share * len(chosen))
        bound = largest / 2 if stratum == "all" else largest
        assert off <= bound + 1e-9 or (rescued and off <= bound + largest)


@given(st.integers(10, 400), st.integers(0, 5))
def test_the_share_is_exact_to_half_a_case_with_one_case_a_group(num_cases, seed):
    chosen = list(assign_splits([f"pt_{n}" for n in range(num_cases)], {"validation": 0.2}, seed).values())
    assert abs(chosen.count("validation") - 0.2 * num_cases) <= 0.5


def test_two_groups_are_one_for_each_split_and_one_alone_is_for_training():
    for share in (0.01, 0.99):
        assert sorted(assign_splits(["a", "b"], {"validation": share}, seed=0).values()) == ["train", "validation"]
    assert assign_splits(["a"], {"validation": 0.2}, seed=0) == {"a": "train"}
    assert assign_splits([], {"validation": 0.2}, seed=0) == {}


def test_another_seed_splits_differently():
    lesions = [f"HAM_{n}" for n in range(100)]
    assert assign_splits(lesions, {"validation": 0.2}, seed=0) != assign_splits(lesions, {"validation": 0.2}, seed=1)


def test_splits_are_pinned_so_that_another_platform_or_version_must_agree():
    lesions = [f"HAM_{n:07d}" for n in range(8)]
    strata = ["nv", "nv", "nv", "mel", "nv", "mel", "nv", "nv"]
    assert (
        assign_splits(lesions, {"validation": 0.25}, 0, strata) == dict.fromkeys(lesions, "train") | PINNED_VALIDATION
    )
    assert assign_folds(lesions, 2, 0, strata) == PINNED_STRATIFIED


needs_real_data = pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA names no real data")


@needs_real_data
def test_every_diagnosis_of_ham10000_is_spread_evenly_over_folds_and_splits():
    path = Path(os.environ["CTAN_TEST_DATA"]) / "ham10000" / "HAM10000_metadata.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lesions, diagnosis = [row["lesion_id"] for row in rows], [row["dx"] for row in rows]
    folds = assign_folds(lesions, 5, 0, diagnosis)
    splits = assign_splits(lesions, {"validation": 0.2}, 0, diagnosis)
    assert len(folds) == len(splits) == 7470
    sizes = Counter(folds[lesion] for lesion in lesions)
    assert max(sizes.values()) - min(sizes.values()) <= 2
    for code, total in Counter(diagnosis).items():
        of_code = [row["lesion_id"] for row in rows if row["dx"] == code]
        in_fold = Counter(folds[lesion] for lesion in of_code)
        assert all(abs(in_fold[fold] - total / 5) <= 1 for fold in range(5)), code
        assert all(abs(in_fold[fold] / sizes[fold] - total / 10015) < 0.001 for fold in range(5)), code
        assert abs(sum(splits[lesion] == "validation" for lesion in of_code) - 0.2 * total) <= 1, code
    assert abs(sum(splits[lesion] == "validation" for lesion in lesions) - 0.2 * 10015) <= 0.5


PINNED_VALIDATION = {"HAM_0000000": "validation", "HAM_0000003": "validation"}
PINNED_STRATIFIED = dict(zip((f"HAM_{n:07d}" for n in range(8)), (1, 0, 1, 1, 0, 0, 0, 1), strict=True))
PINNED = {"pt_2": 0, "pt_5": 1, "pt_6": 2, "pt_4": 0, "pt_3": 1, "pt_7": 2, "pt_1": 0}
