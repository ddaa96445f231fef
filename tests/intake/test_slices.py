"""Slices: whoever packs which, however often, killed or at once, the store is the same bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctan.cases import Case, RawCase
from ctan.config import RunConfig
from ctan.datasets.openkbp.reader import OpenKBP
from ctan.errors import ConfigError, DataError
from ctan.intake import build
from ctan.intake.build import commit, pack_slice, preprocess
from ctan.intake.ingest import ingest
from ctan.intake.measure import case_row
from ctan.intake.packing import slices
from ctan.settings import load_config
from ctan.store import StorePointer, open_store
from ctan.store.manifest import MANIFEST_FILE, QUARANTINE_FILE, QUARANTINE_SCHEMA, SCHEMA, write_manifest
from ctan.store.shards import ShardWriter, cut
from ctan.store.shelf import Shelf, files_in
from tests.helpers.small import files_of
from tests.helpers.storage import all_of

CONFIG = load_config("smoke", {"preprocess.grid_shape": [16, 16, 16]})


class Small(OpenKBP):
    """Cases of a few voxels, made from their number; one in five is a little larger."""

    def find(self, raw_dir: Path) -> list[RawCase]:
        return [RawCase(f"pt_{n}", f"pt_{n}", "train", raw_dir) for n in range(5_000)]

    def read(self, raw: RawCase) -> Case:
        number = int(raw.case_id.removeprefix("pt_"))
        rng = np.random.default_rng(number)
        shape = (16, 16 + 2 * (number % 5 == 0), 16)
        masks = {name: rng.random(shape) < 0.5 for name in ("Larynx", "PTV70", "possible_dose_mask")}
        dose = (70 * rng.random(shape, np.float32)) * masks["possible_dose_mask"]
        ct = rng.integers(0, 4096, shape, np.uint16)
        return Case(raw.case_id, raw.group_id, "train", (4.0, 4.0, 4.0), {"ct": ct}, masks, {"dose": dose}, raw.case_id)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    dataset = Small()
    monkeypatch.setattr("ctan.datasets.get_dataset", lambda config: dataset)
    return dataset


def manifest_of(dataset: Small, numbers: range, folder: Path) -> Path:
    """Write what validation would of some cases."""
    folder.mkdir()
    raws = dataset.find(folder)
    rows = [case_row(dataset.read(raws[number]), dataset.spec, 0) for number in numbers]
    dataset.spec.save(folder)
    write_manifest(rows, folder / MANIFEST_FILE, SCHEMA(dataset.spec))
    write_manifest([], folder / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    return folder


def whole(folder: Path) -> dict[str, bytes]:
    """Return all files of a root but locks."""
    return {name: content for name, content in files_of(folder).items() if not name.rpartition("/")[2].startswith(".")}


# Which cases lie together


@pytest.mark.parametrize("most", [1, 3, 4, 8])
def test_every_case_is_in_one_shard_whatever_the_order_of_the_list(most: int) -> None:
    names = [f"case-{number}" for number in range(500)]
    shards = cut(names, most)
    assert sorted(name for shard in shards for name in shard) == sorted(names)
    assert max(map(len, shards)) == most
    random.Random(0).shuffle(names)
    assert cut(names, most) == shards


def test_a_hundredth_more_cases_changes_few_shards() -> None:
    """With 4 cases a shard at most 5% of all cases lie in shards that are new, in every of 40 trials."""
    for trial in range(40):
        names = [f"{trial}-{number}" for number in range(1010)]
        before = set(map(tuple, cut(names[:1000], 4)))
        after = list(map(tuple, cut(names, 4)))
        assert sum(len(shard) for shard in after if shard not in before) <= 0.05 * len(names)
        assert before - {*after}  # those that the new cases fell into


@pytest.mark.parametrize(("weights", "total"), [([1] * 10, 3), ([5, 1, 1, 1, 5, 1], 4), ([1, 1], 5), ([7], 1)])
def test_slices_are_runs_of_whole_shards_of_about_equal_weight(weights: list[int], total: int) -> None:
    runs = slices(weights, total)
    assert len(runs) == total
    assert [number for run in runs for number in run] == list(range(len(weights)))
    shares = [sum(weights[number] for number in run) for run in runs]
    assert max(shares) <= sum(weights) / total + max(weights)


# The bytes


def test_a_hundredth_more_cases_writes_at_most_five_hundredths_of_the_bytes(small: Small, tmp_path: Path) -> None:
    first = manifest_of(small, range(400), tmp_path / "first")
    more = manifest_of(small, range(404), tmp_path / "more")
    root = tmp_path / "root"
    preprocess(str(tmp_path), first, str(root), CONFIG, num_workers=1)
    before = files_in(root / "shards")
    pointer = preprocess(str(tmp_path), more, str(root), CONFIG, num_workers=1)
    after = files_in(root / "shards")
    written = sum(size for name, size in after.items() if name not in before)
    size = sum(after[name] for name in store_files(pointer))
    assert 0 < written <= 0.05 * size
    alone = preprocess(str(tmp_path), more, str(tmp_path / "other"), CONFIG, num_workers=1)
    expected, there = all_of(alone), all_of(pointer)
    assert {name: there.get(name) for name in expected} == expected


def store_files(pointer: StorePointer) -> Iterator[str]:
    for shard in json.loads((pointer.folder / "store.json").read_text())["shards"]:
        yield from (f"{kind}/{file['sha256']}.zip" for kind, file in shard["files"].items())


def test_a_store_of_other_folds_packs_nothing(small: Small, tmp_path: Path) -> None:
    """Arrays know nothing of sides and folds: the source is not even opened."""
    folder = manifest_of(small, range(20), tmp_path / "first")
    pointer = preprocess(str(tmp_path), folder, str(tmp_path / "root"), CONFIG, num_workers=1)
    raws = small.find(folder)[:20]
    write_manifest(
        [case_row(small.read(raw), small.spec, 1) for raw in raws], folder / MANIFEST_FILE, SCHEMA(small.spec)
    )
    other = preprocess(str(tmp_path / "gone"), folder, str(tmp_path / "root"), CONFIG, num_workers=1)
    assert other.key != pointer.key
    assert open_store(other).case_ids(fold=1) == open_store(pointer).case_ids(fold=0)


class FaultError(Exception):
    """A pod that is lost."""


def test_64_slices_of_which_some_are_lost_end_with_the_same_store_bit_for_bit(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in a hundred cases end their slice: while a case is written, before its files are put, or before the note."""
    folder = manifest_of(small, range(240), tmp_path / "manifest")
    expected = preprocess(str(tmp_path), folder, str(tmp_path / "one"), CONFIG, num_workers=1)

    rng, lost = random.Random(3), 0
    add, put, file = ShardWriter.add, Shelf.put, Shelf._put

    def fault(chance: float) -> None:
        nonlocal lost
        if rng.random() < chance:
            lost += 1
            raise FaultError

    def adding(self: ShardWriter, arrays: Any) -> None:
        add(self, arrays)
        fault(0.02)

    def putting(self: Shelf, *arguments: Any) -> Any:
        fault(0.02)
        return put(self, *arguments)

    def putting_file(self: Shelf, *arguments: Any) -> Any:
        found = file(self, *arguments)
        fault(0.02)
        return found

    monkeypatch.setattr(ShardWriter, "add", adding)
    monkeypatch.setattr(Shelf, "put", putting)
    monkeypatch.setattr(Shelf, "_put", putting_file)
    root = str(tmp_path / "many")
    waiting = list(range(64))
    tries = 0
    while waiting:
        rng.shuffle(waiting)
        index = waiting.pop()
        tries += 1
        try:
            pack_slice(str(tmp_path), folder, root, CONFIG, index, 64, num_workers=1)
        except FaultError:
            waiting.append(index)
            with pytest.raises(DataError, match=r"shards are missing or cut off in .*pack these slices again"):
                commit(folder, root, CONFIG)
    assert lost > 5
    assert tries == 64 + lost
    pointer = commit(folder, root, CONFIG)
    assert pointer.store_sha256 == expected.store_sha256
    assert whole(tmp_path / "many") == whole(tmp_path / "one")


@pytest.mark.parametrize("total", [1, 2, 3, 64])
def test_the_number_of_slices_changes_no_byte(small: Small, tmp_path: Path, total: int) -> None:
    folder = manifest_of(small, range(30), tmp_path / "manifest")
    expected = preprocess(str(tmp_path), folder, str(tmp_path / "one"), CONFIG, num_workers=1)
    for index in reversed(range(total)):
        pack_slice(str(tmp_path), folder, str(tmp_path / "cut"), CONFIG, index, total, num_workers=1)
    assert commit(folder, str(tmp_path / "cut"), CONFIG).store_sha256 == expected.store_sha256
    assert whole(tmp_path / "cut") == whole(tmp_path / "one")


def test_a_slice_that_was_packed_is_free(small: Small, tmp_path: Path) -> None:
    folder, root = manifest_of(small, range(30), tmp_path / "manifest"), str(tmp_path / "root")
    assert pack_slice(str(tmp_path), folder, root, CONFIG, 0, 2, num_workers=1) > 3
    assert pack_slice(str(tmp_path / "gone"), folder, root, CONFIG, 0, 2, num_workers=1) == 0


def test_there_is_no_slice_beyond_the_last(small: Small, tmp_path: Path) -> None:
    folder = manifest_of(small, range(3), tmp_path / "manifest")
    with pytest.raises(ConfigError, match="slice 2 of 2: expected a number from 0 to 1"):
        pack_slice(str(tmp_path), folder, str(tmp_path / "root"), CONFIG, 2, 2)


def test_a_shard_that_was_cut_off_is_found_by_commit(small: Small, tmp_path: Path) -> None:
    folder, root = manifest_of(small, range(30), tmp_path / "manifest"), str(tmp_path / "root")
    pack_slice(str(tmp_path), folder, root, CONFIG, 0, 1, num_workers=1)
    path = next((tmp_path / "root" / "shards" / "native").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"1 of \d+ shards are missing or cut off"):
        commit(folder, root, CONFIG)
    assert not list((tmp_path / "root").glob("stores/*/store.json"))


# Several processes

SOURCE = "phantom:train=6,validation=2,seed=1"
CODE = (
    "import sys, pathlib; from ctan.config import RunConfig; from ctan.intake.build import pack_slice\n"
    "from ctan.store.shards import ShardWriter\n"
    "wrote = ShardWriter.add\n"
    "def loud(*arguments): wrote(*arguments); print('written', flush=True); {slow}\n"
    "ShardWriter.add = loud\n"
    "config = RunConfig.model_validate_json(sys.argv[4])\n"
    "pack_slice(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], config, int(sys.argv[5]), 2, 1)"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny_config: RunConfig) -> Path:
    """A manifest, and the store that one process packs."""
    folder = tmp_path_factory.mktemp("packed")
    ingest(SOURCE, folder / "manifest", tiny_config, num_workers=0)
    preprocess(SOURCE, folder / "manifest", str(folder / "one"), tiny_config, num_workers=1)
    return folder


def started(packed: Path, root: Path, config: RunConfig, index: int, slow: str = "pass") -> subprocess.Popen[str]:
    code = CODE.replace("{slow}", slow)
    arguments = [SOURCE, str(packed / "manifest"), str(root), config.model_dump_json(), str(index)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_slice_that_is_killed_and_packed_again_ends_with_the_same_store(
    packed: Path, tmp_path: Path, tiny_config: RunConfig
) -> None:
    with started(packed, tmp_path, tiny_config, 0, "import time; time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    for index in (1, 0):
        pack_slice(SOURCE, packed / "manifest", str(tmp_path), tiny_config, index, 2, num_workers=1)
    Shelf(str(tmp_path)).remove_dead_workplaces()
    commit(packed / "manifest", str(tmp_path), tiny_config)
    assert whole(tmp_path) == whole(packed / "one")


def test_two_slices_at_once_one_of_them_twice(packed: Path, tmp_path: Path, tiny_config: RunConfig) -> None:
    three = [started(packed, tmp_path, tiny_config, index) for index in (0, 1, 0)]
    for process in three:
        process.communicate(timeout=300)
    assert [process.returncode for process in three] == [0, 0, 0]
    pack_slice(SOURCE, packed / "manifest", str(tmp_path), tiny_config, 1, 2, num_workers=1)
    commit(packed / "manifest", str(tmp_path), tiny_config)
    assert whole(tmp_path) == whole(packed / "one")
    assert build.commit(packed / "manifest", str(tmp_path), tiny_config).num_cases == 8
