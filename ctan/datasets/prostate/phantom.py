"""Synthetic prostate patients as DICOM-RT, small, the same bytes for the same arguments.

A patient is a folder with a planning CT (a file a slice, in no order), a structure set, a dose on a coarser grid around
the target, and a plan. ROI names, prescriptions and grids vary as they do between clinics, and some structures are not
contoured. On CT the prostate differs from the muscle around it by about the noise of a voxel, but bladder, gas in the
rectum, fat and bone show where it must lie. The dose follows the PTV, wider where beams enter, and is lower in rectum
and bladder than elsewhere at the same distance: whoever finds the organs knows more about the dose, and the other way
round.

A folder may be spoiled on purpose, see `ctan.datasets.prostate.defects`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ctan.datasets.shapes import Mask, Volume, distance, ellipsoid
from ctan.dicom.outlines import ZYX, Contour, contours_of_mask
from ctan.dicom.writers import (
    PatientHeader,
    Position,
    write_ct_series,
    write_rtdose,
    write_rtplan,
    write_rtstruct,
)

_SHAPE = (38, 48, 64)  # z, y, x
_SLICES_MM = (4.0, 4.5, 5.0)
_IN_PLANE_MM = (4.6, 5.2)
_BODY_MM = (98.0, 142.0)  # half-axes to the front and to the side

# The names of one structure in different clinics; the default patterns of `DicomConfig` know all of them.
_ROI_NAMES = {
    "Prostate": ("Prostate", "PROSTATA", "prostate", "CTV_Prostate"),
    "Bladder": ("Bladder", "BLADDER", "Blase", "vessie"),
    "Rectum": ("Rectum", "RECTUM", "Rektum"),
    "FemoralHeadRight": ("Femoral Head Right", "Fem Head R", "FemurHead_R", "Right Femoral Head"),
    "FemoralHeadLeft": ("Femoral Head Left", "Fem Head L", "FemurHead_L", "Left Femoral Head"),
    "PenileBulb": ("PenileBulb", "Penile Bulb", "Bulbus penis"),
    "SeminalVesicles": ("SeminalVesicles", "Seminal Ves", "SV"),
    "PTV": ("PTV", "PTV_High", "PTV1", "PTV {dose:.0f}"),
    "Body": ("BODY", "External", "Skin"),
}
_CONTOURED = {"FemoralHeadRight": 0.9, "FemoralHeadLeft": 0.9, "PenileBulb": 0.5, "SeminalVesicles": 0.8, "Body": 0.6}
_FRACTIONS = {60.0: 20, 70.0: 28, 74.0: 37, 78.0: 39}  # prescription in Gy -> fractions

_HU = {"Bladder": 8, "Prostate": 42, "SeminalVesicles": 28, "Rectum": 32, "PenileBulb": 62}
_AIR, _FAT, _MUSCLE, _PELVIS, _FEMUR, _GAS = -1000, -95, 55, 420, 330, -720
_CT_NOISE = 14  # each of two added noises is uniform in +-14 HU: a standard deviation of 12 HU

_MARGIN_MM = 8.0  # from prostate (and vesicles) to PTV
_DOSE_MM = (5.5, 6.0, 6.0)
_DOSE_REACH_MM = (36.0, 54.0, 72.0)  # the dose grid goes this far beyond the PTV
_FALL_OFF_MM = (10.0, 16.0, 24.0)  # where the dose of the arcs has halved
_PENUMBRA_MM = 6.0
_SPARED = {"Rectum": 0.5, "Bladder": 0.35}  # share of the dose taken away in the organ, outside the PTV
_SPARED_MM = 9.0


@dataclass(frozen=True)
class Patient:
    """One patient before writing. Arrays have axes (z, y, x); spacing and origin are in the same order, in mm.

    Attributes:
        hounsfield: int16 HU.
        masks: structure -> voxels, also of structures that are not contoured.
        contours: ROI name -> contours, what the structure set holds.
        roi_names: structure -> ROI name, of the contoured ones.
        dose_gy: on the grid of `dose_spacing_mm` and `dose_origin_mm`.
        offsets, reverse: how the dose grid's frames are stored, see `write_rtdose`.
    """

    header: PatientHeader
    hounsfield: npt.NDArray[np.int16]
    spacing_mm: ZYX
    origin_mm: ZYX
    masks: Mapping[str, Mask]
    contours: Mapping[str, Sequence[Contour]]
    roi_names: Mapping[str, str]
    dose_gy: Volume
    dose_spacing_mm: ZYX
    dose_origin_mm: ZYX
    prescription_gy: float
    offsets: Literal["relative", "absolute"]
    reverse: bool
    position: Position = "HFS"


def write_patient(patient: Patient, folder: Path) -> None:
    """Write a patient's files: `ct_<n>.dcm`, `RS.dcm`, `RD.dcm`, `RP.dcm`."""
    series = write_ct_series(
        folder,
        patient.hounsfield,
        patient.spacing_mm,
        patient.origin_mm,
        patient=patient.header,
        position=patient.position,
    )
    write_rtstruct(folder / "RS.dcm", patient.contours, series)
    write_rtdose(
        folder / "RD.dcm",
        patient.dose_gy,
        patient.dose_spacing_mm,
        patient.dose_origin_mm,
        patient=patient.header,
        offsets=patient.offsets,
        reverse=patient.reverse,
        position=patient.position,
    )
    write_rtplan(
        folder / "RP.dcm",
        patient.prescription_gy,
        patient=patient.header,
        beams=("A1", "A2"),
        num_fractions=_FRACTIONS[patient.prescription_gy],
        position=patient.position,
    )


def make_patient(seed: int, number: int) -> Patient:
    """Return one patient; depends on the seed and the number only."""
    rng = np.random.default_rng([seed, number])
    header = PatientHeader(
        key=f"ctan prostate phantom {seed} {number}",
        patient_id=f"PH{1000 * seed + number:06d}",
        patient_name=f"PHANTOM^{number:03d}",
        birth_date=f"{rng.integers(1935, 1960)}0{rng.integers(1, 10)}{rng.integers(10, 29)}",
        study_date=f"20{rng.integers(15, 24)}0{rng.integers(1, 10)}{rng.integers(10, 29)}",
    )
    anatomy = _Anatomy(rng)
    masks = anatomy.structures()
    prescription_gy = float(rng.choice(list(_FRACTIONS)))
    names = {
        structure: str(rng.choice(choices)).format(dose=prescription_gy)
        for structure, choices in _ROI_NAMES.items()
        if rng.random() < _CONTOURED.get(structure, 1)
    }
    contours = {
        name: contours_of_mask(masks[structure], anatomy.spacing_mm, anatomy.origin_mm)
        for structure, name in names.items()
    }
    dose_gy, dose_origin_mm = _dose(masks, anatomy, prescription_gy, rng)
    return Patient(
        header=header,
        hounsfield=_hounsfield(masks, anatomy, rng),
        spacing_mm=anatomy.spacing_mm,
        origin_mm=anatomy.origin_mm,
        masks=masks,
        contours=contours,
        roi_names=names,
        dose_gy=dose_gy,
        dose_spacing_mm=_DOSE_MM,
        dose_origin_mm=dose_origin_mm,
        prescription_gy=prescription_gy,
        offsets="absolute" if rng.random() < 0.3 else "relative",
        reverse=bool(rng.random() < 0.3),
    )


class _Anatomy:
    """Shapes on the CT grid; positions are (z, y, x) in mm from the middle of the prostate."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        in_plane = round(float(rng.uniform(*_IN_PLANE_MM)), 2)
        self.spacing_mm: ZYX = (float(rng.choice(_SLICES_MM)), in_plane, in_plane)
        self.origin_mm: ZYX = (  # scanner coordinates: the middle of the couch is anywhere
            round(float(rng.uniform(-900, -200)), 1),
            round(float(rng.uniform(-140, -90)), 1),
            round(float(rng.uniform(-175, -140)), 1),
        )
        share = (0.46, 0.55, 0.5)  # of the grid that lies below, before and to the right of the middle
        self.middle = [round(size * part) + self._by(0.5) for size, part in zip(_SHAPE, share, strict=True)]
        indices = np.ogrid[tuple(slice(size) for size in _SHAPE)]
        self.mm = [(i - m) * edge for i, m, edge in zip(indices, self.middle, self.spacing_mm, strict=True)]
        size = rng.uniform(0.85, 1.2)
        self.prostate_mm = [size * radius * self._scaled(0.1) for radius in (21, 17, 23)]
        self.rectum_mm, self.rectum_slope, self.rectum_x = 15 * self._scaled(0.15), self._by(0.05), self._by(4)
        half = [size * self._scaled(0.05) for size in _BODY_MM]
        _, y, x = self.mm
        ring = np.sqrt(((y + 8) / half[0]) * ((y + 8) / half[0]) + (x / half[1]) * (x / half[1]))
        self.ring: Volume = np.broadcast_to(ring, _SHAPE)
        self.body: Mask = self.ring <= 1

    def _by(self, mm: float) -> float:
        return float(self._rng.uniform(-mm, mm))

    def _scaled(self, share: float) -> float:
        return float(self._rng.uniform(1 - share, 1 + share))

    def _ellipsoid(self, at: Sequence[float], radii: Sequence[float]) -> Mask:
        """Return an ellipsoid, its place and size varied a little."""
        return ellipsoid(self.mm, [c + self._by(2) for c in at], [radius * self._scaled(0.08) for radius in radii])

    @cached_property
    def bones(self) -> Mask:
        """The pelvis: acetabula, pubic symphysis, ischia, sacrum."""
        hips = [ellipsoid(self.mm, (16, -10, 88 * side), (36, 36, 34)) for side in (-1, 1)]
        ischia = [self._ellipsoid((-42, 26, 52 * side), (34, 13, 11)) for side in (-1, 1)]
        pubis = [self._ellipsoid((-4, -50, 17 * side), (18, 10, 15)) for side in (-1, 1)]
        sacrum = self._ellipsoid((72, 62, 0), (46, 13, 34))
        return np.any([*hips, *ischia, *pubis, sacrum], axis=0) & (self.ring < 0.9)

    def structures(self) -> dict[str, Mask]:
        """Return every structure; organs are disjoint."""
        rng = self._rng
        radii = self.prostate_mm
        prostate = ellipsoid(self.mm, (0, 0, 0), radii)
        filling = rng.uniform(0.7, 1.25)  # of the bladder
        bladder = self._ellipsoid((radii[0] + 26 * filling, -12, 0), (34 * filling, 32 * filling, 40 * filling))
        bladder &= ~prostate
        rectum = self._rectum(1.0) & ~prostate & ~bladder
        vesicles = np.any([self._ellipsoid((radii[0] + 5, 13, 13 * s), (8, 7, 15)) for s in (-1, 1)], axis=0)
        vesicles &= ~(prostate | bladder | rectum)
        bulb = self._ellipsoid((-radii[0] - 22, 10, 0), (9, 10, 11))
        heads = {side: self._ellipsoid((16, -10, 88 * side), (24, 24, 24)) for side in (-1, 1)}
        target = prostate | vesicles if rng.random() < 0.5 else prostate
        return {
            "Prostate": prostate,
            "Bladder": bladder,
            "Rectum": rectum,
            "FemoralHeadRight": heads[-1],
            "FemoralHeadLeft": heads[1],
            "PenileBulb": bulb & ~rectum,
            "SeminalVesicles": vesicles,
            "PTV": (distance(target, self.spacing_mm) <= _MARGIN_MM) & self.body,
            "Body": self.body,
        }

    def _rectum(self, share: float) -> Mask:
        """Return a tube behind the prostate that follows the sacrum upwards; `share` of its radius."""
        z, y, x = self.mm
        middle = self.prostate_mm[1] + 15 + z * z / 260 * (z > 0) + self.rectum_slope * z
        wide = share * self.rectum_mm * (1 + 0.25 / (1 + z * z / 900))
        inside = (y - middle) * (y - middle) + (x - self.rectum_x) * (x - self.rectum_x) <= wide * wide
        return inside & (z > -48) & (z < 70)

    def gas(self) -> Mask:
        """Return gas in the rectum: one or two bubbles."""
        z = self.mm[0]
        tube = self._rectum(0.6)
        return tube & np.any([np.abs(z - self._by(45)) < 14 * self._scaled(0.5) for _ in range(2)], axis=0)

    def fat(self) -> Mask:
        """Return fat: under the skin, around the rectum and beside the bladder."""
        mesorectum = self._ellipsoid((40, 42, 0), (48, 26, 38))
        beside = [self._ellipsoid((34, -12, 46 * side), (38, 28, 14)) for side in (-1, 1)]
        return (self.ring > 0.84) | mesorectum | np.any(beside, axis=0)


def _hounsfield(masks: Mapping[str, Mask], anatomy: _Anatomy, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Return the CT: also what nobody contoured is there to be seen; slightly blurred in plane, with noise."""
    ct = np.full(_SHAPE, float(_MUSCLE))
    ct[anatomy.fat()] = _FAT
    ct[anatomy.bones] = _PELVIS
    ct[masks["FemoralHeadRight"] | masks["FemoralHeadLeft"]] = _FEMUR
    for name, value in _HU.items():
        ct[masks[name]] = value + rng.integers(-4, 5)
    ct[anatomy.gas() & masks["Rectum"]] = _GAS
    ct[~anatomy.body] = _AIR
    for axis in (1, 2):  # air all around: nothing wraps
        ct = (np.roll(ct, 1, axis) + 2 * ct + np.roll(ct, -1, axis)) / 4
    noise = rng.integers(-_CT_NOISE, _CT_NOISE + 1, (2, *_SHAPE)).sum(axis=0)
    return np.clip(np.rint(ct) + noise, -1024, 3071).astype(np.int16)


def _dose(
    masks: Mapping[str, Mask], anatomy: _Anatomy, prescription_gy: float, rng: np.random.Generator
) -> tuple[Volume, ZYX]:
    """Return the dose in Gy on its own grid, 0 outside the body, and the origin of the grid.

    Arcs give a dose that falls off with the distance to the PTV; four fields add dose to the front, back and sides.
    """
    spacing, target = anatomy.spacing_mm, masks["PTV"]
    away = distance(target, [edge / half for edge, half in zip(spacing, _FALL_OFF_MM, strict=True)])
    arcs = 1 / (1 + away * away)
    fields = np.zeros(_SHAPE)
    for axis in (1, 2):
        edges = [edge for a, edge in enumerate(spacing) if a != axis]
        aside = distance(np.asarray(target.any(axis=axis)), edges) / _PENUMBRA_MM
        fields += np.expand_dims(0.5 / (1 + aside * aside * aside * aside), axis)
    weight = rng.uniform(0.25, 0.55)
    relative = (1 - weight) * arcs + weight * fields
    outside = distance(target, spacing)
    for name, share in _SPARED.items():
        near = distance(masks[name], spacing) / _SPARED_MM
        relative = relative * (1 - share / (1 + near * near) * outside / (outside + _PENUMBRA_MM))
    places, origin = _dose_grid(target, anatomy)
    on_grid = _interpolate(relative, places) * (_interpolate(anatomy.body.astype(np.float64), places) > 0.5)
    uneven = rng.uniform(0.985, 1.025, on_grid.shape)
    return np.rint(100 * prescription_gy * 1.01 * on_grid * uneven) / 100, origin


def _dose_grid(target: Mask, anatomy: _Anatomy) -> tuple[list[Volume], ZYX]:
    """Return the CT indices of the dose grid's planes along each axis, and its origin in mm; it lies within the CT."""
    places: list[Volume] = []
    origin: list[float] = []
    for axis, (edge, reach, step) in enumerate(zip(anatomy.spacing_mm, _DOSE_REACH_MM, _DOSE_MM, strict=True)):
        taken = np.flatnonzero(target.any(axis=tuple(a for a in range(3) if a != axis)))
        low = max(0.5, taken[0] - reach / edge)
        high = min(_SHAPE[axis] - 1.5, taken[-1] + reach / edge)
        first_mm = round(float(anatomy.origin_mm[axis] + low * edge), 1)
        count = int((high - low) * edge / step)
        places.append((first_mm - anatomy.origin_mm[axis] + step * np.arange(count, dtype=np.float64)) / edge)
        origin.append(first_mm)
    return places, (origin[0], origin[1], origin[2])


def _interpolate(volume: Volume, places: Sequence[Volume]) -> Volume:
    """Interpolate linearly, axis by axis, at fractional indices."""
    for axis, place in enumerate(places):
        below = np.floor(place).astype(int)
        part = (place - below).reshape([-1 if a == axis else 1 for a in range(3)])
        volume = np.take(volume, below, axis) * (1 - part) + np.take(volume, below + 1, axis) * part
    return volume
