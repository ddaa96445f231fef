"""Raw files come through one door: only regular files of a sane size, nothing that waits, fills memory or stands in."""

import os
import socket

import pytest

from ctan.config import DataConfig, ReadingConfig
from ctan.datasets import get_dataset
from ctan.errors import CaseError, DataError
from ctan.reading import check_voxels, is_plain_id, is_sane_spacing, plain_number, printable, read_bytes

LIMITS = ReadingConfig()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s12--4d7a.mha\n"


def why(path, limits=LIMITS, most_bytes=None):
    with pytest.raises(DataError) as found:
        read_bytes(path, limits, most_bytes)
    assert str(path) not in str(found.value)
    return str(found.value)


def test_a_file_and_a_link_to_it_are_read_whole(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", LIMITS) == read_bytes(tmp_path / "file", LIMITS) == bytes(range(256)) * 1000
    (tmp_path / "empty").touch()
    assert read_bytes(tmp_path / "empty", LIMITS) == b""


def test_what_is_not_a_regular_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        assert why(tmp_path / "socket") == "expected a regular file, found a socket"
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert why(tmp_path / "fifo") == "expected a regular file, found a FIFO"
    assert why(tmp_path / "folder") == "expected a regular file, found a folder"
    assert why(tmp_path / "zero") == "expected a regular file, found a device"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(2**40)
    assert why(tmp_path / "sparse") == (
        "1,099,511,627,776 bytes, data.reading.max_file_bytes allows 1,073,741,824; raise it if the file is right"
    )
    assert (
        why(tmp_path / "sparse", most_bytes=10) == "1,099,511,627,776 bytes, more than the 10 that such a file can have"
    )
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "ten", ReadingConfig(max_file_bytes=10), 10) == b"0123456789"
    assert "max_file_bytes allows 9" in why(tmp_path / "ten", ReadingConfig(max_file_bytes=9))


def test_a_file_that_says_it_is_empty_and_is_not_is_refused(tmp_path):
    (tmp_path / "endless").symlink_to("/proc/self/status")
    assert why(tmp_path / "endless") == "expected 0 bytes, found more; it changed while it was read"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "a Git LFS pointer, the content is not here; fetch it with `git lfs pull`"),
        (ANNEX, "a git-annex pointer, the content is not here; fetch it with `git annex get`"),
    ],
    ids=["Git LFS", "git-annex"],
)
def test_pointers_are_named_with_the_command_that_brings_the_content(tmp_path, content, message):
    (tmp_path / "12.mha").write_bytes(content)
    assert why(tmp_path / "12.mha") == message


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "annexed").symlink_to("../.git/annex/objects/Xx/Yy/SHA256E-s12--4d7a/SHA256E-s12--4d7a")
    assert why(tmp_path / "annexed") == "a git-annex link, the content is not here; fetch it with `git annex get`"
    (tmp_path / "broken").symlink_to("nowhere")
    assert why(tmp_path / "broken") == "a link to a file that does not exist"
    (tmp_path / "circle").symlink_to("circle")
    assert "cannot be read (Too many levels of symbolic links)" in why(tmp_path / "circle")
    assert why(tmp_path / "absent") == "cannot be read (No such file or directory)"
    assert why(tmp_path / ("x" * 300)) == "cannot be read (File name too long)"


def test_an_image_is_refused_by_its_size_before_memory_is_taken():
    check_voxels((512, 512, 600), 512 * 512 * 600 * 2, LIMITS)
    with pytest.raises(DataError, match=r"100,000 x 100,000 are 10,000,000,000 voxels, data.reading.max_voxels allows"):
        check_voxels((100_000, 100_000), 8, LIMITS)
    with pytest.raises(DataError, match=r"are 3,221,225,472 inflated bytes, data.reading.max_inflated_bytes allows"):
        check_voxels((2, 2), 3 * 2**30, LIMITS)


def test_numbers_and_ids_are_plain():
    assert [plain_number(text) for text in ("1", "-2.5", "+.5", "3.", "1e-3")] == [1, -2.5, 0.5, 3, 0.001]
    for text in ("", "1_000", "١٢", "nan", "infinity", " 1", "0x1", "1e", "--1", "1,5"):
        assert plain_number(text) != plain_number(text), text
    assert [is_plain_id(text) for text in ("12", "1２", "²", "", "-1")] == [True, False, False, False, False]
    assert [is_plain_id(text, "pt_") for text in ("pt_7", "7", "pt_", "pt_७")] == [True, False, False, False]


def test_spacings_are_numbers_that_arithmetic_survives():
    assert is_sane_spacing((0.001, 1000.0))
    assert not any(is_sane_spacing((1.0, edge)) for edge in (1e-320, 0.0, -1.0, 1e5, float("nan"), float("inf")))


def test_names_that_are_not_utf8_can_be_printed():
    assert printable("pt_1.csv") == "pt_1.csv"
    assert printable(os.fsdecode(b"caf\xe9.mha")) == r"caf\xe9.mha"
    assert printable("Größe") == "Größe"


# The same for every reader


def phantoms(name, folder):
    dataset = get_dataset(DataConfig.model_validate({"dataset": name}))
    dataset.write_phantoms(folder, 2, 1, 0)
    return dataset


CASE_FILES = {
    "openkbp": "train-pats/pt_1/ct.csv",
    "ham10000": "HAM10000_images_part_1/ISIC_9000001.jpg",
    "ham10000 masks": "HAM10000_segmentations_lesion_tschandl/ISIC_9000001_segmentation.png",
    "stoic": "data/mha/1.mha",
}
TABLES = {"ham10000": "HAM10000_metadata.csv", "stoic": "metadata/reference.csv"}


def put_fifo(path):
    path.unlink()
    os.mkfifo(path)


def put_lfs(path):
    path.unlink()
    path.write_bytes(LFS)


def put_annex(path):
    path.unlink()
    path.symlink_to(".git/annex/objects/x")


def put_endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


PUT = {put_fifo: "found a FIFO", put_lfs: "a Git LFS pointer", put_annex: "a git-annex link", put_endless: "a device"}


@pytest.mark.parametrize("name", CASE_FILES)
def test_every_reader_refuses_files_that_are_none_and_names_them(tmp_path, name):
    dataset = phantoms(name.split()[0], tmp_path)
    path = tmp_path / CASE_FILES[name]
    for put, message in PUT.items():
        put(path)
        raws = dataset.find(tmp_path)  # not lost silently
        (raw,) = [raw for raw in raws if raw.path in (path, path.parent) or raw.case_id == path.name[:12]]
        with pytest.raises(CaseError, match=rf"{path.name}: .*{message}"):
            dataset.read(raw)
        assert len(raws) == 3


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_opened_with_the_same_care_when_cases_are_listed(tmp_path, name):
    dataset = phantoms(name, tmp_path)
    for put, message in PUT.items():
        put(tmp_path / TABLES[name])
        with pytest.raises(DataError, match=message):
            dataset.find(tmp_path)


@pytest.mark.parametrize("name", ["openkbp", "ham10000", "stoic"])
def test_bounds_are_settings(tmp_path, name):
    phantoms(name, tmp_path)
    config = DataConfig.model_validate({"dataset": name, "reading": {"max_file_bytes": 1500}})
    dataset = get_dataset(config)
    with pytest.raises((CaseError, DataError), match=r"data.reading.max_file_bytes allows 1,500"):
        dataset.read(dataset.find(tmp_path)[0])


def test_files_whose_names_are_not_utf8_are_refused_one_by_one(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    for name, path in (("stoic", f"data/mha/{odd}.mha"), ("ham10000", f"HAM10000_images_part_1/{odd}.jpg")):
        dataset = phantoms(name, tmp_path / name)
        (tmp_path / name / path).write_bytes(b"x")
        raws = {raw.case_id: raw for raw in dataset.find(tmp_path / name)}
        assert len(raws) == 4
        with pytest.raises(CaseError, match=r"caf\\xe9\.(mha|jpg): expected the name"):
            dataset.read(raws[r"caf\xe9"])
    dataset = phantoms("openkbp", tmp_path / "openkbp")
    raw = dataset.find(tmp_path / "openkbp")[0]
    (raw.path / f"{odd}.csv").write_bytes(b",data\n")
    with pytest.raises(CaseError, match=r"caf\\xe9\.csv: unknown structure"):
        dataset.read(raw)
