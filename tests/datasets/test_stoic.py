"""STOIC scans and their table are read strictly: good ones as ITK does, broken ones with a message that helps."""

import hashlib
import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from ctan.config import DataConfig, ValidationConfig
from ctan.datasets.stoic.reader import STOIC
from ctan.errors import CaseError, DataError
from ctan.tasks import tasks_of

DATASET = STOIC(DataConfig(dataset="stoic"))
SHAPE = (6, 5, 4)  # (z, y, x)
PERMUTED = {  # direction cosines, row by row, and how the (y, x, z) array of the patient's axes comes from (z, y, x)
    "as written by the scanner": ((1, 0, 0, 0, 1, 0, 0, 0, 1), lambda a: a.transpose(1, 2, 0)[:, :, ::-1]),
    "feet first": ((1, 0, 0, 0, 1, 0, 0, 0, -1), lambda a: a.transpose(1, 2, 0)),
    "prone": ((-1, 0, 0, 0, -1, 0, 0, 0, 1), lambda a: a.transpose(1, 2, 0)[::-1, ::-1, ::-1]),
    # the file's axes x, y, z run to posterior, left, inferior
    "other axes": ((0, 1, 0, 1, 0, 0, 0, 0, -1), lambda a: a.transpose(2, 1, 0)),
}


def hounsfield(dtype=np.int16):
    """Air and soft tissue at random, and a voxel beyond either end of what is kept."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(SHAPE) < 0.5, rng.integers(-1020, -900, SHAPE), rng.integers(-90, 120, SHAPE))
    values[4, 2, 1], values[4, 1, 2] = -1100, 3500
    return values.astype(dtype)


def write(folder, array=None, patient="12", compressed=True, direction=None, fields=None, row="12,1,1"):
    """Write one scan with ITK, and the table; return the scan's path."""
    image = sitk.GetImageFromArray(
        hounsfield() if array is None else array, isVector=array is not None and array.ndim > 3
    )
    image.SetSpacing((0.75, 0.875, 1.5))
    if direction:
        image.SetDirection(direction)
    for name, value in ({"PatientAge": "045Y", "PatientSex": "F"} if fields is None else fields).items():
        image.SetMetaData(name, value)
    path = folder / "data" / "mha" / f"{patient}.mha"
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), compressed)
    write_table(folder, row)
    return path


def write_table(folder, *rows, header="PatientID,probCOVID,probSevere"):
    path = folder / "metadata" / "reference.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def edit(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def read(folder):
    (raw,) = DATASET.find(folder)
    return DATASET.read(raw)


def reason(folder):
    (raw,) = DATASET.find(folder)
    with pytest.raises(CaseError) as found:
        DATASET.read(raw)
    assert found.value.case_id == raw.case_id
    assert str(folder) not in str(found.value)
    return found.value.reason


# Good files


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("direction", "expected"), PERMUTED.values(), ids=PERMUTED)
def test_a_scan_is_read_into_the_axes_of_the_patient(tmp_path, direction, expected, compressed):
    path = write(tmp_path, direction=direction, compressed=compressed)
    case = read(tmp_path)
    stored = np.clip(hounsfield().astype(int) + 1024, 0, 4095)
    np.testing.assert_array_equal(case.images["ct"], expected(stored))
    assert case.images["ct"].dtype == np.uint16
    edges = (
        np.abs(np.reshape(direction, (3, 3))) @ sitk.ReadImage(str(path)).GetSpacing()
    )  # along the patient's x, y, z
    assert case.spacing_mm == pytest.approx((edges[1], edges[0], edges[2]))
    assert (case.masks, case.doses) == ({}, {})


def test_every_voxel_lies_where_itk_says(tmp_path):
    """Posterior, left and inferior indices grow with ITK's physical y, x and -z."""
    path = write(tmp_path, direction=(0, 0, -1, -1, 0, 0, 0, 1, 0))
    image = sitk.ReadImage(str(path))
    case = read(tmp_path)
    places = np.array([image.TransformIndexToPhysicalPoint(i) for i in np.ndindex(image.GetSize())])
    found = np.full(case.shape, -1)
    indices = np.rint((places - places.min(axis=0)) / [case.spacing_mm[1], case.spacing_mm[0], case.spacing_mm[2]])
    for index, (x, y, z) in zip(np.ndindex(image.GetSize()), indices.astype(int), strict=True):
        found[y, x, case.shape[2] - 1 - z] = np.clip(image.GetPixel(index) + 1024, 0, 4095)
    np.testing.assert_array_equal(case.images["ct"], found)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_every_type_of_voxel_gives_the_same_values(tmp_path, dtype):
    write(tmp_path, hounsfield(dtype))
    expected = np.clip(hounsfield().astype(int) + 1024, 0, 4095).transpose(1, 2, 0)[:, :, ::-1]
    np.testing.assert_array_equal(read(tmp_path).images["ct"], expected)


def test_big_endian_voxels_and_gzip_streams_are_read(tmp_path):
    path = write(tmp_path, compressed=False)
    expected = read(tmp_path).images["ct"]
    header, voxels = path.read_bytes().split(b"ElementDataFile = LOCAL\n")
    header = header.replace(b"MSB = False", b"MSB = True").replace(b"CompressedData = False", b"CompressedData = True")
    swapped = np.frombuffer(voxels, "<i2").astype(">i2").tobytes()
    stream = zlib.compressobj(wbits=31)
    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + stream.compress(swapped) + stream.flush())
    np.testing.assert_array_equal(read(tmp_path).images["ct"], expected)


ROWS = {
    "12,0,0": {"covid": "negative"},
    "12,1,0": {"covid": "positive", "severity": "mild"},
    "12,1,1": {"covid": "positive", "severity": "severe"},
    " 12 , 1.0 , 0.0 ": {"covid": "positive", "severity": "mild"},
}


@pytest.mark.parametrize(("row", "labels"), ROWS.items())
def test_severity_is_known_of_patients_with_covid_only(tmp_path, row, labels):
    write(tmp_path, row=row)
    assert read(tmp_path).labels == labels


FACTS = {
    "years and woman": ({"PatientAge": "045Y", "PatientSex": "F"}, {"age": 45.0, "sex": "female"}),
    "no unit and man": ({"PatientAge": "85", "PatientSex": "M"}, {"age": 85.0, "sex": "male"}),
    "months": ({"PatientAge": "018M"}, {"age": 1.5}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize(("fields", "facts"), FACTS.values(), ids=FACTS)
def test_age_and_sex_come_from_the_header(tmp_path, fields, facts):
    write(tmp_path, fields=fields)
    assert read(tmp_path).facts == facts


def test_the_patient_is_the_group_and_there_is_no_split(tmp_path):
    write(tmp_path)
    case = read(tmp_path)
    assert (case.case_id, case.group_id, case.split) == ("12", "12", "")


def test_the_checksum_covers_the_file_and_the_row(tmp_path):
    path = write(tmp_path)
    digests = {
        "12.mha": hashlib.sha256(path.read_bytes()).hexdigest(),
        "metadata/reference.csv": hashlib.sha256(b"12,1,1").hexdigest(),
    }
    listing = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
    assert read(tmp_path).sha256 == hashlib.sha256(listing.encode()).hexdigest()
    before = read(tmp_path).sha256
    write_table(tmp_path, "11,0,0", "12,1,1")  # another patient's row
    assert read(tmp_path).sha256 == before
    write_table(tmp_path, "12,1,0")
    assert read(tmp_path).sha256 != before


# Broken files. ITK reads several of these without an error.


def test_a_damaged_zlib_stream_is_refused_though_itk_reads_it(tmp_path):
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    for place in (-3, -60):  # in the checksum, in the voxels
        content[place] ^= 32
        path.write_bytes(content)
        sitk.ReadImage(str(path))  # no error: the reason for a reader of our own
        assert re.match(r"12\.mha: compressed voxels are damaged \(Error -3 while decompressing data", reason(tmp_path))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_file_is_named(tmp_path, compressed):
    path = write(tmp_path, compressed=compressed)
    path.write_bytes(path.read_bytes()[:-40])
    found = reason(tmp_path)
    expected = (
        r"truncated or damaged: CompressedDataSize is \d+ bytes"
        if compressed
        else "truncated: 4 x 5 x 6 voxels are 240"
    )
    assert re.match(rf"12\.mha: {expected}", found), found


def test_a_truncated_stream_of_unknown_length_is_named(tmp_path):
    path = write(tmp_path)
    content = re.sub(rb"CompressedDataSize = \d+\n", b"", path.read_bytes())
    path.write_bytes(content[:-40])
    assert reason(tmp_path) == "12.mha: truncated: the compressed voxels do not end"


@pytest.mark.parametrize("compressed", [True, False])
def test_more_voxels_than_announced_are_refused(tmp_path, compressed):
    path = write(tmp_path, compressed=compressed)
    edit(path, b"DimSize = 4 5 6", b"DimSize = 4 5 5")
    found = reason(tmp_path)
    assert found.startswith("12.mha: too long: ")


@pytest.mark.parametrize("size", [b"4 5 9", b"400 500 600"])
def test_fewer_voxels_than_announced_are_refused_before_memory_is_taken(tmp_path, size):
    path = write(tmp_path)
    edit(path, b"DimSize = 4 5 6", b"DimSize = " + size)
    assert re.match(
        r"12\.mha: truncated: (compressed voxels end in slice 6 of 9|400 x 500 x 600 voxels)", reason(tmp_path)
    )


HEADERS = {
    "zero spacing": (b"Spacing = 0.75", b"Spacing = 0", "expected three positive ElementSpacing in mm, found '0 0"),
    "negative spacing": (b"Spacing = 0.75", b"Spacing = -0.75", "expected three positive ElementSpacing in mm"),
    "NaN spacing": (b"Spacing = 0.75", b"Spacing = nan", "expected 3 numbers for ElementSpacing, found nan"),
    "no spacing": (b"ElementSpacing", b"Spacings", "expected 3 numbers for ElementSpacing, found none"),
    "four axes": (b"NDims = 3", b"NDims = 4", "expected NDims = 3, found 4"),
    "no size": (b"DimSize", b"Sizes", "expected 3 numbers for DimSize, found none"),
    "half a voxel": (b"= 4 5 6", b"= 4 5 6.5", "expected DimSize of at least 2 voxels along every axis"),
    "one slice": (b"= 4 5 6", b"= 4 5 1", "expected DimSize of at least 2 voxels along every axis, found '4 5 1'"),
    "other file": (b"= LOCAL", b"= ../13.raw", r"expected ElementDataFile = LOCAL, found \.\./13\.raw"),
    "text": (b"BinaryData = True", b"BinaryData = False", "expected BinaryData = True, found False"),
    "type": (b"MET_SHORT", b"MET_STRING", "expected ElementType to be one of MET_CHAR, .*, found MET_STRING"),
    "no orientation": (b"TransformMatrix", b"Matrix", "expected 9 numbers for TransformMatrix, found none"),
    "flat": (b"1 0 0 0 1 0 0 0 1", b"1 0 0 1 0 0 0 0 1", "expected TransformMatrix to be a rotation, found '1 0 0 1"),
    "age": (b"045Y", b"old!", "expected PatientAge such as 045Y, found 'old!'"),
    "sex": (b"PatientSex = F", b"PatientSex = Q", "expected PatientSex to be one of M, F, O, found 'Q'"),
    "tiny spacing": (b"Spacing = 0.75", b"Spacing = 1e-320", "expected three positive ElementSpacing in mm, found"),
    "odd digits": (b"Spacing = 0.75", b"Spacing = 0_75", "expected 3 numbers for ElementSpacing, found 0_75"),
    "a field twice": (b"NDims = 3", b"NDims = 3\nDimSize = 4 5 5", "DimSize stands in line 3 and in line 15, exp"),
    "byte order": (b"OrderMSB = False", b"OrderMSB = Flase", "expected BinaryDataByteOrderMSB to be True or False"),
    "two byte orders": (b"NDims = 3", b"NDims = 3\nElementByteOrderMSB = True", "BinaryDataByteOrderMSB and .* contra"),
    "voxels elsewhere": (b"NDims = 3", b"NDims = 3\nHeaderSize = 9", "expected HeaderSize to be 0 or absent, found '"),
    "no line": (b"OrderMSB = ", b"OrderMSB : ", "expected 'name = value' in line 4, found 'BinaryDataByteOrderMSB"),
}


@pytest.mark.parametrize(("old", "new", "message"), HEADERS.values(), ids=HEADERS)
def test_a_broken_header_says_what_is_wrong(tmp_path, old, new, message):
    edit(write(tmp_path), old, new)
    found = reason(tmp_path)
    assert re.match(rf"12\.mha: header: {message}", found), found


def test_blank_header_lines_that_itk_itself_writes_are_read(tmp_path):
    path = write(tmp_path, fields={"PatientAge": "045Y\n", "PatientSex": "F", "Comment": "\n\n"})
    assert b"\n\n" in path.read_bytes()[:600]
    case = read(tmp_path)
    assert case.facts == {"age": 45.0, "sex": "female"}
    image = sitk.ReadImage(str(path))  # and what ITK writes of what it read
    for name in image.GetMetaDataKeys():
        image.SetMetaData(name, image.GetMetaData(name))
    sitk.WriteImage(image, str(path))
    np.testing.assert_array_equal(read(tmp_path).images["ct"], case.images["ct"])


def test_a_small_file_that_would_fill_memory_is_refused_before_it_does(tmp_path):
    path = write(tmp_path)
    header = path.read_bytes().partition(b"ElementDataFile")[0].replace(b"DimSize = 4 5 6", b"DimSize = 1500 1000 1000")
    voxels = zlib.compress(bytes(4_000_000)) * 1000
    header = re.sub(rb"CompressedDataSize = \d+", b"CompressedDataSize = %d" % len(voxels), header)
    path.write_bytes(header + b"ElementDataFile = LOCAL\n" + voxels)
    assert reason(tmp_path) == (
        "12.mha: 1,500 x 1,000 x 1,000 are 1,500,000,000 voxels, data.reading.max_voxels allows 536,870,912; "
        "raise it if the file is right"
    )


def test_a_header_that_ends_early_is_named(tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    for cut, message in {0: "line 1, found the end of the file", 28: "line 2, found 'NDims = 3'"}.items():
        path.write_bytes(content[:cut])
        assert reason(tmp_path) == f"12.mha: header: expected 'name = value' in {message}"


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = write(tmp_path)
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes())
    assert re.match(r"12\.mha: header: expected 'name = value' in line \d+, found ", reason(tmp_path))
    path.write_bytes(b"".join(b"a%d = b\n" % n for n in range(5000)))
    assert reason(tmp_path) == "12.mha: header: no ElementDataFile in the first 1000 lines"


def test_a_colour_image_and_a_flat_image_are_refused(tmp_path):
    write(tmp_path / "colour", np.zeros((*SHAPE, 3), np.uint8))
    assert reason(tmp_path / "colour") == "12.mha: header: expected one channel, found 3 (a colour image?)"
    path = tmp_path / "flat" / "data" / "mha" / "12.mha"
    path.parent.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8), np.int16)), str(path))
    write_table(tmp_path / "flat", "12,0,0")
    assert reason(tmp_path / "flat") == "12.mha: header: expected NDims = 3, found 2"


def test_oblique_slices_are_refused(tmp_path):
    write(tmp_path, direction=(1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8))
    assert re.match(r"12\.mha: header: oblique slices, TransformMatrix is '1 0 0 0 0\.8", reason(tmp_path))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, np.float32, "slice 3 of 6: 1 voxels are NaN or infinite, expected HU"),
        (np.inf, np.float64, "slice 3 of 6: 1 voxels are NaN or infinite, expected HU"),
        (1e6, np.float32, "slice 3 of 6: expected HU, found values from -1098 to 1e+06"),
        (-(2**30), np.int32, "slice 3 of 6: expected HU, found values from -1.07374e+09 to "),
    ],
)
def test_values_that_are_no_ct_are_refused(tmp_path, value, dtype, message):
    array = hounsfield(dtype)
    array[3, 2, 1] = value
    write(tmp_path, array)
    expected = message.replace("-1098", f"{hounsfield()[3].min():g}")
    assert reason(tmp_path).startswith(f"12.mha: {expected}")


def test_a_file_that_vanished_is_named(tmp_path):
    path = write(tmp_path)
    (raw,) = DATASET.find(tmp_path)
    path.unlink()
    with pytest.raises(CaseError, match=r"^12: 12\.mha: cannot be read \(No such file or directory\)$"):
        DATASET.read(raw)


# The table

TABLES = {
    "no row": (["11,1,0"], "no row for PatientID 12"),
    "two rows": (["12,1,0", "11,0,0", "12,1,1"], r"2 rows for PatientID 12 \(lines 2, 4\), expected one"),
    "a probability": (["12,0.5,0"], "line 2: expected probCOVID to be 0 or 1, found '0.5'"),
    "nothing": (["12,1,"], "line 2: expected probSevere to be 0 or 1, found ''"),
    "a short row": (["12,1"], "line 2: expected 3 columns, found 2"),
    "a cell too many": (["12,1,0,1"], "line 2: expected 3 columns, found 4"),
    "digits of another script": (["12,١,0"], "line 2: expected probCOVID to be 0 or 1, found '١'"),
    "a word": (["12,yes,0"], "line 2: expected probCOVID to be 0 or 1, found 'yes'"),
    "severe without COVID-19": (["12,0,1"], "line 2: probSevere is 1 but probCOVID is 0; severe cases have COVID-19"),
}


@pytest.mark.parametrize(("rows", "message"), TABLES.values(), ids=TABLES)
def test_a_broken_row_is_about_its_patient_only(tmp_path, rows, message):
    write(tmp_path)
    write_table(tmp_path, *rows)
    assert re.fullmatch(rf"reference\.csv: {message}", reason(tmp_path))


def test_a_table_with_doubled_columns_stops_everything(tmp_path):
    """A public copy has them; the last one decided, silently."""
    write(tmp_path)
    write_table(tmp_path, "12,1,0,12,0,0", header="PatientID,probCOVID,probSevere,PatientID,probCOVID,probSevere")
    with pytest.raises(DataError, match=r"reference\.csv: column PatientID, probCOVID, probSevere is there twice"):
        DATASET.find(tmp_path)


def test_a_field_that_never_ends_is_refused_as_a_table(tmp_path):
    write(tmp_path)
    write_table(tmp_path, '12,1,"' + "0" * 200_000)
    with pytest.raises(DataError, match=r"reference\.csv: line \d: not comma-separated text \("):
        DATASET.find(tmp_path)


def test_a_row_without_an_id_is_no_patient_and_is_remarked(tmp_path):
    write(tmp_path)
    write_table(tmp_path, "12,1,1", ",0,0", "", "11,0,0")
    assert DATASET.remarks(tmp_path) == [
        "rows of reference.csv without a PatientID: 1 (line 3)",
        "1 patient of reference.csv has no scan in data/mha and is left out: 11.",
    ]


def test_a_scan_whose_name_is_no_number_is_refused_though_the_table_has_it(tmp_path):
    write(tmp_path, patient="1２", row="1２,1,1")
    assert reason(tmp_path) == "1２.mha: expected the name <PatientID>.mha, in digits"


def test_a_table_without_a_column_stops_everything(tmp_path):
    write(tmp_path)
    write_table(tmp_path, "12,1", header="PatientID,probCOVID")
    with pytest.raises(
        DataError, match="no column probSevere; expected PatientID,probCOVID,probSevere, found PatientID"
    ):
        DATASET.find(tmp_path)
    (tmp_path / "metadata" / "reference.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"reference\.csv: not a text file \(byte 0 is not UTF-8\)"):
        DATASET.find(tmp_path)
    (tmp_path / "metadata" / "reference.csv").unlink()
    with pytest.raises(DataError, match=r"metadata/reference\.csv: cannot be read \(No such file"):
        DATASET.find(tmp_path)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    write(tmp_path)
    path = tmp_path / "metadata" / "reference.csv"
    path.write_bytes(b"\xef\xbb\xbfPatientID,probSevere,probCOVID,note\r\n12,0,1,x\r\n")
    assert read(tmp_path).labels == {"covid": "positive", "severity": "mild"}


def test_scans_are_found_by_number_and_unfinished_downloads_are_not(tmp_path):
    path = write(tmp_path)
    for name in ("9.mha", "100.mha", ".13.mha", "14.mha.part", "notes.txt"):
        shutil.copy(path, path.parent / name)
    assert [raw.case_id for raw in DATASET.find(tmp_path)] == ["9", "12", "100"]


def test_a_folder_without_scans_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"no STOIC scans, expected data/mha/<PatientID>\.mha; the folder is empty"):
        DATASET.find(tmp_path)
    write_table(tmp_path, "12,1,0")
    with pytest.raises(DataError, match="found none"):
        DATASET.find(tmp_path)


def test_patients_without_a_scan_are_counted(tmp_path):
    write(tmp_path)
    assert DATASET.remarks(tmp_path) == []
    write_table(tmp_path, "12,1,0", "7,0,0")
    assert DATASET.remarks(tmp_path) == ["1 patient of reference.csv has no scan in data/mha and is left out: 7."]
    write_table(tmp_path, "12,1,0", *(f"{number},0,0" for number in (100, 21, 22, 23, 9, 24)))
    assert DATASET.remarks(tmp_path) == [
        "6 patients of reference.csv have no scan in data/mha and are left out: 9, 21, 22, 23, 24 and 1 more."
    ]


# What the data set says of itself


def test_the_network_sees_the_lung_window_as_minus_one_to_one():
    image = DATASET.spec.image
    hu = np.array([-1024, -362, 300, 3000])
    seen = (np.clip(hu + 1024, image.low, image.high) - image.mean[0]) / image.std[0]
    assert seen.tolist() == [-1, 0, 1, 1]


def test_tasks_match_the_labels():
    assert {task.name: task.classes for task in tasks_of(DATASET.spec)} == DATASET.spec.labels


def test_expectations_find_what_cannot_be():
    from ctan.validation.suite import run

    good = {
        "label_covid": "positive",
        "label_severity": "mild",
        "age": 45.0,
        "sex": "male",
        "ct_min": 0,
        "ct_max": 3000,
        "spacing_min_mm": 0.7,
        "spacing_max_mm": 1.5,
    }
    bad = {
        "covid-known": {"label_covid": None},
        "severe-is-positive": {"label_covid": "negative", "label_severity": "severe"},
        "age": {"age": 180.0},
        "sex": {"sex": "Q"},
        "ct-air": {"ct_min": 1024},
        "ct-tissue": {"ct_max": 900},
        "smallest-spacing": {"spacing_min_mm": 0.1},
        "largest-spacing": {"spacing_max_mm": 20.0},
    }
    unknown = {"label_covid": "negative", "label_severity": None, "age": np.nan, "sex": None}
    rows = [{"case_id": "good", **good}, {"case_id": "unknown", **good, **unknown}]
    rows += [{"case_id": name, **good, **changes} for name, changes in bad.items()]
    outcomes = run(pd.DataFrame(rows), DATASET.expectations(ValidationConfig()))
    assert {outcome.expectation.name: list(outcome.failing) for outcome in outcomes} == {name: [name] for name in bad}


def chest(tmp_path):
    """A scan as the phantoms have it, HU, (z, y, x)."""
    STOIC.write_phantoms(DATASET, tmp_path / "phantoms", 1, 0, 0)
    (path,) = (tmp_path / "phantoms" / "data" / "mha").iterdir()
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda hu: hu.astype(np.uint16), "expected soft tissue"),  # signed and called unsigned: air is brightest
        (lambda hu: hu + 1024, "nothing is as dark as air"),  # the offset is missing
    ],
)
def test_values_that_are_not_hu_are_refused_though_they_are_clipped(tmp_path, spoil, said):
    """Today's wrong output was a case in the store: after clipping every value lies between 0 and 4095."""
    hu = chest(tmp_path)
    write(tmp_path / "sound", hu)
    (raw,) = DATASET.find(tmp_path / "sound")
    assert DATASET.read(raw).remarks == ()
    write(tmp_path / "spoilt", spoil(hu))
    (raw,) = DATASET.find(tmp_path / "spoilt")
    with pytest.raises(CaseError, match=rf"12\.mha: CT: the values are not HU: .*{said}"):
        DATASET.read(raw)


# A real scan


@pytest.mark.skipif("CTAN_TEST_DATA" not in os.environ, reason="CTAN_TEST_DATA is not set")
@pytest.mark.parametrize("compressed", [True, False])
def test_a_real_chest_ct_keeps_shape_spacing_and_orientation(tmp_path, compressed):
    image = sitk.ReadImage(str(Path(os.environ["CTAN_TEST_DATA"]) / "ct" / "chest_ct.nii.gz"))
    voxels = sitk.GetArrayFromImage(image)
    written = sitk.GetImageFromArray(voxels)
    written.CopyInformation(image)
    written.SetMetaData("PatientAge", "065Y")
    written.SetMetaData("PatientSex", "M")
    path = tmp_path / "data" / "mha" / "12.mha"
    path.parent.mkdir(parents=True)
    sitk.WriteImage(written, str(path), compressed)
    write_table(tmp_path, "12,1,0")
    case = read(tmp_path)
    x, y, z = image.GetSize()
    assert case.shape == (y, x, z)
    assert case.spacing_mm == pytest.approx((image.GetSpacing()[1], image.GetSpacing()[0], image.GetSpacing()[2]))
    assert case.facts == {"age": 65.0, "sex": "male"}
    # Where ITK says the voxels of a few corners and insides lie, ours have the same value.
    steps = np.sign(np.reshape(image.GetDirection(), (3, 3)).diagonal())
    assert (np.abs(steps) == 1).all()
    stored = np.clip(np.rint(voxels.astype(np.float64)) + 1024, 0, 4095).transpose(1, 2, 0)
    expected = stored[:: int(steps[1]), :: int(steps[0]), :: -int(steps[2])]
    np.testing.assert_array_equal(case.images["ct"], expected)
    # The patient lies as patients do: bone, most of it the spine, is behind the middle of the body.
    bone, body = (np.argwhere(case.images["ct"] > 1024 + hu)[:, 0].mean() for hu in (250, -200))
    assert bone > body
