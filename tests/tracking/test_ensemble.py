"""Two trainings become one version in the registry."""

from __future__ import annotations

import pytest

from ctan.files import sha256_of_file
from ctan.inference import load_network
from ctan.records import ModelRecord
from ctan.tracking.ensemble import log_ensemble
from ctan.tracking.side_by_side import fetch_model
from tests.helpers.promotion import LINEAGE, NAME, Site
from tests.helpers.tracking import pointer_at

pytest_plugins = ["tests.helpers.promotion"]


@pytest.mark.slow
def test_an_ensemble_is_registered_and_promoted_as_one_version(site: Site) -> None:
    members = [site.train(seed=seed, lineage={**LINEAGE, "pipeline_run": "local/1"}) for seed in (0, 1)]
    pointer = pointer_at(site.store_root)
    record = log_ensemble(pointer, members, site.folder / "together", LINEAGE)
    runs = [ModelRecord.load(folder).run_id for folder in members]
    assert [member.run_id for member in record.members] == runs
    run = site.client.get_run(record.run_id)
    assert (run.info.run_name, run.info.status) == ("ctan, ensemble of 2", "FINISHED")
    assert run.data.tags["members"] == ",".join(runs)
    assert run.data.tags["pipeline_run"] == "local/1", "that of its members"
    assert log_ensemble(pointer, members, site.folder / "again", LINEAGE).run_id == record.run_id

    decision = site.promote(site.folder / "together")
    assert decision.promoted, decision.reason
    version = site.client.get_model_version(NAME, decision.version)
    assert (version.run_id, version.tags["members"]) == (record.run_id, ",".join(runs))
    assert version.tags["arch"] == "ctan, ensemble of 2"
    assert "fold 0, seed 1" in version.description
    fetched = fetch_model(f"models:/{NAME}/1", site.folder / "fetched")
    weights = "model.safetensors"
    assert sha256_of_file(fetched / weights) == sha256_of_file(site.folder / "together" / weights)
    assert len(load_network(fetched).each) == 2
