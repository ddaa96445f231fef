"""Ingestion measures every case, keeps the broken ones apart with the reason, and never depends on how it ran."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image, ImageOps

from ctan.cases import RawCase
from ctan.cases.sides import check_sides
from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.errors import CaseError, ConfigError, DataError
from ctan.intake.ingest import _chosen, ingest, read_case
from ctan.intake.own_split import OwnSplit
from ctan.intake.sides import Table
from ctan.settings import config_from_yaml, load_config
from ctan.sources import open_source, parse_phantom
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, read_manifest
from ctan.validation import validate

DATASET = get_dataset("openkbp")
CONFIG = load_config("smoke")
SOURCE = "phantom:train=5,validation=1,seed=2"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    DATASET.write_phantoms(folder, num_train=5, num_validation=1, seed=2)
    return folder


@pytest.fixture
def raw(written, tmp_path):
    """Raw files that a test may damage."""
    shutil.copytree(written, tmp_path / "raw")
    return tmp_path / "raw"


def manifest_of(folder):
    return read_manifest(folder / MANIFEST_FILE, SCHEMA(DATASET.spec))


def quarantine_of(folder):
    return read_manifest(folder / QUARANTINE_FILE, QUARANTINE_SCHEMA).to_pylist()


def dense(path, fill=None):
    """Read a raw file with NumPy alone, (128^3,) float64."""
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    values = np.zeros(128**3)
    values[[int(row[0]) for row in rows]] = fill or [float(row[1]) for row in rows]
    return values


def test_the_manifest_holds_what_numpy_measures_in_the_raw_files(written, tmp_path):
    summary = ingest(str(written), tmp_path, CONFIG, num_workers=0)
    rows = manifest_of(tmp_path).to_pylist()
    assert [row["case_id"] for row in rows] == ["pt_1", "pt_2", "pt_3", "pt_4", "pt_5", "pt_201"]
    for row in rows:
        folder = written / f"{row['split']}-pats" / row["case_id"]
        ct, dose = dense(folder / "ct.csv"), dense(folder / "dose.csv")
        possible = dense(folder / "possible_dose_mask.csv", fill=1) == 1
        assert (row["dataset"], row["group_id"], row["shape"]) == ("openkbp", row["case_id"], [128, 128, 128])
        assert row["spacing_mm"] == np.loadtxt(folder / "voxel_dimensions.csv").tolist()
        assert (row["ct_min"], row["ct_max"]) == (ct.min(), ct.max())
        assert row["num_mask_voxels"] == possible.sum()
        assert row["dose_max_gy"] == pytest.approx(dose.max(), rel=1e-6)
        assert row["dose_mean_gy"] == pytest.approx(dose[possible].mean(), rel=1e-6)
        assert row["num_dose_voxels_outside_mask"] == 0
        absent = [name for name in DATASET.spec.structures if not (folder / f"{name}.csv").exists()]
        assert row["missing"] == absent
        for name in DATASET.spec.structures:
            mask = None if name in absent else dense(folder / f"{name}.csv", fill=1) == 1
            assert row[f"voxels_{name}"] == (None if mask is None else mask.sum())
            if name in DATASET.spec.targets and mask is not None:
                assert row[f"dose_mean_gy_{name}"] == pytest.approx(dose[mask].mean(), rel=1e-6)
    assert any(row["missing"] for row in rows)
    assert quarantine_of(tmp_path) == []
    assert (summary.num_cases, summary.num_quarantined) == (6, 0)
    assert summary.cases_per_split == {"train": 5, "validation": 1}
    assert json.loads((tmp_path / "summary.json").read_text())["num_cases"] == 6
    assert (tmp_path / "config.yaml").read_text() == CONFIG.to_yaml()


def test_training_cases_are_spread_over_the_folds_and_others_are_in_none(written, tmp_path):
    ingest(str(written), tmp_path, CONFIG, num_workers=0)
    rows = manifest_of(tmp_path).to_pylist()
    assert {row["fold"] for row in rows if row["split"] == "train"} == set(range(CONFIG.data.num_folds))
    assert {row["fold"] for row in rows if row["split"] != "train"} == {-1}


def test_dose_outside_the_mask_is_counted(raw, tmp_path):
    path = raw / "train-pats" / "pt_1" / "dose.csv"
    path.write_text(path.read_text() + "2097150,1.5\n2097151,2.0\n")
    ingest(str(raw), tmp_path / "out", CONFIG, num_workers=0)
    assert manifest_of(tmp_path / "out")["num_dose_voxels_outside_mask"].to_pylist() == [2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_case_goes_to_quarantine_with_the_reason_and_the_others_stay(raw, tmp_path, num_workers):
    (raw / "train-pats" / "pt_3" / "dose.csv").unlink()
    (raw / "validation-pats" / "pt_201" / "ct.csv").write_text(",data\n-4,1.0\n")
    summary = ingest(str(raw), tmp_path / "out", CONFIG, num_workers=num_workers)
    assert manifest_of(tmp_path / "out")["case_id"].to_pylist() == ["pt_1", "pt_2", "pt_4", "pt_5"]
    common = {"dataset": "openkbp", "step": "ingest"}
    assert quarantine_of(tmp_path / "out") == [
        {**common, "case_id": "pt_3", "split": "train", "reason": "dose.csv missing; every patient needs them"},
        {
            **common,
            "case_id": "pt_201",
            "split": "validation",
            "reason": "ct.csv: line 2: index -4 out of range 0..2097151",
        },
    ]
    assert (summary.num_cases, summary.num_quarantined, summary.cases_per_split) == (4, 2, {"train": 4})


def test_when_all_cases_are_broken_the_verdict_and_the_page_say_why(raw, tmp_path):
    """Ingestion failed here: on a cluster its table of reasons was lost with the pod."""
    for folder in raw.glob("*/pt_*"):
        (folder / "voxel_dimensions.csv").write_text("3.9\n")
    summary = ingest(str(raw), tmp_path / "out", CONFIG, num_workers=2)
    assert (summary.num_cases, summary.num_quarantined) == (0, 6)
    assert "pt_1: voxel_dim" in str(summary)
    assert len(quarantine_of(tmp_path / "out")) == 6
    assert manifest_of(tmp_path / "out").num_rows == 0
    config = config_from_yaml(tmp_path / "out" / "config.yaml")
    verdict = validate(tmp_path / "out", tmp_path / "validated", tmp_path / "page.html", config).verdict
    assert "ingest: pt_1: voxel_dim" in verdict
    assert "ingest: pt_1: voxel_dim" in " ".join((tmp_path / "page.html").read_text(encoding="utf-8").split())


def test_a_case_that_takes_longer_than_the_settings_allow_is_quarantined(raw, tmp_path):
    config = load_config("smoke", {"data.reading.case_seconds": 1e-6})
    assert ingest(str(raw), tmp_path / "out", config, num_workers=1).num_cases == 0
    assert {row["reason"] for row in quarantine_of(tmp_path / "out")} == {
        "cannot be read: not done after 1e-06 s; data.reading.case_seconds allows no more"
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            KeyError("Miller^Anna"),
            "cannot be read: KeyError in ctan.intake.ingest, line NUMBER; "
            "the files are damaged in a way that this reader does not know",
        ),
        (
            MemoryError("Miller^Anna"),
            "cannot be read: MemoryError in ctan.intake.ingest, line NUMBER; it needs more memory than there is",
        ),
    ],
    ids=["KeyError", "MemoryError"],
)
def test_any_error_of_a_case_becomes_its_row_with_kind_and_place_but_no_values(
    written, tmp_path, monkeypatch, error, reason
):
    """No file is known to do this any more, so a reader is made to."""
    read = type(DATASET).read

    def stumble(self, raw):
        if raw.case_id == "pt_3":
            raise error
        return read(self, raw)

    monkeypatch.setattr(type(DATASET), "read", stumble)
    summary = ingest(str(written), tmp_path, CONFIG, num_workers=0)
    assert (summary.num_cases, summary.num_quarantined) == (5, 1)
    (row,) = quarantine_of(tmp_path)
    assert (row["case_id"], re.sub(r"line \d+", "line NUMBER", row["reason"])) == ("pt_3", reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"doses": {"dose": np.full((2, 2, 2), np.nan, np.float32)}}, "dose: 8 voxels are NaN or infinite"),
        ({"spacing_mm": (1e-320, 1.0, 1.0)}, "expected positive voxel edges in mm, found [1e-320, 1.0, 1.0]"),
        ({"group_id": "pt_4"}, "belongs to another group than when it was listed; the files changed, try again"),
    ],
    ids=["NaN", "spacing", "group"],
)
def test_what_a_reader_returns_is_checked_whatever_the_format(written, tmp_path, monkeypatch, changes, reason):
    read = type(DATASET).read

    def changed(self, raw):
        case = read(self, raw)
        return replace(case, **changes) if raw.case_id == "pt_3" else case

    monkeypatch.setattr(type(DATASET), "read", changed)
    ingest(str(written), tmp_path, CONFIG, num_workers=0)
    assert [(row["case_id"], row["reason"]) for row in quarantine_of(tmp_path)] == [("pt_3", reason)]


def exchange_parotids(folder):
    one, other = (folder / "train-pats" / "pt_1" / f"{side}Parotid.csv" for side in ("Left", "Right"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def exchange_lobes(folder):
    path = folder / "dataset.yaml"
    path.write_text(path.read_text().replace("{LobeLeft: 1, LobeRight: 2}", "{LobeLeft: 2, LobeRight: 1}"))


def first_of(name, folder):
    options = get_dataset(name).options_from(folder, {})
    dataset = get_dataset(DataConfig(dataset=name, options=options))
    return read_case(dataset, min(dataset.find(folder), key=lambda raw: raw.case_id))


@pytest.mark.parametrize(
    ("name", "exchange", "pair"),
    [
        ("openkbp", exchange_parotids, ("LeftParotid", "RightParotid")),
        ("folder", exchange_lobes, ("LobeLeft", "LobeRight")),
    ],
)
def test_left_and_right_exchanged_are_refused_in_any_format(tmp_path, name, exchange, pair):
    """Today's wrong output was a case in the manifest; only DICOM was looked at."""
    get_dataset(name).write_phantoms(tmp_path, 2, 0, 0)
    assert set(pair) <= first_of(name, tmp_path).masks.keys()
    exchange(tmp_path)
    with pytest.raises(CaseError, match=rf"{pair[0]} lies \d+ voxels to the patient's right of {pair[1]}"):
        first_of(name, tmp_path)


def test_a_structure_alone_on_the_wrong_side_of_the_body_is_remarked(tmp_path):
    DATASET.write_phantoms(tmp_path, 1, 0, 0)
    folder = tmp_path / "train-pats" / "pt_1"
    (folder / "LeftParotid.csv").unlink()
    assert first_of("openkbp", tmp_path).remarks == ()
    (folder / "RightParotid.csv").rename(folder / "LeftParotid.csv")
    remarks = first_of("openkbp", tmp_path).remarks
    assert remarks == ("LeftParotid lies in the patient's right half of the body; check its name",)


def test_sides_do_not_matter_where_structures_are_empty():
    masks = {name: np.zeros((4, 8, 4), bool) for name in ("KidneyLeft", "KidneyRight")}
    assert check_sides(masks, [("KidneyLeft", "KidneyRight")], None) == ()
    masks["KidneyRight"][:, 6] = True  # 2 voxels to the left of the middle, where nobody sees the body
    assert check_sides(masks, [("KidneyLeft", "KidneyRight")], None) == ()
    assert len(check_sides(masks, [("KidneyLeft", "KidneyRight")], np.ones((4, 8, 4), bool))) == 1


def test_remarks_on_cases_are_told_once_with_the_cases(tmp_path):
    pictures = get_dataset("ham10000")
    pictures.write_phantoms(tmp_path / "raw", 8, 2, 0)
    masks = sorted((tmp_path / "raw").glob("*segmentations*/*.png"))[:2]
    for path in masks:
        ImageOps.invert(Image.open(path)).save(path)
    turned = sorted((tmp_path / "raw").glob("*part_1/*.jpg"))[-1]
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(turned).save(turned, exif=exif)
    config = load_config("smoke", {"data.dataset": "ham10000"})
    remarks = ingest(str(tmp_path / "raw"), tmp_path / "out", config, num_workers=0).remarks
    names = ", ".join(path.name.removesuffix("_segmentation.png") for path in masks)
    assert f"the mask covers most of the picture's border (is it inverted?): 2 cases ({names})" in remarks
    assert f"the picture is turned or mirrored as its EXIF orientation says: 1 case ({turned.stem})" in remarks
    plan = yaml.safe_load((tmp_path / "out" / "plan.yaml").read_text())
    assert " pixels, rounded up" in plan["preprocess.grid_shape"]["reason"]
    assert " mm" not in str(plan)


def test_an_empty_folder_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=r"no OpenKBP patients, .*the folder is empty"):
        ingest(str(tmp_path / "raw"), tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(
        DataError,
        match=r"'.*gone' is not a folder; give the folder of raw files, s3://.*, or phantoms such as phantom:",
    ):
        ingest(str(tmp_path / "gone"), tmp_path / "out", CONFIG)


def test_settings_limit_the_number_of_cases_to_those_of_the_lowest_hash_ranks(written, tmp_path):
    config = load_config("smoke", {"data.max_train_cases": 2, "data.max_evaluation_cases": 1})
    summary = ingest(str(written), tmp_path, config, num_workers=0)
    by_hash = sorted((f"pt_{n}" for n in range(1, 6)), key=lambda p: hashlib.sha256(b"0\0" + p.encode()).digest())
    assert manifest_of(tmp_path)["case_id"].to_pylist() == [*sorted(by_hash[:2]), "pt_201"]
    assert summary.cases_per_split == {"train": 2, "validation": 1}


def sides_of(config, cases, dataset="stoic"):
    data = DataConfig.model_validate({"dataset": dataset, **config})
    table = Table().joined(cases, data, bool(get_dataset(dataset).spec.strata), OwnSplit())
    chosen = _chosen(cases, table, data)
    return {split: [c.case_id for c in chosen if c.split == split] for split in ("train", "validation")}


@pytest.fixture
def lesions():
    """A thousand cases of 700 groups, no official split, one case in fifty positive."""
    return [
        RawCase(
            f"c{n}", f"g{n % 700}", "", Path(f"c{n}"), strata=("positive" if n % 700 % 50 == 0 else "negative", None)
        )
        for n in range(1000)
    ]


def test_a_limit_of_one_side_leaves_the_other_whole(lesions):
    whole = sides_of({}, lesions)
    assert (len(whole["train"]), len(whole["validation"])) == (800, 200)
    fewer = sides_of({"max_evaluation_cases": 20}, lesions)
    assert fewer["train"] == whole["train"]
    assert len(fewer["validation"]) == 20
    fewer = sides_of({"max_train_cases": 30}, lesions)
    assert fewer["validation"] == whole["validation"]
    assert len(fewer["train"]) == 30


def test_fewer_cases_are_part_of_more_and_on_the_same_side_in_whatever_order_they_are_found(lesions):
    before = {"train": set(), "validation": set()}
    for number in (2, 10, 100, 200, 800):
        now = sides_of({"max_train_cases": number, "max_evaluation_cases": number}, lesions)
        assert before["train"] < set(now["train"])
        assert before["validation"] <= set(now["validation"])
        before = {split: set(ids) for split, ids in now.items()}
        turned = sides_of({"max_train_cases": number, "max_evaluation_cases": number}, lesions[::-1])
        assert {split: set(ids) for split, ids in turned.items()} == before
    assert not before["train"] & before["validation"]
    first = [case.case_id for case in lesions[:100]]
    assert set(first) != set(sides_of({"max_train_cases": 100}, lesions)["train"])  # not the first ones


def test_sides_are_balanced_by_what_is_known_before_reading_and_never_divide_a_group(lesions):
    whole = sides_of({}, lesions)
    positive = {case.case_id for case in lesions if case.strata[0] == "positive"}
    assert len(positive & set(whole["validation"])) == pytest.approx(0.2 * len(positive), abs=2)
    group_of = {case.case_id: case.group_id for case in lesions}
    assert not {group_of[c] for c in whole["train"]} & {group_of[c] for c in whole["validation"]}


def test_no_worker_and_two_write_equal_tables(written, tmp_path):
    for num_workers in (0, 2):
        ingest(str(written), tmp_path / str(num_workers), CONFIG, num_workers=num_workers)
    for name in (MANIFEST_FILE, QUARANTINE_FILE, "config.yaml"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_phantom_source_and_its_folder_give_equal_manifests(written, tmp_path):
    ingest(SOURCE, tmp_path / "phantom", CONFIG, num_workers=0)
    ingest(str(written), tmp_path / "folder", CONFIG, num_workers=0)
    assert manifest_of(tmp_path / "phantom").equals(manifest_of(tmp_path / "folder"))


def test_no_path_of_this_machine_is_in_what_it_writes(raw, tmp_path):
    (raw / "train-pats" / "pt_3" / "dose.csv").unlink()
    ingest(str(raw), tmp_path / "out", CONFIG, num_workers=0)
    for path in (tmp_path / "out").iterdir():
        text = read_manifest(path).to_pylist() if path.suffix == ".parquet" else path.read_text()
        assert str(tmp_path) not in str(text)


def test_running_again_over_an_existing_output_replaces_it_as_a_whole(raw, tmp_path):
    ingest(str(raw), tmp_path / "out", CONFIG, num_workers=0)
    first = manifest_of(tmp_path / "out")
    (raw / "train-pats" / "pt_2" / "ct.csv").write_text("")
    ingest(str(raw), tmp_path / "out", CONFIG, num_workers=0)
    assert manifest_of(tmp_path / "out")["case_id"].to_pylist() == ["pt_1", "pt_3", "pt_4", "pt_5", "pt_201"]
    assert [row["case_id"] for row in quarantine_of(tmp_path / "out")] == ["pt_2"]
    shutil.rmtree(raw / "train-pats" / "pt_2")
    DATASET.write_phantoms(tmp_path / "again", num_train=2, num_validation=0, seed=2)
    shutil.copytree(tmp_path / "again" / "train-pats" / "pt_2", raw / "train-pats" / "pt_2")
    ingest(str(raw), tmp_path / "out", CONFIG, num_workers=0)
    assert pa.Table.equals(manifest_of(tmp_path / "out"), first)
    assert quarantine_of(tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [MANIFEST_FILE, QUARANTINE_FILE, "config.yaml", "dataset.json", "plan.yaml", "seal.json", "summary.json"]
    )


# Phantom sources


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("phantom", (12, 4, 0)),
        ("phantom:", (12, 4, 0)),
        ("phantom:seed=7", (12, 4, 7)),
        ("phantom: validation = 2 , train = 3", (3, 2, 0)),
    ],
)
def test_every_part_of_a_phantom_source_may_be_left_out(source, numbers):
    assert tuple(parse_phantom(source)[name] for name in ("train", "validation", "seed")) == numbers


@pytest.mark.parametrize("part", ["train=0", "train=-1", "train=two", "train=1.5", "cases=3", "seed", "seed=-1", "=3"])
def test_a_phantom_source_that_is_not_understood_is_named_with_what_was_expected(part):
    with (
        pytest.raises(ConfigError, match=rf"source: cannot read '{part}' in .* such as phantom:train=12,validation=4"),
        open_source(f"phantom:{part}", DATASET),
    ):
        pytest.fail("opened")


def test_the_temporary_folder_of_a_phantom_source_is_removed():
    with open_source("phantom:train=1,validation=1", DATASET) as folder:
        assert len(DATASET.find(folder)) == 2
    assert not folder.exists()
