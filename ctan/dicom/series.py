"""A DICOM CT series becomes one volume in HU, whatever the order of its files and however the patient lay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.dicom.acquisitions import one_acquisition
from ctan.dicom.compressed import decode, is_jpeg
from ctan.dicom.pixels import check_bytes, check_length, check_rows, check_scales, header_signs, lost_bits, slice_signs
from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK
    from pydicom import Dataset

OUTSIDE_HU = -1024.0  # what padding becomes: the lowest stored value, as outside the image
SPACING_MM = (0.01, 100.0)  # of any image
_ALIGNED = 1e-3  # largest deviation of a direction cosine from 0 or 1, as in `ctan.cases.volumes`
_SAME_MM = 0.01  # positions closer than this are equal
_LOOKED_AT = 5  # slices, for the order of their bytes
_UNEVEN = 0.05  # share of the spacing by which a distance between slices may differ from it; headers are rounded


@dataclass(frozen=True)
class CtVolume:
    """A CT in the frame it was scanned in.

    Attributes:
        image: HU, float32; its axes are those of the patient in some order and direction.
        frame: FrameOfReferenceUID.
        series: SeriesInstanceUID, perhaps empty.
        instances: SOPInstanceUID of each slice.
        signs: what in the headers speaks against the values being HU.
    """

    image: SimpleITK.Image
    frame: str
    series: str
    instances: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stack:
    """The slices of one CT series in the order of their planes, and where their voxels lie.

    Attributes:
        slices: along the normal.
        first: centre of the first voxel (x, y, z) in mm.
        directions: unit vectors along a row, along a column, and across slices.
        spacing_mm: in the order of the directions.
        frame: FrameOfReferenceUID.
    """

    slices: tuple[Dataset, ...]
    first: npt.NDArray[np.float64]
    directions: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
    spacing_mm: tuple[float, float, float]
    frame: str


def stack_of(slices: Sequence[Dataset], reference: Dataset | None) -> Stack:
    """Return the series that a structure set refers to; pixels are not looked at, and need not be there.

    Args:
        slices: every CT image of the patient, in any order.
        reference: the RTSTRUCT, or what a SEG refers to in the same form; None where there is none.

    Raises:
        DataError: when the series is not clear, not complete or oblique.
    """
    chosen = _referred(_by_series(slices), reference)
    rows, columns = _common_plane(chosen)
    normal = np.cross(rows, columns)
    places = [_place(one, normal) for one in chosen]
    ordered, spacing_mm = _sorted(one_acquisition(chosen, places, reference), normal)
    frames = {str(s.get("FrameOfReferenceUID", "")) for s in ordered}
    if len(frames) > 1 or "" in frames:
        found = "none in some slices" if "" in frames else f"{len(frames)}"
        raise DataError(f"CT: expected one frame of reference, found {found}")
    down, across = (float(edge) for edge in numbers_of(ordered[0], "PixelSpacing", 2))
    first = numbers_of(ordered[0], "ImagePositionPatient", 3)
    return Stack(tuple(ordered), first, (rows, columns, normal), (across, down, spacing_mm), frames.pop())


def volume_of(slices: Sequence[Dataset], reference: Dataset | None) -> CtVolume:
    """Return the volume of the series that a structure set refers to.

    Args:
        slices: every CT image of the patient, in any order.
        reference: the RTSTRUCT, or what a SEG refers to in the same form; None where there is none.

    Raises:
        DataError: when the series is not clear, not complete, oblique, or a slice cannot be decoded.
    """
    stack = stack_of(slices, reference)
    voxels, signs = _hounsfields(stack.slices, stack.directions[2])
    image = image_of(voxels, stack.first, stack.directions, stack.spacing_mm)
    instances = tuple(str(s.get("SOPInstanceUID", "")) for s in stack.slices)
    return CtVolume(image, stack.frame, str(stack.slices[0].get("SeriesInstanceUID", "")), instances, tuple(signs))


def image_of(
    voxels: npt.NDArray[Any],
    first: npt.NDArray[np.float64],
    directions: tuple[npt.NDArray[np.float64], ...],
    spacing_mm: tuple[float, float, float],
) -> SimpleITK.Image:
    """Return (frame, row, column) voxels as an image.

    Args:
        voxels: frames run along the third direction.
        first: centre of the first voxel (x, y, z) in mm.
        directions: unit vectors along a row, along a column, and across frames.
        spacing_mm: in the order of the directions.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin([float(v) for v in first])
    image.SetSpacing([float(v) for v in spacing_mm])
    image.SetDirection([float(v) for v in np.column_stack(directions).ravel()])
    return image


def plane_of(dataset: Dataset, what: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the unit vectors along a row and along a column of an axis-aligned image.

    Raises:
        DataError: when the image is oblique.
    """
    cosines = numbers_of(dataset, "ImageOrientationPatient", 6)
    sizes = np.abs(cosines)
    if not np.all((sizes < _ALIGNED) | (np.abs(sizes - 1) < _ALIGNED)) or abs(np.dot(cosines[:3], cosines[3:])) > 0.1:
        raise DataError(
            f"{what}: oblique or tilted, ImageOrientationPatient is {_list(cosines)}; expected rows and columns along "
            f"the patient's axes: reconstruct it without gantry tilt"
        )
    cosines = np.rint(cosines) + 0.0  # 1e-16 becomes 0, and -0 becomes 0
    return cosines[:3], cosines[3:]


def _by_series(slices: Sequence[Dataset]) -> dict[str, list[Dataset]]:
    series: dict[str, list[Dataset]] = {}
    for dataset in slices:
        if "LOCALIZER" in (dataset.get("ImageType") or ()):
            continue
        if dataset.get("NumberOfFrames") and integer_of(dataset, "NumberOfFrames", "CT") > 1:
            raise DataError("CT: multi-frame (enhanced CT); expected a file a slice, export it as plain CT images")
        series.setdefault(str(dataset.get("SeriesInstanceUID", "")), []).append(dataset)
    if not series:
        raise DataError("no CT image; expected a CT series, an RTSTRUCT and an RTDOSE")
    return series


def _referred(series: dict[str, list[Dataset]], reference: Dataset | None) -> list[Dataset]:
    """Return the series that a structure set was drawn on, by series, or by image where it names no series."""
    named, images = set(), set()
    for frame in (reference.get("ReferencedFrameOfReferenceSequence") if reference is not None else None) or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                named.add(str(item.get("SeriesInstanceUID", "")))
                images |= {str(i.get("ReferencedSOPInstanceUID", "")) for i in item.get("ContourImageSequence") or ()}
    named, images = named - {""}, images - {""}
    found = [s for uid, s in series.items() if uid in named]
    found = found or [s for s in series.values() if images & {str(d.get("SOPInstanceUID", "")) for d in s}]
    if len(found) == 1:
        return found[0]
    sizes = ", ".join(str(len(s)) for s in series.values())
    if found or (not named and not images):
        if len(series) == 1:
            return next(iter(series.values()))
        unclear = "no RTSTRUCT" if reference is None else f"{_drawn(reference)} does not say which one it was drawn on"
        raise DataError(f"CT: {len(series)} series ({sizes} slices) and {unclear}; keep one")
    raise DataError(
        f"{_drawn(reference)} refers to another CT series than the {len(series)} found ({sizes} slices); export the "
        f"planning CT"
    )


def _drawn(reference: Dataset | None) -> str:
    """Return what kind of object names the series."""
    return str((reference.get("Modality") if reference is not None else "") or "RTSTRUCT")


def _common_plane(slices: Sequence[Dataset]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the common directions of rows and columns."""
    if len(slices) < 2:
        raise DataError("CT: a single slice, expected a volume")
    for keyword in ("Rows", "Columns"):
        sizes = {integer_of(s, keyword, "CT") for s in slices}
        if len(sizes) > 1 or min(sizes) <= 0:
            raise DataError(
                f"CT: slices differ in size, {keyword} {', '.join(map(str, sorted(sizes)))}; keep one series"
            )
    for keyword, count, tolerance in (("PixelSpacing", 2, 1e-3), ("ImageOrientationPatient", 6, _ALIGNED)):
        values = np.array([numbers_of(s, keyword, count) for s in slices])
        if np.ptp(values, axis=0).max() > tolerance:
            raise DataError(f"CT: slices differ in {keyword}; keep one series")
        if keyword == "PixelSpacing":
            check_spacing(values[0], "CT")
    return plane_of(slices[0], "CT")


def _sorted(slices: Sequence[Dataset], normal: npt.NDArray[np.float64]) -> tuple[list[Dataset], float]:
    """Return the slices along the normal of their plane, and the distance between them in mm."""
    ordered = _without_copies(sorted(slices, key=lambda s: _place(s, normal)), normal)
    if len(ordered) < 2:
        raise DataError("CT: a single slice, expected a volume")
    corners = np.array([numbers_of(s, "ImagePositionPatient", 3) for s in ordered])
    places = corners @ normal
    in_plane = corners - places[:, None] * normal
    if np.abs(in_plane - in_plane[0]).max() > max(_SAME_MM, 0.1 * numbers_of(ordered[0], "PixelSpacing", 2).min()):
        raise DataError("CT: slices are shifted against each other (gantry tilt); reconstruct it without tilt")
    steps = np.diff(places)
    usual = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - usual) > _UNEVEN * usual + _SAME_MM)
    if uneven.size:
        gaps = ", ".join(f"{steps[i]:.2f} mm after {places[i]:.2f}" for i in uneven[:5])
        more = f" and {uneven.size - 5} more" if uneven.size > 5 else ""
        raise DataError(
            f"CT: slices are missing or uneven, {usual:.2f} mm apart but {gaps}{more} (mm along the slice axis); "
            f"export the whole series"
        )
    return ordered, round(float(places[-1] - places[0]) / (len(ordered) - 1), 6)


def _without_copies(ordered: list[Dataset], normal: npt.NDArray[np.float64]) -> list[Dataset]:
    """Drop a second copy of the same image; two images at one place are refused."""
    kept = [ordered[0]]
    for dataset in ordered[1:]:
        place, last = _place(dataset, normal), kept[-1]
        if place - _place(last, normal) > _SAME_MM:
            kept.append(dataset)
        elif dataset.get("SOPInstanceUID", "") != last.get("SOPInstanceUID", "") or (
            dataset.get("PixelData") != last.get("PixelData")
        ):
            raise DataError(
                f"CT: two different slices at {place:.2f} mm along the slice axis, and RTSTRUCT does not say which "
                f"one it was drawn on; keep one"
            )
    return kept


def _place(dataset: Dataset, normal: npt.NDArray[np.float64]) -> float:
    return float(numbers_of(dataset, "ImagePositionPatient", 3) @ normal)


def _hounsfields(
    slices: Sequence[Dataset], normal: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return ordered slices in HU, their padding as air, and signs of wrong values in their headers."""
    values, padded, scales, num_lost = [], [], [], 0
    looked_at = set(np.linspace(0, len(slices) - 1, _LOOKED_AT).astype(int).tolist())
    for index, dataset in enumerate(slices):
        what = f"CT slice at {_place(dataset, normal):.2f} mm"
        stored = decoded(dataset, what)
        if index in looked_at:
            check_bytes(stored, what)
        slope, intercept = (float(numbers_of(dataset, key, 1)[0]) for key in ("RescaleSlope", "RescaleIntercept"))
        if slope <= 0:
            raise DataError(f"{what}: RescaleSlope {slope:g}, expected a positive number; export it again")
        with np.errstate(over="ignore"):
            values.append((stored * np.float64(slope) + intercept).astype(np.float32))
        if not np.isfinite(values[-1]).all():
            raise DataError(f"{what}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give no finite values")
        padded.append(_padding(dataset, stored))
        values[-1][padded[-1]] = OUTSIDE_HU
        scales.append((slope, intercept))
        num_lost += lost_bits(dataset, stored)
    volume = np.stack(values)
    check_rows(volume, "CT")
    check_scales(volume, scales)
    signs = slice_signs(volume, lambda index: f"{_place(slices[index], normal):.2f} mm")
    return volume, signs + header_signs(slices, np.stack(padded), volume, num_lost)


def _padding(dataset: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where a slice holds its padding value."""
    if dataset.get("PixelPaddingValue") is None:
        return np.zeros(stored.shape, bool)
    padding = numbers_of(dataset, "PixelPaddingValue", 1)[0]
    has_limit = dataset.get("PixelPaddingRangeLimit") is not None
    limit = numbers_of(dataset, "PixelPaddingRangeLimit", 1)[0] if has_limit else padding
    # Often written as unsigned where the pixels are signed: 63536 is -2000.
    bounds = np.sort(np.array([padding, limit]).astype(np.int64).astype(stored.dtype))
    return (stored >= bounds[0]) & (stored <= bounds[1])


def decoded(dataset: Dataset, what: str) -> npt.NDArray[Any]:
    """Return the stored pixel values.

    Raises:
        DataError: when they are missing, truncated or compressed in a way that cannot be read here.
    """
    if "PixelData" not in dataset:
        raise DataError(f"{what}: no pixel data")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise DataError(f"{what}: {dataset.SamplesPerPixel} samples a pixel, expected 1")
    check_length(dataset, what)
    try:
        return decode(dataset) if is_jpeg(dataset) else dataset.pixel_array
    except Exception as error:  # decoders raise many kinds
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "no transfer syntax")
        raise DataError(
            f"{what}: the pixel data cannot be decoded ({syntax}, {type(error).__name__}); truncated or in a "
            f"compression that is not supported: export it uncompressed"
        ) from None


def numbers_of(dataset: Dataset, keyword: str, count: int) -> npt.NDArray[np.float64]:
    """Return finite numbers of an attribute."""
    value = dataset.get(keyword)
    try:
        numbers = np.atleast_1d(np.array(value, dtype=np.float64)) if value is not None else np.empty(0)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.size != count or not np.all(np.isfinite(numbers)):
        found = "it is missing" if value in (None, "") else f"found {numbers.size}"
        kind = dataset.get("Modality", "file")
        raise DataError(f"{kind}: expected {count} numbers in {keyword}, {found}")
    return numbers


def integer_of(dataset: Dataset, keyword: str, what: str) -> int:
    """Return one whole number of an attribute that must be there."""
    value = dataset.get(keyword)
    try:
        number = float(value)  # several values, or none, are a TypeError
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise DataError(f"{what}: expected one whole number in {keyword}; export it again")
    return int(number)


def check_spacing(values: npt.NDArray[np.float64], what: str) -> None:
    """Refuse a PixelSpacing that no scanner or planning system has."""
    if values.min() < SPACING_MM[0] or values.max() > SPACING_MM[1]:
        raise DataError(
            f"{what}: PixelSpacing {_list(values)} mm, expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g}; export it again"
        )


def _list(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
