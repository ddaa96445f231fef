"""An attack of fixed seed: a few hundred damaged copies of one case a format; each is read or refused."""

import multiprocessing
import random
import shutil

import pytest

from ctan.config import DataConfig
from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.intake.ingest import _measure

NUM_MUTATIONS = {"openkbp": 90, "ham10000": 150, "stoic": 150}
SECONDS_UNTIL_IT_HANGS = 900  # all together, in a process of its own; usual are ten
FORMATS = {
    "openkbp": ("ct.csv", "dose.csv", "PTV70.csv", "possible_dose_mask.csv", "voxel_dimensions.csv"),
    "ham10000": (".jpg", "_segmentation.png", "metadata.csv"),
    "stoic": (".mha", "reference.csv"),
}


def flip(content, chance):
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)


def cut(content, chance):
    del content[chance.randrange(len(content)) :]


def repeat(content, chance):
    """Double a field: a line or a part of one, or a piece of binary data."""
    start = chance.randrange(len(content))
    end = chance.choice(
        [content.find(mark, start) + 1 for mark in (b"\n", b",", b"=")] + [start + chance.randint(1, 99)]
    )
    content[start:start] = content[start : max(start + 1, end)]


def swap_number(content, chance):
    """Put an unlikely number or text in the place of a few bytes."""
    start = chance.randrange(len(content))
    odd = [
        b"1e-320",
        b"nan",
        b"-1",
        b"99999999999999999999",
        b"1_0",
        b"\xd9\xa1",
        b"",
        b"\0",
        b"\xff" * 40,
        b"\n",
        b'"',
        b"=,",
    ]
    content[start : start + chance.randint(0, 4)] = chance.choice(odd)


def head(content, chance):
    """Damage only the first bytes, where headers are."""
    start = bytearray(content[:300])
    chance.choice([flip, cut, repeat, swap_number])(start, chance)
    content[:300] = start


MUTATIONS = [flip, cut, repeat, swap_number, head]


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_copies_of_a_case_are_read_or_refused_and_never_end_or_hold_up_ingestion(tmp_path, name):
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # which ends the process that hangs
        refused = pool.apply_async(attack, (tmp_path, name)).get(SECONDS_UNTIL_IT_HANGS)
    assert len(refused) == NUM_MUTATIONS[name]
    assert 0.3 * len(refused) < sum(refused) < len(refused)


def attack(tmp_path, name):
    """Return of each damaged copy whether it was refused."""
    chance = random.Random(20261129)
    config = DataConfig.model_validate({"dataset": name})
    dataset = get_dataset(config)
    options = {"shape": (64, 80)} if name == "ham10000" else {}
    write(dataset, name, tmp_path / "good", options)
    (case, *_) = dataset.find(tmp_path / "good")
    assert _measure(config, case).row is not None  # and what is compiled, is compiled
    of_case = [p for p in (tmp_path / "good").rglob("*") if case.case_id in p.name or case.case_id in p.parent.name]
    tables = [*(tmp_path / "good").rglob("*metadata.csv"), *(tmp_path / "good").rglob("reference.csv")]
    files = [p for p in (*of_case, *tables) if p.is_file() and p.name.endswith(FORMATS[name])]
    assert len(files) == len(FORMATS[name])
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    refused = []
    for number in range(NUM_MUTATIONS[name]):
        good = files[number % len(files)]
        bad = tmp_path / "bad" / good.relative_to(tmp_path / "good")
        content = bytearray(good.read_bytes())
        MUTATIONS[number // len(files) % len(MUTATIONS)](content, chance)
        bad.write_bytes(content)
        reason = outcome(config, dataset, tmp_path / "bad", case.case_id)
        bad.write_bytes(good.read_bytes())
        assert "cannot be read: " not in reason, (number, good.name, reason)  # an error that no one thought of
        assert str(tmp_path) not in reason
        refused.append(bool(reason))
    return refused


def files_of(case_id, folder, endings):
    """Return the case's own files and the tables of all cases, in the same order everywhere."""
    tables = ("metadata.csv", "reference.csv")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(endings))
    return [path for path in paths if case_id in str(path.relative_to(folder)) or path.name.endswith(tables)]


def outcome(config, dataset, folder, case_id):
    """Return why the folder or the case was refused; empty when it was read."""
    try:
        raws = [raw for raw in dataset.find(folder) if raw.case_id == case_id]
        dataset.remarks(folder)
    except DataError as error:
        return str(error).replace(str(folder), "FOLDER")
    return _measure(config, raws[0]).reason


def write(dataset, name, folder, options):
    if name == "ham10000":
        from ctan.datasets.ham10000.phantom import write_ham10000_phantoms

        write_ham10000_phantoms(folder, 2, 1, 0, **options)
    else:
        dataset.write_phantoms(folder, 1, 1, 0)
