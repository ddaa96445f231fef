"""OpenKBP's slices are planes of the patients that the reader of whole patients reads."""

from dataclasses import replace

import numpy as np
import pytest

from ctan.cases import POSSIBLE_DOSE_MASK
from ctan.cases.working import to_working
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.phantom import write_openkbp_phantoms
from ctan.errors import CaseError
from ctan.inputs import Inputs, network_input
from ctan.settings import load_config

SLICES = 4
CONFIG = load_config("cpu", {"data.dataset": "openkbp2d", "data.options": {"slices": SLICES}})
DATASET, WHOLE = get_dataset(CONFIG.data), get_dataset("openkbp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    write_openkbp_phantoms(folder, num_train=2, num_validation=1, seed=0)
    return folder


def test_each_patient_gives_slices_of_its_own_group_and_side(folder):
    found = [(raw.case_id, raw.group_id, raw.split) for raw in DATASET.find(folder)]
    expected = [(whole.case_id, whole.split) for whole in WHOLE.find(folder)]
    assert found == [(f"{patient}-{k}", patient, split) for patient, split in expected for k in range(SLICES)]


def test_a_slice_is_a_plane_of_its_patient(folder):
    whole = WHOLE.read(WHOLE.find(folder)[0])
    occupied = np.flatnonzero(whole.masks[POSSIBLE_DOSE_MASK].any(axis=(0, 1)))
    seen = []
    for raw in DATASET.find(folder)[:SLICES]:
        case = DATASET.read(raw)
        (place,) = (i for i in occupied if np.array_equal(whole.doses["dose"][:, :, i], case.doses["dose"]))
        np.testing.assert_array_equal(case.images["ct"], whole.images["ct"][:, :, place])
        assert set(case.masks) == set(whole.masks)
        for name, mask in case.masks.items():
            np.testing.assert_array_equal(mask, whole.masks[name][:, :, place])
        assert case.spacing_mm == whole.spacing_mm[:2]
        seen.append((place, case.sha256))
    assert len(set(seen)) == len({sha for _, sha in seen}) == SLICES
    quarters = (np.array([place for place, _ in seen]) - occupied[0]) * SLICES // len(occupied)
    assert quarters.tolist() == list(range(SLICES))


def test_a_network_sees_a_slice_as_it_sees_a_volume(folder):
    case = DATASET.read(DATASET.find(folder)[1])
    stored, _ = to_working(case, DATASET.spec, CONFIG.preprocess.grid_shape, None)
    image = network_input(stored, DATASET.spec, Inputs.of(CONFIG.data))
    assert image.shape == (Inputs.of(CONFIG.data).num_channels(DATASET.spec), 96, 128)
    assert stored.dose_known.sum() == case.masks[POSSIBLE_DOSE_MASK].sum()


def test_more_slices_than_there_are_is_a_fault_of_the_case(folder):
    many = get_dataset(replace_options(128))
    with pytest.raises(CaseError, match=r"dose is possible in \d+ slices, data.options.slices asks for 128"):
        many.read(many.find(folder)[5])


def test_errors_name_the_slice(folder):
    raw = DATASET.find(folder)[0]
    with pytest.raises(CaseError) as found:
        DATASET.read(replace(raw, path=folder))
    assert found.value.case_id == "pt_1-0"


def replace_options(slices):
    return CONFIG.data.model_copy(update={"options": {"slices": slices}})
