"""Forgetting a subject: nothing that can be reached names it afterwards, and whoever learned from it is named."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctan import steps
from ctan.changes import carry_out
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.evaluation.cases import write_cases
from ctan.forget import plan
from ctan.intake.sides_files import read_sides
from ctan.records import EvaluationRecord, ModelRecord
from ctan.records.seen import SeenGroups
from ctan.redact import Subject, without
from ctan.settings import load_config, read_config
from ctan.sources import buckets, objects
from ctan.store import StorePointer, open_store
from ctan.store.manifest import read_manifest
from ctan.tracking import log_results, training_run
from ctan.tracking.ledger import Ledger
from ctan.tracking.review import log_page
from tests.helpers.promotion import NAME, Site
from tests.helpers.s3 import S3Server
from tests.helpers.tracking import pointer_at, small_config, write_model

pytest_plugins = ["tests.helpers.promotion", "tests.helpers.s3"]
TABLE = "ham10000-seed0"


def ingested(raw: Path, run: Path, store_root: str = "") -> dict[str, str]:
    """Ingest, validate and pack; return group -> one of its cases."""
    config = load_config("smoke", ["data.dataset=ham10000", "preprocess.grid_shape=[32,32]"])
    source, settings, origin = steps.resolve(str(raw), config, store_root)
    run.mkdir(parents=True)
    steps.ingest(settings, origin, str(run / "manifest"), 0, str(run / "contact-sheet.html"))
    steps.validate(str(run / "manifest"), str(run / "validated"), str(run / "validation.html"))
    steps.preprocess(source, str(run / "validated"), str(run / "pointer.json"), store_root, num_workers=1)
    rows = read_manifest(run / "validated" / "manifest.parquet").to_pylist()
    return {row["group_id"]: row["case_id"] for row in rows if row["split"] == "train"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    get_dataset("ham10000").write_phantoms(tmp_path / "raw", 8, 2, 0)
    return tmp_path / "raw"


def evaluated(case_ids: dict[str, str], folder: Path) -> None:
    """Write what an evaluation would of these cases, with its record."""
    folder.mkdir(parents=True)
    base = {"arch": "stl", "fold": 0, "seed": 0, "role": "evaluation", "task": "contours", "metric": "dice"}
    write_cases(
        [
            base | {"case_id": case, "group_id": group, "structure": "Lesion", "value": 0.5}
            for group, case in case_ids.items()
        ],
        folder / "cases.parquet",
    )
    np.savez_compressed(
        folder / "figures.npz", **{f"{case}/picture/rgb": np.ones((3, 4, 4)) for case in case_ids.values()}
    )
    EvaluationRecord(scores={}, num_cases={"evaluation": len(case_ids)}, seconds=1.0, store_key="k").save(folder)


@pytest.fixture
def known(raw: Path, site: Site) -> dict[str, str]:
    """A workspace in which a run, an evaluation, a prediction, the ledger and MLflow know of every subject."""
    home = site.store_root.parent
    run = home / "runs" / "one"
    case_ids = ingested(raw, run)
    evaluated(case_ids, run / "evaluation")
    first, second = list(case_ids)[:2]
    (run / "run.log").write_text(f"ingest: {case_ids[first]} looks odd\nall is well\n")
    for case in (case_ids[first], case_ids[second]):
        (home / "predicted" / case).mkdir(parents=True)
        (home / "predicted" / case / "mask.png").write_bytes(b"png")
    with training_run(
        small_config(), pointer_at(site.store_root), "ctan", 0, 0, lineage={"note": case_ids[first]}
    ) as tracked:
        model = write_model(site.folder / "model", small_config(), "ctan", 0, tracked.run_id)
        record = ModelRecord.load(model)
        record.model_copy(update={"seen": SeenGroups.of(case_ids, "salt")}).save(model)
        tracked.log_model(model)
    log_results(tracked.run_id, {}, [run / "evaluation" / "cases.parquet"])
    log_page(tracked.run_id, f"<p>{case_ids[first]}</p><img>", "results/report.html")
    log_page(tracked.run_id, f"<p>{case_ids[second]}</p>", "results/other.html")
    site.promote(model)
    Ledger(str(site.store_root), NAME).keep_table(
        "w" * 64, "e" * 64, pq.read_table(run / "evaluation" / "cases.parquet")
    )
    (home / "raw" / "copy").mkdir(parents=True)
    return case_ids


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the content, as text, of every file of ours, also of what Parquet and zip hide."""
    for path in sorted(folder.rglob("*")):
        yield "name", path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith("mlflow.db"):
            continue
        if path.suffix == ".parquet":
            yield str(path), str(pq.read_table(path).to_pylist())
        elif path.suffix == ".npz":
            with np.load(path) as found:
                yield str(path), str(found.files)
        else:
            yield str(path), path.read_bytes().decode("latin-1")


def named(folder: Path, *ids: str) -> list[str]:
    return [where for where, text in texts(folder) if any(name in text for name in ids)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "mlflow.db" not in p.name}


def tags_of(site: Site) -> str:
    runs = site.client.search_runs([found.experiment_id for found in site.client.search_experiments()])
    return str([run.data.tags for run in runs])


def test_a_subject_is_taken_out_of_everything_that_can_be_reached(known: dict[str, str], site: Site) -> None:
    home = site.store_root.parent
    group, other = list(known)[:2]
    case = known[group]
    before = tree(home)
    changes = plan(group)
    said = "\n".join(map(str, changes))
    assert tree(home) == before, "a plan changes nothing"
    assert f"models:/{NAME}/1: learned from it" in said
    for what in ("contact-sheet.html", "validated/manifest.parquet", "figures.npz", "results/report.html", "raw/copy"):
        assert what in said
    assert "not reached: raw files at their source, and backups" in said

    carry_out(changes)
    assert named(home, group, case) == []
    assert case not in tags_of(site)
    # what is about others is still there, and still vouched for
    run = home / "runs" / "one"
    read_config(run / "validated")
    rows = read_manifest(run / "validated" / "manifest.parquet").to_pylist()
    assert {row["group_id"] for row in rows} >= set(known) - {group}
    kept = EvaluationRecord.load(run / "evaluation")
    assert kept.files["cases.parquet"]
    pq.read_table(EvaluationRecord.vouched(run / "evaluation", "cases.parquet"))
    with np.load(EvaluationRecord.vouched(run / "evaluation", "figures.npz")) as figures:
        assert {name.split("/")[0] for name in figures.files} == set(known.values()) - {case}
    assert (run / "run.log").read_text() == "ingest: forgotten looks odd\nall is well\n"
    assert (home / "predicted" / known[other]).is_dir()
    assert group not in read_sides(str(site.store_root), TABLE)["groups"]
    assert other in read_sides(str(site.store_root), TABLE)["groups"]
    ledger = Ledger(str(site.store_root), NAME)
    assert ledger.verify() == 1
    assert len(pq.read_table(ledger.table_path("w" * 64, "e" * 64))) == len(known) - 1
    artifacts = [path for path in named(home / "mlartifacts", known[other]) if path.endswith("other.html")]
    assert artifacts, "pages about others stay"

    with pytest.raises(DataError, match=f"{group}: no table of .* knows such a patient or lesion"):
        plan(group)
    with pytest.raises(DataError, match=f"{known[other]}: is one case of {other}; name that"):
        plan(known[other])


def test_killed_half_way_the_same_command_goes_on(known: dict[str, str], site: Site) -> None:
    """Also when the tables by which its cases are known are gone already."""
    home = site.store_root.parent
    group = next(iter(known))
    for _ in range(30):
        changes = [change for change in plan(group) if change.do]
        carry_out(changes[: 1 + len(changes) // 2])  # the note first, and some of the rest
        if len(changes) <= 2:
            break
    assert named(home, group, known[group]) == []
    assert known[group] not in tags_of(site)
    assert not list(home.glob(".forgetting-*"))


def test_stores_sides_and_tables_in_a_bucket_are_reached_too(
    raw: Path, site: Site, credentials: None, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    root = f"s3://{bucket}/team"
    run = site.store_root.parent / "runs" / "one"
    case_ids = ingested(raw, run, root)
    evaluated(case_ids, run / "evaluation")
    Ledger(root, NAME).keep_table("w" * 64, "e" * 64, pq.read_table(run / "evaluation" / "cases.parquet"))
    pointer = StorePointer.load(run / "pointer.json")
    open_store(pointer)
    group = next(iter(case_ids))
    carry_out(plan(group, root))
    assert not [name for name in buckets.list_objects(root) if name.startswith("stores/")]
    assert group not in read_sides(root, TABLE)["groups"]
    for name in buckets.list_objects(root):
        content = objects.read_object(buckets.join(root, name)) or b""
        text = (
            str(pq.read_table(io.BytesIO(content)).to_pylist())
            if name.endswith(".parquet")
            else content.decode("latin-1")
        )
        assert group not in text
        assert case_ids[group] not in text
    assert named(site.store_root.parent, group, case_ids[group]) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.json",
            {"cases": ["pt_1", "pt_10"], "pt_1": 3, "said": "pt_1 is odd"},
            {"cases": ["pt_10"], "said": "forgotten is odd"},
        ),
        ("a.json", {"rows": [{"case_id": "pt_1", "x": 1}, {"case_id": "pt_2"}]}, {"rows": [{"case_id": "pt_2"}]}),
    ],
)
def test_json_keeps_what_is_about_others(name: str, content: Any, expected: Any) -> None:
    found = without(name, json.dumps(content).encode(), Subject("pt_1", frozenset({"pt_1"})))
    assert found is not None
    assert json.loads(found) == expected


def test_ids_that_begin_alike_are_others() -> None:
    subject = Subject("pt_1", frozenset({"pt_1"}))
    assert without("a.csv", b"case,dice\npt_1,0.5\npt_10,0.6\n", subject) == b"case,dice\npt_10,0.6\n"
    assert without("a.html", b"<p>pt_10</p>", subject) == b"<p>pt_10</p>"
    assert without("a.html", b"<p>pt_1</p>", subject) is None
    assert subject.names_file(Path("pt_1.nii.gz"))
    assert subject.names_file(Path("pt_1-axial.png"))
    assert not subject.names_file(Path("pt_10"))
    plain = Subject("12", frozenset({"12"}))  # STOIC's patients are numbers
    assert (
        without("a.json", b'{"seconds": 12, "ids": ["12", "13"]}', plain)
        == b'{\n  "seconds": 12,\n  "ids": [\n    "13"\n  ]\n}\n'
    )
    assert without("a.log", b"12 s, about 0 s left", plain) == b"12 s, about 0 s left"
