"""Phantoms are known as such wherever they lie, so that no model of theirs is taken for a real one."""

import shutil
from pathlib import Path

import pytest

from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.sources.origin import Origin
from ctan.sources.synthetic import MARK_FILE, is_marked, mark
from tests.helpers.tracking import small_config


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    folder = tmp_path / "patients"
    get_dataset("openkbp").write_phantoms(folder, 1, 1, 0)
    mark(folder)
    return folder


def test_an_origin_says_that_its_data_are_synthetic(phantoms: Path, tmp_path: Path) -> None:
    config = small_config()
    for source in ("phantom:train=2", str(phantoms)):
        origin = Origin.of(source, config)
        assert (origin.synthetic, origin.tags()["synthetic"]) == (True, "true")
        assert Origin.from_json(origin.to_json()) == origin
    shutil.copytree(phantoms, tmp_path / "unmarked", ignore=shutil.ignore_patterns(MARK_FILE))
    real = Origin.of(str(tmp_path / "unmarked"), config)
    assert not real.synthetic
    assert "synthetic" not in real.tags()


def test_the_mark_changes_no_version(phantoms: Path) -> None:
    marked = Origin.of(str(phantoms), small_config()).data_version
    (phantoms / MARK_FILE).unlink()
    assert not is_marked(phantoms)
    assert Origin.of(str(phantoms), small_config()).data_version == marked


def test_an_origin_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    text = '{"source": "/a", "data_version": "files:b", "settings_hash": "c", "code_hash": "d", "pinned": {}}'
    assert not Origin.from_json(text).synthetic
    with pytest.raises(DataError, match="not what the step `resolve` writes"):
        Origin.from_json(text.replace("pinned", "else"))
