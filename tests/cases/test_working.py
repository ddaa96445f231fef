"""A case on the working grid in memory is the case that a store returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctan.cases import DOSE_KNOWN
from ctan.cases.working import to_working
from ctan.datasets import get_dataset
from ctan.datasets.prostate.write_phantom import write_prostate_phantoms
from ctan.inputs import Inputs, network_input
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.settings import load_config
from ctan.store import open_store
from tests.helpers.dicom import KEY


@pytest.mark.parametrize(("name", "grid"), [("openkbp", [16, 24, 24]), ("ham10000", [32, 48]), ("stoic", [16, 16, 16])])
def test_what_is_made_in_memory_is_what_a_store_gives_back(name: str, grid: list[int], tmp_path: Path) -> None:
    config = load_config("smoke", {"data.dataset": name, "preprocess.grid_shape": grid})
    dataset, source = get_dataset(config.data), str(tmp_path / "raw")
    dataset.write_phantoms(tmp_path / "raw", 4, 1, 0)
    ingest(source, tmp_path / "manifest", config, num_workers=1)
    store = open_store(preprocess(source, tmp_path / "manifest", str(tmp_path / "root"), config, num_workers=1))
    for raw in dataset.find(tmp_path / "raw"):
        case, kept = dataset.read(raw), store.load(raw.case_id)
        made, geometry = to_working(
            case, dataset.spec, config.preprocess.grid_shape, config.preprocess.grid_spacing_mm, kept.fold
        )
        assert geometry == store.geometry(raw.case_id)
        for field in ("masks", "known", "possible_dose", "dose_known", "target_distance"):
            np.testing.assert_array_equal(getattr(made, field), getattr(kept, field))
        (image,) = (dataset.spec.image.name,)
        np.testing.assert_array_equal(made.image[image], kept.image[image])
        assert made.image[image].dtype == kept.image[image].dtype
        assert (made.labels, made.prescription_gy, made.spacing_mm) == (
            kept.labels,
            kept.prescription_gy,
            kept.spacing_mm,
        )
        if dataset.spec.has_dose:
            np.testing.assert_allclose(made.dose, kept.dose, atol=0.001)
        facts = {name: value for name, value in case.facts.items() if name in dataset.spec.facts}
        assert facts.items() <= store.reference(raw.case_id).facts.items()


def test_what_a_network_sees_of_a_patient_does_not_depend_on_the_dose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the mask of possible dose nor where the grid lies: both followed the RTDOSE."""
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)
    dataset = get_dataset("prostate")
    write_prostate_phantoms(tmp_path, 1, 0, 0)
    planned = dataset.read(dataset.find(tmp_path)[0])
    kept = {name: mask for name, mask in planned.masks.items() if name != DOSE_KNOWN}
    grid = (16, 16, 24), (9.0, 10.0, 6.0)
    stored, geometry = to_working(planned, dataset.spec, *grid)
    without, same_geometry = to_working(replace(planned, doses={}, masks=kept), dataset.spec, *grid)
    assert geometry == same_geometry
    assert without.dose.size == without.dose_known.size == 0
    assert stored.dose_known.sum() < 0.8 * stored.possible_dose.sum()
    assert not (stored.dose_known & ~stored.possible_dose).any()
    seen = [network_input(case, dataset.spec, Inputs(signed_distance=True)) for case in (stored, without)]
    np.testing.assert_array_equal(*seen)
