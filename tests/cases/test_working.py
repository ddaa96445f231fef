"""A case on the working grid in memory is the case that a store returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctan.cases.working import to_working
from ctan.datasets import get_dataset
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.settings import load_config
from ctan.store import open_store


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
        for field in ("masks", "known", "dose_mask", "target_distance"):
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
