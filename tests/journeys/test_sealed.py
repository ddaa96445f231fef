"""A registered version is scored on sealed test cases: same tables and page, nothing learnt from, each look counted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ctan import steps
from ctan.cli import app
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.records import ModelRecord
from ctan.sealed import score_on_test
from ctan.settings import load_config
from ctan.store import StorePointer, open_store
from ctan.tracking.server import connect

SETTINGS = {
    "data.dataset": "ham10000",
    "data.test_share": 0.25,
    "data.num_folds": 2,
    "preprocess.grid_shape": [32, 32],
    "network.base_width": 4,
    "training.epochs": 1,
    "validation.max_quarantined_share": 1.0,
}


@pytest.mark.slow
def test_a_registered_version_is_scored_on_cases_that_no_other_step_has_seen(
    tmp_path: Path, own_workspace: Path
) -> None:
    raw, root = tmp_path / "raw", str(tmp_path / "root")
    get_dataset("ham10000").write_phantoms(raw, 24, 8, 0)
    _, settings, origin = steps.resolve(str(raw), load_config("smoke", SETTINGS), root)
    steps.ingest(settings, origin, str(tmp_path / "m"), num_workers=0)
    steps.validate(str(tmp_path / "m"), str(tmp_path / "v"), str(tmp_path / "v.html"))
    steps.preprocess(str(raw), str(tmp_path / "v"), str(tmp_path / "store.json"), root, num_workers=1)
    in_steps = (str(tmp_path / "store.json"), str(tmp_path / "v"))
    steps.train(*in_steps, "stl", 0, 0, str(tmp_path / "model"), str(tmp_path / "checkpoints"))
    steps.evaluate(*in_steps, str(tmp_path / "model"), str(tmp_path / "e"))
    best = [str(tmp_path / name) for name in ("c", "r.html", "best")]
    steps.compare(*in_steps, [str(tmp_path / "e")], *best)
    steps.promote(*in_steps, best[0], best[2], str(tmp_path / "decision.json"))
    scored = pq.read_table(tmp_path / "c" / "cases.parquet")["case_id"].to_pylist()
    open_cases = set(open_store(StorePointer.load(tmp_path / "store.json")).case_ids())
    assert set(scored) <= open_cases

    name = json.loads((tmp_path / "decision.json").read_text())["model_name"]
    arguments = ["evaluate", f"models:/{name}/1", str(raw), "--split", "test", "--store-root", root]
    ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    folder = own_workspace / "test" / f"{name}-1"
    rows = pq.read_table(folder / "evaluation" / "cases.parquet").to_pylist()
    sealed = {row["case_id"] for row in rows}
    assert sealed
    assert not sealed & open_cases
    assert f"models:/{name}/1 on {len(sealed)} sealed test cases, look 1 at them" in ran.output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"Sealed test cases: none of the {len(sealed)} was trained on" in page

    assert score_on_test(f"models:/{name}/1", str(raw), tmp_path / "again", root).look == 2
    looks = [
        json.loads(line) for line in (tmp_path / "root" / "ledger" / f"{name}.test.jsonl").read_text().splitlines()
    ]
    assert [look["look"] for look in looks] == [1, 2]
    assert looks[0]["cases_sha256"] == looks[1]["cases_sha256"]
    assert not any(case_id in json.dumps(looks) for case_id in sealed), "a chained record names nobody"
    assert connect().get_model_version(name, "1").tags["test.look"] == "2"

    # Another division of the same data: some test cases were trained on.
    with pytest.raises(DataError, match=r"was trained on \d+ of the \d+ test groups .*another table of sides"):
        score_on_test(f"models:/{name}/1", str(raw), tmp_path / "third", str(other_division(tmp_path, raw)))
    assert ModelRecord.load(tmp_path / "model").seen is not None


def other_division(tmp_path: Path, raw: Path) -> Path:
    """Return a root whose table of sides puts training lesions of the first one on the test side."""
    table = json.loads(next((tmp_path / "root" / "sides").glob("*.json")).read_text())
    lesions = {case.group_id: case.case_id for case in get_dataset("ham10000").find(raw)}
    sides = {group: "test" if row["side"] == "train" else "train" for group, row in table["groups"].items()}
    path = tmp_path / "turned.csv"
    path.write_text("case,split\n" + "".join(f"{lesions[group]},{side}\n" for group, side in sides.items()))
    steps.resolve(str(raw), load_config("smoke", {**SETTINGS, "data.split": str(path)}), str(tmp_path / "other"))
    return tmp_path / "other"
