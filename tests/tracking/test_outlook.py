"""What `plan` says of promotion before anything is trained."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ctan.cases import DataSpec
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError
from ctan.files import write_json
from ctan.records import ModelRecord, SeenGroups
from ctan.sources.origin import Origin
from ctan.store.manifest import MANIFEST_FILE, SCHEMA, write_manifest
from ctan.tracking.outlook import outlook
from tests.helpers.promotion import LINEAGE, NAME, Site
from tests.helpers.tracking import small_config

pytest_plugins = ["tests.helpers.promotion"]
SPEC = get_dataset("openkbp").spec


def manifest(folder: Path, num_evaluation: int = 12, spec: DataSpec = SPEC) -> Path:
    """Write what validation leaves, as far as it is read."""
    folder.mkdir()
    columns = dict.fromkeys(SCHEMA(spec).names)
    rows = [
        columns | {"dataset": "openkbp", "case_id": f"pt_{i}", "group_id": f"pt_{i}", "split": "validation", "fold": -1}
        for i in range(num_evaluation)
    ]
    write_manifest(rows, folder / MANIFEST_FILE, SCHEMA(spec))
    spec.save(folder)
    write_json(folder / "summary.json", {"num_cases": 1, "num_expectations": 1, "verdict": "passed"})
    Origin(*(LINEAGE[name] for name in ("data_source", "data_version", "settings_hash", "pipeline_code_hash"))).save(
        folder
    )
    return folder


def test_a_first_run_and_too_few_cases_are_said_before_training(site: Site) -> None:
    assert outlook(manifest(site.folder / "many"), small_config()) == [f"{NAME} has no champion yet"]
    few = outlook(manifest(site.folder / "few", num_evaluation=4), small_config())
    assert few[1] == (
        "4 evaluation cases are too few for a decision, 10 are needed (promotion.min_cases): the model will be "
        "registered, not promoted"
    )


def champion(site: Site, config: RunConfig, **changes: object) -> None:
    """Let a model be champion whose record says something else than others."""
    from tests.helpers import tracking

    original = tracking.model_record

    def changed(*arguments: object, **facts: object) -> ModelRecord:
        return original(*arguments, **facts, **changes)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "model_record", changed)
        site.promote(site.train(seed=0, config=config))


def test_a_champion_of_another_grid_will_be_scored_on_its_own(site: Site) -> None:
    """Was found after hours: "it works on a grid of ..., this store has ..."."""
    coarse: Mapping[str, object] = {"grid_shape": (4, 8, 8), "grid_spacing_mm": (16.0, 16.0, 16.0)}
    champion(site, small_config(preprocess=coarse), seen=SeenGroups.of([f"pt_{i}" for i in range(5)], "salt"))
    said = outlook(manifest(site.folder / "manifest"), small_config())
    assert said[0] == f"the champion of {NAME}, version 1, is to be beaten"
    assert said[1].startswith("it works on a grid of [4, 8, 8] voxels")
    assert said[2] == "it learned from 5 of 12 evaluation cases, which do not count"
    assert said[3].startswith("7 evaluation cases are too few for a decision, 10 are needed")


def test_a_champion_of_other_data_stops_the_run_before_it_trains_unless_a_new_line_is_wanted(site: Site) -> None:
    champion(site, small_config())
    other = DataSpec.from_json(SPEC.to_json() | {"structures": [*SPEC.structures, "Heart"]}, "here", "nothing")
    folder = manifest(site.folder / "manifest", spec=other)
    with pytest.raises(ConfigError, match=r"version 1, cannot be compared.*structures.*promotion\.new_line=true"):
        outlook(folder, small_config())
    (said,) = outlook(folder, small_config(promotion={"new_line": True}))
    assert said.startswith("a new line of models starts, as promotion.new_line says")
