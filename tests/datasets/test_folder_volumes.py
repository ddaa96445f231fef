"""Volumes of a folder are read alike in every format; what programs disagree about is refused, with numbers."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctan.cases.volumes import to_case_axes
from ctan.config import ReadingConfig
from ctan.datasets.folder.grid import Grid, difference
from ctan.datasets.folder.nifti import read_nifti
from ctan.datasets.folder.volumes import read_volume
from ctan.datasets.folder.write import write_like
from ctan.errors import DataError
from tests.helpers.folders import needs_data
from tests.helpers.nifti import write_nifti

SHAPE = (6, 5, 4)  # (z, y, x)
VALUES = np.random.default_rng(0).integers(-900, 1500, SHAPE).astype(np.int16)
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "prone": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "oblique": (0.8, 0, 0.6, 0, 1, 0, -0.6, 0, 0.8),
}


def grid(origin=(0, 0, 0), edges=(2, 2, 2), direction=None, shape=(4, 5, 6)) -> Grid:
    axes = np.eye(3) if direction is None else np.array(direction, float).reshape(3, 3)
    return Grid.of(shape, np.column_stack([axes * np.array(edges, float), origin]))


def sheared(amount: float, edge: float = 2.0) -> np.ndarray:
    """A matrix (3, 4) whose second axis leans towards the first."""
    matrix = np.column_stack([np.eye(3) * edge, [0.0, 0, 0]])
    matrix[0, 1] = amount * edge
    return matrix


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_values_and_place_are_those_that_itk_reads(tmp_path, ending, direction) -> None:
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((0.75, 0.875, 1.5))
    image.SetOrigin((-17.25, 4.5, 33.125))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    itk = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    assert np.array_equal(volume.values, sitk.GetArrayFromImage(itk))
    assert np.allclose(volume.grid.spacing_mm, itk.GetSpacing(), atol=1e-5)
    assert np.allclose(volume.grid.origin_mm, itk.GetOrigin(), atol=1e-4)
    assert np.allclose(volume.grid.direction.ravel(), itk.GetDirection(), atol=1e-6)


def test_the_scale_of_a_nifti_is_applied(tmp_path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", VALUES, scale=(0.5, -10))
    assert np.array_equal(read_volume(path).values, VALUES * np.float32(0.5) - 10)
    assert np.array_equal(read_volume(path).values, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("order", ["<", ">"])
def test_version_2_is_read_in_either_byte_order(order) -> None:
    header = bytearray(544)
    struct.pack_into(f"{order}i", header, 0, 540)
    header[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into(f"{order}hh", header, 12, 4, 16)
    struct.pack_into(f"{order}8q", header, 16, 3, *SHAPE[::-1], 1, 1, 1, 1)
    struct.pack_into(f"{order}q", header, 168, 544)
    struct.pack_into(f"{order}i", header, 348, 2)  # sform
    struct.pack_into(f"{order}12d", header, 400, 3, 0, 0, 7, 0, 3, 0, 8, 0, 0, 4, 9)
    values, where = read_nifti(bytes(header) + VALUES.astype(f"{order}i2").tobytes())
    assert np.array_equal(values, VALUES)
    assert (where.spacing_mm, where.origin_mm) == ((3, 3, 4), (-7, -8, 9))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_contradicting_matrices_are_refused_zipped_or_not_until_a_setting_decides(tmp_path, ending) -> None:
    qform, sform = (np.column_stack([np.diag([2.0, 2, 2]), [shift, 0, 0]]) for shift in (0.0, 10.0))
    path = write_nifti(tmp_path / f"a{ending}", VALUES, qform=qform, sform=sform)
    with pytest.raises(DataError, match=r"10 mm apart.*data\.options\.nifti_matrix=qform"):
        read_volume(path)
    assert read_volume(path, "qform").grid.origin_mm == (0, 0, 0)
    assert read_volume(path, "sform").grid.origin_mm == (-10, 0, 0)  # RAS to LPS


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_is_written_beside_a_nifti_has_its_header_with_both_matrices(tmp_path, ending) -> None:
    """Programs disagree which matrix counts: with both of the image's, all put the two in one place."""
    qform, sform = (np.column_stack([np.diag([2.0, 2, 2]), [shift, 0, 0]]) for shift in (0.0, 10.0))
    path = write_nifti(tmp_path / f"a{ending}", VALUES, qform=qform, sform=sform, scale=(0.5, -10))
    write_like(
        path,
        {"mask": to_case_axes(read_volume(path, "sform").grid.image((VALUES > 0).astype(np.uint8)))[0] > 0},
        tmp_path,
        "sform",
        ReadingConfig(),
    )

    def header(file: Path) -> bytes:
        content = file.read_bytes()
        return (gzip.decompress(content) if ending == ".nii.gz" else content)[:348]

    ours, theirs = header(tmp_path / f"mask{ending}"), header(path)
    assert ours[76:108] == theirs[76:108]  # voxel edges
    assert ours[252:344] == theirs[252:344]  # codes, quaternion, offsets, matrix
    assert struct.unpack("<ff", ours[112:120]) == (1.0, 0.0)  # the image's scale is not the mask's
    for matrix in ("qform", "sform"):
        assert difference(read_volume(path, matrix).grid, read_volume(tmp_path / f"mask{ending}", matrix).grid) == ""


def test_matrices_that_differ_by_less_than_a_tenth_of_a_millimetre_are_no_reason_to_stop(tmp_path) -> None:
    qform, sform = (np.column_stack([np.diag([2.0, 2, 2]), [shift, 0, 0]]) for shift in (0.0, 0.09))
    assert read_volume(write_nifti(tmp_path / "a.nii", VALUES, qform=qform, sform=sform)).grid.origin_mm == (0, 0, 0)


def test_a_sheared_sform_is_refused_also_where_a_qform_hides_it(tmp_path) -> None:
    alone = write_nifti(tmp_path / "alone.nii", VALUES, sform=sheared(0.05))
    with pytest.raises(DataError, match=r"sheared.*right angles.*0\.1 mm"):
        read_volume(alone)
    plain = np.column_stack([np.eye(3) * 2, [0.0, 0, 0]])
    beside = write_nifti(tmp_path / "beside.nii", VALUES, qform=plain, sform=sheared(0.05))
    with pytest.raises(DataError, match="qform and sform"):
        read_volume(beside)
    with pytest.raises(DataError, match="sheared"):
        read_volume(beside, "sform")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_shear_is_refused_in_other_formats_too(tmp_path, ending) -> None:
    image = sitk.GetImageFromArray(np.zeros((20, 200, 200), np.int16))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    content = (tmp_path / f"a{ending}").read_bytes()
    old, new = {
        ".mha": (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0 0 0.004 1 0 0 0 1"),
        ".nrrd": (b"(1,0,0) (0,1,0) (0,0,1)", b"(1,0,0) (0.004,1,0) (0,0,1)"),
    }[ending]
    assert content.count(old) == 1
    (tmp_path / f"a{ending}").write_bytes(content.replace(old, new))
    with pytest.raises(DataError, match=r"sheared|rotation"):
        read_volume(tmp_path / f"a{ending}")


def test_shear_that_moves_nothing_by_a_tenth_of_a_millimetre_passes() -> None:
    small = Grid.of((40, 40, 40), sheared(1e-3))  # at most 0.04 mm off
    assert np.allclose(small.direction @ small.direction.T, np.eye(3))
    with pytest.raises(DataError, match="sheared"):
        Grid.of((400, 400, 40), sheared(1e-3))


@pytest.mark.parametrize(("unit", "edge"), [(1, 0.002), (2, 2.0), (3, 2000.0), (0, 2.0)])
def test_metres_and_microns_become_millimetres(tmp_path, unit, edge) -> None:
    path = write_nifti(tmp_path / "a.nii", VALUES, (edge, edge, edge), unit=unit)
    assert np.allclose(read_volume(path).grid.spacing_mm, 2.0, rtol=1e-6)


@pytest.mark.parametrize("dims", [(4, 5, 3, 2), (4, 5, 3, 1, 2)])
def test_more_than_three_axes_are_refused(tmp_path, dims) -> None:
    path = write_nifti(tmp_path / "a.nii", VALUES, dims=dims)
    with pytest.raises(DataError, match="expected three axes, found"):
        read_volume(path)
    one = write_nifti(tmp_path / "b.nii", VALUES, dims=(4, 5, 6, 1))
    assert read_volume(one).values.shape == SHAPE


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_is_noticed_in_every_format(tmp_path, ending) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), useCompression=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(DataError, match=r"truncated|damaged") as found:
        read_volume(path)
    assert str(tmp_path) not in str(found.value)
    path.write_bytes(b"hello")
    with pytest.raises(DataError):
        read_volume(path)


def test_a_nifti_whose_bytes_changed_in_the_zip_is_noticed() -> None:
    header = bytearray(gzip.compress(b"x" * 5000))
    header[-6] ^= 1  # of the checksum
    with pytest.raises(DataError, match="damaged"):
        read_nifti(bytes(header))


def test_values_that_are_no_numbers_are_counted(tmp_path) -> None:
    values = VALUES.astype(np.float32)
    values[0, 0, :3] = np.nan
    with pytest.raises(DataError, match="3 voxels are NaN"):
        read_volume(write_nifti(tmp_path / "a.nii", values))


# Comparing grids


def test_rounding_as_itk_writes_it_is_no_difference() -> None:
    assert difference(grid(), grid(origin=(5e-5, 0, 0))) == ""
    assert difference(grid(), grid(origin=(0.0019, 0, 0))) == ""  # under 1e-3 of a voxel of 2 mm


def test_a_shifted_mask_is_told_with_the_distance_and_may_be_allowed() -> None:
    said = difference(grid(), grid(origin=(0, 10, 0)))
    assert "the origin is off by (0, 10, 0) mm" in said
    assert "up to 10 mm apart" in said
    assert difference(grid(), grid(origin=(0, 10, 0)), tolerance_mm=9.9)
    assert difference(grid(), grid(origin=(0, 10, 0)), tolerance_mm=10.1) == ""


def test_other_voxels_axes_and_sizes_are_told_apart() -> None:
    assert "voxels of (2, 2, 2.01) mm instead of (2, 2, 2) mm" in difference(grid(), grid(edges=(2, 2, 2.01)))
    turned = (1, -2e-4, 0, 2e-4, 1, 0, 0, 0, 1)
    assert "axes turned" in difference(grid(), grid(direction=turned))
    larger = grid(shape=(4, 5, 7))
    assert difference(grid(), larger, tolerance_mm=1000) == "4 x 5 x 7 voxels instead of 4 x 5 x 6"


@needs_data
def test_a_real_ct_and_its_labels_lie_on_each_other() -> None:
    folder = Path(os.environ["CTAN_TEST_DATA"]) / "ct"
    ct, labels = (read_volume(folder / f"pelvis_{name}.nii.gz") for name in ("ct", "organs"))
    assert difference(ct.grid, labels.grid) == ""
    itk = sitk.ReadImage(str(folder / "pelvis_ct.nii.gz"))
    assert np.array_equal(ct.values, sitk.GetArrayFromImage(itk))
    assert np.allclose(ct.grid.origin_mm, itk.GetOrigin(), atol=1e-3)
