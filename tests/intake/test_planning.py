"""The plan follows from the data by rules that can be worked out by hand, and leaves alone what is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ctan import steps
from ctan.cases import DataSpec
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError, DataError
from ctan.intake.ingest import ingest
from ctan.intake.planning import Proposal, apply, check_number, one_sided, propose
from ctan.settings import config_from_yaml, load_config

SCAN, PICTURE = get_dataset("stoic").spec, get_dataset("ham10000").spec


def rows(extent: list[int], spacing_mm: list[float], count: int = 20) -> list[dict[str, Any]]:
    return [{"extent": extent, "spacing_mm": spacing_mm}] * count


def planned(cases: list[dict[str, Any]], spec: DataSpec) -> dict[str, Proposal]:
    config = load_config("cpu", {"data.dataset": spec.dataset})
    return {proposal.field: proposal for proposal in propose(cases, spec, config)}


def test_no_training_case_is_said_and_not_an_error_of_numpy() -> None:
    with pytest.raises(DataError, match="there is no training case that a plan could be made from"):
        planned([], SCAN)


def test_a_grid_that_fits_keeps_the_voxels_of_the_median_case() -> None:
    found = planned(rows([80, 100, 70], [4.0, 4.0, 5.0]), SCAN)
    assert found["preprocess.grid_spacing_mm"].value == [4.0, 4.0, 5.0]
    # io_stride 2: five stages halve to 32ths and leave ceil(70 / 32) = 3 voxels, six would leave 2
    assert found["network.num_stages"].value == 5
    assert found["preprocess.grid_shape"].value == [96, 128, 96]


def test_fine_axes_become_coarser_until_the_grid_fits() -> None:
    found = planned(rows([500, 500, 100], [0.8, 0.8, 4.0]), SCAN)
    # 400 x 400 x 400 mm in at most 1.6 million voxels with slices of 4 mm: (400 / e)^2 100 = 1.6e6, e = 3.162 mm
    assert found["preprocess.grid_spacing_mm"].value == pytest.approx([3.17, 3.17, 4.0])
    assert "0.80 x 0.80 x 4.00 mm" in found["preprocess.grid_spacing_mm"].reason


def test_pictures_are_resized_with_their_proportions() -> None:
    found = planned(rows([450, 600], [1.0, 1.0]), PICTURE)
    # 270,000 pixels into 30,000: three times smaller, 150 x 200, then up to multiples of 32 for six stages
    assert found["network.num_stages"].value == 6
    assert found["preprocess.grid_shape"].value == [160, 224]
    assert found["preprocess.grid_spacing_mm"].value is None
    assert found["training.batch_size"].value == 240_000 // (160 * 224)


def test_an_outlier_does_not_enlarge_the_grid_for_all() -> None:
    cases = rows([80, 100, 70], [4.0, 4.0, 5.0], 99) + rows([128, 128, 128], [4.0, 4.0, 5.0], 1)
    assert planned(cases, SCAN)["preprocess.grid_shape"].value == [96, 128, 96]


def test_what_is_set_stays_and_the_plan_says_so() -> None:
    config = load_config("cpu", {"data.dataset": "stoic", "preprocess.grid_shape": [64, 64, 64]})
    proposals = propose(rows([80, 100, 70], [4.0, 4.0, 5.0]), SCAN, config)
    (grid,) = [proposal for proposal in proposals if proposal.field == "preprocess.grid_shape"]
    assert not grid.used
    assert grid.to_json()["set_to"] == [64, 64, 64]
    applied = apply(proposals, config)
    assert applied.preprocess.grid_shape == (64, 64, 64)
    assert applied.preprocess.grid_spacing_mm == (4.0, 4.0, 5.0)


def test_a_field_can_be_left_to_the_data_by_name() -> None:
    config = load_config("smoke", ["data.dataset=stoic", "preprocess.grid_shape=planned"])
    assert "grid_shape" not in config.preprocess.model_fields_set
    assert "grid_shape: planned" in config.to_yaml()


def test_ingestion_writes_the_plan_with_a_reason_for_each_number_and_uses_it(tmp_path: Path) -> None:
    config = load_config("cpu", {"data.dataset": "stoic"})
    summary = ingest("phantom:train=6,validation=2", tmp_path, config, num_workers=0)
    plan = yaml.safe_load((tmp_path / "plan.yaml").read_text(encoding="utf-8"))
    used = config_from_yaml(tmp_path / "config.yaml")
    assert list(used.preprocess.grid_shape) == plan["preprocess.grid_shape"]["value"]
    assert list(used.preprocess.grid_spacing_mm or ()) == plan["preprocess.grid_spacing_mm"]["value"]
    assert all(entry["reason"] for entry in plan.values())
    assert plan["training.batch_size"]["used"] is False
    assert plan["training.batch_size"]["set_to"] == used.training.batch_size == 2
    assert any(remark.startswith("planned preprocess.grid_shape") for remark in summary.remarks)
    assert RunConfig.model_validate(used.model_dump()) == used


def test_a_side_of_one_class_or_without_a_structure_is_said_before_anything_is_trained() -> None:
    """Before, `promote` died with a TypeError after all trainings, as the AUC was None."""
    rows = [
        {"split": split, "fold": fold, "label_diagnosis": label, "missing": missing}
        for split, fold, label, missing in [
            ("train", 0, "mel", []),
            ("train", 0, "nv", []),
            ("train", 1, "mel", []),
            ("train", 1, "nv", ["Lesion"]),
            ("validation", -1, "nv", ["Lesion"]),
            ("validation", -1, "nv", ["Lesion"]),
            ("validation", -1, None, ["Lesion"]),
            ("test", -1, "mel", []),
        ]
    ]
    assert one_sided(rows, PICTURE, [0]) == [
        "the 3 evaluation cases all have diagnosis = nv: AUC and what needs several classes is left out there",
        "none of the 3 evaluation cases has Lesion contoured: no Dice there",
    ]
    rows[2]["label_diagnosis"] = rows[3]["label_diagnosis"] = None
    assert (
        "the 2 training (without fold 0) cases have no diagnosis that is known: AUC and what needs several classes is "
        "left out there"
    ) in one_sided(rows, PICTURE, [0])
    assert one_sided([row | {"label_diagnosis": name} for row in rows[:2] for name in ("mel", "nv")], PICTURE, []) == []


def test_more_trainings_than_a_run_carries_are_refused_with_how_to_split_them() -> None:
    config = load_config("smoke", ["architectures=[stl,hps]", "folds=[0,1,2,3,4]", "seeds=[0,1,2,3,4,5,6,7,8]"])
    check_number(config)
    more = config.model_copy(update={"seeds": tuple(range(10))})
    with pytest.raises(ConfigError, match="2 architectures x 5 folds x 10 seeds are 100 trainings; one run carries 90"):
        check_number(more)
    with pytest.raises(ConfigError, match="Split them into several runs by folds or seeds, with the same store_root"):
        steps.resolve("phantom:train=6,validation=2", more)
