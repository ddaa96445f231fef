"""Nobody changes sides: not when cases come, not when two look at once, not when a limit is set."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctan import steps
from ctan.cases import RawCase
from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError, DataError
from ctan.intake.build import preprocess
from ctan.intake.ingest import _chosen
from ctan.intake.own_split import OwnSplit
from ctan.intake.sides import Table, in_words
from ctan.intake.sides_files import read_sides, updated
from ctan.settings import load_config
from ctan.sources.origin import Origin
from ctan.store import open_store
from ctan.store.manifest import MANIFEST_FILE, read_manifest

pytest_plugins = ["tests.helpers.storage"]

SETTINGS = {"data.dataset": "ham10000", "data.test_share": 0.2, "data.num_folds": 2}
NOBODY = OwnSplit()


def lesions(number: int, seed: int = 0) -> list[RawCase]:
    """Pictures of lesions of three kinds; some lesions have several."""
    chance = random.Random(seed)
    kinds = {f"L{n:04d}": chance.choices(["nv", "mel", "df"], [80, 15, 5])[0] for n in range(number)}
    return [
        RawCase(f"I{n}{lesion}", lesion, "", Path(), strata=(kind,))
        for lesion, kind in kinds.items()
        for n in range(chance.choice([1, 1, 2, 3]))
    ]


def sides_of(table: Table) -> dict[str, tuple[str, int]]:
    return {group: (row.side, row.fold(5)) for group, row in table.groups.items()}


def joined(table: Table, cases: list[RawCase], own: OwnSplit = NOBODY, **data: Any) -> Table:
    return table.joined(cases, DataConfig(**({"test_share": 0.1} | data)), True, own)


@pytest.mark.parametrize("step", [1, 7, 100])
def test_whoever_joins_moves_nobody_and_every_stratum_keeps_its_shares(step: int) -> None:
    cases = lesions(400)
    groups = list(dict.fromkeys(case.group_id for case in cases))
    random.Random(1).shuffle(groups)
    table = Table()
    for last in [*range(100, 400, step), 400]:
        present = set(groups[:last])
        after = joined(table, [case for case in cases if case.group_id in present])
        assert sides_of(after).items() >= sides_of(table).items()
        assert set(after.groups) == present
        table = after
    largest = max(Counter(case.group_id for case in cases).values())
    for kind in ("nv", "mel", "df"):
        of_kind = Counter(table.groups[case.group_id].side for case in cases if case.strata == (kind,))
        for side, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
            assert abs(of_kind[side] - share * of_kind.total()) <= largest + 1, (kind, side)
    folds = Counter(table.groups[c.group_id].fold(5) for c in cases if table.groups[c.group_id].side == "train")
    assert max(folds.values()) - min(folds.values()) <= 2 * largest


def test_the_order_in_which_files_are_listed_decides_nothing() -> None:
    cases = lesions(60)
    first = joined(Table(), cases[:80])
    for seed in range(3):
        shuffled = random.Random(seed).sample(cases, len(cases))
        assert joined(first, shuffled).groups == joined(first, cases).groups


def test_another_number_of_folds_divides_the_training_side_again_and_leaves_the_first_division() -> None:
    table = joined(Table(), lesions(60))
    thirds = joined(table, lesions(60), num_folds=3)
    assert sides_of(thirds) == sides_of(table)
    assert {row.fold(3) for row in thirds.groups.values()} == {-1, 0, 1, 2}


def test_an_official_side_that_changed_is_refused() -> None:
    case = RawCase("pt_1", "pt_1", "train", Path())
    table = Table().joined([case], DataConfig(), False, NOBODY)
    moved = RawCase("pt_1", "pt_1", "test", Path())
    with pytest.raises(DataError, match=r"pt_1: is on the side 'train' since .* said to be 'test'.*data\.sides=NAME"):
        table.joined([moved], DataConfig(), False, NOBODY)


@pytest.mark.parametrize("limit", [5, 12, 30])
def test_fewer_cases_are_part_of_more_and_no_fold_is_empty(limit: int) -> None:
    cases = lesions(200)
    table = joined(Table(), cases)

    def chosen(**limits: int) -> list[RawCase]:
        return _chosen(cases, table, DataConfig(test_share=0.1, **limits))

    few, more = chosen(max_train_cases=limit), chosen(max_train_cases=limit + 7)
    train = {case.case_id for case in few if case.split == "train"}
    assert train < {case.case_id for case in more if case.split == "train"}
    assert {table.groups[case.group_id].fold(5) for case in few if case.split == "train"} == set(range(5))
    assert Counter(case.split for case in few)["validation"] == Counter(case.split for case in chosen())["validation"]
    limited = Counter(case.split for case in chosen(max_evaluation_cases=limit))
    assert (limited["validation"], limited["test"]) == (limit, min(limit, Counter(c.split for c in chosen())["test"]))


# The user's own split


def own(data: DataConfig, cases: list[RawCase]) -> dict[str, tuple[str, int]]:
    rows = Table().joined(cases, data, False, OwnSplit.of(data, cases)).groups
    return {group: (row.side, row.fold(data.num_folds)) for group, row in rows.items()}


def patients(*names: str) -> list[RawCase]:
    return [RawCase(name, name, "", Path()) for name in names]


def test_a_table_of_the_users_own_fills_the_sides_and_the_rest_joins(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("case,split,fold\na,train,1\nb,evaluation,\nc,test,\nd,train,\n")
    found = own(DataConfig(split=str(path), num_folds=2), patients("a", "b", "c", "d", "e", "f"))
    assert found["a"] == ("train", 1)
    assert (found["b"], found["c"], found["d"]) == (("validation", -1), ("test", -1), ("train", 0))
    assert {found["e"][0], found["f"][0]} <= {"train", "validation"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\na,train\n", r"mine\.csv: expected the columns case,split\[,fold\], found \['id', 'split'\]"),
        ("case,split\na,trian\n", r"mine\.csv: line 2: split is 'trian', expected train"),
        ("case,split,fold\na,train,7\n", r"mine\.csv: line 2: fold is '7', expected 0 to 4"),
        ("case,split\na,train\na,test\n", r"mine\.csv: line 3: a is listed twice"),
        ("case,split\na,train\nz,train\n", r"mine\.csv: 1 of its cases are not in the source \(z\)"),
        ("case,split\na,train\na2,test\n", r"mine\.csv: tears g apart, .*: a2 is in test, another in train"),
    ],
)
def test_a_split_that_contradicts_itself_or_the_source_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    cases = [RawCase("a", "g", "", Path()), RawCase("a2", "g", "", Path())]
    with pytest.raises(DataError, match=message):
        OwnSplit.of(DataConfig(split=str(path)), cases)
    with pytest.raises(ConfigError, match=r"data\.split: 'nowhere' is no file; expected a CSV file"):
        OwnSplit.of(DataConfig(split="nowhere"), cases)


def test_a_split_that_contradicts_the_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("case,split\na,train\nb,test\n")
    data, cases = DataConfig(split=str(path)), patients("a", "b")
    table = Table().joined(cases, data, False, OwnSplit.of(data, cases))
    path.write_text("case,split\na,test\nb,test\n")
    with pytest.raises(DataError, match="a: is on the side 'train' since it was first seen, and now said to be 'test'"):
        table.joined(cases, data, False, OwnSplit.of(data, cases))


def test_the_folds_that_nnunet_makes_itself_are_those_of_scikit_learn() -> None:
    from sklearn.model_selection import KFold

    names = [f"case_{n:03d}" for n in range(23)]
    found = own(DataConfig(split="nnunet"), patients(*random.Random(0).sample(names, 23)))
    for fold, (_, held_out) in enumerate(KFold(5, shuffle=True, random_state=12345).split(names)):
        assert {name for name, place in found.items() if place == ("train", fold)} == {names[i] for i in held_out}
    measuring = own(DataConfig(split="nnunet", evaluation_fold=2), patients(*names))
    assert {n for n, p in measuring.items() if p[0] == "validation"} == {n for n, p in found.items() if p[1] == 2}


def test_splits_final_of_nnunet_gives_the_folds(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    folds = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a", "c"], "val": ["b"]}, {"train": ["a", "b"], "val": []}]
    path.write_text(json.dumps(folds))
    found = own(DataConfig(split=str(path), num_folds=3), patients("a", "b", "c"))
    assert found == {"a": ("train", 0), "b": ("train", 1), "c": ("train", 2)}, "c tunes neither of the two"
    with pytest.raises(ConfigError, match=r"splits_final\.json has 3 folds, data\.num_folds is 5"):
        own(DataConfig(split=str(path)), patients("a", "b", "c"))


# Where it lies


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    get_dataset("ham10000").write_phantoms(folder, 20, 4, 0)
    return folder


@pytest.fixture
def config() -> RunConfig:
    return load_config("smoke", SETTINGS)


def ingested(folder: Path, config: RunConfig, out: Path, root: str = "") -> tuple[dict[str, str], Origin]:
    _, settings, origin = steps.resolve(str(folder), config, root)
    shutil.rmtree(out, ignore_errors=True)
    steps.ingest(settings, origin, str(out), num_workers=0)
    rows = read_manifest(out / MANIFEST_FILE).to_pylist()
    return {row["case_id"]: f"{row['split']} {row['fold']}" for row in rows}, Origin.from_json(origin)


def without(folder: Path, lesion: str) -> None:
    """Take a lesion out of a copy of the pictures."""
    table = folder / "HAM10000_metadata.csv"
    lines = table.read_text().splitlines(keepends=True)
    gone = [line.split(",")[1] for line in lines if line.startswith(f"{lesion},")]
    table.write_text("".join(line for line in lines if not line.startswith(f"{lesion},")))
    for path in [path for name in gone for path in folder.rglob(f"{name}*")]:
        path.unlink()


def test_a_new_lesion_joins_and_its_coming_is_a_new_version_of_the_sides(
    pictures: Path, config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(pictures, grown)
    with (grown / "HAM10000_metadata.csv").open(newline="") as stream:
        lesion = next(csv.DictReader(stream))["lesion_id"]
    without(grown, lesion)
    before, first = ingested(grown, config, tmp_path / "m")
    _, again = ingested(grown, config, tmp_path / "m")
    assert again == first, "nothing changed: the same inputs of every cached step"
    shutil.rmtree(grown)
    shutil.copytree(pictures, grown)
    after, second = ingested(grown, config, tmp_path / "m")
    assert after.items() > before.items(), "cases that changed sides: 0"
    assert second.sides_hash != first.sides_hash
    assert second.tags()["sides_hash"] == second.sides["hash"]
    assert (first.sides["known"], second.sides["known"]) == (0, len(set(read(second)["groups"])) - 1)
    capsys.readouterr()
    steps.plan(str(tmp_path / "m"))
    said = capsys.readouterr().out
    assert f"sides: {second.sides['known']} groups known, none moved; 1 joined (1 " in said
    # The earlier version again: the table has grown, what it says of that version has not.
    shutil.rmtree(grown)
    shutil.copytree(pictures, grown)
    without(grown, lesion)
    assert ingested(grown, config, tmp_path / "m") == (before, first)


def test_test_cases_are_in_no_store_that_trains(pictures: Path, config: RunConfig, tmp_path: Path) -> None:
    cases, _ = ingested(pictures, config, tmp_path / "m")
    assert "test -1" in cases.values()
    pointer = preprocess(str(pictures), tmp_path / "m", str(tmp_path / "root"), config, num_workers=1)
    packed = {case_id: place for case_id, place in cases.items() if not place.startswith("test")}
    assert set(open_store(pointer).case_ids()) == set(packed)
    sealed = preprocess(str(pictures), tmp_path / "m", str(tmp_path / "root"), config, 1, sides=("test",))
    assert set(open_store(sealed).case_ids(split="test")) == set(cases) - set(packed)


def read(origin: Origin) -> dict[str, Any]:
    return read_sides(origin.sides["root"], origin.sides["table"])


def test_phantoms_need_no_table_and_say_nothing(config: RunConfig) -> None:
    _, _, origin = steps.resolve("phantom:train=6,validation=2,seed=1", config)
    assert Origin.from_json(origin).sides == {}
    assert in_words({}) == "sides: as the numbers of the phantoms say"


def test_a_table_that_was_changed_by_hand_or_meanwhile_stops_ingestion(
    pictures: Path, config: RunConfig, tmp_path: Path
) -> None:
    _, settings, origin = steps.resolve(str(pictures), config, str(tmp_path / "root"))
    path = tmp_path / "root" / "sides" / "ham10000-seed0.json"
    content = path.read_text()
    path.write_text(content.replace('"side": "test"', '"side": "train"', 1))
    with pytest.raises(DataError, match=r"ham10000-seed0\.json: was changed after it was written .*from a backup"):
        steps.ingest(settings, origin, str(tmp_path / "m"), num_workers=0)
    path.unlink()
    other = {**json.loads(origin)}
    other["sides"]["hash"] = "0" * 64
    with pytest.raises(DataError, match=r"not what the step `resolve` found; .*Run again from the first step"):
        steps.ingest(settings, json.dumps(other), str(tmp_path / "m"), num_workers=0)


def test_another_key_of_pseudonyms_is_refused(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it every patient would look new, and training patients would come to measure."""
    folder, clinic = tmp_path / "clinic", load_config("smoke", {"data.dataset": "prostate"})
    monkeypatch.setenv("CTAN_DEID_KEY", "the key of this clinic, 32 letters long")
    get_dataset("prostate").write_phantoms(folder, 3, 1, 0)
    steps.resolve(str(folder), clinic)
    monkeypatch.setenv("CTAN_DEID_KEY", "another key of a clinic, 32 letters long")
    with pytest.raises(DataError, match=r"prostate-seed0 .* another key of pseudonyms, .*data\.sides=NAME"):
        steps.resolve(str(folder), clinic)


def added(root: str, name: str, row: str) -> dict[str, Any]:
    return updated(root, name, lambda value: {**value, "seen": {**value["seen"], row: {}}})


def test_writers_at_the_same_time_lose_nothing_in_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: added(str(tmp_path), "t", str(n)), range(24)))
    assert set(read_sides(str(tmp_path), "t")["seen"]) == set(map(str, range(24)))


@pytest.mark.usefixtures("server")
def test_writers_at_the_same_time_lose_nothing_in_s3(root: str) -> None:
    assert read_sides(root, "t") == {"groups": {}, "seen": {}}
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: added(root, "t", str(n)), range(6)))
    assert set(read_sides(root, "t")["seen"]) == set(map(str, range(6)))


needs_real_data = pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA names no real data")


@needs_real_data
def test_one_more_lesion_of_df_moves_nobody_in_the_real_ham10000() -> None:
    """Dividing anew makes 1,411 of 2,003 evaluation pictures former training pictures; with another id 1,617."""
    from ctan.intake.splits import assign_splits

    path = Path(os.environ["CTAN_TEST_DATA"]) / "ham10000" / "HAM10000_metadata.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        cases = [RawCase(r["image_id"], r["lesion_id"], "", path, strata=(r["dx"],)) for r in csv.DictReader(stream)]
    grown = [*cases, RawCase("ISIC_9999999", "HAM_9999999", "", path, strata=("df",))]

    def anew(cases: list[RawCase]) -> dict[str, str]:
        shares = {"validation": 0.2}
        return assign_splits([c.group_id for c in cases], shares, 0, [json.dumps(list(c.strata)) for c in cases])

    old, new = anew(cases), anew(grown)
    learnt = sum(new[c.group_id] == "validation" and old[c.group_id] == "train" for c in cases)
    assert (learnt, sum(side == "validation" for side in map(new.get, (c.group_id for c in cases)))) == (1411, 2003)
    table = Table().joined(cases, DataConfig(), True, NOBODY)
    assert {group: row.side for group, row in table.groups.items()} == old, "the first division is as before"
    after = table.joined(grown, DataConfig(), True, NOBODY)
    moved = sum(sides_of(after)[group] != place for group, place in sides_of(table).items())
    assert (moved, len(after.groups)) == (0, 7471)
