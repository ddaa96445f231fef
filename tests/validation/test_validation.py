"""The gate: which expectation rejects which case, when it stops, and what it leaves behind."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ctan.datasets import get_dataset
from ctan.errors import DataError, GateError
from ctan.settings import config_from_yaml, load_config
from ctan.store.manifest import (
    MANIFEST_FILE,
    QUARANTINE_FILE,
    QUARANTINE_SCHEMA,
    SCHEMA,
    read_manifest,
    write_manifest,
)
from ctan.validation import ValidationSummary, stop_unless_passed, suite, validate
from ctan.validation.copies import Copies
from ctan.validation.suite import expectations, frame_of

DATASET = get_dataset("openkbp")
NAN = float("nan")


def good(case_id: str, **changes: Any) -> dict[str, Any]:
    """Return the manifest row of a case that nothing is wrong with, but for `changes`."""
    row: dict[str, Any] = {
        "dataset": "openkbp",
        "case_id": case_id,
        "group_id": case_id,
        "split": "train",
        "fold": 0,
        "sha256": f"files of {case_id}",
        "image_sha256": f"image of {case_id}",
        "dose_sha256": f"dose of {case_id}",
        "looks": "",
        "shape": [128, 128, 128],
        "spacing_mm": [3.9, 3.9, 2.5],
        "extent": [90, 120, 128],
        "ct_min": 0,
        "ct_max": 3000,
        "num_mask_voxels": 9000,
        "num_known_dose_voxels": 9000,
        "dose_max_gy": 75.0,
        "dose_mean_gy": 20.0,
        "num_dose_voxels_outside_mask": 0,
        "num_covered_voxels": 0,
        "missing": [],
    }
    row |= {f"voxels_{name}": 50 for name in DATASET.spec.structures}
    row |= {f"level_gy_{name}": level for name, level in DATASET.spec.targets.items()}
    row |= {f"unknown_dose_share_{name}": 0.0 for name in DATASET.spec.structures}
    row |= {f"dose_mean_gy_{name}": level for name, level in DATASET.spec.targets.items()}
    assert not set(changes) - set(row)
    return row | changes


# case -> what is wrong with it, and the expectations that reject it
DEFECTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "unknown-split": ({"split": "holdout", "fold": -1}, {"split"}),
    "patient-1": ({"group_id": "shared"}, {"one-split"}),
    "patient-2": ({"group_id": "shared", "split": "validation", "fold": -1}, {"one-split"}),
    "fold-too-large": ({"fold": 5}, {"fold-of-training"}),
    "training-without-fold": ({"fold": -1}, {"fold-of-training"}),
    "validation-with-fold": ({"split": "validation", "fold": 0}, {"no-other-fold"}),
    "fine-voxels": ({"spacing_mm": [3.0, 0.49, 3.0]}, {"smallest-spacing"}),
    "coarse-voxels": ({"spacing_mm": [3.0, 3.0, 10.01]}, {"largest-spacing"}),
    "mixed-voxels": ({"spacing_mm": [0.1, 3.0, 11.0]}, {"smallest-spacing", "largest-spacing"}),
    "negative-ct": ({"ct_min": -1}, {"ct-range"}),
    "nothing-but-air": ({"ct_max": 999}, {"ct-tissue"}),
    "ct-overflow": ({"ct_max": 4096}, {"ct-tissue"}),
    "empty-mask": ({"num_mask_voxels": 0}, {"mask"}),
    "no-known-dose": ({"num_known_dose_voxels": 0}, {"known-dose"}),
    **{f"cut-{name}": ({f"unknown_dose_share_{name}": 0.001}, {f"{name}-dose-known"}) for name in DATASET.spec.targets},
    "hot-dose": ({"dose_max_gy": 100.1}, {"dose-maximum"}),
    "no-dose": ({"dose_max_gy": 0.0}, {"dose-maximum"}),
    "dose-outside": ({"num_dose_voxels_outside_mask": 1}, {"dose-inside-mask"}),
    "no-ptv70": ({"voxels_PTV70": None, "dose_mean_gy_PTV70": None, "missing": ["PTV70"]}, {"PTV70-present"}),
    "cold-ptv70": ({"dose_mean_gy_PTV70": 55.9}, {"PTV70-dose"}),
    "hot-ptv56": ({"dose_mean_gy_PTV56": 67.3}, {"PTV56-dose"}),
    "hot-ptv63": ({"dose_mean_gy_PTV63": 75.7}, {"PTV63-dose"}),
    **{  # one patient under two ids: passed, in training and validation
        f"{what}-{side}": ({f"{what}sha256": "one"} | changes, {"copies"})
        for what in ("", "image_", "dose_")
        for side, changes in (("left", {"fold": 1}), ("right", {"split": "validation", "fold": -1}))
    },
    "two-defects": ({"ct_min": -5, "dose_max_gy": 120.0}, {"ct-range", "dose-maximum"}),
    "nan-dose": ({"dose_max_gy": NAN, "dose_mean_gy": NAN}, {"complete"}),
    "nan-target-dose": ({"dose_mean_gy_PTV63": NAN}, {"complete"}),
    "nan-spacing": ({"spacing_mm": [3.0, NAN, 3.0]}, {"complete"}),
    "infinite-dose": ({"dose_max_gy": float("inf")}, {"dose-maximum"}),
    "no-spacing": ({"spacing_mm": []}, {"complete"}),
    **{
        f"lacks-{name}": ({name: None}, {"complete"})
        for name in (
            "group_id",
            "split",
            "fold",
            "sha256",
            "image_sha256",
            "spacing_mm",
            "ct_min",
            "ct_max",
            "num_mask_voxels",
            "num_known_dose_voxels",
            "dose_max_gy",
            "dose_mean_gy",
            "num_dose_voxels_outside_mask",
        )
    },
    **{f"empty-{name}": ({f"voxels_{name}": 0}, {f"{name}-voxels"}) for name in DATASET.spec.structures},
}

# each lies exactly on a bound, or lacks what a case may lack
FINE = [
    good("plain"),
    good("validation", split="validation", fold=-1),
    good("test", split="test", fold=-1),
    good("last-fold", fold=4),
    good("cut-organ", unknown_dose_share_SpinalCord=0.9),
    good(
        "bounds-low",
        spacing_mm=[0.5, 3.0, 3.0],
        ct_max=1000,
        num_mask_voxels=1,
        dose_max_gy=1.0,
        dose_mean_gy_PTV70=56.0,
        dose_mean_gy_PTV63=50.4,
        dose_mean_gy_PTV56=44.8,
    ),
    good(
        "bounds-high",
        spacing_mm=[10.0, 3.0, 3.0],
        ct_max=4095,
        dose_max_gy=100.0,
        dose_mean_gy_PTV70=84.0,
        dose_mean_gy_PTV63=75.6,
        dose_mean_gy_PTV56=67.2,
    ),
    good("not-contoured", voxels_PTV63=None, dose_mean_gy_PTV63=None, voxels_Larynx=None, missing=["PTV63", "Larynx"]),
    good("same-patient-1", group_id="twice-in-training"),
    good("same-patient-2", group_id="twice-in-training"),
]


@dataclass(frozen=True)
class Run:
    """A validation: the folder it wrote to, its summary, and the error that the gate makes of its verdict."""

    folder: Path
    summary: ValidationSummary
    error: GateError | None = None

    @property
    def manifest(self) -> list[dict[str, Any]]:
        return read_manifest(self.folder / "out" / MANIFEST_FILE, SCHEMA(DATASET.spec)).to_pylist()

    @property
    def quarantine(self) -> list[dict[str, str]]:
        return read_manifest(self.folder / "out" / QUARANTINE_FILE, QUARANTINE_SCHEMA).to_pylist()

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


def run(folder: Path, rows: list[dict[str, Any]], share: float, quarantine: list[dict[str, str]] | None = None) -> Run:
    """Validate rows, allowing a share of them to fail."""
    write_manifest(rows, folder / "in" / MANIFEST_FILE, SCHEMA(DATASET.spec))
    write_manifest(quarantine or [], folder / "in" / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    DATASET.spec.save(folder / "in")
    config = load_config("smoke", {"validation.max_quarantined_share": share})
    summary = validate(folder / "in", folder / "out", folder / "report.html", config)
    try:
        stop_unless_passed(summary.verdict)
    except GateError as error:
        return Run(folder, summary, error)
    return Run(folder, summary)


def ingest_row(case_id: str, reason: str) -> dict[str, str]:
    return {"dataset": "openkbp", "case_id": case_id, "split": "train", "step": "ingest", "reason": reason}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Good cases, every defect once, an id that two cases have, and one case that ingestion rejected."""
    bad = [good(case_id, **changes) for case_id, (changes, _) in DEFECTS.items()]
    other = dict.fromkeys(("sha256", "image_sha256", "dose_sha256"), "other")
    same_id = [good("same-id", group_id="a"), good("same-id", group_id="b", **other)]
    before = [ingest_row("broken", "ct.csv is missing & <gone>")]
    return run(tmp_path_factory.mktemp("everything"), FINE + bad + same_id, 1.0, before)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three of ten cases rejected, one by ingestion, where 29% are allowed."""
    rows = [good(f"pt_{i}") for i in range(1, 8)] + [good("pt_8", ct_min=-7), good("pt_9", num_mask_voxels=0)]
    return run(tmp_path_factory.mktemp("stopped"), rows, 0.29, [ingest_row("pt_10", "dose.csv: index 9 twice")])


def reasons(done: Run) -> dict[str, set[str]]:
    """Return case id -> names of the expectations that rejected it."""
    return {
        row["case_id"]: {reason.split(":")[0] for reason in row["reason"].split("; ") if "expected:" in reason}
        for row in done.quarantine
        if row["step"] == "validate"
    }


def test_every_defect_is_rejected_by_its_expectation_and_by_no_other(everything: Run) -> None:
    expected = {case_id: names for case_id, (_, names) in DEFECTS.items()}
    assert reasons(everything) == expected | {"same-id": {"unique-id"}}


def test_every_expectation_about_cases_rejects_some_case(everything: Run) -> None:
    """A new expectation needs a defect in this file."""
    suite = expectations(DATASET, load_config("smoke"))
    assert {one.name for one in suite if one.about_cases} == set().union(*reasons(everything).values())


def test_the_columns_are_those_of_the_schema_and_those_derived_from_it() -> None:
    columns = next(one for one in expectations(DATASET, load_config("smoke")) if one.name == "columns")
    frame = frame_of(pa.Table.from_pylist(FINE, SCHEMA(DATASET.spec)), DATASET.spec, Copies())
    assert set(frame.columns) == set(columns.arguments["column_set"]) > set(SCHEMA(DATASET.spec).names)


def test_cases_on_the_bounds_and_cases_without_optional_structures_pass_unchanged(everything: Run) -> None:
    assert everything.manifest == FINE


def test_a_reason_holds_what_was_expected_and_what_was_found(everything: Run) -> None:
    found = {row["case_id"]: row["reason"] for row in everything.quarantine}
    assert found["hot-dose"] == "dose-maximum: expected: The maximum dose is between 1 and 100 Gy; found 100.1 Gy"
    assert found["no-ptv70"] == "PTV70-present: expected: PTV70 is contoured; found nothing"
    assert found["cold-ptv70"] == (
        "PTV70-dose: expected: Mean dose in PTV70 is within 20% of its prescription 70 Gy; found 55.9 Gy"
    )
    assert found["nan-dose"] == (
        "complete: expected: Every quantity of the case is known; found no dose_max_gy, no dose_mean_gy"
    )


def test_what_ingestion_rejected_stays_in_quarantine(everything: Run) -> None:
    assert everything.quarantine[0] == ingest_row("broken", "ct.csv is missing & <gone>")
    assert {row["split"] for row in everything.quarantine if row["case_id"] == "validation-with-fold"} == {"validation"}


def test_the_summary_counts_cases_and_expectations(everything: Run) -> None:
    num_rejected = len(DEFECTS) + 2 + 1  # two cases share an id, one was rejected before
    summary = everything.summary
    assert summary.num_cases == len(FINE)
    assert summary.num_quarantined == num_rejected
    assert summary.quarantined_share == pytest.approx(num_rejected / (num_rejected + len(FINE)))
    assert summary.num_failed_expectations == len(set().union(*reasons(everything).values()))
    assert summary.num_expectations == len(expectations(DATASET, load_config("smoke")))
    written = json.loads((everything.folder / "out" / "summary.json").read_text(encoding="utf-8"))
    assert written == asdict(summary) | {"remarks": []}
    assert config_from_yaml(everything.folder / "out" / "config.yaml").validation.max_quarantined_share == 1.0


def test_the_report_loads_nothing_and_names_every_rejected_case(everything: Run) -> None:
    page = everything.page
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    for address in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page):
        assert address.startswith("data:image/png;base64,")
    assert not re.search(r"url\(", page)
    for case_id in [*DEFECTS, "same-id", "broken"]:
        assert f"<td>{case_id}</td>" in page
    assert "ct.csv is missing &amp; &lt;gone&gt;" in page
    assert "Passed" in page
    assert "Why the gate stopped" not in page


def test_the_gate_stops_where_too_many_cases_are_in_quarantine(stopped: Run) -> None:
    message = str(stopped.error)
    assert "3 of 10 cases (30.0%) are in quarantine, validation.max_quarantined_share allows 29.0%" in message
    assert "ct-range (CT values lie within 0 to 4095): pt_8\n" in message
    assert "mask (The possible-dose mask is not empty): pt_9\n" in message
    assert "ingest: pt_10: dose.csv: index 9 twice\n" in message
    assert "pt_1\n" not in message


def test_tables_and_report_are_written_although_the_gate_stops(stopped: Run) -> None:
    assert [row["case_id"] for row in stopped.manifest] == [f"pt_{i}" for i in range(1, 8)]
    assert [row["case_id"] for row in stopped.quarantine] == ["pt_10", "pt_8", "pt_9"]
    assert "Why the gate stopped" in stopped.page
    assert "3 of 10 cases" in stopped.page
    assert sorted(path.name for path in stopped.folder.iterdir()) == ["in", "out", "report.html"]


def test_exactly_the_allowed_share_may_fail(tmp_path: Path) -> None:
    done = run(tmp_path, [good(f"pt_{i}") for i in range(3)] + [good("pt_9", ct_min=-1)], 0.25)
    assert done.summary.quarantined_share == 0.25


def test_the_gate_stops_where_no_case_is_left_whatever_share_may_fail(tmp_path: Path) -> None:
    done = run(tmp_path, [good("pt_1", ct_min=-1)], 1.0)
    assert "1 of 1 cases (100.0%)" in str(done.error)
    assert "No case passed." in done.page


def test_many_failing_cases_are_counted_and_not_all_named(tmp_path: Path) -> None:
    done = run(tmp_path, [good(f"pt_{i}", ct_min=-1) for i in range(14)], 0.1)
    assert re.search(r"ct-range .*: pt_0, pt_1, .*, pt_9 and 4 more\n", str(done.error))
    assert "pt_13" in done.page


def test_an_empty_manifest_stops_the_gate_and_says_why_it_is_empty(tmp_path: Path) -> None:
    done = run(tmp_path, [], 1.0, [ingest_row("pt_1", "ct.csv is missing")])
    assert "the manifest as a whole fails: rows (There is at least one case)" in str(done.error)
    assert "ingest: pt_1: ct.csv is missing" in str(done.error)
    assert done.manifest == []
    assert "Why the gate stopped" in done.page
    assert "ct.csv is missing" in done.page


def test_a_case_without_an_id_stops_the_gate(tmp_path: Path) -> None:
    done = run(tmp_path, [good("pt_1"), good("pt_2") | {"case_id": None}], 1.0)
    assert "id (Every case has an id)" in str(done.error)


def test_a_clean_manifest_passes_with_an_empty_quarantine(tmp_path: Path) -> None:
    done = run(tmp_path, FINE, 0.0)
    assert (done.summary.num_quarantined, done.summary.num_failed_expectations) == (0, 0)
    assert done.quarantine == []
    assert "Empty: every case passed." in done.page


@pytest.mark.parametrize("name", [MANIFEST_FILE, QUARANTINE_FILE])
@pytest.mark.parametrize("damage", ["missing", "garbage", "other table"])
def test_a_missing_or_damaged_table_is_named_and_nothing_is_written(tmp_path: Path, name: str, damage: str) -> None:
    DATASET.spec.save(tmp_path / "in")
    write_manifest([good("pt_1")], tmp_path / "in" / MANIFEST_FILE, SCHEMA(DATASET.spec))
    write_manifest([], tmp_path / "in" / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    if damage == "missing":
        (tmp_path / "in" / name).unlink()
    elif damage == "garbage":
        (tmp_path / "in" / name).write_bytes(b"PAR1 this is not")
    else:
        write_manifest(pa.table({"case_id": ["pt_1"]}), tmp_path / "in" / name)
    with pytest.raises(DataError, match=re.escape(name)):
        validate(tmp_path / "in", tmp_path / "out", tmp_path / "report.html", load_config("smoke"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_target_may_leave_the_dose_grid_where_a_setting_allows_it() -> None:
    frame = frame_of(
        pa.Table.from_pylist([good("cut", unknown_dose_share_PTV63=0.03)], SCHEMA(DATASET.spec)), DATASET.spec, Copies()
    )
    for allowed, passes in ((0.02, False), (0.03, True)):
        config = load_config("smoke", {"validation.max_unknown_target_share": allowed})
        outcomes = {outcome.expectation.name: outcome for outcome in suite.run(frame, expectations(DATASET, config))}
        assert outcomes["PTV63-dose-known"].success == passes
