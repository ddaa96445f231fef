"""Phantoms are raw STOIC patients: the same bytes for the same seed, with findings and labels that belong together."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctan.config import DataConfig
from ctan.datasets.stoic.phantom import DEFECTS, write_stoic_phantoms
from ctan.datasets.stoic.reader import STOIC
from ctan.errors import CaseError, ConfigError, DataError
from tests.helpers.files import digests

DATASET = STOIC(DataConfig(dataset="stoic"))
NUM_PATIENTS = 40
KNOWN = [
    "f92454ba9c5cb8f5",
    "fe62bfe1ba473d7e",
    "7bb70b94dfc2158b",
    "8cd009315fd00091",
    "cd7ba42788cffa04",
    "95f8061aad648514",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_stoic_phantoms(folder, num_train=NUM_PATIENTS - 4, num_validation=4, seed=0)
    return folder


@pytest.fixture(scope="module")
def cases(written):
    return [DATASET.read(raw) for raw in DATASET.find(written)]


def test_the_same_seed_gives_the_same_bytes_and_a_patient_depends_on_its_number_only(written, tmp_path):
    DATASET.write_phantoms(tmp_path, 3, 1, 0)
    expected, again = digests(written), digests(tmp_path)
    assert set(again) == {*(f"data/mha/{number}.mha" for number in range(1, 5)), "metadata/reference.csv"}
    assert all(digest == expected[path] for path, digest in again.items() if path.endswith(".mha"))
    table = (written / "metadata" / "reference.csv").read_text().splitlines()
    assert (tmp_path / "metadata" / "reference.csv").read_text().splitlines() == table[:5]


def test_the_bytes_are_the_same_on_every_machine(tmp_path):
    """Known digests: what changes them changes every store that was made from phantoms."""
    write_stoic_phantoms(tmp_path, 4, 1, 0)
    assert [digest[:16] for digest in digests(tmp_path).values()] == KNOWN


def test_another_seed_gives_other_patients(written, tmp_path):
    write_stoic_phantoms(tmp_path, 1, 0, seed=1)
    assert digests(tmp_path)["data/mha/1.mha"] not in digests(written).values()
    assert len(set(digests(written).values())) == NUM_PATIENTS + 1


def test_phantoms_are_small(written):
    sizes = [path.stat().st_size for path in written.rglob("*.mha")]
    assert max(sizes) < 180_000
    assert 16 * max(sizes) < 4_000_000


def test_itk_reads_them_too(written, cases):
    """Compressed and not, with slices from either end."""
    seen = set()
    for case in cases[:10]:
        path = written / "data" / "mha" / f"{case.case_id}.mha"
        image = sitk.ReadImage(str(path))
        seen.add((b"CompressedData = True" in path.read_bytes()[:400], image.GetDirection()[8]))
        assert image.GetPixelID() == sitk.sitkInt16
        voxels = sitk.GetArrayFromImage(image)[:: -int(image.GetDirection()[8])]
        np.testing.assert_array_equal(case.images["ct"], (voxels + 1024).transpose(1, 2, 0))
        assert int(image.GetMetaData("PatientAge")[:3]) == case.facts["age"]
    assert seen == {(True, 1.0), (True, -1.0), (False, 1.0)}


def test_existing_patients_are_never_written_over(written):
    before = digests(written)
    with pytest.raises(DataError, match="exists already"):
        write_stoic_phantoms(written, 1, 0, seed=5)
    assert digests(written) == before


# Labels


def test_few_patients_hold_every_class(cases):
    severities = [case.labels.get("severity") for case in cases]
    assert [severities.count(name) for name in ("mild", "severe", None)] == [12, 12, 16]
    assert {"mild", "severe", None} == set(severities[:4]) == set(severities[-4:])
    assert all((case.labels["covid"] == "positive") == ("severity" in case.labels) for case in cases)
    assert {case.facts["sex"] for case in cases} == {"male", "female"}


def test_ages_are_in_decades_and_severe_cases_older(cases):
    ages = {name: [c.facts["age"] for c in cases if c.labels.get("severity") == name] for name in ("mild", "severe")}
    assert {age for group in ages.values() for age in group} <= {35, 45, 55, 65, 75, 85}
    assert np.mean(ages["severe"]) > np.mean(ages["mild"]) + 5


# Anatomy


def lungs_of(case):
    """Return air inside the body and what it encloses: lungs with their lesions, as far as they are not solid."""
    loose = case.images["ct"] < 1024 - 300
    parts, _ = ndimage.label(loose)
    outside = np.unique(np.concatenate([parts[[0, -1]].ravel(), parts[:, [0, -1]].ravel()]))
    return loose & ~np.isin(parts, outside)


def share_of_opacity(case):
    """Return the share of the lung's voxels between -750 and -300 HU: a feature anyone would think of first."""
    hu = case.images["ct"].astype(int) - 1024
    lungs = lungs_of(case)
    return np.count_nonzero(lungs & (hu > -750)) / np.count_nonzero(lungs)


def test_lungs_are_filled_with_air_and_lie_on_both_sides_of_the_heart(cases):
    for case in cases:
        hu, lungs = case.images["ct"].astype(int) - 1024, lungs_of(case)
        litres = np.count_nonzero(lungs) * np.prod(case.spacing_mm) / 1e6
        assert 2 < litres < 6
        assert -900 < np.median(hu[lungs]) < -500
        _, width, _ = case.shape
        left = lungs[:, width // 2 :]
        assert 0.3 < np.count_nonzero(left) / np.count_nonzero(lungs) < 0.6
        assert hu.min() < -950
        assert hu.max() > 300


def test_the_heart_is_on_the_left_and_the_spine_at_the_back(cases):
    for case in cases:
        hu, (depth, width, height) = case.images["ct"].astype(int) - 1024, case.shape
        heart = (hu > 0) & (hu < 100)
        low = heart[depth // 4 : depth // 2, :, height // 2 : 3 * height // 4]  # the front of the lower half
        assert np.count_nonzero(low[:, width // 2 : 5 * width // 6]) > np.count_nonzero(low[:, width // 6 : width // 2])
        bone = np.argwhere(hu[:, width // 2 - 6 : width // 2 + 6] > 150)
        assert bone[:, 0].mean() > depth / 2


def test_lesions_of_covid_are_bilateral_and_more_at_the_back_and_the_base(cases):
    at_the_back, at_the_base = [], []
    for case in (c for c in cases if c.labels.get("severity") == "severe"):
        hu, lungs, (depth, width, height) = case.images["ct"].astype(int) - 1024, lungs_of(case), case.shape
        lesion = lungs & (hu > -700)
        for half in (np.s_[:, : width // 2], np.s_[:, width // 2 :]):
            assert np.count_nonzero(lesion[half]) > 0.1 * np.count_nonzero(lungs[half])
        back, base = np.s_[depth // 2 :], np.s_[:, :, height // 2 :]
        at_the_back.append(lesion[back].sum() / lungs[back].sum() - lesion.sum() / lungs.sum())
        at_the_base.append(lesion[base].sum() / lungs[base].sum() - lesion.sum() / lungs.sum())
    assert np.median(at_the_back) > 0.05
    assert np.median(at_the_base) > 0.02


# Difficulty


def test_the_amount_of_opacity_tells_severity_among_the_positive_but_not_perfectly(cases):
    from sklearn.metrics import roc_auc_score

    positive = [case for case in cases if case.labels["covid"] == "positive"]
    severe = [case.labels["severity"] == "severe" for case in positive]
    assert 0.75 < roc_auc_score(severe, [share_of_opacity(case) for case in positive]) < 1
    assert 0.6 < roc_auc_score(severe, [case.facts["age"] for case in positive]) < 0.95


def test_the_amount_of_opacity_alone_does_not_tell_the_diagnosis(cases):
    from sklearn.metrics import roc_auc_score

    positive = [case.labels["covid"] == "positive" for case in cases]
    assert 0.7 < roc_auc_score(positive, [share_of_opacity(case) for case in cases]) < 0.97


# Defects

EXPECTED = {
    "truncated": "5.mha: truncated: 60 x 44 x 32 voxels are ",
    "damaged": "5.mha: compressed voxels are damaged",
    "no-row": "reference.csv: no row for PatientID 5",
    "two-rows": "reference.csv: 2 rows for PatientID 5 (lines 6, 7), expected one",
    "severe-without-covid": "reference.csv: line 6: probSevere is 1 but probCOVID is 0",
    "probability": "reference.csv: line 6: expected probCOVID to be 0 or 1, found '0.5'",
    "spacing": "5.mha: header: expected three positive ElementSpacing in mm, found '0 0 5'",
    "oblique": "5.mha: header: oblique slices, TransformMatrix is ",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_defect_spoils_one_patient(tmp_path, name):
    write_stoic_phantoms(tmp_path, 4, 1, 0, defects=[name])
    *good, bad = DATASET.find(tmp_path)
    for raw in good:
        DATASET.read(raw)
    with pytest.raises(CaseError) as found:
        DATASET.read(bad)
    assert (found.value.case_id, found.value.reason[: len(EXPECTED[name])]) == ("5", EXPECTED[name])


def test_two_defects_are_left_to_others_to_find(tmp_path):
    """A scan that is not there is a remark, an impossible age fails the expectation."""
    write_stoic_phantoms(tmp_path, 4, 1, 0, defects=["no-file", "age"])
    *_, last = DATASET.find(tmp_path)
    assert (last.case_id, DATASET.read(last).facts["age"]) == ("4", 180)
    assert DATASET.remarks(tmp_path) == ["1 patient of reference.csv has no scan in data/mha and is left out: 5."]
    assert set(DEFECTS) == {*EXPECTED, "no-file", "age"}


def test_a_defect_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match="defects: unknown melted; allowed: truncated, damaged, no-file"):
        write_stoic_phantoms(tmp_path, 4, 1, 0, defects=["truncated", "melted"])
    with pytest.raises(ConfigError, match="defects: 2 defects need as many patients, found 1"):
        write_stoic_phantoms(tmp_path, 1, 0, 0, defects=["truncated", "damaged"])
    assert not any(tmp_path.iterdir())
