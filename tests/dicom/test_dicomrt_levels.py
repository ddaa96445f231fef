"""Several dose levels in one plan: each target has its own, told by the plan or the settings, or it is not known."""

import numpy as np
import pyarrow as pa
import pytest

from ctan.cases import levels_of
from ctan.cases.working import to_working
from ctan.config import ValidationConfig
from ctan.datasets.prostate.defects import DEFECTS
from ctan.datasets.prostate.phantom import make_patient, write_patient
from ctan.datasets.prostate.planting import LOWER_SHARE
from ctan.dicom.settings import DicomConfig
from ctan.inputs import Inputs, network_input
from ctan.intake.contact_sheet import _colours
from ctan.intake.measure import case_row
from ctan.settings import load_config
from ctan.store.manifest import SCHEMA
from ctan.tasks.dose import DoseBaselines
from ctan.validation.copies import Copies
from ctan.validation.suite import expectations, frame_of, run
from tests.helpers.dicom import KEY, dataset_of

PATIENT = make_patient(0, 1)
HIGH = PATIENT.prescription_gy
LOW = pytest.approx(LOWER_SHARE * HIGH)
BOTH = {
    "structures": {**DicomConfig().structures, "PTVLow": ("ptv[ _]low",)},
    "targets": ("PTVLow", "PTV"),
}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture
def read(tmp_path):
    """Return a function that reads the patient with a defect, and data set and case."""

    def planted(defect, **options):
        folder = tmp_path / "raw" / "patient"
        folder.mkdir(parents=True)
        write_patient(PATIENT, folder)
        DEFECTS[defect].plant(PATIENT, folder)
        dataset = dataset_of(**options)
        return dataset, dataset.read(dataset.find(tmp_path / "raw")[0])

    return planted


def failing(dataset, case, **limits):
    """Return the expectations that a case fails."""
    row = case_row(case, dataset.spec, 0)
    frame = frame_of(pa.Table.from_pylist([row | {"split": "train"}], SCHEMA(dataset.spec)), dataset.spec, Copies())
    config = load_config("smoke", {"data.dataset": "prostate"})
    config = config.model_copy(update={"validation": ValidationConfig(**limits)})
    return {one.expectation.name for one in run(frame, expectations(dataset, config)) if one.failing}


def test_each_target_gets_the_dose_of_the_reference_that_names_its_roi(read):
    """Both got the highest level, and the 20% rule refused the lower one."""
    dataset, case = read("boost", **BOTH)
    assert case.levels_gy == {"PTVLow": LOW, "PTV": HIGH}
    assert case.facts["prescription_gy"] == HIGH
    row = case_row(case, dataset.spec, 0)
    assert (row["level_gy_PTVLow"], row["level_gy_PTV"]) == (LOW, HIGH)
    beside = case.masks["PTVLow"] & ~case.masks["PTV"]
    assert row["dose_mean_gy_PTVLow"] == pytest.approx(case.doses["dose"][beside].mean(), rel=1e-5)
    assert not failing(dataset, case) & {"PTV-dose", "PTVLow-dose", "PTV-level", "PTVLow-level"}


def test_levels_that_the_plan_does_not_assign_are_not_known_until_settings_say_them(read):
    dataset, case = read("boost-unnamed", **BOTH)
    assert case.levels_gy == {}
    assert {"PTV-level", "PTVLow-level"} <= failing(dataset, case)


def test_settings_come_before_the_plan(read):
    levels = {"PTV": HIGH, "PTVLow": 0.75 * HIGH}
    dataset, case = read("boost-unnamed", **BOTH, levels_gy=levels)
    assert case.levels_gy == levels
    assert dataset.spec.targets == levels
    assert not failing(dataset, case) & {"PTV-dose", "PTV-level", "PTVLow-level"}


def test_a_single_target_has_its_own_level_whatever_else_the_plan_prescribes(read):
    _, case = read("boost")
    assert case.levels_gy == {"PTV": HIGH}


def test_network_baseline_and_colours_take_the_levels_of_the_case(read):
    dataset, case = read("boost", **BOTH)
    stored, _ = to_working(case, dataset.spec, (16, 16, 24), (9.0, 10.0, 6.0))
    assert (stored.levels_gy, stored.prescription_gy) == (case.levels_gy, HIGH)
    seen, before = (network_input(stored, dataset.spec, Inputs(levels=levels))[1] for levels in ("case", "data"))
    low, high = (stored.masks[dataset.spec.structures.index(name)] for name in ("PTVLow", "PTV"))
    assert np.unique(seen[low & ~high]) == pytest.approx([LOWER_SHARE])
    assert (seen[high] == 1).all()
    assert (before[low | high] == 1).all()  # what a model of today's formats goes on seeing
    baseline = DoseBaselines(dataset.spec)
    baseline.learn(stored)
    dose = baseline.dose_by_distance(case)
    beside = case.masks["PTVLow"] & ~case.masks["PTV"] & case.masks["possible_dose_mask"]
    assert np.unique(dose[beside]) == pytest.approx([LOWER_SHARE * HIGH])
    assert list(_colours(case, dataset.spec))[:2] == ["PTV", "PTVLow"]


def test_what_a_case_does_not_say_is_the_default_in_proportion_to_its_prescription(read):
    _, case = read("boost")
    assert levels_of(case, {"PTV": 78.0, "Other": 39.0}) == {"PTV": HIGH, "Other": HIGH / 2}


def test_a_dose_grid_that_ends_inside_the_target_is_rejected_unless_allowed(read):
    dataset, case = read("dose-cut")
    share = case_row(case, dataset.spec, 0)["unknown_dose_share_PTV"]
    assert 0.05 < share < 0.4
    assert "PTV-dose-known" in failing(dataset, case)
    assert "PTV-dose-known" not in failing(dataset, case, max_unknown_target_share=0.4)
