"""Synthetic OpenKBP patients: raw files in exactly that format, small, the same bytes wherever they are written.

A phantom is a head and neck of ellipsoids and tubes. Its dose is near the prescription inside the targets, falls off
slowly to the left and right and quickly upwards and downwards, and is low near the spinal cord and the parotids, so
that a model that only knows the distance to the targets does clearly worse than one that sees the anatomy.

Everything is computed with additions, products, quotients and square roots, which round alike on every platform, and
written as whole CT values and hundredths of a Gray. A phantom is smaller than a patient (about 0.5 MB of CSV instead
of 3 MB): the possible-dose mask fills about 0.5% of the grid, a real one 3% to 10%.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK
from ctan.datasets.openkbp.format import SPLIT_FOLDERS, TARGETS
from ctan.datasets.openkbp.write import OpenKBPPatient, write_patient
from ctan.datasets.shapes import Mask, Volume, distance
from ctan.errors import DataError

_FIRST_VALIDATION = 201  # OpenKBP numbers its validation patients from here
_TRAIN_FOLDER, _VALIDATION_FOLDER = list(SPLIT_FOLDERS)[:2]

# Voxels of the box a phantom lies in. Anatomy scales with the voxels, as in OpenKBP, whose grid is fitted to a patient.
_BOX = (34, 38, 36)
_NOMINAL_MM = (4.1, 4.1, 2.75)
_BODY_MM = (53.0, 61.0, 38.0)  # half-axes

_PROBABILITY = {"Esophagus": 0.7, "Larynx": 0.75, "Mandible": 0.85, "PTV63": 0.7, "PTV56": 0.6}
_CT = {  # HU + 1024; later ones win
    "SpinalCord": 1045,
    "Brainstem": 1052,
    "RightParotid": 985,
    "LeftParotid": 1000,
    "Esophagus": 1022,
    "Larynx": 930,
    "Mandible": 1780,
}
_SOFT_TISSUE, _SKULL, _VERTEBRA, _TUMOUR = 1070, 1720, 1350, 1085
_CT_NOISE = 10

_MASK_MM, _MASK_MM_UP_DOWN = 26.0, 13.0  # how far the possible-dose mask reaches around the targets
_FALL_OFF_MM = (18.0, 38.0, 10.0)  # where the dose has halved: to the front and back, left and right, up and down
_SPARED = {"SpinalCord": 0.75, "RightParotid": 0.6, "LeftParotid": 0.6}  # share of the dose taken away there
_SPARED_MM = 9.0


def write_openkbp_phantoms(output_dir: Path, num_train: int, num_validation: int, seed: int) -> None:
    """Write synthetic patients in the raw format of OpenKBP, see `ctan.datasets.openkbp.reader`.

    Args:
        output_dir: receives `train-pats/pt_1`... and `validation-pats/pt_201`...
        num_train: training patients.
        num_validation: validation patients.
        seed: the same seed gives the same bytes; a patient's bytes depend on the seed and its number only.

    Raises:
        DataError: when a patient's folder exists already.
    """
    first = max(_FIRST_VALIDATION, num_train + 1)
    numbers = {_TRAIN_FOLDER: range(1, num_train + 1), _VALIDATION_FOLDER: range(first, first + num_validation)}
    for folder, patients in numbers.items():
        for number in patients:
            path = output_dir / folder / f"pt_{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError as error:
                raise DataError(f"{path}: exists already; phantoms are written to a new folder only") from error
            write_patient(_make(np.random.default_rng([seed, number])), path)


def _make(rng: np.random.Generator) -> OpenKBPPatient:
    in_plane, slices = round(rng.uniform(3.5, 4.3), 3), round(rng.uniform(2.0, 3.0), 3)
    spacing = (in_plane, in_plane, slices)
    corner = (26 + int(rng.integers(0, 2)), 43 + int(rng.integers(0, 6)), 44 + int(rng.integers(0, 6)))
    anatomy = _Anatomy(rng)
    masks = {name: mask & anatomy.body for name, mask in anatomy.structures().items()}
    present = {name for name in masks if rng.random() < _PROBABILITY.get(name, 1)}
    ct = _ct(masks, anatomy, rng)
    masks = {name: mask for name, mask in masks.items() if name in present}
    dose, possible = _dose(masks, anatomy.body, spacing, rng)
    return OpenKBPPatient(corner, spacing, ct, 10 * dose, {**masks, POSSIBLE_DOSE_MASK: possible})


class _Anatomy:
    """Shapes inside the box; positions are in units of the body's half-axes, sizes in nominal mm."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        half = [size * self._vary(0.04) for size in _BODY_MM]
        centre = [(size - 1) / 2 for size in _BOX]
        edges = np.ogrid[tuple(slice(size) for size in _BOX)]
        self._mm = [(edge - c) * mm for edge, c, mm in zip(edges, centre, _NOMINAL_MM, strict=True)]
        self._half = half
        ap, lr, si = (axis / size for axis, size in zip(self._mm, half, strict=True))
        self.height = si
        self.ring = np.sqrt(ap * ap + lr * lr)
        self.front = ap < 0
        self.body = ap * ap + lr * lr + si * si * si * si <= 1

    def _vary(self, share: float) -> float:
        return float(self._rng.uniform(1 - share, 1 + share))

    def _ellipsoid(self, at: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> Mask:
        """Return an ellipsoid, its place and size varied a little."""
        total: Volume = np.zeros(_BOX)
        for axis, half, position, radius in zip(self._mm, self._half, at, radii_mm, strict=True):
            offset = (axis - half * position - self._rng.uniform(-2, 2)) / (radius * self._vary(0.12))
            total = total + offset * offset
        return total <= 1

    def _tube(self, front_back: float, radius_mm: float, top: float, bottom: float) -> Mask:
        """Return a tube along the body between two heights."""
        front = self._mm[0] - self._half[0] * front_back
        inside = front * front + self._mm[1] * self._mm[1] <= radius_mm * radius_mm
        return inside & (self.height >= top) & (self.height <= bottom)

    def vertebrae(self) -> Mask:
        """Return the bone around the spinal cord."""
        return self._tube(0.55, 13.5, -0.3, 1)

    def skull(self) -> Mask:
        """Return the bone around the brain."""
        return (self.ring > 0.76) & (self.ring < 0.9) & (self.height < -0.45)

    def structures(self) -> dict[str, Mask]:
        """Return every organ at risk and every target; targets are disjoint and spare cord and brainstem."""
        side = 1 if self._rng.random() < 0.5 else -1
        brainstem = self._ellipsoid((0.38, 0, -0.62), (10, 10, 13))
        cord = self._tube(0.55, 7.0, -0.3, 1) & ~brainstem
        jaw = (self.ring > 0.6) & (self.ring < 0.8) & self.front & (self.height > -0.3) & (self.height < 0.15)
        organs = {
            "Brainstem": brainstem,
            "SpinalCord": cord,
            "RightParotid": self._ellipsoid((0.1, -0.66, -0.3), (12, 9, 13)),
            "LeftParotid": self._ellipsoid((0.1, 0.66, -0.3), (12, 9, 13)),
            "Esophagus": self._tube(0.15, 7.0, 0.5, 1),
            "Larynx": self._ellipsoid((-0.42, 0, 0.62), (10, 10, 11)),
            "Mandible": jaw,
        }
        targets = {
            "PTV70": self._ellipsoid((-0.15, 0.2 * side, -0.05), (19, 20, 18)),
            "PTV63": self._ellipsoid((0.05, 0.5 * side, 0.45), (13, 13, 15)),
            "PTV56": self._ellipsoid((0.05, -0.45 * side, 0.4), (13, 13, 15)),
        }
        taken = brainstem | cord
        for name in targets:
            targets[name] = targets[name] & ~taken
            taken = taken | targets[name]
        return {**organs, **targets}


def _ct(masks: Mapping[str, Mask], anatomy: _Anatomy, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the CT: also what nobody contoured is there to be seen; 0 outside the body."""
    ct = np.full(_BOX, _SOFT_TISSUE)
    ct[anatomy.skull()] = _SKULL
    ct[anatomy.vertebrae()] = _VERTEBRA
    ct[masks["PTV70"]] = _TUMOUR
    for name, value in _CT.items():
        ct[masks[name]] = value
    return (ct + rng.integers(-_CT_NOISE, _CT_NOISE + 1, _BOX)) * anatomy.body


def _dose(
    masks: Mapping[str, Mask], body: Mask, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Mask]:
    """Return the dose in hundredths of a Gray, 0 outside the possible-dose mask, and that mask."""
    targets = np.any([masks[name] for name in TARGETS if name in masks], axis=0)
    heights = np.flatnonzero(targets.any(axis=(0, 1)))
    margin = _MASK_MM_UP_DOWN / spacing_mm[2]
    slices = np.arange(_BOX[2])
    near = (slices >= heights[0] - margin) & (slices <= heights[-1] + margin)
    possible = body & near & (distance(targets, spacing_mm) <= _MASK_MM)

    halves = tuple(edge / half for edge, half in zip(spacing_mm, _FALL_OFF_MM, strict=True))
    dose: Volume = np.zeros(_BOX)
    for name, level_gy in TARGETS.items():
        if name in masks:
            away = distance(masks[name], halves)
            dose = np.maximum(dose, level_gy / (1 + away * away))
    for name, share in _SPARED.items():
        away = distance(masks[name], spacing_mm) / _SPARED_MM
        dose = dose * (1 - share / (1 + away * away))
    for name, level_gy in TARGETS.items():
        if name in masks:
            inside = masks[name]
            dose[inside] = level_gy * rng.uniform(0.99, 1.03, int(np.count_nonzero(inside)))
    return np.rint(100 * dose * possible).astype(np.int64), possible
