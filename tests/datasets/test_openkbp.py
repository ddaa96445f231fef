"""OpenKBP files are read strictly: good ones exactly as pandas would, broken ones with a message that helps."""

import hashlib
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctan.cases import RawCase
from ctan.datasets import get_dataset
from ctan.datasets.openkbp.format import SHAPE
from ctan.datasets.openkbp.phantom import write_openkbp_phantoms
from ctan.datasets.openkbp.sparse_csv import _scatter_mask, _scatter_values, read_mask, read_values
from ctan.errors import CaseError, DataError

DATASET = get_dataset("openkbp")
NUM_VOXELS = 128**3


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_openkbp_phantoms(folder, num_train=1, num_validation=0, seed=0)
    return folder / "train-pats" / "pt_1"


@pytest.fixture
def patient(good, tmp_path):
    """A patient whose files a test may damage."""
    folder = tmp_path / "train-pats" / "pt_1"
    shutil.copytree(good, folder)
    return RawCase("pt_1", "pt_1", "train", folder)


def reason(raw):
    with pytest.raises(CaseError) as found:
        DATASET.read(raw)
    assert found.value.case_id == "pt_1"
    assert str(raw.path.parent) not in str(found.value)
    return found.value.reason


# Good files


def volume(content, empty_is_one=False):
    """Read a file as the challenge's own loader does."""
    table = pd.read_csv(io.BytesIO(content), index_col=0)
    array = np.zeros(SHAPE)
    np.put(array, table.index, 1 if empty_is_one else table["data"])
    return array


def test_a_patient_is_read_as_pandas_reads_it(patient):
    case = DATASET.read(patient)
    contents = {path.stem: path.read_bytes() for path in patient.path.glob("*.csv")}
    np.testing.assert_array_equal(case.images["ct"], volume(contents.pop("ct")))
    np.testing.assert_array_equal(case.doses["dose"], volume(contents.pop("dose")).astype(np.float32))
    assert case.spacing_mm == tuple(np.loadtxt(io.BytesIO(contents.pop("voxel_dimensions"))))
    assert set(case.masks) == set(contents)
    for name, mask in case.masks.items():
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, volume(contents[name], empty_is_one=True) == 1)
    assert (case.images["ct"].dtype, case.doses["dose"].dtype) == (np.uint16, np.float32)
    assert (case.case_id, case.group_id, case.split, case.shape) == ("pt_1", "pt_1", "train", SHAPE)


def test_the_checksum_names_every_file_and_its_bytes(patient):
    listing = "".join(
        f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in sorted(patient.path.iterdir())
    )
    before = DATASET.read(patient).sha256
    assert before == hashlib.sha256(listing.encode()).hexdigest()
    (patient.path / "Brainstem.csv").rename(patient.path / "Larynx.csv")
    assert DATASET.read(patient).sha256 != before


def test_a_structure_without_a_file_has_no_mask(patient):
    (patient.path / "Brainstem.csv").unlink()
    assert "Brainstem" not in DATASET.read(patient).masks


def test_ct_values_are_clipped(patient):
    (patient.path / "ct.csv").write_text(",data\n5,-7.0\n6,4095.0\n7,5000.0\n8,1024.0\n")
    ct = DATASET.read(patient).images["ct"].reshape(-1)
    assert ct[5:9].tolist() == [0, 4095, 4095, 1024]
    assert np.count_nonzero(ct) == 3


def test_rows_in_any_order_are_accepted(patient):
    expected = DATASET.read(patient)
    for name in ("dose", "PTV70"):
        header, *rows = (patient.path / f"{name}.csv").read_text().splitlines(keepends=True)
        (patient.path / f"{name}.csv").write_text(header + "".join(reversed(rows)))
    found = DATASET.read(patient)
    np.testing.assert_array_equal(found.doses["dose"], expected.doses["dose"])
    np.testing.assert_array_equal(found.masks["PTV70"], expected.masks["PTV70"])
    assert found.sha256 != expected.sha256


def test_windows_line_ends_are_accepted(patient):
    expected = DATASET.read(patient)
    for path in patient.path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = DATASET.read(patient)
    np.testing.assert_array_equal(found.images["ct"], expected.images["ct"])
    np.testing.assert_array_equal(found.doses["dose"], expected.doses["dose"])
    assert found.spacing_mm == expected.spacing_mm
    assert all(np.array_equal(found.masks[name], mask) for name, mask in expected.masks.items())


def test_files_that_a_mac_leaves_beside_the_real_ones_do_not_matter(patient):
    expected = DATASET.read(patient).sha256
    (patient.path / "._ct.csv").write_bytes(b"\0\5\x16\7Mac OS X")
    assert DATASET.read(patient).sha256 == expected


def test_folders_that_are_not_numbered_in_plain_digits_are_left_out_with_a_remark(patient):
    root = patient.path.parent.parent
    assert DATASET.remarks(root) == []
    for name in ("pt_٧", "pt_2 copy"):
        shutil.copytree(patient.path, patient.path.parent / name)
    assert [raw.case_id for raw in DATASET.find(root)] == ["pt_1"]
    assert DATASET.remarks(root) == ["folders that are not called pt_<n> and are left out: 2 (pt_2 copy, pt_٧)"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("5,1.0,2.0\n", "line 2: expected a finite number, found '1.0,2.0'"),
        ("5,1.0\x0c6,2.0\n", r"line 2: expected a finite number, found '1\.0\\x0c6,2\.0'"),
        ("5,1_000\n", "line 2: expected a finite number, found '1_000'"),
        ("5,1e39\n", "line 2: '1e39' is larger than float32 can hold"),
    ],
    ids=["more cells", "a form feed", "an underscore", "too large"],
)
def test_doses_that_are_no_plain_finite_numbers_are_refused(patient, rows, message):
    (patient.path / "dose.csv").write_text(f",data\n{rows}")
    assert re.fullmatch(rf"dose\.csv: {message}", reason(patient))


def test_other_files_beside_the_csv_files_do_not_matter(patient):
    (patient.path / "notes.txt").write_text("re-planned")
    assert DATASET.read(patient).case_id == "pt_1"


# Random arrays: the compiled kernel, the plain path and pandas agree


@st.composite
def sparse_arrays(draw, num_voxels=5000):
    indices = draw(st.lists(st.integers(0, num_voxels - 1), min_size=1, max_size=60, unique=True))
    decimals = draw(st.integers(0, 6))
    numbers = st.integers(0, 10 ** (decimals + 2)).map(lambda number: round(number / 10**decimals, decimals))
    values = draw(st.lists(numbers, min_size=len(indices), max_size=len(indices)))
    return np.sort(indices), np.array(values, np.float64), num_voxels


def as_csv(indices, values):
    return pd.DataFrame({"data": values}, index=indices).to_csv().encode()


@given(sparse_arrays())
@settings(max_examples=150, deadline=None)
def test_values_come_back_as_pandas_wrote_them(array):
    indices, values, num_voxels = array
    expected = np.zeros(num_voxels)
    expected[indices] = values
    content = as_csv(indices, values)
    np.testing.assert_array_equal(read_values(content, num_voxels, np.float64), expected)
    plain = content.replace(b"\n", b"\r\n")  # which the kernel leaves to the plain path
    assert not _scatter_values(np.frombuffer(plain, np.uint8), 7, -np.inf, np.inf, np.zeros(num_voxels))
    np.testing.assert_array_equal(read_values(plain, num_voxels, np.float64), expected)
    fast = np.zeros(num_voxels)
    if b"e" not in content:
        assert _scatter_values(np.frombuffer(content, np.uint8), 6, -np.inf, np.inf, fast)
        np.testing.assert_array_equal(fast, expected)


@given(sparse_arrays(), st.floats(0, 40), st.floats(60, 120))
@settings(max_examples=50, deadline=None)
def test_clipping_is_that_of_numpy_on_both_paths(array, low, high):
    indices, values, num_voxels = array
    expected = np.zeros(num_voxels)
    expected[indices] = np.clip(values, low, high)
    for content in (as_csv(indices, values), as_csv(indices[::-1], values[::-1])):
        np.testing.assert_array_equal(read_values(content, num_voxels, np.float64, low, high), expected)


@given(sparse_arrays())
@settings(max_examples=100, deadline=None)
def test_masks_come_back_as_pandas_wrote_them(array):
    indices, _, num_voxels = array
    expected = np.zeros(num_voxels, bool)
    expected[indices] = True
    content = as_csv(indices, [None] * len(indices))
    fast = np.zeros(num_voxels, bool)
    assert _scatter_mask(np.frombuffer(content, np.uint8), 6, fast)
    np.testing.assert_array_equal(fast, expected)
    np.testing.assert_array_equal(read_mask(content, num_voxels), expected)
    np.testing.assert_array_equal(read_mask(content.replace(b"\n", b"\r\n"), num_voxels), expected)


@pytest.mark.parametrize(
    "text", ["1e1", "+3.5", "-2.25", "0.123456789012345678", ".5", "7.", "1E-3", "123456789012345678"]
)
def test_unusual_numbers_are_those_of_python(text):
    assert read_values(f",data\n3,{text}\n".encode(), 10, np.float64)[3] == float(text)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_other_bytes_are_read_or_refused_but_never_crash(garbage):
    for content in (garbage, b",data\n" + garbage, b",data\n3,1.0\n" + garbage + b"\n"):
        for read in (lambda c: read_values(c, 50, np.float32), lambda c: read_mask(c, 50)):
            try:
                values = read(content)
            except DataError:
                continue
            assert np.isfinite(values).all()
            assert content.startswith(b",data")


# Broken files


BROKEN_ROWS = {
    "an index beyond the grid": ("2097152,1.0", r"line 4: index 2097152 out of range 0\.\.2097151"),
    "a very long index": ("99999999999999999999999,1.0", "line 4: index 9+ out of range"),
    "a negative index": ("-4,1.0", "line 4: index -4 out of range"),
    "an index that was there before": ("9,1.0", "line 4: duplicate index 9"),
    "NaN": ("12,nan", "line 4: expected a finite number, found 'nan'"),
    "infinity": ("12,inf", "line 4: expected a finite number, found 'inf'"),
    "a number beyond float64": ("12,1e999", "line 4: expected a finite number, found '1e999'"),
    "no value": ("12,", "line 4: expected a finite number, found ''"),
    "text for a value": ("12,high", "line 4: expected a finite number, found 'high'"),
    "a third column": ("12,1.0,2.0", r"line 4: expected a finite number, found '1\.0,2\.0'"),
    "text for an index": ("first,1.0", "line 4: expected 'index,value', found 'first,1.0'"),
    "a fractional index": ("12.0,1.0", "line 4: expected 'index,value'"),
    "no comma": ("12", "line 4: expected 'index,value', found '12'"),
    "an empty line": ("", "line 4: expected 'index,value', found ''"),
}


@pytest.mark.parametrize("name", ["ct", "dose"])
@pytest.mark.parametrize(("row", "message"), BROKEN_ROWS.values(), ids=BROKEN_ROWS)
def test_a_broken_row_is_named_by_file_and_line(patient, name, row, message):
    (patient.path / f"{name}.csv").write_text(f",data\n8,1.0\n9,2.5\n{row}\n20,1.0\n")
    found = reason(patient)
    assert found.startswith(f"{name}.csv: ")
    assert re.search(message, found), found


BROKEN_MASKS = {
    "a value": (",data\n5,\n6,1.0\n", "line 3: a mask has no values, found '1.0'"),
    "a duplicate": (",data\n5,\n5,\n", "line 3: duplicate index 5"),
    "a negative index": (",data\n-1,\n", "line 2: index -1 out of range 0..2097151"),
    "an index beyond the grid": (",data\n5,\n2097152,\n", "line 3: index 2097152 out of range 0..2097151"),
    "no row": (",data\n", "empty, not a single voxel"),
    "no byte": ("", "expected the header ',data', found ''"),
    "another header": ("index,data\n5,\n", "expected the header ',data', found 'index,data'"),
    "no header": ("5,\n6,\n", "expected the header ',data', found '5,'"),
    "a truncated last line": (",data\n5,\n60", "truncated, the last line '60' does not end"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_MASKS.values(), ids=BROKEN_MASKS)
def test_a_broken_mask_file_says_what_is_wrong(patient, content, message):
    (patient.path / "Brainstem.csv").write_text(content)
    assert reason(patient) == f"Brainstem.csv: {message}"


@pytest.mark.parametrize("name", ["ct", "dose", "PTV70", "possible_dose_mask"])
def test_a_file_cut_off_in_the_middle_of_a_line_is_refused(patient, name):
    path = patient.path / f"{name}.csv"
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n", 0, len(content) // 2) + 4])
    assert reason(patient).startswith(f"{name}.csv: truncated, the last line ")


@pytest.mark.parametrize("name", ["ct", "dose", "possible_dose_mask", "voxel_dimensions"])
def test_a_missing_file_is_named(patient, name):
    (patient.path / f"{name}.csv").unlink()
    assert reason(patient) == f"{name}.csv missing; every patient needs them"


def test_an_empty_folder_names_everything_it_lacks(patient):
    shutil.rmtree(patient.path)
    patient.path.mkdir()
    assert reason(patient) == (
        "ct.csv, dose.csv, possible_dose_mask.csv, voxel_dimensions.csv missing; every patient needs them"
    )


def test_an_unknown_structure_is_named_with_the_known_ones(patient):
    (patient.path / "Brainstem.csv").rename(patient.path / "brain_stem.csv")
    assert reason(patient).startswith("brain_stem.csv: unknown structure; known: Brainstem, SpinalCord, ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3.9\n3.9\n", r"expected three positive numbers in mm, found '3\.9 3\.9'"),
        ("3.9\n3.9\n2.5\n1.0\n", "expected three positive numbers in mm, found"),
        ("", r"expected three positive numbers in mm, found ''"),
        ("3.9\n0.0\n2.5\n", "expected three positive numbers in mm, found"),
        ("3.9\n3.9\n-2.5\n", "expected three positive numbers in mm, found"),
        ("3.9\nnan\n2.5\n", "expected three positive numbers in mm, found"),
        ("3.9\ninf\n2.5\n", "expected three positive numbers in mm, found"),
        ("3.9\nthick\n2.5\n", "expected three positive numbers in mm, found '3.9 thick 2.5'"),
        ("3.9\n3.9\n2,5 µm\n", "expected three positive numbers in mm, found"),
    ],
)
def test_voxel_dimensions_must_be_three_positive_numbers(patient, content, message):
    (patient.path / "voxel_dimensions.csv").write_text(content, encoding="utf-8")
    found = reason(patient)
    assert re.match(rf"voxel_dimensions\.csv: {message}", found), found


@pytest.mark.parametrize("name", ["ct", "dose", "Brainstem", "possible_dose_mask"])
def test_binary_garbage_is_refused(patient, name):
    garbage = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    path = patient.path / f"{name}.csv"
    path.write_bytes(garbage)
    assert reason(patient).startswith(f"{name}.csv: expected the header ',data', found ")
    path.write_bytes(b",data\n" + garbage + b"\n")
    assert re.fullmatch(rf"{name}\.csv: not a text file \(byte \d+ is not ASCII\)", reason(patient))


def test_a_negative_dose_is_refused(patient):
    (patient.path / "dose.csv").write_text(",data\n8,1.0\n9,-2.5\n")
    assert reason(patient) == "dose.csv: negative dose -2.500 Gy"


def test_a_folder_in_place_of_a_file_is_named(patient):
    (patient.path / "dose.csv").unlink()
    (patient.path / "dose.csv").mkdir()
    assert reason(patient).startswith("dose.csv: expected a regular file, found a folder")


# Finding patients


def test_patients_are_found_by_split_and_number(tmp_path):
    for name in (
        "train-pats/pt_10",
        "train-pats/pt_9",
        "test-pats/pt_241",
        "validation-pats/pt_201",
        "train-pats/old",
        "train-pats/pt_x",
    ):
        (tmp_path / "provided-data" / name).mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "provided-data"):
        found = [(raw.split, raw.case_id) for raw in DATASET.find(folder)]
        assert found == [("train", "pt_9"), ("train", "pt_10"), ("validation", "pt_201"), ("test", "pt_241")]


def test_a_folder_without_patients_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"no OpenKBP patients, expected train-pats/pt_<n>/ct\.csv.*folder is empty"):
        DATASET.find(tmp_path)
    (tmp_path / "pt_1").mkdir()
    with pytest.raises(DataError, match="found none"):
        DATASET.find(tmp_path)


# CT numbers


def test_values_that_are_no_ct_are_refused_though_they_lie_within_0_to_4095(tmp_path):
    """Today's wrong output was "CT values lie within 0 to 4095", a check of clipped values that cannot fail."""
    DATASET.write_phantoms(tmp_path, 1, 0, 0)
    path = tmp_path / "train-pats" / "pt_1" / "ct.csv"
    (raw,) = DATASET.find(tmp_path)
    assert DATASET.read(raw).remarks == ()
    table = pd.read_csv(path, index_col=0)["data"]
    values = table.reindex(range(128**3), fill_value=0)
    (values + 1024).rename("data").to_csv(path)  # the offset of HU twice
    with pytest.raises(CaseError, match=r"ct\.csv: CT: the values are not HU: "):
        DATASET.read(raw)


# Real patients


@pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA is not set")
@pytest.mark.parametrize("name", ["train-pats/pt_1", "validation-pats/pt_201"])
def test_a_real_patient_is_read_as_pandas_reads_it(tmp_path, name):
    import tarfile

    archive = Path(os.environ["CTAN_TEST_DATA"]) / "openkbp" / f"{name}.tar.xz"
    target = tmp_path / name
    target.mkdir(parents=True)
    with tarfile.open(archive) as stream:
        stream.extractall(target.parent, filter="data")
    raw = DATASET.find(tmp_path)[0]
    case = DATASET.read(raw)
    for path in raw.path.glob("*.csv"):
        if path.stem in case.masks:
            np.testing.assert_array_equal(case.masks[path.stem], volume(path.read_bytes(), empty_is_one=True) == 1)
    np.testing.assert_array_equal(case.images["ct"], volume((raw.path / "ct.csv").read_bytes()).clip(0, 4095))
    np.testing.assert_array_equal(case.doses["dose"], volume((raw.path / "dose.csv").read_bytes()).astype(np.float32))
    assert case.remarks == ()
