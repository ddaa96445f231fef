"""The ROIs of an RTSTRUCT: which there are, and the points of their closed contours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctan.dicom.names import Roi
from ctan.dicom.raster import Points
from ctan.dicom.series import integer_of
from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR")
_XOR = "CLOSEDPLANAR_XOR"
_CLOSES_MM = 0.02  # between the first and the last point of an open contour that is closed in fact


@dataclass(frozen=True)
class ListedRoi:
    """One ROI, the frame of reference that it names, and its contours but for single points."""

    roi: Roi
    frame: str
    contours: tuple[Dataset, ...]


@dataclass(frozen=True)
class Drawn:
    """The closed contours of one ROI.

    Attributes:
        points: (N, 3) in mm of each.
        images: the SOPInstanceUID that each was drawn on, perhaps empty.
        exclusive: they are combined by exclusive or.
        remarks: what was mended.
    """

    points: tuple[Points, ...]
    images: tuple[str, ...]
    exclusive: bool
    remarks: tuple[str, ...]


def rois_of(structure_set: Dataset) -> tuple[dict[int, ListedRoi], list[str]]:
    """Return the ROIs by number, and remarks.

    Raises:
        DataError: when contours cannot be told to be of one ROI.
    """
    items: dict[int, Dataset] = {}
    names: dict[int, list[str]] = {}
    for item in structure_set.get("StructureSetROISequence") or ():
        number = integer_of(item, "ROINumber", "RTSTRUCT: an ROI")
        items[number] = item
        names.setdefault(number, []).append(str(item.get("ROIName", "")))
    for number, found in names.items():
        if len(found) > 1 and any(found):
            listed = ", ".join(name or "a name that is not mapped" for name in found)
            raise DataError(
                f"RTSTRUCT: {len(found)} ROIs have the number {number} ({listed}); their contours cannot be told "
                f"apart: export it again with a number each"
            )
    contours: dict[int, list[Dataset]] = {number: [] for number in items}
    parts: Counter[int] = Counter()
    for roi in structure_set.get("ROIContourSequence") or ():
        drawn = [item for item in roi.get("ContourSequence") or () if not _is_point(item)]
        number = integer_of(roi, "ReferencedROINumber", "RTSTRUCT: an item of ROIContourSequence")
        if number not in items:
            if drawn:
                raise DataError(
                    f"RTSTRUCT: {len(drawn)} contours are of ROI {number}, which StructureSetROISequence does not "
                    f"list; what they outline is not known: export it again"
                )
            continue
        contours[number] += drawn
        parts[number] += bool(drawn)
    remarks = [
        f"RTSTRUCT: the contours of ROI {number} ({name}) are in {parts[number]} items, joined"
        for number, (name, *_) in names.items()
        if parts[number] > 1 and name
    ]
    rois = {
        number: ListedRoi(
            Roi(number, names[number][0], bool(contours[number])),
            str(item.get("ReferencedFrameOfReferenceUID", "") or ""),
            tuple(contours[number]),
        )
        for number, item in items.items()
    }
    return rois, remarks


def closed_contours(items: Sequence[Dataset], what: str) -> Drawn:
    """Return the points of an ROI's contours.

    Contours without a type, or open ones that end where they began, are read as closed, with a remark.

    Raises:
        DataError: when contours are damaged, or open, or combined in two ways.
    """
    kinds = [str(item.get("ContourGeometricType", "") or "") for item in items]
    points = [read_points(item, what) for item in items]
    untyped = ended = 0
    for kind, contour in zip(kinds, points, strict=True):
        if kind in _CLOSED or not len(contour):
            continue
        if not kind:
            untyped += 1
        elif kind == "OPEN_PLANAR" and len(contour) > 3 and np.abs(contour[0] - contour[-1]).max() <= _CLOSES_MM:
            ended += 1
        else:
            x, y, z = contour.mean(axis=0)
            raise DataError(
                f"{what}: a contour around x {x:.1f}, y {y:.1f}, z {z:.1f} mm has the type {kind}, expected "
                f"CLOSED_PLANAR; close it in the planning system"
            )
    exclusive = kinds.count(_XOR)
    if 0 < exclusive < len(kinds):
        raise DataError(
            f"{what}: {exclusive} of {len(kinds)} contours have the type {_XOR}, expected all or none; export it again"
        )
    remarks = [f"{what}: {untyped} contours without a type are read as closed"] if untyped else []
    remarks += [f"{what}: {ended} open contours end where they began and are read as closed"] if ended else []
    listed = [index for index, contour in enumerate(points) if len(contour)]
    return Drawn(
        tuple(points[index] for index in listed),
        tuple(_image_of(items[index]) for index in listed),
        exclusive > 0,
        tuple(remarks),
    )


def read_points(item: Dataset, what: str) -> Points:
    """Return the points (N, 3) of a contour: x, y, z in mm.

    Raises:
        DataError: when there are not three numbers a point, or not as many points as the contour says.
    """
    from pydicom.dataelem import RawDataElement

    element = item.get_item("ContourData") if "ContourData" in item else None
    value = None if element is None else element.value
    try:
        if isinstance(element, RawDataElement):  # as bytes: pydicom takes microseconds a number, and there are many
            text = (value or b"").decode("ascii").strip(" \0\\")
            numbers = np.array(text.split("\\") if text else [], dtype=np.float64)
        else:
            numbers = np.array([] if value is None else value, dtype=np.float64).ravel()
    except ValueError:
        raise DataError(f"{what}: ContourData does not hold numbers") from None
    expected = item.get("NumberOfContourPoints")
    if numbers.size % 3 or not np.all(np.isfinite(numbers)) or expected not in (None, "", numbers.size // 3):
        raise DataError(
            f"{what}: ContourData holds {numbers.size} numbers, expected 3 for each of {expected} points; "
            f"export it again"
        )
    return numbers.reshape(-1, 3)


def _is_point(item: Dataset) -> bool:
    """Return whether a contour is a point, such as a seed or an isocentre, or empty."""
    if "ContourData" not in item:
        return True
    kind = item.get("ContourGeometricType") or ""
    return kind == "POINT" or (not kind and item.get("NumberOfContourPoints") == 1)


def _image_of(item: Dataset) -> str:
    """Return the image a contour names; empty when it names none or several."""
    named = [str(image.get("ReferencedSOPInstanceUID", "")) for image in item.get("ContourImageSequence") or ()]
    return named[0] if len(named) == 1 else ""
