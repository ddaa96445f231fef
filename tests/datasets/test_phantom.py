"""Phantoms are raw OpenKBP patients: the same bytes for the same seed, with anatomy and dose that make sense."""

import re
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from ctan.datasets import get_dataset
from ctan.datasets.openkbp.phantom import write_openkbp_phantoms
from ctan.errors import DataError
from ctan.evaluation.baselines import DoseStatistics, dose_by_distance, mean_dose
from ctan.metrics import dose_score
from ctan.settings import load_config
from tests.helpers.files import digests

DATASET = get_dataset("openkbp")
POSSIBLE = "possible_dose_mask"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_openkbp_phantoms(folder, num_train=8, num_validation=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def cases(written):
    return [DATASET.read(raw) for raw in DATASET.find(written)]


def test_the_same_seed_gives_the_same_bytes_and_a_patient_depends_on_its_number_only(written, tmp_path):
    write_openkbp_phantoms(tmp_path, num_train=3, num_validation=1, seed=0)
    expected = digests(written)
    again = digests(tmp_path)
    assert {path.split("/")[1] for path in again} == {"pt_1", "pt_2", "pt_3", "pt_201"}
    assert again == {path: expected[path] for path in again}


def test_another_seed_gives_other_patients(written, tmp_path):
    write_openkbp_phantoms(tmp_path, num_train=1, num_validation=0, seed=1)
    expected = digests(written)
    other = digests(tmp_path)
    assert other["train-pats/pt_1/ct.csv"] != expected["train-pats/pt_1/ct.csv"]
    assert other["train-pats/pt_1/dose.csv"] != expected["train-pats/pt_1/dose.csv"]
    assert len({digest for path, digest in expected.items() if path.endswith("/ct.csv")}) == 10


def test_files_are_numbered_and_written_like_those_of_openkbp(written):
    assert [raw.case_id for raw in DATASET.find(written)] == [*(f"pt_{n}" for n in range(1, 9)), "pt_201", "pt_202"]
    folder = written / "train-pats" / "pt_1"
    for name, row in {"ct": r"\d+,\d+\.0", "dose": r"\d+,\d+\.\d{1,2}", POSSIBLE: r"\d+,", "PTV70": r"\d+,"}.items():
        content = (folder / f"{name}.csv").read_bytes()
        assert b"\r" not in content
        header, *rows, end = content.decode().split("\n")
        assert (header, end) == (",data", "")
        assert all(re.fullmatch(row, line) for line in rows)
        indices = [int(line.partition(",")[0]) for line in rows]
        assert indices == sorted(set(indices))
    assert re.fullmatch(r"(\d\.\d{18}e\+00\n){3}", (folder / "voxel_dimensions.csv").read_text())


def test_every_phantom_is_small(written):
    for raw in DATASET.find(written):
        assert sum(path.stat().st_size for path in raw.path.iterdir()) < 480_000


def test_an_existing_patient_is_never_written_over(written):
    before = digests(written)
    with pytest.raises(DataError, match="pt_1: exists already"):
        write_openkbp_phantoms(written, num_train=1, num_validation=0, seed=5)
    assert digests(written) == before


def test_the_validation_numbers_go_on_after_many_training_patients(tmp_path, monkeypatch):
    monkeypatch.setattr("ctan.datasets.openkbp.phantom._FIRST_VALIDATION", 3)
    write_openkbp_phantoms(tmp_path, num_train=3, num_validation=1, seed=0)
    assert [raw.case_id for raw in DATASET.find(tmp_path)] == ["pt_1", "pt_2", "pt_3", "pt_4"]


# Anatomy


def centre(mask):
    return np.argwhere(mask).mean(axis=0)


def test_organs_lie_where_they_belong(cases):
    for case in cases:
        posterior, left, inferior = centre(case.images["ct"] > 0)
        right_parotid, left_parotid = centre(case.masks["RightParotid"]), centre(case.masks["LeftParotid"])
        assert right_parotid[1] + 5 < left < left_parotid[1] - 5
        cord, brainstem = centre(case.masks["SpinalCord"]), centre(case.masks["Brainstem"])
        assert cord[0] > posterior
        assert brainstem[2] < inferior < cord[2]
        if "Mandible" in case.masks:
            assert centre(case.masks["Mandible"])[0] < posterior
        if "Larynx" in case.masks:
            assert centre(case.masks["Larynx"])[2] > inferior


def test_ct_values_tell_air_soft_tissue_and_bone_apart(cases):
    for case in cases:
        ct = case.images["ct"]
        body = ct > 0
        assert 0.004 < body.mean() < 0.02
        assert 1000 < np.median(ct[body]) < 1100
        for name, mask in case.masks.items():
            assert mask.any()
            assert body[mask].all(), name
            if name in ("LeftParotid", "RightParotid"):
                free = mask & ~np.any(
                    [case.masks[n] for n in ("Mandible", *DATASET.spec.targets) if n in case.masks], 0
                )
                assert ct[free].mean() < np.median(ct[body]) - 40
        if "Mandible" in case.masks:
            assert ct[case.masks["Mandible"]].mean() > 1500


def test_the_primary_target_is_always_there_and_others_are_sometimes_missing(cases):
    assert all("PTV70" in case.masks for case in cases)
    missing = set().union(*(set(DATASET.spec.structures) - set(case.masks) for case in cases))
    assert {"PTV63", "PTV56", "Esophagus", "Larynx", "Mandible"} >= missing >= {"PTV63", "PTV56", "Esophagus"}


def test_targets_are_disjoint_and_spare_cord_and_brainstem(cases):
    for case in cases:
        targets = {name: case.masks[name] for name in DATASET.spec.targets if name in case.masks}
        apart = {**targets, "both": case.masks["SpinalCord"] | case.masks["Brainstem"]}
        for first, second in combinations(apart, 2):
            assert not (apart[first] & apart[second]).any(), (case.case_id, first, second)


def test_the_spacing_varies_and_is_equal_in_plane(cases):
    assert len({case.spacing_mm for case in cases}) == len(cases)
    for case in cases:
        first, second, slices = case.spacing_mm
        assert first == second
        assert 3.5 <= first <= 4.3
        assert 2.0 <= slices <= 3.0


# Dose


def test_the_dose_is_zero_outside_the_mask_and_the_mask_holds_every_target(cases):
    for case in cases:
        possible, dose = case.masks[POSSIBLE], case.doses["dose"]
        assert not dose[~possible].any()
        assert 0.003 < possible.mean() < 0.007
        for name in DATASET.spec.targets:
            assert possible[case.masks.get(name, possible)].all()


def test_target_means_are_near_the_prescription_and_nothing_is_far_above(cases):
    for case in cases:
        dose = case.doses["dose"]
        assert dose.max() < 70 * 1.04
        for name, level_gy in DATASET.spec.targets.items():
            if name in case.masks:
                assert dose[case.masks[name]].mean() == pytest.approx(level_gy, rel=0.03)


def test_the_dose_falls_off_slowly_left_and_right_and_quickly_up_and_down(cases):
    at_10_mm = {1: [], 2: []}
    for case in cases:
        dose, target = case.doses["dose"], case.masks["PTV70"]
        for axis, doses in at_10_mm.items():
            step = round(10 / case.spacing_mm[axis])
            for sign in (-1, 1):
                edge = np.argwhere(target)
                edge = edge[np.argmax(sign * edge[:, axis])]
                edge[axis] += sign * step
                doses.append(dose[tuple(edge)])
    assert np.median(at_10_mm[1]) > 50
    assert np.median(at_10_mm[2]) < 40


def test_cord_and_parotids_get_less_than_other_tissue_at_equal_distance(cases):
    for case in cases:
        targets = np.any([case.masks[name] for name in DATASET.spec.targets if name in case.masks], axis=0)
        distance = ndimage.distance_transform_edt(~targets, sampling=case.spacing_mm)
        organs = np.any([case.masks[name] for name in ("SpinalCord", "RightParotid", "LeftParotid")], axis=0)
        shell = (distance > 2) & (distance < 20) & case.masks[POSSIBLE]
        dose = case.doses["dose"]
        assert dose[shell & organs].mean() < 0.6 * dose[shell & ~organs].mean()


def test_distance_to_the_targets_explains_part_of_the_dose_only(tmp_path):
    """The baselines, computed from their definition on the native grid, leave room for a network to be better."""
    from ctan.intake.build import preprocess
    from ctan.intake.ingest import ingest
    from ctan.store import open_store

    config = load_config("smoke")
    source = "phantom:train=6,validation=2,seed=0"
    ingest(source, tmp_path / "manifest", config, num_workers=0)
    store = open_store(preprocess(source, tmp_path / "manifest", str(tmp_path), config, num_workers=1))
    statistics = DoseStatistics()
    for case_id in store.case_ids(split="train"):
        statistics.add(store.load(case_id))
    for case_id in store.case_ids(split="validation"):
        case = store.reference(case_id)
        possible, truth = case.masks[POSSIBLE], case.doses["dose"]
        by_distance = dose_score(truth, dose_by_distance(case, statistics, DATASET), possible)
        mean = dose_score(truth, mean_dose(case, statistics), possible)
        assert 5 < by_distance < 8
        assert mean > 1.5 * by_distance
