"""HAM10000 is read strictly: good copies as PIL and csv read them, damaged ones with a message that says why not."""

import csv
import hashlib
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ctan.config import DataConfig, ValidationConfig
from ctan.datasets.ham10000 import table as ham10000_table
from ctan.datasets.ham10000.defects import DEFECTS, spoil
from ctan.datasets.ham10000.phantom import write_ham10000_phantoms
from ctan.datasets.ham10000.reader import HAM10000
from ctan.datasets.ham10000.table import read_table
from ctan.errors import CaseError, DataError
from ctan.intake.measure import case_row
from ctan.store.manifest import SCHEMA

DATASET = HAM10000(DataConfig(dataset="ham10000"))
FIRST = "ISIC_9000001"
TABLE = "HAM10000_metadata.csv"
MASKS = "HAM10000_segmentations_lesion_tschandl"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_ham10000_phantoms(folder, num_train=14, num_validation=2, seed=0, shape=(64, 80))
    return folder


@pytest.fixture
def copy(good, tmp_path):
    """A copy that a test may damage."""
    folder = tmp_path / "ham10000"
    shutil.copytree(good, folder)
    return folder


def find(folder, case_id=FIRST):
    return next(raw for raw in DATASET.find(folder) if raw.case_id == case_id)


def reason(folder, case_id=FIRST):
    with pytest.raises(CaseError) as found:
        DATASET.read(find(folder, case_id))
    assert found.value.case_id == case_id
    assert str(folder) not in str(found.value)
    return found.value.reason


def change_table(folder, change):
    path = folder / TABLE
    path.write_bytes(change(path.read_bytes().decode()).encode())


def table_rows(folder):
    with (folder / TABLE).open(newline="") as stream:
        return {row["image_id"]: row for row in csv.DictReader(stream)}


# Good copies


def test_pictures_masks_and_rows_are_read_as_pil_and_csv_read_them(good):
    rows = table_rows(good)
    cases = [DATASET.read(raw) for raw in DATASET.find(good)]
    assert [case.case_id for case in cases] == sorted(rows)
    for number, case in enumerate(cases):
        row = rows[case.case_id]
        image = np.asarray(Image.open(good / f"HAM10000_images_part_{number % 2 + 1}" / f"{case.case_id}.jpg"))
        mask = np.asarray(Image.open(good / MASKS / f"{case.case_id}_segmentation.png"))
        np.testing.assert_array_equal(np.moveaxis(case.images["rgb"], 0, -1), image)
        np.testing.assert_array_equal(case.masks["Lesion"], mask == 255)
        assert (case.images["rgb"].dtype, case.masks["Lesion"].dtype) == (np.uint8, bool)
        assert case.labels == {"diagnosis": row["dx"]}
        assert (case.group_id, case.split, case.shape, case.spacing_mm) == (row["lesion_id"], "", (64, 80), (1.0, 1.0))
        assert case.facts.get("age") == (float(row["age"]) if row["age"] else None)
        for name in ("sex", "localization", "dx_type"):
            assert case.facts.get(name) == (None if row[name] == "unknown" else row[name])
    assert DATASET.remarks(good) == []


def test_the_lesion_is_the_group_already_when_it_is_found(good):
    assert all(raw.group_id == DATASET.read(raw).group_id for raw in DATASET.find(good))


def test_the_checksum_covers_picture_mask_and_row(copy):
    raw = find(copy)
    mask = copy / MASKS / f"{FIRST}_segmentation.png"
    row = ",".join(table_rows(copy)[FIRST].values())
    parts = {"image": raw.path.read_bytes(), "mask": mask.read_bytes(), "row": row.encode()}
    listing = "".join(f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in parts.items())
    before = DATASET.read(raw).sha256
    assert before == hashlib.sha256(listing.encode()).hexdigest()
    change_table(copy, lambda text: text.replace(row, row.replace(",nv,", ",mel,")))
    assert DATASET.read(raw).sha256 != before


def test_one_folder_of_pictures_and_a_folder_called_masks_are_accepted(good, copy):
    both = copy / "HAM10000_images"
    both.mkdir()
    for path in copy.glob("HAM10000_images_part_*/*.jpg"):
        path.rename(both / path.name)
    (copy / MASKS).rename(copy / "masks")
    found = [DATASET.read(raw) for raw in DATASET.find(copy)]
    assert [case.sha256 for case in found] == [DATASET.read(raw).sha256 for raw in DATASET.find(good)]


def test_further_columns_other_line_ends_and_other_files_do_not_matter(good, copy):
    change_table(
        copy,
        lambda text: text.replace("\r\n", ",vidir_modern\n").replace(
            "localization,vidir_modern", "localization,dataset"
        ),
    )
    (copy / "HAM10000_images_part_1" / "._ISIC_9000001.jpg").write_bytes(b"of the Finder")
    (copy / "HAM10000_images_part_1" / "ATTRIBUTION.txt").write_text("CC BY-NC")
    found = [DATASET.read(raw) for raw in DATASET.find(copy)]
    assert [case.sha256 for case in found] == [DATASET.read(raw).sha256 for raw in DATASET.find(good)]
    assert DATASET.remarks(copy) == []


def test_a_black_and_white_png_is_a_mask_too(copy):
    raw, path = find(copy), copy / MASKS / f"{FIRST}_segmentation.png"
    expected = DATASET.read(raw).masks["Lesion"]
    Image.open(path).convert("1").save(path)
    np.testing.assert_array_equal(DATASET.read(raw).masks["Lesion"], expected)


def test_the_table_is_parsed_once_a_process_and_again_when_it_changes(copy):
    cases = DATASET.find(copy)
    misses = ham10000_table._read.cache_info().misses
    for raw in cases:
        DATASET.read(raw)
    assert ham10000_table._read.cache_info().misses == misses
    change_table(copy, lambda text: text.replace(f"{FIRST},nv", f"{FIRST},melanoma"))
    assert "expected the code 'mel'" in reason(copy)
    assert ham10000_table._read.cache_info().misses == misses + 1


def test_every_case_fits_into_the_manifest_and_every_expectation_names_a_column_of_it(good):
    schema = SCHEMA(DATASET.spec)
    for raw in DATASET.find(good):
        assert set(case_row(DATASET.read(raw), DATASET.spec, fold=0)) == set(schema.names)
    columns = {one.arguments["column"] for one in DATASET.expectations(ValidationConfig())}
    assert columns <= {*schema.names, "share_Lesion"}
    names = [one.name for one in DATASET.expectations(ValidationConfig())]
    assert len(set(names)) == len(names)


# Damaged copies


DAMAGED_CASES = {
    "image-empty": r"ISIC_9000001\.jpg: the file is empty",
    "image-cut-at-half": r"ISIC_9000001\.jpg: truncated, the JPEG has no end marker after [\d,]+ bytes",
    "image-cut-at-90-percent": r"ISIC_9000001\.jpg: truncated, the JPEG has no end marker after [\d,]+ bytes",
    "image-zeros-at-the-end": r"ISIC_9000001\.jpg: truncated, the JPEG has no end marker after [\d,]+ bytes",
    "image-grey": r"ISIC_9000001\.jpg: expected a colour picture \(RGB\), found one grey channel \(mode L\)",
    "image-png": r"ISIC_9000001\.png: expected a JPEG, found a PNG",
    "image-png-named-jpg": r"ISIC_9000001\.jpg: expected a JPEG, found a PNG",
    "image-tiny": r"ISIC_9000001\.jpg: 48 x 36 pixels, expected edges between 64 and 10,000",
    "image-twice": r"HAM10000_images_part_1/ISIC_9000001\.jpg and HAM10000_images_part_2/ISIC_9000001\.jpg: two files "
    r"of one image; keep the official one",
    "mask-missing": rf"ISIC_9000001_segmentation\.png missing in {MASKS} and masks; every image needs a mask",
    "mask-empty-file": r"ISIC_9000001_segmentation\.png: the file is empty",
    "mask-cut": r"ISIC_9000001_segmentation\.png: truncated, the PNG has no end marker after \d+ bytes",
    "mask-of-another-size": r"ISIC_9000001_segmentation\.png: the mask has 40 x 32 pixels, its image 80 x 64; "
    r"they do not belong together, or one was resized",
    "mask-grey-border": r"ISIC_9000001_segmentation\.png: expected the values 0 and 255, found 0, \d+, \d+, \d+, \d+, "
    r"\.\.\.; it was saved with losses or resized",
    "mask-ones": r"ISIC_9000001_segmentation\.png: expected the values 0 and 255, found 0, 1",
    "mask-in-colour": r"ISIC_9000001_segmentation\.png: expected a mask in black and white, found colours in RGB "
    r"\(mode RGB\)",
    "row-lost": r"HAM10000_metadata\.csv: no row for ISIC_9000001 among 15; rows were lost, or .*10,015 rows.*",
    "row-twice": r"HAM10000_metadata\.csv: lines 2 and 3 are both about ISIC_9000001; expected one row an image",
    "row-without-lesion": r"HAM10000_metadata\.csv, line 2: no lesion_id; .*",
    "diagnosis-in-words": r"HAM10000_metadata\.csv, line 2: dx is 'Melanocytic nevi', expected the code 'nv'",
    "diagnosis-unknown": r"HAM10000_metadata\.csv, line 2: dx is 'scc', "
    r"expected one of akiec, bcc, bkl, df, mel, nv, vasc",
    "two-diagnoses": r"HAM10000_metadata\.csv, line 2: lesion HAM_9000001 has 2 diagnoses, mel \(ISIC_9999999\), "
    r"nv \(ISIC_9000001\); expected one",
    "jpg-in-image-id": r"HAM10000_metadata\.csv, line 2: image_id is 'ISIC_9000001\.jpg', expected 'ISIC_9000001'",
    "age-in-words": r"HAM10000_metadata\.csv, line 2: age is 'forty', expected a number of years, or nothing .*",
}
DAMAGED_TABLES = {
    "table-diagnoses-in-words": r"HAM10000_metadata\.csv: column dx holds something else than the codes akiec, .* "
    r"in 16 of 16 rows: dx is 'Melanocytic nevi', expected the code 'nv'; this copy was rewritten; take the .*",
    "table-jpg-in-image-ids": r"HAM10000_metadata\.csv: image_id ends like a file name in 16 of 16 rows, such as "
    r"'ISIC_9000001\.jpg', expected 'ISIC_9000001'; this copy was rewritten; .*",
    "table-without-a-column": r"HAM10000_metadata\.csv: no column dx_type; expected the header lesion_id,.*",
    "table-semicolons": r"HAM10000_metadata\.csv: columns are separated by semicolons, expected commas; .*",
    "table-missing": r"HAM10000_metadata\.csv: cannot be read \(No such file or directory\); it belongs beside .*",
}
SEEN_BY_EXPECTATIONS = {
    "mask-blank": "lesion-share",
    "mask-full": "lesion-share",
    "age-implausible": "age",
    "sex-abbreviated": "sex",
}
REMARKED = {
    "image-missing": [
        "1 of 16 rows of the table have no image here: a part of the data set",
        "masks without an image here: 1",
    ],
    "table-byte-order-mark": [
        "HAM10000_metadata.csv starts with a byte order mark: a spreadsheet program saved this copy again"
    ],
}


def test_every_defect_of_the_phantoms_is_tested():
    assert set(DEFECTS) == {*DAMAGED_CASES, *DAMAGED_TABLES, *SEEN_BY_EXPECTATIONS, *REMARKED}


@pytest.mark.parametrize(("defect", "message"), DAMAGED_CASES.items(), ids=DAMAGED_CASES)
def test_a_damaged_case_says_what_is_wrong_and_leaves_the_others_alone(copy, defect, message):
    spoil(copy, FIRST, defect)
    found = reason(copy)
    assert re.fullmatch(message, found), found
    cases = DATASET.find(copy)
    assert len(cases) == 16
    assert all(DATASET.read(raw) for raw in cases if raw.case_id != FIRST)


@pytest.mark.parametrize(("defect", "message"), DAMAGED_TABLES.items(), ids=DAMAGED_TABLES)
def test_a_table_that_was_changed_throughout_is_refused_once(copy, defect, message):
    raw = find(copy)
    spoil(copy, FIRST, defect)
    with pytest.raises(DataError) as found:
        DATASET.find(copy)
    assert re.fullmatch(message, str(found.value)), found.value
    with pytest.raises(CaseError, match=r"ISIC_9000001: HAM10000_metadata\.csv"):  # when it changes between two steps
        DATASET.read(raw)


@pytest.mark.parametrize(("defect", "expected"), SEEN_BY_EXPECTATIONS.items(), ids=SEEN_BY_EXPECTATIONS)
def test_what_can_be_read_but_is_not_plausible_fails_an_expectation(copy, defect, expected):
    assert failed_expectations(DATASET.read(find(copy))) == []
    spoil(copy, FIRST, defect)
    assert failed_expectations(DATASET.read(find(copy))) == [expected]


def failed_expectations(case):
    row = case_row(case, DATASET.spec, fold=0)
    row["share_Lesion"] = row["voxels_Lesion"] / np.prod(row["shape"])
    failed = []
    for one in DATASET.expectations(ValidationConfig()):
        value, arguments = row[one.arguments["column"]], one.arguments
        if one.type == "ExpectColumnValuesToNotBeNull":
            fine = value is not None
        elif one.type == "ExpectColumnValuesToBeInSet":
            fine = value is None or value in arguments["value_set"]
        else:
            fine = value is None or arguments["min_value"] <= value <= arguments["max_value"]
        failed += [] if fine else [one.name]
    return failed


@pytest.mark.parametrize(("defect", "remarks"), REMARKED.items(), ids=REMARKED)
def test_what_hurts_no_case_is_remarked(copy, defect, remarks):
    spoil(copy, FIRST, defect)
    assert DATASET.remarks(copy) == remarks
    assert all(DATASET.read(raw) for raw in DATASET.find(copy))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_picture_that_was_transferred_in_part_is_refused_even_where_pil_would_fill_it_up(
    copy, monkeypatch, share, tolerant
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    raw = find(copy)
    content = raw.path.read_bytes()
    raw.path.write_bytes(content[: int(share * len(content))])
    if tolerant:
        assert np.asarray(Image.open(raw.path)).shape == (64, 80, 3)
    assert "truncated" in reason(copy)


def test_a_progressive_picture_is_read_whole_and_refused_in_part(copy):
    raw = find(copy)
    Image.open(raw.path).save(raw.path, quality=85, progressive=True)
    assert DATASET.read(raw).shape == (64, 80)
    content = raw.path.read_bytes()
    raw.path.write_bytes(content[: len(content) // 2])
    assert "truncated" in reason(copy)


def test_a_mask_of_another_image_is_known_by_its_size(copy):
    Image.new("L", (100, 75)).save(copy / MASKS / f"{FIRST}_segmentation.png")
    assert reason(copy) == (
        "ISIC_9000001_segmentation.png: the mask has 100 x 75 pixels, its image 80 x 64; "
        "they do not belong together, or one was resized"
    )


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes_are_read_or_refused_but_never_crash(copy, good, data):
    raw = find(copy)
    which = data.draw(st.sampled_from(["image", "mask"]))
    path = raw.path if which == "image" else copy / MASKS / f"{FIRST}_segmentation.png"
    content = bytearray((good / path.relative_to(copy)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        outcome = str(DATASET.read(raw).shape)
    except CaseError as error:
        outcome = error.reason
    shutil.copy(good / path.relative_to(copy), path)
    assert outcome == "(64, 80)" or outcome.startswith(FIRST)
    assert str(copy) not in outcome


TABLES = {
    "no byte": ("", r"the file is empty, expected the header lesion_id,image_id,dx,dx_type,age,sex,localization"),
    "the header only": (",".join(ham10000_table.COLUMNS) + "\n", "no row below the header; .*"),
    "tabs": ("\t".join(ham10000_table.COLUMNS) + "\n", "columns are separated by tabs, expected commas; .*"),
    "a column twice": (",".join((*ham10000_table.COLUMNS, "dx")) + "\n", "column dx is there twice; .*"),
    "a web page": (
        "<!DOCTYPE html>\n<html>",
        r"no column lesion_id, .*; expected the header .*, found '<!DOCTYPE html>'",
    ),
    "an open quote": (",".join(ham10000_table.COLUMNS) + '\n"HAM_1,ISIC_1', r"not comma-separated text \(.*\)"),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_another_file_in_place_of_the_table_is_refused(copy, text, message):
    change_table(copy, lambda _: text)
    with pytest.raises(DataError) as found:
        DATASET.find(copy)
    assert re.fullmatch(rf"HAM10000_metadata\.csv(, line \d+)?: {message}", str(found.value)), found.value


def test_a_table_that_is_not_text_is_refused(copy):
    (copy / TABLE).write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"HAM10000_metadata\.csv: not a text file in UTF-8"):
        DATASET.find(copy)


def test_a_row_that_was_cut_off_is_named_by_its_line(copy):
    change_table(copy, lambda text: text.rstrip().rpartition(",")[0].rpartition(",")[0])
    last = sorted(table_rows(copy).values(), key=lambda row: row["lesion_id"])[-1]["image_id"]
    assert reason(copy, last) == "HAM10000_metadata.csv, line 17: expected 7 columns, found 5"


@pytest.mark.parametrize("age", ["nan", "inf", "60 years", "-"])
def test_ages_are_numbers_or_missing(copy, age):
    row = table_rows(copy)[FIRST]
    change_table(copy, lambda text: re.sub(f"({FIRST},nv,[a-z_]*),{row['age']},", rf"\1,{age},", text))
    assert f"line 2: age is {age!r}, expected a number of years" in reason(copy)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("melanoma", "mel"),
        ("MEL", "mel"),
        ("nv ", "nv"),
        ("Melanocytic nevus", "nv"),
        ("Actinic keratoses", "akiec"),
        ("Actinic keratoses and intraepithelial carcinoma / Bowen's disease", "akiec"),
        ("basal cell carcinoma", "bcc"),
        ("Benign keratosis-like lesions ", "bkl"),
        ("dermatofibroma", "df"),
        ("angiomas", "vasc"),
    ],
)
def test_words_in_place_of_a_diagnosis_are_answered_with_its_code(copy, words, code):
    change_table(copy, lambda text: text.replace(f"{FIRST},nv", f"{FIRST},{words}"))
    assert reason(copy) == f"HAM10000_metadata.csv, line 2: dx is {words!r}, expected the code {code!r}"


def test_rows_without_an_image_id_are_remarked(copy):
    change_table(copy, lambda text: text + "HAM_1,,nv,histo,50,male,back\r\nHAM_2\r\n")
    assert DATASET.remarks(copy) == ["rows of HAM10000_metadata.csv without an image_id: 2 (line 18, 19)"]


def test_official_rows_that_were_lost_are_counted(copy):
    change_table(copy, lambda text: text.replace("ISIC_9000001", "ISIC_0024306"))
    assert "10,014 of the 10,015 official rows are missing in HAM10000_metadata.csv" in DATASET.remarks(copy)


def test_a_folder_without_pictures_or_masks_says_what_was_expected(copy, tmp_path):
    for folder, found in ((tmp_path / "nowhere", "the folder does not exist"), (tmp_path, "found none")):
        with pytest.raises(DataError, match=f"no pictures of HAM10000, expected HAM10000_images_part_1/.*; {found}"):
            DATASET.find(folder)
    shutil.rmtree(copy / MASKS)
    with pytest.raises(DataError, match="no folder of masks, expected HAM10000_segmentations_lesion_tschandl or masks"):
        DATASET.find(copy)


# Real data


@pytest.fixture
def real():
    if "CTAN_TEST_DATA" not in os.environ:
        pytest.skip("CTAN_TEST_DATA names no real data")
    return Path(os.environ["CTAN_TEST_DATA"]) / "ham10000"


def test_the_official_table_has_the_published_numbers(real):
    ham10000_table._read.cache_clear()
    table = read_table(real)
    facts = [table.facts_of(image_id) for image_id in table.rows]
    diagnoses = Counter(one.diagnosis for one in facts)
    assert len(facts) == 10_015
    assert [diagnoses[code] for code in DATASET.spec.labels["diagnosis"]] == [327, 514, 1099, 115, 1113, 6705, 142]
    assert len({one.lesion_id for one in facts}) == 7470
    assert sum("age" not in one.facts for one in facts) == 57
    assert sum("sex" not in one.facts for one in facts) == 57
    for one in DATASET.expectations(ValidationConfig()):
        column = one.arguments["column"]
        values = [facts_of.facts[column] for facts_of in facts if column in facts_of.facts]
        if "value_set" in one.arguments and column != "label_diagnosis":
            assert set(values) == set(one.arguments["value_set"]), column


def test_official_pictures_are_read_and_plausible(real):
    cases = [DATASET.read(raw) for raw in DATASET.find(real)]
    assert Counter(case.labels["diagnosis"] for case in cases) == {"nv": 3, "bkl": 2}
    assert all(case.images["rgb"].shape == (3, 450, 600) for case in cases)
    assert all(failed_expectations(case) == [] for case in cases)
    assert DATASET.remarks(real) == ["10,010 of 10,015 rows of the table have no image here: a part of the data set"]
