"""What names a folder of raw files: contents of what is read, nothing else, and without reading it twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctan.cases import Case, DataSpec, RawCase
from ctan.datasets import Dataset, get_dataset
from ctan.datasets.listing import files_below
from ctan.errors import DataError
from ctan.sources import contents
from ctan.sources.contents import digests, md5s_of, version_of

KEY = "0123456789abcdef" * 4

NAMES = ("openkbp", "prostate", "ham10000", "stoic")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTAN_DEID_KEY", KEY)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phantoms")
    for name in NAMES:
        get_dataset(name).write_phantoms(root / name, num_train=2, num_validation=1, seed=0)
    return {name: root / name for name in NAMES}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as old enough to be kept at once, instead of waiting for seconds."""
    monkeypatch.setattr(contents, "_SETTLED_NS", 0)


_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        _opened.append(str(arguments[0]))


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect what the interpreter opens."""
    global _opened
    if not hasattr(sys, "_ctan_watched"):
        sys.addaudithook(_watch)
        sys._ctan_watched = True  # type: ignore[attr-defined]
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


def read_below(folder: Path, opened: list[str]) -> list[str]:
    return sorted({os.path.relpath(path, folder) for path in opened if path.startswith(f"{folder}/")})


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_exactly_those_that_the_reader_opens(name: str, phantoms: dict[str, Path]) -> None:
    dataset, folder = get_dataset(name), phantoms[name]
    with opened_files() as opened:
        for raw in dataset.find(folder):
            dataset.read(raw)
    listed = [os.path.relpath(file, folder) for file in dataset.files(folder)]  # type: ignore[attr-defined]
    tables = list(dataset.tables)  # type: ignore[attr-defined]
    assert sorted(listed + tables) == read_below(folder, opened)
    assert len(listed) >= 3


def changes(folder: Path) -> Iterator[str]:
    """Change nothing that is read, again and again."""
    for path in sorted(folder.rglob("*")):
        os.utime(path, ns=(5, 5))
    yield "touched"
    for sub in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        (sub / ".DS_Store").write_bytes(b"icons")
        (sub / "._notes").write_bytes(b"\0\5\x16\7")
    yield "looked at with macOS"
    (folder / "README.txt").write_text("about")
    yield "described"
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    yield "copied"
    copy.rename(folder)
    yield "moved"


@pytest.mark.parametrize("name", NAMES)
def test_dates_copies_and_what_nobody_reads_change_nothing(
    name: str, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    dataset, folder = get_dataset(name), tmp_path / "raw"
    shutil.copytree(phantoms[name], folder)
    before = version_of(dataset, folder)
    seen = [(what, version_of(dataset, folder if folder.exists() else tmp_path / "copy")) for what in changes(folder)]
    assert seen == [(what, before) for what in ("touched", "looked at with macOS", "described", "copied", "moved")]


def replace_byte(path: Path) -> None:
    """Change one byte in place; length, date and inode stay."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-5, os.SEEK_END)
        byte = stream.read(1)
        stream.seek(-5, os.SEEK_END)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("name", NAMES)
def test_one_byte_of_any_file_changes_it_although_length_and_date_stay(
    name: str, phantoms: dict[str, Path], tmp_path: Path
) -> None:
    dataset, folder = get_dataset(name), tmp_path / "raw"
    shutil.copytree(phantoms[name], folder)
    seen = [version_of(dataset, folder)]
    files = sorted(folder / os.path.relpath(file, folder) for file in dataset.files(folder))  # type: ignore[attr-defined]
    tables = [folder / table for table in dataset.tables]  # type: ignore[attr-defined]
    for path in {*files[:3], *files[-3:], *tables}:
        replace_byte(path)
        seen.append(version_of(dataset, folder))
    assert len(set(seen)) == len(seen) >= 5


def raw_kbp(folder: Path, cases: int = 2) -> Path:
    for number in range(1, cases + 1):
        path = folder / "train-pats" / f"pt_{number}"
        path.mkdir(parents=True)
        for name in ("ct", "dose"):
            (path / f"{name}.csv").write_bytes(f"{name} {number}\n".encode())
    return folder


KBP = get_dataset("openkbp")


def test_a_version_is_the_hash_of_names_and_contents(tmp_path: Path) -> None:
    lines = b""
    for name, body in (
        ("pt_1/ct", b"ct 1\n"),
        ("pt_1/dose", b"dose 1\n"),
        ("pt_2/ct", b"ct 2\n"),
        ("pt_2/dose", b"dose 2\n"),
    ):
        lines += f"train-pats/{name}.csv".encode() + b"\0" + hashlib.sha256(body).digest()
    assert version_of(KBP, raw_kbp(tmp_path)) == hashlib.sha256(lines).hexdigest()[:32]


def added(folder: Path) -> None:
    (folder / "train-pats" / "pt_1" / "Larynx.csv").write_bytes(b"")


def renamed(folder: Path) -> None:
    (folder / "train-pats" / "pt_1").rename(folder / "train-pats" / "pt_3")


def removed(folder: Path) -> None:
    (folder / "train-pats" / "pt_1" / "ct.csv").unlink()


def exchanged(folder: Path) -> None:
    ct, dose = (folder / "train-pats" / "pt_1" / f"{name}.csv" for name in ("ct", "dose"))
    ct.rename(folder / "x")
    dose.rename(ct)
    (folder / "x").rename(dose)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [added, renamed, removed, exchanged])
def test_a_file_added_renamed_removed_or_exchanged_is_another_version(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = raw_kbp(tmp_path)
    before = version_of(KBP, folder)
    change(folder)
    assert version_of(KBP, folder) != before


def test_links_are_followed_as_in_reading(tmp_path: Path) -> None:
    folder, store = raw_kbp(tmp_path / "raw"), tmp_path / "store"
    before = version_of(KBP, folder)
    (folder / "train-pats" / "pt_1").rename(store)
    (folder / "train-pats" / "pt_1").symlink_to(store)
    (store / "ct.csv").rename(tmp_path / "object")
    (store / "ct.csv").symlink_to(tmp_path / "object")
    assert version_of(KBP, folder) == before
    replace_byte(tmp_path / "object")
    assert version_of(KBP, folder) != before


def test_a_folder_that_contains_itself_is_walked_once(tmp_path: Path) -> None:
    raw_kbp(tmp_path / "raw", cases=1)
    (tmp_path / "raw" / "train-pats" / "pt_1" / "again").symlink_to(tmp_path / "raw" / "train-pats")
    (tmp_path / "raw" / "up").symlink_to(tmp_path)
    names = sorted(os.path.relpath(file, tmp_path / "raw") for file in files_below(tmp_path / "raw"))
    places = ("train-pats/pt_1", "train-pats/pt_1/again/pt_1")
    assert names == sorted(f"{place}/{name}.csv" for place in places for name in ("ct", "dose"))


@pytest.mark.usefixtures("settled")
def test_the_second_look_reads_nothing_but_tables(phantoms: dict[str, Path]) -> None:
    for name in NAMES:
        dataset, folder = get_dataset(name), phantoms[name]
        with opened_files() as first:
            version = version_of(dataset, folder)
        with opened_files() as second:
            assert version_of(dataset, folder) == version
        assert len(read_below(folder, first)) >= 4
        assert read_below(folder, second) == sorted(dataset.tables)  # type: ignore[attr-defined]


def test_a_file_as_young_as_the_clock_is_coarse_is_read_again(tmp_path: Path) -> None:
    folder = raw_kbp(tmp_path)
    version_of(KBP, folder)
    with opened_files() as second:
        version_of(KBP, folder)
    assert len(read_below(folder, second)) == 4


@pytest.mark.usefixtures("settled")
def test_damaged_notes_are_made_anew(tmp_path: Path, own_workspace: Path) -> None:
    folder = raw_kbp(tmp_path)
    version = version_of(KBP, folder)
    (notes,) = (own_workspace / contents.CACHE_FOLDER).iterdir()
    whole = notes.read_bytes()
    assert len(whole) == 16 + 32 + 4 * (40 + 32)
    for damaged in (b"", whole[:-1], whole[:-40] + b"\1" + whole[-39:], whole[:20] + b"\1" + whole[21:]):
        assert damaged != whole
        notes.write_bytes(damaged)
        assert version_of(KBP, folder) == version
        assert sorted(notes.read_bytes()) == sorted(whole)


@pytest.mark.usefixtures("settled")
def test_a_workspace_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw_kbp(tmp_path / "raw")
    version = version_of(KBP, folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTAN_WORKSPACE", str(tmp_path / "file" / "below"))
    assert version_of(KBP, folder) == version


@pytest.mark.usefixtures("settled")
def test_the_notes_do_not_tell_where_the_data_lies(tmp_path: Path, own_workspace: Path) -> None:
    version_of(KBP, raw_kbp(tmp_path / "MUELLER^HANS"))
    written = [path for path in own_workspace.rglob("*") if path.is_file()]
    assert written
    assert not any(b"MUELLER" in str(path).encode() + path.read_bytes() for path in written)


def test_names_that_are_not_utf8_and_files_that_are_none_do_no_harm(tmp_path: Path) -> None:
    folder = raw_kbp(tmp_path)
    before = version_of(KBP, folder)
    case = folder / "train-pats" / "pt_1"
    os.mkfifo(case / "pipe.csv")  # opening it would wait for ever
    (case / "nowhere.csv").symlink_to(tmp_path / "nothing")
    assert version_of(KBP, folder) == before
    Path(os.fsdecode(os.fsencode(case) + b"/\xff.csv")).write_bytes(b"x")
    assert version_of(KBP, folder) != before


class Foreign(Dataset):
    """A data set that does not say which files it reads."""

    name = "foreign"

    def __init__(self) -> None:
        """Need no settings."""

    @property
    def spec(self) -> DataSpec:
        raise NotImplementedError

    def find(self, raw_dir: Path) -> list[RawCase]:
        return []

    def read(self, raw: RawCase) -> Case:
        raise NotImplementedError


def test_a_data_set_that_does_not_list_its_files_has_all_but_hidden_ones(tmp_path: Path) -> None:
    dataset = Foreign()
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a").write_bytes(b"a")
    with pytest.raises(DataError, match="holds no file that foreign reads"):
        version_of(dataset, tmp_path)
    seen = set()
    for name in ("table", "deep/a"):
        (tmp_path / name).write_bytes(b"a")
        seen.add(version_of(dataset, tmp_path))
    (tmp_path / "deep" / ".a").write_bytes(b"")
    assert version_of(dataset, tmp_path) in seen
    assert len(seen) == 2


def test_digests_of_one_purpose_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    files = [tmp_path / "a"]
    assert list(digests(files, tmp_path, "sha256", "p")) == [(b"a", hashlib.sha256(b"a").digest())]
    assert not list(digests(files, tmp_path, "sha256", "q", lambda _: False))
    assert md5s_of(tmp_path) == {"a": hashlib.md5(b"a").hexdigest()}
