"""Augmentation keeps image, dose and contours together, and left stays left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctan.cases import StoredCase
from ctan.config import TrainingConfig
from ctan.datasets import get_dataset
from ctan.training.augment import augment, flip, mirrored_order, rotate, translate

SPEC = get_dataset("openkbp").spec
STRUCTURES = SPEC.structures
LEFT, RIGHT = STRUCTURES.index("LeftParotid"), STRUCTURES.index("RightParotid")


@pytest.fixture
def case() -> StoredCase:
    shape = (12, 16, 8)
    masks = np.zeros((len(STRUCTURES), *shape), bool)
    masks[LEFT, 5:7, 10:13, 3:6] = True
    masks[RIGHT, 5:7, 3:5, 3:6] = True
    known = np.zeros(len(STRUCTURES), bool)
    known[LEFT] = True
    rng = np.random.default_rng(0)
    return StoredCase(
        case_id="pt_1",
        group_id="pt_1",
        split="train",
        fold=0,
        image={"ct": rng.integers(0, 2000, shape).astype(np.int16)},
        masks=masks,
        known=known,
        dose=rng.random(shape).astype(np.float32),
        possible_dose=masks.any(0),
        dose_known=masks.any(0),
        target_distance=np.full(shape, 20, np.int8),
        spacing_mm=(3.9, 3.9, 2.5),
        labels={},
        prescription_gy=70.0,
    )


def flip_left_right(case: StoredCase, order: list[int]) -> StoredCase:
    return flip(case, 1, order)


def same(a: StoredCase, b: StoredCase) -> bool:
    return (
        all(np.array_equal(a.image[k], b.image[k]) for k in a.image)
        and np.array_equal(a.masks, b.masks)
        and np.array_equal(a.known, b.known)
        and np.array_equal(a.dose, b.dose)
        and np.array_equal(a.possible_dose, b.possible_dose)
        and np.array_equal(a.dose_known, b.dose_known)
    )


def test_a_flip_swaps_paired_structures_in_masks_and_known_flags(case: StoredCase) -> None:
    flipped = flip_left_right(case, mirrored_order(SPEC))
    assert flipped.known[RIGHT]
    assert not flipped.known[LEFT]
    assert np.array_equal(flipped.masks[RIGHT], case.masks[LEFT][:, ::-1])
    assert np.array_equal(flipped.image["ct"], case.image["ct"][:, ::-1])
    assert np.array_equal(flipped.dose, case.dose[:, ::-1])


def test_two_flips_are_none(case: StoredCase) -> None:
    order = mirrored_order(SPEC)
    assert same(flip_left_right(flip_left_right(case, order), order), case)


def test_rotation_by_180_degrees_reverses_both_in_plane_axes(case: StoredCase) -> None:
    turned = rotate(case, (0, 1), 180)
    assert np.array_equal(turned.image["ct"], case.image["ct"][::-1, ::-1])
    assert np.array_equal(turned.masks, case.masks[:, ::-1, ::-1])
    assert np.allclose(turned.dose, case.dose[::-1, ::-1], atol=1e-4)


def test_rotation_keeps_distances_on_a_grid_that_is_not_square() -> None:
    shape = (40, 60, 1)
    masks = np.zeros((len(STRUCTURES), *shape), bool)
    masks[LEFT, 18:22, 20:40] = True  # 4 x 20 voxels about the centre
    mask = masks[LEFT]
    known, distance = np.ones(len(masks), bool), np.zeros(shape, np.int8)
    image, dose = {"ct": mask.astype(np.int16)}, mask.astype(np.float32)
    case = StoredCase("x", "x", "train", 0, image, masks, known, dose, mask, mask, distance, (1.0, 1.0, 1.0), {})
    turned = rotate(case, (0, 1), 90).masks[LEFT][..., 0]
    assert turned.sum() == masks[LEFT].sum()
    assert turned.any(1).sum() == 20
    assert turned.any(0).sum() == 4


@pytest.mark.parametrize(("plane", "degrees", "scale"), [((0, 1), 40, 1.0), ((1, 2), 45, 0.9), ((0, 2), -17.3, 1.2)])
def test_masks_are_gathered_as_pytorch_samples_the_nearest_voxel(
    case: StoredCase, plane: tuple[int, int], degrees: float, scale: float
) -> None:
    rng = np.random.default_rng(0)
    masks, distance = rng.random(case.masks.shape) < 0.5, rng.integers(-90, 90, case.dose.shape).astype(np.int8)
    turned = rotate(replace(case, masks=masks, target_distance=distance), plane, degrees, scale)
    rows, columns = (case.dose.shape[axis] for axis in plane)
    cos, sin = np.cos(np.deg2rad(degrees)) / scale, np.sin(np.deg2rad(degrees)) / scale
    theta = torch.tensor([[[cos, -sin * rows / columns, 0], [sin * columns / rows, cos, 0]]], dtype=torch.float32)
    grid = functional.affine_grid(theta, [1, 1, rows, columns], align_corners=False)

    def sampled(volume: np.ndarray, outside: int) -> np.ndarray:
        moved = np.moveaxis(volume, plane, (-2, -1)).astype(np.float32) - outside
        planes = torch.from_numpy(np.ascontiguousarray(moved))[None]
        found = functional.grid_sample(planes, grid, "nearest", align_corners=False)[0].numpy()
        return np.moveaxis(found, (-2, -1), plane) + outside

    assert np.array_equal(turned.masks, np.stack([sampled(mask, 0) for mask in masks]).astype(bool))
    assert np.array_equal(turned.target_distance, sampled(distance, 127).astype(np.int8))


def test_a_translation_moves_everything_and_fills_with_air(case: StoredCase) -> None:
    moved = translate(case, (1, -2, 0))
    assert np.array_equal(moved.dose[1:, :-2], case.dose[:-1, 2:])
    assert np.array_equal(moved.masks[:, 1:, :-2], case.masks[:, :-1, 2:])
    assert (moved.image["ct"][0] == 0).all()
    assert (moved.dose[:, -2:] == 0).all()
    assert (moved.target_distance[0] == 127).all()


def test_random_translations_never_push_structures_out(case: StoredCase) -> None:
    config = TrainingConfig(flip_probability=0, translate_voxels=30)
    shifted = False
    for seed in range(30):
        moved = augment(case, SPEC, config, np.random.default_rng(seed))
        assert moved.masks[LEFT].sum() == case.masks[LEFT].sum()
        assert moved.dose_known.sum() == case.dose_known.sum()
        shifted |= not same(moved, case)
    assert shifted


def test_the_same_generator_gives_the_same_case_and_another_does_not(case: StoredCase) -> None:
    config = TrainingConfig(flip_probability=0.5, rotate_probability=0.5, translate_voxels=2)
    a, b = (augment(case, SPEC, config, np.random.default_rng([0, 3, 7])) for _ in range(2))
    assert same(a, b)
    others = [augment(case, SPEC, config, np.random.default_rng([0, e, 7])) for e in range(8)]
    assert not all(same(a, other) for other in others)


def test_augmentation_off_changes_nothing(case: StoredCase) -> None:
    config = TrainingConfig(flip_probability=0)
    assert same(augment(case, SPEC, config, np.random.default_rng(0)), case)
