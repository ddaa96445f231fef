"""A manifest row measures its case; tables are written whole or not at all."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ctan.cases import CT, Case, DataSpec
from ctan.errors import DataError
from ctan.files import read_table
from ctan.intake.content import array_sha256
from ctan.intake.measure import case_row
from ctan.store.manifest import QUARANTINE_SCHEMA, SCHEMA, read_manifest, write_manifest
from ctan.tasks import DoseRegression

SPEC = DataSpec(
    dataset="toy",
    spatial_dims=3,
    image=CT,
    tasks=(DoseRegression("dose"),),
    structures=("Cord", "Larynx", "PTV70"),
    targets={"PTV70": 70.0},
    has_dose=True,
    labels={"stage": ("I", "II")},
    facts={"age": "float64"},
)


@pytest.fixture
def case():
    ct = np.zeros((2, 3, 4), np.uint16)
    ct[0, 0] = [5, 4095, 7, 0]
    cord, target, possible = np.zeros((3, 2, 3, 4), bool)
    cord[0, 0, :2] = True
    target[0, 1, :] = True
    possible[0] = True  # 12 voxels
    dose = np.zeros((2, 3, 4), np.float32)
    dose[0, 1] = [70, 72, 68, 71]
    dose[1, 2, 3] = 0.5  # outside the mask
    return Case(
        case_id="pt_7",
        group_id="pt_7",
        split="train",
        spacing_mm=(3.0, 3.0, 2.5),
        images={"ct": ct},
        masks={"Cord": cord, "PTV70": target, "possible_dose_mask": possible},
        doses={"dose": dose},
        sha256="ab" * 32,
        labels={"stage": "II"},
    )


def test_a_row_holds_what_can_be_counted_by_hand(case):
    assert case_row(case, SPEC, fold=2) == {
        "dataset": "toy",
        "case_id": "pt_7",
        "group_id": "pt_7",
        "split": "train",
        "fold": 2,
        "sha256": "ab" * 32,
        "image_sha256": array_sha256(case.images["ct"]),
        "dose_sha256": array_sha256(case.doses["dose"]),
        "looks": "",
        "shape": [2, 3, 4],
        "spacing_mm": [3.0, 3.0, 2.5],
        "extent": [1, 3, 4],
        "ct_min": 0,
        "ct_max": 4095,
        "num_mask_voxels": 12,
        "num_known_dose_voxels": 12,
        "dose_max_gy": 72.0,
        "dose_mean_gy": pytest.approx((70 + 72 + 68 + 71) / 12),
        "num_dose_voxels_outside_mask": 1,
        "num_covered_voxels": 0,
        "missing": ["Larynx"],
        "voxels_Cord": 2,
        "voxels_Larynx": None,
        "voxels_PTV70": 4,
        "unknown_dose_share_Cord": 0.0,
        "unknown_dose_share_Larynx": None,
        "unknown_dose_share_PTV70": 0.0,
        "level_gy_PTV70": 70.0,
        "dose_mean_gy_PTV70": pytest.approx(281 / 4),
        "label_stage": "II",
        "age": None,
    }


def test_means_are_of_the_dose_that_is_known_and_each_structure_has_its_unknown_share(case):
    known = np.ones(case.shape, bool)
    known[0, 1, 3] = known[0, 0, 1] = known[1] = False
    row = case_row(replace(case, masks={**case.masks, "dose_known": known}), SPEC, 0)
    assert (row["num_mask_voxels"], row["num_known_dose_voxels"]) == (12, 10)
    assert row["dose_mean_gy"] == pytest.approx((70 + 72 + 68) / 10)
    assert row["dose_mean_gy_PTV70"] == pytest.approx(70)  # as 0 Gy the fourth voxel made 52.5
    assert (row["unknown_dose_share_PTV70"], row["unknown_dose_share_Cord"]) == (0.25, 0.5)


def test_a_row_has_exactly_the_columns_of_the_schema(case):
    assert list(case_row(case, SPEC, 0)) == SCHEMA(SPEC).names


def test_rows_survive_the_file_with_their_types(case, tmp_path):
    rows = [case_row(case, SPEC, 0)]
    path = tmp_path / "manifest.parquet"
    write_manifest(rows, path, SCHEMA(SPEC))
    table = read_manifest(path, SCHEMA(SPEC))
    assert table.to_pylist() == rows
    write_manifest(table, path)
    assert read_manifest(path).equals(table)


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_manifest([], tmp_path / "quarantine.parquet", QUARANTINE_SCHEMA)
    table = read_manifest(tmp_path / "quarantine.parquet", QUARANTINE_SCHEMA)
    assert table.num_rows == 0
    assert table.column_names == ["dataset", "case_id", "split", "step", "reason"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.parquet: does not exist"):
        read_manifest(tmp_path / "manifest.parquet")


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    path = tmp_path / "manifest.parquet"
    path.write_text("case_id\npt_1\n")
    with pytest.raises(DataError, match=r"manifest\.parquet: not a Parquet table"):
        read_manifest(path)


def test_a_table_without_a_column_is_refused_by_its_name(case, tmp_path):
    table = pa.Table.from_pylist([case_row(case, SPEC, 0)], schema=SCHEMA(SPEC)).drop_columns(["voxels_Larynx"])
    write_manifest(table, tmp_path / "manifest.parquet")
    with pytest.raises(DataError, match="voxels_Larynx: int64"):
        read_manifest(tmp_path / "manifest.parquet", SCHEMA(SPEC))


def test_a_failed_write_keeps_the_old_table(case, tmp_path):
    path = tmp_path / "manifest.parquet"
    write_manifest([case_row(case, SPEC, 0)], path, SCHEMA(SPEC))
    before = path.read_bytes()
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_manifest([{"fold": "not a number"}], path, SCHEMA(SPEC))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.parquet"]


def test_a_table_gets_no_columns_from_its_path(tmp_path):
    """Other versions of pyarrow take `split=evaluation` of a folder for a column, in place of the table's own."""
    path = tmp_path / "split=evaluation" / "fold=3" / "table.parquet"
    table = pa.table({"case_id": ["a"], "split": ["train"]})
    write_manifest(table, path)
    assert read_manifest(path).equals(table)
    assert read_table(path, table.column_names, "").equals(table)
