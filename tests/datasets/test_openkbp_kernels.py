"""With and without numba the same files are understood, and read to the same arrays."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctan.datasets.openkbp import sparse_csv, whole_files
from ctan.errors import DataError

compiled = pytest.importorskip("ctan.datasets.openkbp.compiled")
NUM_VOXELS = 1200

NEVER = SimpleNamespace(scatter_mask=lambda *_: False, scatter_values=lambda *_: False)
ODD = {
    "nothing": b"",
    "an empty line": b"3,1.0\n\n5,1.0\n",
    "an empty first line": b"\n5,1.0\n",
    "a blank": b"3, 1.0\n",
    "a quote": b'"3",1.0\n',
    "a third column": b"3,1.0,2.0\n",
    "no value": b"3,\n",
    "no index": b",1.0\n",
    "two points": b"3,1.0.0\n",
    "a point alone": b"3,.\n",
    "a fractional index": b"3.0,1.0\n",
    "infinity": b"3,inf\n",
    "a hexadecimal number": b"3,0x10\n",
    "an index twice": b"3,1.0\n3,1.0\n",
    "indices that decrease": b"30,1.0\n4,1.0\n",
    "an index beyond the grid": b"3,1.0\n1200,1.0\n",
    "an index beyond int32": b"3,1.0\n99999999999,1.0\n",
    "an index with zeros before it": b"003,1.0\n4,1.0\n",
    "no last newline": b"3,1.0\n4,1.0",
    "a number of forty digits": b"3," + b"9" * 40 + b"\n",
    "a number of twenty decimals": b"3,0.12345678901234567891\n",
}


def outcome(kernels, monkeypatch, read):
    """Return the array that is read with these kernels, or what the error says."""
    monkeypatch.setattr(sparse_csv, "_scatter_mask", kernels.scatter_mask)
    monkeypatch.setattr(sparse_csv, "_scatter_values", kernels.scatter_values)
    try:
        return read().tolist()
    except DataError as error:
        return str(error)


def agreed(rows, *limits):
    """Return mask and values of `rows`, or the errors: the same with either kernel and line by line."""
    content = b",data\n" + rows
    with pytest.MonkeyPatch.context() as patch:
        for read in (
            lambda: sparse_csv.read_mask(content, NUM_VOXELS),
            lambda: sparse_csv.read_values(content, NUM_VOXELS, np.float32, *limits),
            lambda: sparse_csv.read_values(content, NUM_VOXELS, np.float64, *limits),
        ):
            line_by_line = outcome(NEVER, patch, read)
            assert outcome(compiled, patch, read) == line_by_line
            assert outcome(whole_files, patch, read) == line_by_line
            yield line_by_line


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD)
def test_odd_files_are_read_or_refused_alike(rows):
    assert len(list(agreed(rows))) == 3
    for changed in (rows.replace(b"1.0", b""), b"1,\n" + rows, b"1,2.5\n" + rows):
        assert len(list(agreed(changed, 0.5, 90.0))) == 3


@given(st.sets(st.integers(0, NUM_VOXELS - 1), min_size=1, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_plain_files_are_understood_by_both_whatever_the_widths_of_their_numbers(indices, chance):
    numbers = {index: f"{chance.uniform(0, 120):.{chance.randint(0, 6)}f}" for index in sorted(indices)}
    rows = "".join(f"{index},{text}\n" for index, text in numbers.items()).encode()
    expected = np.zeros(NUM_VOXELS)
    expected[list(numbers)] = np.clip([float(text) for text in numbers.values()], 0.5, 90.0)
    for kernels in (compiled, whole_files):
        values, mask = np.zeros(NUM_VOXELS), np.zeros(NUM_VOXELS, bool)
        assert kernels.scatter_values(np.frombuffer(rows, np.uint8), 0, 0.5, 90.0, values)
        np.testing.assert_array_equal(values, expected)
        without = "".join(f"{index},\n" for index in numbers).encode()
        assert kernels.scatter_mask(np.frombuffer(without, np.uint8), 0, mask)
        assert set(np.flatnonzero(mask)) == indices


PIECES = ["0", "1", "12", "345", "1199", ",", ",", ".", "\n", "\n", "\r", " ", "-"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_any_text_of_the_characters_of_numbers_is_read_or_refused_alike(pieces):
    assert len(list(agreed("".join(pieces).encode() + b"\n"))) == 3


def test_a_patient_is_read_without_numba(tmp_path):
    script = f"""
import sys
sys.modules["numba"] = None  # as if it were not installed
from pathlib import Path
from ctan.datasets import get_dataset
from ctan.datasets.openkbp import sparse_csv, whole_files
assert sparse_csv._scatter_values is whole_files.scatter_values
dataset = get_dataset("openkbp")
dataset.write_phantoms(Path({str(tmp_path)!r}), 1, 0, 0)
case = dataset.read(dataset.find(Path({str(tmp_path)!r}))[0])
print(case.doses["dose"].max() > 60, len(case.masks) > 5)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.stderr) == ("True True\n", "")
