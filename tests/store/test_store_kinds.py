"""The store holds pictures, and volumes without dose or contours; networks see them as their data set says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctan.cases import RawCase
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError
from ctan.inputs import Inputs, network_input
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.settings import load_config
from ctan.store import Store, open_store
from ctan.training.augment import flip, recolour, rotate

PICTURES = load_config("smoke", {"data.dataset": "ham10000", "preprocess.grid_shape": [32, 48]})
SCANS = load_config("smoke", {"data.dataset": "stoic", "preprocess.grid_shape": [24, 32, 24]})
INPUTS = Inputs.of(SCANS.data)


def build(config: RunConfig, folder: Path) -> tuple[Store, dict[str, RawCase]]:
    dataset = get_dataset(config.data)
    dataset.write_phantoms(folder / "raw", 10, 4, 0)
    ingest(str(folder / "raw"), folder / "manifest", config, num_workers=0)
    pointer = preprocess(str(folder / "raw"), folder / "manifest", str(folder / "store"), config, num_workers=1)
    return open_store(pointer), {raw.case_id: raw for raw in dataset.find(folder / "raw")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, RawCase]]:
    return build(PICTURES, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, RawCase]]:
    return build(SCANS, tmp_path_factory.mktemp("scans"))


def test_the_reference_of_a_picture_is_the_raw_one(pictures: tuple[Store, dict[str, RawCase]]) -> None:
    store, raws = pictures
    dataset = get_dataset(PICTURES.data)
    for case_id, raw in raws.items():
        case, reference = dataset.read(raw), store.reference(case_id)
        np.testing.assert_array_equal(reference.images["rgb"], case.images["rgb"])
        np.testing.assert_array_equal(reference.masks["Lesion"], case.masks["Lesion"])
        assert reference.labels == case.labels
        assert not reference.doses


def test_a_whole_picture_is_resized_and_comes_back_at_its_size(pictures: tuple[Store, dict[str, RawCase]]) -> None:
    store, _ = pictures
    case_id = store.case_ids()[0]
    stored, reference = store.load(case_id), store.reference(case_id)
    assert stored.image["rgb"].shape == (3, 32, 48)
    assert stored.image["rgb"].dtype == np.uint8
    # resizing averages: the mean colour stays
    np.testing.assert_allclose(
        stored.image["rgb"].mean(axis=(1, 2)), reference.images["rgb"].mean(axis=(1, 2)), atol=1.5
    )
    back = store.to_native(case_id, stored.masks.astype(np.float32), 0.0)[0] >= 0.5
    overlap = 2 * (back & reference.masks["Lesion"]).sum() / (back.sum() + reference.masks["Lesion"].sum())
    assert overlap > 0.9


def test_a_data_set_without_official_split_gets_one_by_group_that_is_stored(
    pictures: tuple[Store, dict[str, RawCase]],
) -> None:
    store, _ = pictures
    rows = store.manifest.to_pylist()
    assert {row["split"] for row in rows} == {"train", "validation"}
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(of_group) == 1 for of_group in splits.values())
    assert all((row["fold"] >= 0) == (row["split"] == "train") for row in rows)


def test_a_network_sees_each_colour_normalised(pictures: tuple[Store, dict[str, RawCase]]) -> None:
    store, _ = pictures
    stored = store.load(store.case_ids()[0])
    spec = store.spec.image
    seen = network_input(stored, store.spec, INPUTS)
    assert seen.shape == (INPUTS.num_channels(store.spec), 32, 48) == (3, 32, 48)
    for channel in range(3):
        expected = (stored.image["rgb"][channel].astype(float) - spec.mean[channel]) / spec.std[channel]
        np.testing.assert_allclose(seen[channel], expected, rtol=1e-5, atol=1e-5)


def test_a_scan_without_dose_and_contours_keeps_the_working_image_alone(
    scans: tuple[Store, dict[str, RawCase]],
) -> None:
    store, _ = scans
    case_id = store.case_ids()[0]
    stored, reference = store.load(case_id), store.reference(case_id)
    assert stored.masks.shape == (0, 24, 32, 24)
    assert stored.dose.size == stored.possible_dose.size == stored.dose_known.size == stored.target_distance.size == 0
    np.testing.assert_array_equal(reference.images["ct"], stored.image["ct"])
    assert reference.spacing_mm == stored.spacing_mm == (6.0, 6.0, 6.0)
    seen = network_input(stored, store.spec, INPUTS)
    assert seen.shape == (1, 24, 32, 24)
    assert -1 <= seen.min() < seen.max() <= 1


def test_pictures_and_scans_are_augmented_as_volumes_are(
    pictures: tuple[Store, dict[str, RawCase]], scans: tuple[Store, dict[str, RawCase]]
) -> None:
    picture, scan = pictures[0].load(pictures[0].case_ids()[0]), scans[0].load(scans[0].case_ids()[0])
    np.testing.assert_array_equal(flip(picture, 0).image["rgb"], picture.image["rgb"][:, ::-1])
    np.testing.assert_array_equal(flip(picture, 1).masks, picture.masks[..., ::-1])
    turned = rotate(picture, (0, 1), 180)
    np.testing.assert_array_equal(turned.masks, picture.masks[:, ::-1, ::-1])
    assert np.abs(turned.image["rgb"].astype(int) - picture.image["rgb"][:, ::-1, ::-1]).max() <= 1
    assert rotate(scan, (0, 1), 7, 1.05).image["ct"].shape == scan.image["ct"].shape
    other = recolour(picture, np.random.default_rng(0))
    assert other.image["rgb"].dtype == np.uint8
    assert (other.image["rgb"] != picture.image["rgb"]).any()
    np.testing.assert_array_equal(other.masks, picture.masks)


def test_settings_for_volumes_are_refused_for_pictures(tmp_path: Path) -> None:
    config = load_config("smoke", {"data.dataset": "ham10000"})
    wrong = config.model_copy(update={"network": config.network.model_copy(update={"spatial_dims": 3})})
    with pytest.raises(ConfigError, match=r"spatial_dims is 3, images of ham10000 have 2 axes"):
        ingest("phantom:train=2,validation=1", tmp_path, wrong)
