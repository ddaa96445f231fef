"""A prostate plan of a planning system: contours and doses against that system's own DVH tables."""

import csv
import re
import tarfile

import numpy as np
import pytest

from ctan.cases.covered import doses_inside
from tests.helpers.dicom import KEY, TEST_DATA, dataset_of, needs_test_data

STRUCTURES = {
    "Bladder": "Bladder",
    "Rectum": "Rectum",
    "PTV": "PTV",
    "FemoralHeadLeft": "FemoralHeadLt",
    "FemoralHeadRight": "FemoralHeadRT",
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eclipse")
    with tarfile.open(TEST_DATA / "dicom-rt" / "eclipse-prostate.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def case(unpacked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTAN_DEID_KEY", KEY)
        dataset = dataset_of(prescription_gy=50)
        (raw,) = dataset.find(unpacked)
        return dataset.read(raw)


def tables(path):
    """Return structure -> volume in cc, doses in Gy and the share of the volume that receives at least each."""
    with path.open() as stream:
        head, *rows = list(csv.reader(stream))
    found = {}
    for column in range(0, len(head) - 1, 2):
        points = [(float(row[column]), float(row[column + 1]) / 100) for row in rows if row and row[column].strip()]
        volume = re.search(r"% of ([\d.]+) cc", head[column + 1])
        found[head[column].split("_")[0]] = (float(volume[1]), *np.array(points).T)
    return found


def mean_dose(doses, shares):
    """Return the mean dose: the area below a cumulative DVH."""
    return doses[0] + np.sum((shares[1:] + shares[:-1]) / 2 * np.diff(doses))


@needs_test_data
@pytest.mark.parametrize("name", STRUCTURES)
def test_volumes_and_mean_doses_are_those_of_the_planning_system(unpacked, case, name):
    volume, doses, shares = tables(unpacked / "dvh-eclipse.csv")[STRUCTURES[name]]
    mask = case.masks[name]
    assert mask.sum() * np.prod(case.spacing_mm) / 1000 == pytest.approx(volume, rel=0.02)
    assert case.doses["dose"][mask].mean() == pytest.approx(mean_dose(doses, shares), abs=0.1)


@needs_test_data
@pytest.mark.parametrize("percent", [99, 95, 50, 1])
def test_the_dose_that_covers_the_target_is_that_of_the_planning_system(unpacked, case, percent):
    _, doses, shares = tables(unpacked / "dvh-eclipse.csv")["PTV"]
    expected = np.interp(-percent / 100, -shares, doses)
    assert np.percentile(case.doses["dose"][case.masks["PTV"]], 100 - percent) == pytest.approx(expected, abs=0.05)


# The planning system's own table. Above and below its last contours it takes another share of a slice: of the bladder
# and the rectum, which end where the dose falls, only what does not lie there is compared.
WITHIN = dict.fromkeys(STRUCTURES, (95, 50, 2)) | {"PTV": (99, 98, 95, 50, 2, 1), "Rectum": (50, 2, 1)}


@needs_test_data
@pytest.mark.parametrize("name", STRUCTURES)
def test_doses_of_contours_are_those_of_the_planning_system(unpacked, case, name):
    _, doses, shares = tables(unpacked / "dvh-eclipse.csv")[STRUCTURES[name]]
    known = np.ones(case.shape, bool)
    (inside,) = doses_inside(case, case.masks[name], case.covered[name], [case.doses["dose"]], known).doses
    for percent in WITHIN[name]:
        expected = np.interp(-percent / 100, -shares, doses)
        assert np.percentile(inside, 100 - percent) == pytest.approx(expected, abs=0.1), percent


@needs_test_data
def test_volume_and_mean_dose_of_the_body_lie_with_those_of_two_programs(unpacked, case):
    """Their own mean doses are 0.24 Gy apart: it is a matter of the skin, where there is little dose."""
    mask = case.masks["possible_dose_mask"]
    means = []
    for table in ("dvh-eclipse.csv", "dvh-cerr.csv"):
        volume, doses, shares = tables(unpacked / table)["BODY"]
        assert mask.sum() * np.prod(case.spacing_mm) / 1000 == pytest.approx(volume, rel=0.02)
        means.append(mean_dose(doses, shares))
    assert min(means) < case.doses["dose"][mask].mean() < max(means)


@needs_test_data
def test_nothing_about_it_is_remarkable(case):
    assert case.remarks == ()
