"""Any models side by side, several settings of one architecture among them."""

import json

import pytest

from ctan.errors import ConfigError
from ctan.evaluation.settings_apart import names_of
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.records import ModelRecord
from ctan.tracking.side_by_side import compare_any, fetch_model
from tests.helpers.promotion import NAME, Site
from tests.helpers.tracking import small_config

pytest_plugins = ["tests.helpers.promotion"]


def config(**training: object):
    return small_config(data={"num_folds": 2}, training={"precision": "fp32", **training})


@pytest.mark.slow
def test_settings_of_one_architecture_are_compared_by_what_differs(site: Site) -> None:
    """Was refused: "... both hold ctan, fold 0, seed 0; give it once"."""
    one, other = config(epochs=4), config(epochs=8)
    first = site.train(seed=0, config=one)
    site.promote(first)
    run_id = json.loads((first / "model.json").read_text())["run_id"]
    second = site.folder / "second"
    site.train(seed=0, config=other).rename(second)
    source, manifest = "phantom:train=4,validation=2,seed=0", site.folder / "manifest"
    ingest(source, manifest, one, num_workers=0)
    pointer = preprocess(source, manifest, str(site.store_root), one, num_workers=1)

    found = compare_any([f"models:/{NAME}/1", str(second)], pointer, site.folder / "compared", one)
    assert [entry.arch for entry in found.architectures] == ["ctan, epochs=4", "ctan, epochs=8"]
    assert found.architectures[1].relative_improvement["evaluation"]
    page = (site.folder / "compared" / "report.html").read_text(encoding="utf-8")
    assert "CTAN, epochs=8" in page
    assert ModelRecord.load(fetch_model(f"runs:/{run_id}", site.folder / "fetched")).seed == 0
    with pytest.raises(ConfigError, match="expected a folder that `ctan train` wrote"):
        fetch_model("elsewhere", site.folder)


def test_folds_and_seeds_of_the_same_settings_share_a_name() -> None:
    from tests.helpers.contests import record

    settings = (config(), small_config(data={"num_folds": 2}, network={"num_stages": 2, "base_width": 8}))
    plain, wide = (record().model_copy(update={"config": one.model_dump(mode="json")}) for one in settings)
    assert names_of([plain, plain]) == ["ctan", "ctan"]
    assert names_of([plain, wide])[1].startswith("ctan, ")
    assert "base_width=8" in names_of([plain, wide])[1]
