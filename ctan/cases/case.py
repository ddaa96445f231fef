"""`RawCase`, `Case` and `StoredCase`: a patient or picture as files, at native resolution, and on the working grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ctan.cases.covered import Covered

SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST = "train", "validation", "test"
POSSIBLE_DOSE_MASK = "possible_dose_mask"  # where dose can be: told without a dose, so it is there to predict one
DOSE_KNOWN = "dose_known"  # where it is known what the dose is


@dataclass(frozen=True)
class RawCase:
    """Where a case's raw files lie. The path never leaves the machine: no manifest or message holds it whole.

    Where there is no official split, `group_id` is final, and `strata` are what the case's `DataSpec.strata` will be as
    far as is known before it is read: sides are given to cases that are not read yet.
    """

    case_id: str
    group_id: str
    split: str
    path: Path
    strata: tuple[Hashable, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Case:
    """One case at native resolution. All arrays share one grid; axes and spacing are in the same order.

    Attributes:
        case_id: unique within the data set, such as `"pt_1"`.
        group_id: patient or lesion; never in two splits.
        split: `"train"`, `"validation"` or `"test"`; empty when the data set has no official split.
        spacing_mm: voxel edge per axis.
        images: the data set's image by name, see `ImageSpec`. Volumes are (posterior, left, inferior), pictures
            (row, column); `"ct"` is (D, H, W) uint16, 0..4095, HU is about value - 1024; `"rgb"` is (3, H, W) uint8.
        masks: name -> bool array; contoured structures, where the data set has doses `"possible_dose_mask"` (where
            dose can be, told without a dose), and `"dose_known"` (without an entry: the dose is known everywhere). A
            structure that was not contoured has no entry.
        doses: `"dose"` -> float32 Gy, 0 where it is not known; empty where there is none.
        labels: name -> class label of image-level tasks; a label that is not known has no entry.
        numbers: name -> number of image-level tasks, such as a volume or an age; one that is not known has no entry.
        facts: further columns of the manifest, see `Dataset.facts`; what is not known has no entry.
        levels_gy: target -> its own prescribed dose, where the case says it, see `levels_of`.
        covered: structure -> where its outline runs through voxels, where it was read from contours.
        sha256: of the raw bytes (`ctan.files.sha256_of_digests`).
        remarks: what a person should know about it, alike for all cases of which it is true; without values.
    """

    case_id: str
    group_id: str
    split: str
    spacing_mm: tuple[float, ...]
    images: Mapping[str, npt.NDArray[Any]]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    doses: Mapping[str, npt.NDArray[np.float32]]
    sha256: str
    labels: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str | float] = field(default_factory=dict)
    levels_gy: Mapping[str, float] = field(default_factory=dict)
    covered: Mapping[str, Covered] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return next(iter(self.images.values())).shape[-len(self.spacing_mm) :]

    @property
    def dose_known(self) -> npt.NDArray[np.bool_]:
        """Where it is known what the dose is, all axes of the image: elsewhere it is neither learnt nor scored."""
        import numpy as np

        known = self.masks.get(DOSE_KNOWN)
        return np.full(self.shape, "dose" in self.doses) if known is None else known


@dataclass(frozen=True)
class StoredCase:
    """One case on the working grid.

    Attributes:
        case_id, group_id, split, fold: as in the manifest.
        image: name -> (D, H, W), or (C, H, W) with channels; `"ct"` is int16, 0..4095, HU + 1024, 0 outside the native
            grid, `"rgb"` uint8.
        masks: (S, D, H, W) bool in the order of `dataset.structures`; False where a structure is not contoured.
        known: (S,) bool, whether the structure is contoured.
        dose: (D, H, W) float32, Gy.
        possible_dose: (D, H, W) bool, voxels that touch the possible-dose mask; needs no dose to be made.
        dose_known: (D, H, W) bool, voxels that touch where dose is possible and known.
        target_distance: (D, H, W) int8, signed distance in mm to the union of the targets, see
            `ctan.cases.geometry.signed_distance_mm`.
        spacing_mm: voxel edge per axis of the working grid.
        labels: name -> class label of image-level tasks.
        numbers: name -> number of image-level tasks.
        prescription_gy: what doses are scaled by, the highest prescribed dose of the case.
        levels_gy: target -> its prescribed dose in this case, of all targets of the data set.

    Pictures have no axis `D`. `dose` and `dose_known` are empty, of shape (0,), where the case has no dose;
    `possible_dose` and `target_distance` where the data set has none.
    """

    case_id: str
    group_id: str
    split: str
    fold: int
    image: Mapping[str, npt.NDArray[Any]]
    masks: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    dose: npt.NDArray[np.float32]
    possible_dose: npt.NDArray[np.bool_]
    dose_known: npt.NDArray[np.bool_]
    target_distance: npt.NDArray[np.int8]
    spacing_mm: tuple[float, ...]
    labels: Mapping[str, str]
    prescription_gy: float = 1.0
    numbers: Mapping[str, float] = field(default_factory=dict)
    levels_gy: Mapping[str, float] = field(default_factory=dict)


def levels_of(case: Case, defaults: Mapping[str, float]) -> dict[str, float]:
    """Return the prescribed dose of every target in a case, in Gy.

    What the case does not say is the default level, in proportion to the case's highest prescription.

    Args:
        case: with its own levels, or a prescription among its facts, or neither.
        defaults: target -> default level, `DataSpec.targets`; not empty.
    """
    highest_gy = max(defaults.values())
    own_gy = float(case.facts.get("prescription_gy", max(case.levels_gy.values(), default=highest_gy)))
    return {name: float(case.levels_gy.get(name, gy * own_gy / highest_gy)) for name, gy in defaults.items()}
