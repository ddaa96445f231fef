"""A workspace of release 0.1 is brought over: who measured still does, versions carry their chain, no paths stay."""

from __future__ import annotations

import dataclasses
import sqlite3
import tarfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ctan.cases import RawCase
from ctan.changes import carry_out
from ctan.cli import app
from ctan.cluster.schedule import Schedule
from ctan.errors import ConfigError, DataError
from ctan.inference import load_network
from ctan.intake.own_split import OwnSplit
from ctan.intake.sides import Table
from ctan.intake.sides_files import read_sides
from ctan.settings import load_config
from ctan.sources.places import recalled
from ctan.tracking.ledger import Ledger
from ctan.tracking.reference import download_model
from ctan.tracking.server import connect
from ctan.tracking.trace import trace
from ctan.upgrade import of_schedules, plan

PACKED = Path(__file__).parents[1] / "data" / "workspaces" / "0.1.tar.xz"
NAME, TABLE = "ctan-ham10000", "ham10000-seed0"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, as if it had been made where it lies now."""
    folder = tmp_path / "workspace"
    with tarfile.open(PACKED) as archive:
        archive.extractall(folder, filter="data")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, '/srv/workspace', ?)", (str(folder),))
    monkeypatch.setenv("CTAN_WORKSPACE", str(folder))
    return folder


def manifest(home: Path) -> list[dict[str, object]]:
    (path,) = home.glob("store/stores/*/manifest.parquet")
    return list(pq.read_table(path).to_pylist())


def version_tags() -> dict[str, str]:
    return dict(connect().get_model_version(NAME, "1").tags)


def test_what_would_be_done_is_said_and_nothing_is_changed(home: Path) -> None:
    before = version_tags()
    said = CliRunner().invoke(app, ["migrate", str(home), "--dry-run"])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert "would table of sides ham10000-seed0: " in said.output
    assert f"would version 1 of {NAME}: its chain and no paths" in said.output
    assert "would 1 MLflow runs: the path of their source becomes a hash of it" in lines
    assert f"-     ledger of {NAME}: 1 decisions are read as they are; the next one seals them" in lines
    assert f"would ledger of {NAME}: 1 per-case tables get a SHA-256" in lines
    assert any(line.startswith("-     1 stores of an older format are packed again by the next run") for line in lines)
    assert any("1 checkpoints of an older format" in line for line in lines)
    assert f"-     champion of {NAME}, version 1: stays, and is to be beaten; it loads and answers as before" in lines
    assert version_tags() == before
    assert not (home / "store" / "sides").exists()
    assert not list(home.glob("store/ledger/*/*.sha256"))


def test_it_is_brought_over_and_the_second_time_there_is_nothing_to_do(home: Path, tmp_path: Path) -> None:
    rows = manifest(home)
    client = connect()
    before = client.get_run(client.get_model_version(NAME, "1").run_id).data.tags["data_source"]
    assert CliRunner().invoke(app, ["migrate", str(home)]).exit_code == 0

    # sides and folds are those that 0.1 gave
    groups = read_sides(str(home / "store"), TABLE)["groups"]
    folds = str(load_config("smoke", ["data.dataset=ham10000"]).data.num_folds)
    assert {row["group_id"]: row["split"] for row in rows} == {group: row["side"] for group, row in groups.items()}
    for row in rows:
        assert groups[row["group_id"]]["folds"].get(folds, -1) == row["fold"]
    # nobody moves when the same data and a new lesion come
    data = load_config("smoke", ["data.dataset=ham10000"]).data
    cases = [
        RawCase(str(row["case_id"]), str(row["group_id"]), "", home, strata=(str(row["label_diagnosis"]),))
        for row in rows
    ]
    table = Table.from_json(read_sides(str(home / "store"), TABLE))
    grown = table.joined(
        [*cases, RawCase("new", "new", "", home, strata=("df",))], data, True, OwnSplit.of(data, cases)
    )
    assert {group: grown.groups[group] for group in table.groups} == table.groups
    counts = Counter(str(row["group_id"]) for row in rows)
    assert {group: sum(row.cases.values()) for group, row in table.groups.items()} == counts

    # the version says it all itself, and no path
    tags = version_tags()
    assert before == "/srv/clinic/dr-smith"
    assert tags["data_source"].startswith("folder:")
    assert recalled(tags["data_source"]) == before
    run_tags = client.get_run(client.get_model_version(NAME, "1").run_id).data.tags
    assert "dr-smith" not in str([tags, run_tags])
    assert {name: tags[name] for name in ("arch", "config_hash", "code_hash", "profile")} == {
        name: run_tags[name] for name in ("arch", "config_hash", "code_hash", "profile")
    }
    assert trace(f"models:/{NAME}@champion").subject.facts["alias"] == "champion"
    loaded = load_network(download_model(client.get_model_version(NAME, "1"), tmp_path))
    assert loaded.spec.dataset == "ham10000"

    # the ledger is read, and the next decision seals it
    ledger = Ledger(str(home / "store"), NAME)
    (kept,) = (home / "store" / "ledger" / NAME).glob("*.parquet")
    assert ledger.table_path(ledger.entries()[0]["weights_sha256"], "e" * 64) == kept
    ledger.append(ledger.entries()[0] | {"version": "2"})
    assert ledger.verify() == 2
    ledger.path.write_text(ledger.path.read_text().replace('"the first model"', '"the second model"', 1))
    with pytest.raises(DataError, match="line 2 does not follow from the lines before it"):
        ledger.entries()

    said = CliRunner().invoke(app, ["migrate", str(home)])
    assert said.exit_code == 1, "the ledger that was just spoilt is found"
    ledger.path.write_text(ledger.path.read_text().replace('"the second model"', '"the first model"', 1))
    said = CliRunner().invoke(app, ["migrate", str(home)])
    assert said.output.splitlines()[-1] == "nothing to do"
    assert "would" not in said.output


def test_killed_half_way_the_rest_is_in_the_next_plan(home: Path) -> None:
    for _ in range(8):
        todo = [change for change in plan() if change.do]
        carry_out(todo[:1])
        if not todo:
            break
    assert not todo
    assert read_sides(str(home / "store"), TABLE)["groups"]
    assert "dr-smith" not in str(version_tags())


def test_a_version_whose_store_is_gone_is_said(home: Path) -> None:
    (path,) = home.glob("store/stores/*/manifest.parquet")
    path.unlink()
    (said,) = [str(change) for change in plan() if "sides are not known" in str(change)]
    assert f"version 1 of {NAME}: its sides are not known (store {path.parent.name} is not under" in said


def test_no_workspace_is_made_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "typo"))
    with pytest.raises(ConfigError, match="typo: no such workspace"):
        plan()
    assert not (tmp_path / "typo").exists()


def test_schedules_are_replaced_by_a_command_that_can_be_copied() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    parameters = {
        "source": "dvc:https://host/team/data@main",
        "epochs": 0,
        "architectures": ["stl", "ctan"],
        "dicom": "x",
    }
    schedule = Schedule("1", "weekly", "0 0 3 * * 1", True, parameters, "hash", 1, True, now, "https://kfp")
    (said,) = of_schedules([schedule])
    assert str(said) == (
        "schedule weekly: runs what it was made with; dicom is no parameter any more; replace it: ctan schedule --name "
        "weekly --cron '0 3 * * 1' source=dvc:https://host/team/data@main architectures='[\"stl\", \"ctan\"]'"
    )
    assert said.do is None
    assert dataclasses.is_dataclass(said)
