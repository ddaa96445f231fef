"""A folder of another format than was named: the error says which one it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctan.datasets import get_dataset
from ctan.errors import DataError
from ctan.settings import resolve_config
from ctan.sources.contents import version_of

CASES = {"openkbp": (1, 0), "ham10000": (2, 0), "stoic": (1, 0), "prostate": (1, 0)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a format, with phantoms."""
    root = tmp_path_factory.mktemp("raw")
    for name, (num_train, num_validation) in CASES.items():
        get_dataset(name).write_phantoms(root / name, num_train, num_validation, 0)
    (root / "folder").mkdir()
    (root / "folder" / "dataset.json").write_text("{}")
    return root


@pytest.mark.parametrize("theirs", [*CASES, "folder"])
@pytest.mark.parametrize("named", ["openkbp", "stoic"])
def test_the_error_names_the_format_that_the_folder_looks_like(raw: Path, named: str, theirs: str) -> None:
    if named == theirs:
        version_of(get_dataset(named), raw / theirs)
        return
    with pytest.raises(DataError, match=rf"It looks like the format of {theirs}: give --dataset {theirs}$"):
        version_of(get_dataset(named), raw / theirs)


def test_a_folder_that_should_describe_itself_is_told_apart_too(raw: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset\.yaml.*give --dataset openkbp$"):
        resolve_config("smoke", dataset="folder", source=str(raw / "openkbp"))


def test_a_folder_of_no_format_gets_no_hint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no OpenKBP patients") as caught:
        version_of(get_dataset("openkbp"), tmp_path)
    assert "looks like" not in str(caught.value)
