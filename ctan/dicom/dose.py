"""RTDOSE and RTPLAN: dose in Gy on the grid of the CT, where it is known, and the prescription.

Source: DICOM PS3.3 C.8.8.3 (RT dose module; grid frame offset vector), C.8.8.10 (prescription), C.8.8.13 (fractions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.cases.volumes import Box
from ctan.dicom.doses import chosen
from ctan.dicom.pixels import check_bytes, check_rows
from ctan.dicom.series import CtVolume, check_spacing, decoded, image_of, integer_of, numbers_of, plane_of
from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK
    from pydicom import Dataset

_SAME_MM = 0.01
_UNEVEN = 0.01  # share of the spacing
_ROUNDING = 1e-3  # of a voxel
_PERCENT = 10.0  # relative doses above this are percent, not shares


@dataclass(frozen=True)
class PlannedDose:
    """The dose of a plan on grids of its own.

    Attributes:
        grids: Gy, float32; the dose is their sum.
        image: the CT.
        known: (slice, row, column) of the CT, where the dose is known.
    """

    grids: tuple[SimpleITK.Image, ...]
    image: SimpleITK.Image
    known: npt.NDArray[np.bool_]

    def within(self, box: Box) -> npt.NDArray[np.float32]:
        """Return the dose in Gy in a box (slice, row, column) of the CT in which it is known."""
        total = np.zeros([part.stop - part.start for part in box], np.float32)
        for grid in self.grids:
            total += interpolated(grid, self.image, box)
        return total

    def exchanged(self) -> PlannedDose | None:
        """Return the dose as it would be with the two numbers of its PixelSpacing exchanged; None: they are equal."""
        if all(grid.GetSpacing()[0] == grid.GetSpacing()[1] for grid in self.grids):
            return None
        grids = tuple(map(exchanged, self.grids))
        return PlannedDose(grids, self.image, np.logical_and.reduce([inside_of(grid, self.image) for grid in grids]))


def exchanged(image: SimpleITK.Image) -> SimpleITK.Image:
    """Return an image as it would be with the two numbers of its PixelSpacing exchanged."""
    import SimpleITK as sitk

    other = sitk.Image(image)
    across, down, step = image.GetSpacing()
    other.SetSpacing((down, across, step))
    return other


def dose_on(
    ct: CtVolume, doses: Sequence[Dataset], plans: Sequence[Dataset], prescription_gy: float | None, config: DicomConfig
) -> PlannedDose:
    """Return the dose in Gy, and where on the grid of the CT it is known.

    Args:
        ct: the planning CT.
        doses: every RTDOSE of the patient.
        plans: the RTPLAN of the dose, or those of a sum.
        prescription_gy: what relative doses are relative to.
        config: whether doses of beams and plans may be added up.

    Raises:
        DataError: when there is not one plan dose (or a complete set of beam doses), or its grid or unit is not clear.
    """
    grids, known = [], np.ones(ct.image.GetSize()[::-1], bool)
    for dataset in chosen(doses, plans, config):
        if str(dataset.get("FrameOfReferenceUID", "")) != ct.frame:
            raise DataError("RTDOSE is in another frame of reference than the CT; export the dose of this CT")
        grids.append(grid_of(dataset, prescription_gy))
        known &= inside_of(grids[-1], ct.image)
    return PlannedDose(tuple(grids), ct.image, known)


def interpolated(grid: SimpleITK.Image, image: SimpleITK.Image, box: Box) -> npt.NDArray[np.float32]:
    """Return the values of a grid at the voxels of an image, interpolated linearly: what `sitk.Resample` gives there.

    Both are axis-aligned, so that each axis of the grid is interpolated by itself: along x, then y, then z, each exact
    in float64, in the order and with the rounding of ITK.

    Args:
        grid: float32.
        image: its values play no part.
        box: of the image (slice, row, column); beyond the grid's outermost centres the outermost value is taken.
    """
    import SimpleITK as sitk

    along, places = _places(grid, image)
    at = [here[box[2 - axis]] for here, axis in zip(places, along, strict=True)]
    last = [size - 1 for size in grid.GetSize()]
    low = [np.floor(here).clip(0, end).astype(int) for here, end in zip(at, last, strict=True)]
    high = [np.minimum(here + 1, end) for here, end in zip(low, last, strict=True)]
    part = [np.maximum(here - before, 0) for here, before in zip(at, low, strict=True)]
    values = sitk.GetArrayViewFromImage(grid)

    @lru_cache(maxsize=2)
    def plane(index: int) -> npt.NDArray[np.float64]:
        stored = values[index].astype(np.float64)
        rows = stored[:, low[0]] + (stored[:, high[0]] - stored[:, low[0]]) * part[0]
        return rows[low[1]] + (rows[high[1]] - rows[low[1]]) * part[1][:, None]

    result = np.empty([len(here) for here in at[::-1]], np.float32)
    for out, before, after, share in zip(result, low[2].tolist(), high[2].tolist(), part[2].tolist(), strict=True):
        out[:] = plane(before) + (plane(after) - plane(before)) * share
    return result.transpose([along[::-1].index(axis) for axis in (2, 1, 0)])


def _places(grid: SimpleITK.Image, image: SimpleITK.Image) -> tuple[list[int], list[npt.NDArray[np.float64]]]:
    """Return for each axis of a grid (x, y, z) the axis of an image that runs along it, and where its voxels lie.

    Along the first axis of the image ITK knows the ends only, and divides the line between them.
    """

    def place(axis: int, along: int, index: int) -> float:
        point = image.TransformIndexToPhysicalPoint([index if other == along else 0 for other in range(3)])
        return float(grid.TransformPhysicalPointToContinuousIndex(point)[axis])

    to_grid = np.array(grid.GetDirection()).reshape(3, 3).T
    turn = np.abs(to_grid @ np.array(image.GetDirection()).reshape(3, 3))
    along = [int(np.argmax(turn[axis])) for axis in range(3)]
    places = []
    for axis, of_image in enumerate(along):
        size = image.GetSize()[of_image]
        if of_image == 0:
            start, end = place(axis, 0, 0), place(axis, 0, size)
            places.append(start + np.arange(size) / size * (end - start))
        else:
            places.append(np.array([place(axis, of_image, index) for index in range(size)]))
    return along, places


def inside_of(grid: SimpleITK.Image, image: SimpleITK.Image) -> npt.NDArray[np.bool_]:
    """Return which voxels of an image, (slice, row, column), lie between the voxels of a grid; both axis-aligned.

    From the outermost centres outwards there is nothing to interpolate between.
    """
    to_grid = np.array(grid.GetDirection()).reshape(3, 3).T
    start = to_grid @ (np.array(image.GetOrigin()) - np.array(grid.GetOrigin()))
    turn = np.rint(to_grid @ np.array(image.GetDirection()).reshape(3, 3))
    inside = np.ones(image.GetSize()[::-1], bool)
    for axis in range(3):  # of the grid; along it runs one axis of the image
        along = int(np.argmax(np.abs(turn[axis])))
        steps = np.arange(image.GetSize()[along]) * image.GetSpacing()[along]
        places = (start[axis] + turn[axis, along] * steps) / grid.GetSpacing()[axis]
        within = (places > -_ROUNDING) & (places < grid.GetSize()[axis] - 1 + _ROUNDING)
        inside[(slice(None),) * (2 - along) + (~within,)] = False
    return inside


def grid_of(dataset: Dataset, prescription_gy: float | None) -> SimpleITK.Image:
    """Return a dose in Gy on its own grid.

    Raises:
        DataError: when its unit or the position of its frames is not clear.
    """
    rows, columns = plane_of(dataset, "RTDOSE")
    normal = np.cross(rows, columns)
    _check_bits(dataset)
    stored = decoded(dataset, "RTDOSE")
    if stored.ndim != 3 or len(stored) < 2:
        raise DataError("RTDOSE: a single plane, expected a dose grid of several")
    check_bytes(stored, "RTDOSE")
    check_rows(stored, "RTDOSE")
    first = numbers_of(dataset, "ImagePositionPatient", 3)
    places = _frame_places(dataset, len(stored), float(first[2]), float(normal[2]))
    step = float(places[-1] - places[0]) / (len(places) - 1)
    if step == 0 or np.abs(np.diff(places) - step).max() > _UNEVEN * abs(step) + _SAME_MM:
        raise DataError("RTDOSE: frames are not evenly spaced (GridFrameOffsetVector); export an even grid")
    if step < 0:
        stored, first, step = stored[::-1], first + places[-1] * normal, -step
    scaling = numbers_of(dataset, "DoseGridScaling", 1)[0]
    if scaling <= 0:
        raise DataError(f"RTDOSE: DoseGridScaling {scaling:g}, expected a positive number; export it again")
    values = _gray(stored * scaling, dataset, prescription_gy)
    check_spacing(numbers_of(dataset, "PixelSpacing", 2), "RTDOSE")
    down, across = numbers_of(dataset, "PixelSpacing", 2)
    return image_of(values, first, (rows, columns, normal), (across, down, step))


def _frame_places(dataset: Dataset, count: int, first_z: float, normal_z: float) -> npt.NDArray[np.float64]:
    """Return how far each frame lies from the first along the normal of its plane, in mm."""
    offsets = numbers_of(dataset, "GridFrameOffsetVector", count)
    if abs(offsets[0]) < _SAME_MM:
        return offsets
    if abs(offsets[0] - first_z) < _SAME_MM and abs(normal_z) == 1:  # the patient's z of each frame
        return (offsets - offsets[0]) * normal_z
    raise DataError(
        f"RTDOSE: GridFrameOffsetVector begins with {offsets[0]:g}, expected 0 or the z of ImagePositionPatient "
        f"({first_z:g} mm)"
    )


def _gray(values: npt.NDArray[np.float64], dataset: Dataset, prescription_gy: float | None) -> npt.NDArray[np.float32]:
    """Return dose values in Gy. Relative ones are shares of the prescription, or percent of it when above 10."""
    units, kind = str(dataset.get("DoseUnits", "")), str(dataset.get("DoseType", ""))
    if kind == "ERROR":
        raise DataError("RTDOSE: DoseType ERROR, a difference of doses; expected PHYSICAL or EFFECTIVE")
    if values.min() < 0:
        raise DataError(f"RTDOSE: negative dose {values.min():.3f}")
    if units == "RELATIVE":
        if prescription_gy is None:
            raise DataError(
                "RTDOSE: DoseUnits RELATIVE and no prescription; export dose in Gy, or the RTPLAN, or set "
                "data.options.prescription_gy"
            )
        values = values * prescription_gy / (100.0 if values.max() > _PERCENT else 1.0)
    elif units != "GY":
        raise DataError(f"RTDOSE: DoseUnits {'missing' if not units else 'not known'}, expected GY or RELATIVE")
    with np.errstate(over="ignore"):
        gray = values.astype(np.float32)
    if not np.isfinite(gray).all():
        raise DataError("RTDOSE: DoseGridScaling gives doses that are not finite; export it again")
    return gray


def _check_bits(dataset: Dataset) -> None:
    """Refuse a dose of which decoding would cut bits off: all of those allocated hold the dose."""
    bits = [integer_of(dataset, keyword, "RTDOSE") for keyword in ("BitsAllocated", "BitsStored", "HighBit")]
    if bits not in ([16, 16, 15], [32, 32, 31]):
        raise DataError(
            f"RTDOSE: {bits[0]} bits allocated, {bits[1]} stored, the highest is bit {bits[2]}; expected 16, 16 "
            f"and 15, or 32, 32 and 31: export it again"
        )


def prescription_of(plans: Sequence[Dataset]) -> float | None:
    """Return the prescribed dose in Gy, of several plans their sum; None where one does not say it, or there is none.

    Of a plan it is the highest of its targets', else the sum of its beams' doses.
    """
    each = [_prescribed(plan) for plan in plans]
    known = [dose for dose in each if dose is not None]
    return sum(known) if known and len(known) == len(each) else None


def _prescribed(plan: Dataset) -> float | None:
    targets = [item for item in plan.get("DoseReferenceSequence") or () if item.get("DoseReferenceType") == "TARGET"]
    prescribed = [numbers_of(t, "TargetPrescriptionDose", 1)[0] for t in targets if t.get("TargetPrescriptionDose")]
    if prescribed and max(prescribed) > 0:
        return float(max(prescribed))
    total = 0.0
    for group in plan.get("FractionGroupSequence") or ():
        beams = [beam for beam in group.get("ReferencedBeamSequence") or () if beam.get("BeamDose")]
        per_fraction = sum(numbers_of(beam, "BeamDose", 1)[0] for beam in beams)
        total += float(per_fraction) * int(group.get("NumberOfFractionsPlanned") or 0)
    return total if total > 0 else None
