"""A folder that describes itself: patterns, masks, table, nnU-Net's dataset.json, and what each fault is told as."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from PIL import Image

from ctan.config import DataConfig, RunConfig
from ctan.datasets import get_dataset
from ctan.datasets.folder.describe import describe
from ctan.datasets.folder.load import load_description
from ctan.datasets.folder.reader import Folder
from ctan.datasets.folder.sides import mirrored_pairs, unpaired
from ctan.errors import CaseError, ConfigError, DataError
from ctan.intake.contact_sheet import contact_sheet
from ctan.intake.ingest import ingest
from ctan.intake.measure import case_row
from ctan.settings import load_config, resolve_config
from ctan.store.manifest import SCHEMA, read_manifest
from ctan.validation import validate
from tests.helpers.folders import ORGANS, needs_data, pelvis, real_nnunet, real_pictures, rows_of_ham10000
from tests.helpers.nifti import write_nifti

SHAPE = (6, 5, 4)  # (z, y, x)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[1:3, 1:3, 0], LABELS[3:5, 1:3, 3] = 1, 2
LPS = np.column_stack([np.diag([-2.0, -2, 2]), [0, 0, 0]])  # a NIfTI whose x grows to the left and y to posterior
NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "kidney_left": 1, "kidney_right": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def dataset(folder: Path, **options) -> Folder:
    found = Folder(DataConfig(dataset="folder", options=Folder.options_from(folder, options)))
    assert found.spec.dataset
    return found


def nnunet(folder: Path, cases=("a", "b"), labels=LABELS, channels=1, **changed) -> Path:
    """Write a small nnU-Net v2 folder of CT."""
    described = NNUNET | changed
    ending = described["file_ending"]
    for number, case in enumerate(cases):
        for channel in range(channels):
            hu = np.random.default_rng([number, channel]).integers(-1000, 1000, SHAPE).astype(np.int16)
            write_nifti(folder / "imagesTr" / f"{case}_{channel:04d}{ending}", hu, qform=LPS)
        write_nifti(folder / "labelsTr" / f"{case}{ending}", labels, qform=LPS)
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def described(folder: Path, **changed) -> Path:
    """Write a dataset.yaml; None leaves a key out."""
    base = {"name": "mine", "image": {"files": ["images/{case}.nii"], "modality": "mr", "dtype": "int16"}}
    value = {key: part for key, part in (base | changed).items() if part is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(value))
    return folder


def reason(folder: Path, case_id: str = "a", **options) -> str:
    data = dataset(folder, **options)
    (raw,) = [case for case in data.find(folder) if case.case_id == case_id]
    with pytest.raises(CaseError) as found:
        data.read(raw)
    assert str(folder) not in str(found.value)
    return found.value.reason


def read(folder: Path, case_id: str = "a", **options):
    data = dataset(folder, **options)
    return data.read(next(case for case in data.find(folder) if case.case_id == case_id))


# nnU-Net


def test_an_nnunet_folder_is_read_as_it_is(tmp_path) -> None:
    data = dataset(nnunet(tmp_path / "Dataset007_Kidneys"))
    assert data.spec.dataset == "Dataset007_Kidneys"
    assert data.spec.structures == ("kidney_left", "kidney_right")
    assert data.spec.mirrored_pairs == (("kidney_left", "kidney_right"),)
    assert data.spec.image.modality == "ct"
    cases = data.find(tmp_path / "Dataset007_Kidneys")
    assert [(case.case_id, case.group_id, case.split) for case in cases] == [("a", "a", ""), ("b", "b", "")]
    case = data.read(cases[0])
    assert case.shape == (5, 4, 6)  # (y, x, z)
    expected = LABELS.transpose(1, 2, 0)[:, :, ::-1]  # y grows to posterior and x to the left already, z is turned
    assert np.array_equal(case.masks["kidney_left"], expected == 1)
    assert np.array_equal(case.masks["kidney_right"], expected == 2)
    hu = sitk.GetArrayFromImage(sitk.ReadImage(str(cases[0].path))).transpose(1, 2, 0)[:, :, ::-1]
    assert np.array_equal(case.images["ct"], hu + 1024)
    assert data.remarks(tmp_path / "Dataset007_Kidneys") == []


def test_a_folder_that_is_not_named_as_nnunet_wants_it_takes_its_name_from_the_file(tmp_path) -> None:
    assert load_description(nnunet(tmp_path / "copy-1")).name == "nnunet"  # where a copy lies must not matter
    assert load_description(nnunet(tmp_path / "copy-2", name="Kidney tumours")).name == "Kidney_tumours"


def test_regions_overlap_and_their_order_is_needed_and_kept(tmp_path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    with pytest.raises(DataError, match="regions, which need regions_class_order"):
        dataset(_with(tmp_path / "a", labels))
    folder = _with(tmp_path / "b", labels, regions_class_order=[1, 2])
    assert load_description(folder).label_map.regions_class_order == (1, 2)
    masks = read(folder).masks
    assert masks["whole"].sum() == (LABELS > 0).sum()
    assert masks["core"].sum() == (LABELS == 2).sum()
    assert (masks["whole"] & masks["core"]).sum() == masks["core"].sum()


def _with(folder: Path, names: dict, **changed) -> Path:
    """Write an nnU-Net folder with other labels in dataset.json."""
    nnunet(folder, **changed)
    value = json.loads((folder / "dataset.json").read_text()) | {"labels": names}
    (folder / "dataset.json").write_text(json.dumps(value))
    return folder


def test_channel_names_are_matched_whole_and_the_difference_is_told(tmp_path) -> None:
    assert dataset(nnunet(tmp_path / "a", channel_names={"0": "ct"})).spec.image.modality == "ct"
    for name in ("CT_contrast", "CT ", "CTA"):
        folder = nnunet(tmp_path / f"x{name.strip()}{len(name)}", channel_names={"0": name})
        data = dataset(folder)
        assert (data.spec.image.modality, data.spec.image.per_case) == ("other", True)
        assert any("is not CT to nnU-Net" in remark for remark in data.remarks(folder))
    mixed = nnunet(tmp_path / "mixed", channels=2, channel_names={"0": "CT", "1": "PET"})
    with pytest.raises(DataError, match=r"CT, PET are normalised in two ways"):
        load_description(mixed)


def test_several_channels_are_one_image_normalised_case_by_case(tmp_path) -> None:
    folder = nnunet(tmp_path / "mr", channels=2, channel_names={"0": "T1", "1": "T2"})
    data = dataset(folder)
    image = data.spec.image
    assert (image.modality, image.num_channels, image.per_case, image.dtype) == ("mr", 2, True, "float32")
    assert read(folder).images["mr"].shape == (2, 5, 4, 6)
    (folder / "imagesTr" / "b_0001.nii.gz").unlink()
    assert "imagesTr/b_0001.nii.gz: missing; every case has 2 image files" in reason(folder, "b")


def test_a_test_set_with_labels_is_the_official_test_split_and_one_without_is_left_out(tmp_path) -> None:
    folder = nnunet(tmp_path / "d")
    write_nifti(folder / "imagesTs" / "t_0000.nii.gz", np.full(SHAPE, 40, np.int16), qform=LPS)
    data = dataset(folder)
    assert [case.case_id for case in data.find(folder)] == ["a", "b"]
    assert any("imagesTs has no labelsTs" in remark for remark in data.remarks(folder))
    write_nifti(folder / "labelsTs" / "t.nii.gz", LABELS, qform=LPS)
    data = dataset(folder)
    assert [(case.case_id, case.split) for case in data.find(folder)] == [("a", ""), ("b", ""), ("t", "test")]
    assert data.read(data.find(folder)[2]).masks["kidney_left"].any()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"file_ending": ".tif"}, "TIFF is a picture to some programs and a volume to others"),
        ({"channel_names": {"0": "noNorm"}}, "a normalisation that is not known"),
        ({"dataset": {}}, "names its files one by one"),
        ({"labels": {"kidney": 1}}, "background: 0"),
        ({"channel_names": {"1": "CT"}}, "channel_names from 0 on"),
    ],
)
def test_what_cannot_be_read_as_it_is_is_named(tmp_path, changed, said) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(NNUNET | changed))
    with pytest.raises(DataError, match=said):
        load_description(tmp_path)


def test_version_1_of_the_format_is_told_from_version_2(tmp_path) -> None:
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT"}, "labels": {"0": "background"}}')
    with pytest.raises(DataError, match="nnU-Net version 1"):
        load_description(tmp_path)


# Masks


def test_a_mask_that_lies_elsewhere_is_refused_with_the_distance_and_may_be_allowed(tmp_path) -> None:
    folder = nnunet(tmp_path / "d")
    shifted = LPS + np.array([[0, 0, 0, 0], [0, 0, 0, -10], [0, 0, 0, 0]])
    write_nifti(folder / "labelsTr" / "a.nii.gz", LABELS, qform=shifted)
    said = reason(folder)
    assert said.startswith("labelsTr/a.nii.gz: the mask does not lie on its image: the origin is off by (0, 10, 0) mm")
    assert "data.options.geometry_tolerance_mm" in said
    assert read(folder, geometry_tolerance_mm=11).masks["kidney_left"].any()
    remarks = dataset(folder, geometry_tolerance_mm=11).remarks(folder)
    assert "masks may lie up to 11 mm off (geometry_tolerance_mm)" in remarks


def test_values_of_a_label_map_are_whole_and_known(tmp_path) -> None:
    assert "values 3, 4 are not in the description" in reason(nnunet(tmp_path / "a", labels=LABELS * 2 + (LABELS == 1)))
    near = nnunet(tmp_path / "b", labels=LABELS + np.float32(9e-4))
    assert read(near).masks["kidney_left"].sum() == (LABELS == 1).sum()
    assert "0.25 from a whole number" in reason(nnunet(tmp_path / "c", labels=LABELS + np.float32(0.25)))


def test_a_case_with_voxels_to_ignore_is_refused(tmp_path) -> None:
    labels = {**NNUNET["labels"], "ignore": 3}
    folder = _with(tmp_path, labels)
    assert read(folder).masks["kidney_left"].any()
    ignored = LABELS.copy()
    ignored[0, 0, :2] = 3
    write_nifti(folder / "labelsTr" / "a.nii.gz", ignored, qform=LPS)
    assert "2 voxels have the value to ignore (3)" in reason(folder)


def test_a_missing_file_is_unknown_and_an_empty_mask_is_absent_unless_said_otherwise(tmp_path) -> None:
    files = {"Liver": "masks/{case}/liver.nii", "Tumour": "masks/{case}/tumour.nii"}
    folder = described(tmp_path, masks=files)
    write_nifti(folder / "images" / "a.nii", np.ones(SHAPE, np.int16))
    write_nifti(folder / "images" / "b.nii", np.ones(SHAPE, np.int16))
    write_nifti(folder / "masks" / "a" / "liver.nii", (LABELS > 0).astype(np.uint8) * 255)
    write_nifti(folder / "masks" / "b" / "tumour.nii", LABELS * 0)
    assert list(read(folder, "a").masks) == ["Liver"]
    assert read(folder, "a").masks["Liver"].sum() == (LABELS > 0).sum()
    assert {name: mask.any() for name, mask in read(folder, "b").masks.items()} == {"Tumour": False}
    assert "masks/{case}/liver.nii: 1 of 2 cases have no file, unknown (b)" in dataset(folder).remarks(folder)
    described(tmp_path, masks=files, empty_masks="unknown")
    assert read(folder, "b").masks == {}
    write_nifti(folder / "masks" / "a" / "liver.nii", LABELS)
    assert "expected 0 and one other value, found 0, 1, 2" in reason(folder)


def test_a_folder_in_which_no_image_has_a_mask_is_a_mistake(tmp_path) -> None:
    folder = nnunet(tmp_path)
    for path in (folder / "labelsTr").iterdir():
        path.rename(path.with_name(f"lab_{path.name}"))
    with pytest.raises(DataError, match=r"not one image has a mask; expected labelsTr/\{case\}.nii.gz"):
        dataset(folder).find(folder)


def test_sides_in_names_are_paired_and_a_flip_of_a_lonely_one_is_refused(tmp_path) -> None:
    names = ("FemurLeft", "FemurRight", "kidney_l", "kidney_r", "Spleen", "LungLT", "LungRT", "clear")
    pairs = (("FemurLeft", "FemurRight"), ("kidney_l", "kidney_r"), ("LungLT", "LungRT"))
    assert mirrored_pairs(names) == pairs
    assert unpaired((*names, "left_atrium"), pairs) == ["left_atrium"]
    values = {"left_atrium": 1, "Spleen": 2}
    label_map = {"file": "labels/{case}.nii", "values": values}
    flips = {"flip_axes": [1], "left_right_axis": 1}
    with pytest.raises(DataError, match="left_atrium has no partner"):
        load_description(described(tmp_path, label_map=label_map, augmentation=flips))
    safe = load_description(described(tmp_path, label_map=label_map)).spec().augmentation
    assert safe.flip_axes == ()  # the spleen lies on one side


# The table


def with_table(folder: Path, *rows: str, header="id;patient;dx;ml;split", **changed) -> Path:
    table = {"file": "t.csv", "case": "id", "group": "patient", **changed.pop("table", {})}
    described(
        folder,
        table=table,
        labels={"diagnosis": {"column": "dx", "classes": ["no", "yes"]}},
        numbers={"volume": {"column": "ml", "unit": "ml"}},
        **changed,
    )
    for name in "abc":
        write_nifti(folder / "images" / f"{name}.nii", np.full(SHAPE, ord(name), np.int16))
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_labels_and_numbers_come_from_the_table_and_what_is_empty_is_unknown(tmp_path) -> None:
    folder = with_table(tmp_path, "a;p1;yes;2.5;", "b;p1;;;", "c;p2;no;1e3;")
    assert [case.group_id for case in dataset(folder).find(folder)] == ["p1", "p1", "p2"]
    assert (read(folder).labels, read(folder).numbers) == ({"diagnosis": "yes"}, {"volume": 2.5})
    assert (read(folder, "b").labels, read(folder, "b").numbers) == ({}, {})
    spec = dataset(folder).spec
    assert [dict(task)["kind"] for task in spec.tasks] == ["classification", "regression"]
    assert dict(spec.tasks[1]) == {"kind": "regression", "name": "volume", "unit": "ml"}
    assert (spec.numbers, spec.strata) == ({"volume": "ml"}, ("label_diagnosis",))
    before = read(folder).sha256
    with_table(tmp_path, "a;p1;yes;2.5;", "b;p1;yes;;", "c;p2;no;1e3;")
    assert read(folder).sha256 == before
    with_table(tmp_path, "a;p1;no;2.5;", "b;p1;;;", "c;p2;no;1e3;")
    assert read(folder).sha256 != before


def test_sides_are_balanced_by_what_the_table_says_before_a_case_is_read(tmp_path) -> None:
    folder = with_table(tmp_path, "a;p1;yes;2.5;", "b;p1;;;", "c;p2;no;1e3;")
    assert [case.strata for case in dataset(folder).find(folder)] == [("yes",), ("",), ("no",)]
    assert len(dataset(folder).spec.strata) == 1


def test_files_that_are_larger_than_the_settings_allow_are_not_unpacked(tmp_path) -> None:
    folder = nnunet(tmp_path)
    options = Folder.options_from(folder, {})
    for limits, said in (({"max_inflated_bytes": 400}, "max_inflated_bytes"), ({"max_voxels": 100}, "max_voxels")):
        data = Folder(DataConfig(dataset="folder", options=options, reading=limits))
        with pytest.raises(CaseError, match=f"data.reading.{said} allows"):
            data.read(data.find(folder)[0])


def test_faults_of_a_row_are_told_of_its_case(tmp_path) -> None:
    folder = with_table(tmp_path, "a;p1;maybe;2;", "b;p2;no;many;", "c;p3;no;1;", "c;p3;no;1;")
    assert reason(folder, "a") == "t.csv: dx is 'maybe', expected one of no, yes"
    assert reason(folder, "b") == "t.csv: ml is 'many', expected a number"
    assert reason(folder, "c") == "t.csv: 2 rows for c (lines 4, 5), expected one"
    folder = with_table(tmp_path, "b;p2;no;1;", "c;;no;1;")
    assert "no row for a, so its patient is not known" in reason(folder, "a")
    assert "patient of c is empty" in reason(folder, "c")


def test_the_official_split_is_kept_and_may_not_tear_a_patient_apart(tmp_path) -> None:
    rows = ("a;p1;yes;1;train", "b;p2;no;1;test", "c;p3;no;1;validation")
    folder = with_table(tmp_path, *rows, table={"split": "split"})
    assert [case.split for case in dataset(folder).find(folder)] == ["train", "test", "validation"]
    with_table(tmp_path, rows[0], "b;p1;no;1;test", rows[2], table={"split": "split"})
    with pytest.raises(DataError, match="1 groups have cases in several splits \\(p1\\)"):
        dataset(folder).find(folder)
    with_table(tmp_path, rows[0], "b;p2;no;1;holdout", rows[2], table={"split": "split"})
    with pytest.raises(DataError, match="line 3: split is 'holdout', expected train, validation, test or nothing"):
        dataset(folder).find(folder)


def test_a_table_of_other_cases_or_without_a_column_is_refused(tmp_path) -> None:
    folder = with_table(tmp_path, "x;p1;yes;1;")
    with pytest.raises(DataError, match="no row belongs to an image; images are a, b, c, rows are x"):
        dataset(folder).find(folder)
    with_table(tmp_path, "a;p1;yes", header="id;patient;diagnosis")
    with pytest.raises(DataError, match=r"t\.csv: no column dx, ml, which the description names"):
        dataset(folder).find(folder)


# Pictures


def picture_folder(folder: Path, mode="RGB", ending=".png", **changed) -> Path:
    """Write two pictures with a mask each."""
    section = {"files": [f"images/{{case}}{ending}"], "modality": "photo", **changed.pop("image", {})}
    described(folder, image=section, masks={"Lesion": "masks/{case}.png"}, **changed)
    for place in ("images", "masks"):
        (folder / place).mkdir(exist_ok=True)
    shape = (20, 30, 3) if mode == "RGB" else (20, 30)
    for number, case in enumerate("ab"):
        values = np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{case}{ending}")
        mask = np.zeros((20, 30), np.uint8)
        mask[5:10, 8:20] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{case}.png")
    return folder


def test_colour_pictures_are_read_with_one_mask_a_structure(tmp_path) -> None:
    folder = picture_folder(tmp_path)
    case = read(folder)
    assert np.array_equal(case.images["rgb"], np.asarray(Image.open(folder / "images" / "a.png")).transpose(2, 0, 1))
    assert case.masks["Lesion"].sum() == 5 * 12
    assert case.spacing_mm == (1.0, 1.0)
    spec = dataset(folder).spec
    assert (spec.spatial_dims, spec.whole_image, spec.augmentation.flip_axes) == (2, True, (0, 1))


def test_grey_pictures_have_one_channel_and_sixteen_bits_are_kept(tmp_path) -> None:
    grey = {"modality": "other", "dtype": "uint16", "window": [0, 40000]}
    folder = picture_folder(tmp_path, mode="L", image=grey)
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 60
    Image.fromarray(deep).save(folder / "images" / "a.png")
    assert np.array_equal(read(folder).images["other"], deep)
    colour = picture_folder(tmp_path / "c", mode="L")
    assert "expected 3 channels, found 1" in reason(colour)


def test_pictures_that_programs_read_differently_are_refused(tmp_path) -> None:
    folder = picture_folder(tmp_path, ending=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(folder / "images" / "a.jpg")
    upright.save(folder / "images" / "a.jpg", exif=exif, quality=95)
    upright_mask = np.repeat(np.where(np.arange(20) > 9, 255, 0).astype(np.uint8)[None], 30, axis=0)
    Image.fromarray(upright_mask).save(folder / "masks" / "a.png")
    assert "EXIF orientation 6" in reason(folder)
    turned = {"files": ["images/{case}.jpg"], "modality": "photo", "exif": "turn"}
    described(folder, image=turned, masks={"Lesion": "masks/{case}.png"})
    assert read(folder).shape == (30, 20)
    described(folder, image=turned | {"exif": "ignore"}, masks={"Lesion": "masks/{case}.png"})
    assert "20 x 30 pixels, its image has 30 x 20" in reason(folder)


def test_a_palette_that_inverts_its_mask_is_refused_and_a_plain_one_read(tmp_path) -> None:
    folder = picture_folder(tmp_path)
    indices = np.zeros((20, 30), np.uint8)
    indices[5:10] = 1
    for palette, is_read in (([255, 255, 255, 0, 0, 0], False), ([0, 0, 0, 1, 1, 1], True)):
        mask = Image.fromarray(indices, mode="P")
        mask.putpalette(palette)
        mask.save(folder / "masks" / "a.png")
        if is_read:
            assert read(folder).masks["Lesion"].sum() == 5 * 30
        else:
            assert "a palette gives its values other colours" in reason(folder)


def test_a_truncated_picture_and_a_lossy_mask_are_told(tmp_path) -> None:
    folder = picture_folder(tmp_path, ending=".jpg")
    path = folder / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    assert reason(folder).startswith("images/a.jpg: truncated")
    with pytest.raises(DataError, match="JPEG changes values"):
        load_description(described(folder, masks={"Lesion": "masks/{case}.jpg"}))


# Description and settings


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"imgae": {}}, "imgae: unknown setting; did you mean 'image'"),
        ({"image": {"files": ["x.nii"], "modality": "mr"}}, r"expected \{case\}"),
        ({"image": {"files": ["../{case}.nii"], "modality": "mr"}}, "inside the folder"),
        ({"image": {"files": ["{case}.tiff"], "modality": "mr"}}, "TIFF"),
        ({"image": {"files": ["{case}.nii"], "modality": "mr", "windw": [0, 1]}}, "did you mean 'window'"),
        ({"label_map": {"file": "l/{case}.nii", "values": {"A": [1, 2]}}}, "regions_class_order: needed"),
        ({"labels": {"dx": {"column": "dx", "classes": ["a", "b"]}}}, "table: needed for dx"),
        ({"masks": {"1st": "m/{case}.nii"}}, "cannot be the name of a structure"),
        ({"masks": {"A": "m/{case}.png"}}, "a mask of a volume is one too"),
        ({}, "nothing to predict"),
    ],
)
def test_a_description_that_cannot_be_meant_names_the_field(tmp_path, changed, said) -> None:
    with pytest.raises(DataError, match=said) as found:
        load_description(described(tmp_path, **changed))
    assert str(found.value).startswith("dataset.yaml: ")


def test_settings_are_made_from_the_source_and_carry_the_whole_description(tmp_path) -> None:
    folder = nnunet(tmp_path / "Dataset001_K")
    config = resolve_config("smoke", dataset="folder", source=str(folder))
    assert config.model_name == "ctan-Dataset001_K"
    again = load_config("smoke", {"data": yaml.safe_load(config.to_yaml())["data"]})
    assert get_dataset(again.data).spec == dataset(folder).spec
    override = resolve_config(
        "smoke", dataset="folder", source=str(folder), overrides=["data.options.geometry_tolerance_mm=3"]
    )
    assert override.data.options["geometry_tolerance_mm"] == 3
    assert override.data.options["description"] == config.data.options["description"]


def test_without_a_source_the_error_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="described by its source, and none was given; give the folder"):
        resolve_config("smoke", dataset="folder")


def test_a_description_that_changed_after_the_settings_were_made_stops_the_run(tmp_path) -> None:
    folder = nnunet(tmp_path)
    data = dataset(folder)
    _with(folder, {"background": 0, "kidney_left": 2, "kidney_right": 1})
    with pytest.raises(DataError, match="changed since the settings were made"):
        data.find(folder)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_ct_whose_values_are_not_hu_is_refused_in_every_format(tmp_path, ending) -> None:
    """Today's wrong output was a case in the store, its bones clipped: only DICOM and single volumes were looked at."""
    rng = np.random.default_rng(0)
    sound = np.where(rng.random((12, 10, 8)) < 0.5, rng.normal(-1000, 10, (12, 10, 8)), rng.normal(40, 20, (12, 10, 8)))
    for name, values in (("sound", sound), ("stored", sound + 1024), ("unsigned", np.where(sound < 0, 31744, sound))):
        for kind, array in (("images", values.astype(np.int16)), ("organ", np.ones(sound.shape, np.uint8))):
            (tmp_path / name / kind).mkdir(parents=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name / kind / f"a{ending}"))
        image = {"files": [f"images/{{case}}{ending}"], "modality": "ct"}
        described(tmp_path / name, image=image, masks={"organ": f"organ/{{case}}{ending}"})
    assert read(tmp_path / "sound").remarks == ()
    for name in ("stored", "unsigned"):
        assert reason(tmp_path / name).startswith("CT: the values are not HU: ")


# Phantoms, and the way to a store


def test_phantoms_are_the_same_bytes_again_and_hold_what_is_unknown(tmp_path) -> None:
    for name in ("one", "two"):
        Folder().write_phantoms(tmp_path / name, 5, 2, seed=3)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    data = dataset(tmp_path / "one")
    cases = {raw.case_id: data.read(raw) for raw in data.find(tmp_path / "one")}
    assert (len(cases), cases["p004"].masks, cases["p005"].labels) == (7, {}, {})
    assert "volume" not in cases["p006"].numbers
    for case in cases.values():
        if case.masks and case.labels:
            left, right = (case.masks[name].sum() for name in ("LobeLeft", "LobeRight"))
            assert case.labels["larger"] == ("left" if left > right else "right")
        if case.masks and case.numbers:
            voxels = sum(mask.sum() for mask in case.masks.values())
            assert case.numbers["volume"] == pytest.approx(voxels * np.prod(case.spacing_mm) / 1000, abs=0.06)


def test_every_defect_of_the_phantoms_is_told(tmp_path) -> None:
    defects = ("shifted-mask", "unknown-value", "unknown-class", "no-row")
    Folder().write_phantoms(tmp_path / "p", 6, 2, seed=0, defects=defects)
    said = [reason(tmp_path / "p", f"p{number:03d}") for number in (8, 7, 6, 5)]
    for text, expected in zip(
        said, ("does not lie on its image", "values 7 are not", "larger is 'both'", "no row for"), strict=True
    ):
        assert expected in text


def test_phantoms_are_ingested_and_pass_the_gate_with_what_is_unknown(tmp_path) -> None:
    source = "phantom:train=6,validation=2"
    config = resolve_config("smoke", dataset="folder", source=source, overrides=["data.num_folds=2"])
    summary = ingest(source, tmp_path / "manifest", config, num_workers=1)
    assert (summary.num_cases, summary.num_quarantined) == (8, 0)
    rows = {row["case_id"]: row for row in read_manifest(tmp_path / "manifest" / "manifest.parquet").to_pylist()}
    assert rows["p004"]["missing"] == ["LobeLeft", "LobeRight"]
    assert (rows["p005"]["label_larger"], rows["p006"]["number_volume"]) == (None, None)
    planned: RunConfig = load_config(str(tmp_path / "manifest" / "config.yaml"))
    result = validate(tmp_path / "manifest", tmp_path / "validated", tmp_path / "v.html", planned)
    assert result is not None
    assert len(read_manifest(tmp_path / "validated" / "manifest.parquet")) == 8


@needs_data
def test_a_real_ct_cut_into_cases_is_read_as_an_nnunet_folder(tmp_path) -> None:
    folder = real_nnunet(tmp_path / "Dataset901_Pelvis")
    data = dataset(folder)
    assert data.spec.mirrored_pairs == (("femur_left", "femur_right"),)
    cases = [data.read(raw) for raw in data.find(folder)]
    organs = sitk.GetArrayFromImage(pelvis("organs"))[:112]
    for name, value in ORGANS.items():
        assert sum(case.masks[name].sum() for case in cases) == (organs == value).sum() > 0
    lowest = cases[0]
    left, right = (np.argwhere(lowest.masks[f"femur_{side}"]).mean(0) for side in ("left", "right"))
    assert left[1] > right[1]  # axis 1 grows to the patient's left
    bone = lowest.images["ct"][lowest.masks["femur_left"]].mean() - 1024
    assert 150 < bone < 1200  # HU
    assert lowest.images["ct"].shape == (101, 122, 28)


@needs_data
def test_real_pictures_with_a_table_are_read(tmp_path) -> None:
    folder = real_pictures(tmp_path, 12)
    data = dataset(folder)
    found, official = data.find(folder), rows_of_ham10000()
    assert len(found) == 12
    for raw in found:
        case, row = data.read(raw), official[raw.case_id]
        assert (case.group_id, case.labels) == (row["lesion_id"], {"diagnosis": row["dx"]})
        assert case.images["rgb"].shape == (3, 150, 200)
        assert 0 < case.masks["Lesion"].mean() < 1


@needs_data
def test_describing_real_pictures_finds_masks_patients_and_diagnoses(tmp_path) -> None:
    folder = real_pictures(tmp_path, 40)
    by_hand = load_description(folder)
    describe(folder, force=True)
    found = load_description(folder)
    assert (found.image, found.table) == (by_hand.image, by_hand.table)
    assert list(found.masks.values()) == list(by_hand.masks.values())
    assert set(found.labels["dx"].classes) == {row["dx"] for row in _rows(folder)}
    assert len(dataset(folder).find(folder)) == 40


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as stream:
        return list(csv.DictReader(stream))


# Drawing and measuring


def drawn_range(figure) -> tuple[float, float]:
    """Return the values drawn black and white in the first panel."""
    return figure.axes[0].images[0].get_clim()


def test_a_volume_without_hounsfield_units_is_drawn_between_its_own_percentiles(tmp_path) -> None:
    folder = nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"})
    case = read(folder)
    expected = np.percentile(case.images["mr"][0], (0.5, 99.5))
    assert drawn_range(contact_sheet(case, dataset(folder).spec)) == pytest.approx(expected)


def test_a_grey_picture_is_drawn_in_grey(tmp_path) -> None:
    folder = picture_folder(tmp_path, mode="L", image={"modality": "other", "dtype": "uint8"})
    figure = contact_sheet(read(folder), dataset(folder).spec)
    assert figure.axes[0].images[0].get_array().shape == (20, 30)


def test_fractions_are_not_rounded_in_the_manifest(tmp_path) -> None:
    folder = described(tmp_path, image={"files": ["{case}.nii"], "modality": "mr"}, masks={"A": "m/{case}.nii"})
    write_nifti(folder / "a.nii", np.linspace(0.25, 0.75, LABELS.size, dtype=np.float32).reshape(SHAPE))
    write_nifti(folder / "m" / "a.nii", LABELS // 2)
    spec = dataset(folder).spec
    row = case_row(read(folder), spec, -1)
    assert (row["mr_min"], row["mr_max"]) == (0.25, 0.75)
    assert str(SCHEMA(spec).field("mr_max").type) == "double"


# Describing


def test_a_described_folder_of_phantoms_is_read_the_same_but_for_names(tmp_path) -> None:
    Folder().write_phantoms(tmp_path / "p", 8, 2, seed=0)
    with pytest.raises(DataError, match="exists already; --force"):
        describe(tmp_path / "p")
    written = {raw.case_id: dataset(tmp_path / "p").read(raw) for raw in dataset(tmp_path / "p").find(tmp_path / "p")}
    (tmp_path / "p" / "dataset.yaml").unlink()
    said = describe(tmp_path / "p")
    assert "label map: labels/{case}.nii (structure1, structure2)" in said
    data = dataset(tmp_path / "p")
    again = {raw.case_id: data.read(raw) for raw in data.find(tmp_path / "p")}
    assert again.keys() == written.keys()
    for case_id, case in again.items():
        assert np.array_equal(case.images["mr"], written[case_id].images["mr"])
        assert case.labels == written[case_id].labels
        for name, other in (("structure1", "LobeLeft"), ("structure2", "LobeRight")):
            assert (name in case.masks) == (other in written[case_id].masks)
            assert name not in case.masks or np.array_equal(case.masks[name], written[case_id].masks[other])


def test_describing_an_nnunet_folder_writes_what_its_own_description_means(tmp_path) -> None:
    folder = nnunet(tmp_path / "Dataset003_K", channels=2, channel_names={"0": "T1", "1": "T2"})
    theirs = load_description(folder)
    describe(folder)
    assert (folder / "dataset.yaml").is_file()
    assert load_description(folder) == theirs


def test_channels_splits_and_masks_are_told_from_names(tmp_path) -> None:
    for case in ("x", "y"):
        for channel in range(2):
            write_nifti(tmp_path / "img" / f"{case}_{channel:04d}.nii.gz", np.ones(SHAPE, np.int16))
        write_nifti(tmp_path / "masks" / f"{case}_tumour.nii.gz", (LABELS > 0).astype(np.uint8))
    (tmp_path / "t.csv").write_text("case,subject,split,age\nx,s1,train,50\ny,s2,test,61\n")
    describe(tmp_path)
    found = load_description(tmp_path)
    assert found.image.files == ("img/{case}_0000.nii.gz", "img/{case}_0001.nii.gz")
    assert found.masks == {"Tumour": "masks/{case}_tumour.nii.gz"}
    assert (found.table.group, found.table.split, found.facts) == ("subject", "split", {"age": "number"})
    assert [case.split for case in dataset(tmp_path).find(tmp_path)] == ["train", "test"]


def test_a_folder_without_images_is_told(tmp_path) -> None:
    with pytest.raises(DataError, match="no images found"):
        describe(tmp_path)
