"""RTSTRUCT: closed planar contours become masks on the grid of the CT.

A voxel is inside when at least half of its area in the slice is. Areas are computed along many lines a row, exactly
along each, from all contours of a plane together by the even-odd rule: a contour inside another cuts a hole, and the
two sides of a keyhole's channel cancel.
Source: DICOM PS3.3 C.8.8.6, ROI contour module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.dicom.names import BODY, Roi, assigned
from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK
    from pydicom import Dataset

    from ctan.dicom.series import CtVolume

Points = npt.NDArray[np.float64]

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LINES_PER_ROW = 8
_HALF = 0.499  # of a voxel; coordinates are rounded, often to 0.01 mm
_FLAT = 0.1  # slices; a contour must not leave its plane by more
_SAME_PLANE = 0.02  # slices


def masks_of(structure_set: Dataset, ct: CtVolume) -> tuple[dict[str, npt.NDArray[np.uint8]], int]:
    """Return the contoured structures on the grid of the CT, and how many ROI names are not mapped.

    Args:
        structure_set: de-identified RTSTRUCT, whose ROI names are those of structures, see `dicomrt.names`.
        ct: the series it was drawn on.

    Returns:
        Structure (or `BODY`) -> (slice, row, column) 0/1 in the order of the CT's own axes. Empty ROIs have no entry.

    Raises:
        DataError: when names are not clear, or contours are damaged, in another frame, not in the CT's planes or
            outside of it.
    """
    items = {int(item.ROINumber): item for item in structure_set.get("StructureSetROISequence") or ()}
    contours = {
        int(roi.ReferencedROINumber): [
            item for item in roi.get("ContourSequence") or () if item.get("ContourGeometricType") in _CLOSED
        ]
        for roi in structure_set.get("ROIContourSequence") or ()
    }
    rois = [Roi(number, str(item.get("ROIName", "")), bool(contours.get(number))) for number, item in items.items()]
    masks = {}
    for name, number in assigned(rois).items():
        frame = str(items[number].get("ReferencedFrameOfReferenceUID", "") or ct.frame)
        if frame != ct.frame:
            raise DataError(f"RTSTRUCT: ROI {number} ({name}) is in another frame of reference than the CT")
        points = [read_points(item, f"RTSTRUCT: ROI {number} ({name})") for item in contours[number]]
        masks[name] = mask_of(points, ct.image, f"RTSTRUCT: ROI {number} ({name})", clip=name == BODY)
    if not masks.keys() - {BODY}:
        raise DataError(
            f"RTSTRUCT: none of its {len(rois)} ROIs is a contoured structure of data.dicom.structures; "
            f"add this clinic's names there"
        )
    return masks, sum(not roi.mapped for roi in rois)


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


def mask_of(contours: Sequence[Points], image: SimpleITK.Image, what: str, clip: bool = False) -> npt.NDArray[np.uint8]:
    """Return the mask of a structure.

    Contours between slices belong to the nearest slice; of several planes nearest to one slice the closest counts.
    A structure too small to cover half a voxel keeps the voxel it covers most.

    Args:
        contours: (N, 3) points in mm each.
        image: the grid.
        what: name for messages.
        clip: leave contours beyond the first and last slice out instead of refusing them.

    Returns:
        (slice, row, column) 0/1.
    """
    planes = _planes([_to_index(points, image) for points in contours if len(points) >= 3], what)
    columns, rows, num_slices = image.GetSize()
    mask = np.zeros((num_slices, rows, columns), np.uint8)
    if not clip and (beyond := [k for k in planes if not -0.5 <= k < num_slices - 0.5]):
        raise DataError(f"{what}: contours in {len(beyond)} planes lie beyond the CT's {num_slices} slices")
    _refuse_skipped_slices(sorted(planes), what)
    nearest: dict[int, float] = {}
    for place in planes:
        index = int(np.floor(place + 0.5))
        if 0 <= index < num_slices and (index not in nearest or abs(place - index) < abs(nearest[index] - index)):
            nearest[index] = place
    best = (0.0, (0, 0, 0))
    for index, place in nearest.items():
        covered = coverage(planes[place], (rows, columns))
        mask[index] = covered >= _HALF
        if (most := covered.max(initial=0.0)) > best[0]:
            row, column = np.unravel_index(int(covered.argmax()), covered.shape)
            best = (float(most), (index, int(row), int(column)))
    if best[0] > 0 and not mask.any():
        mask[best[1]] = 1
    return mask


def _to_index(points: Points, image: SimpleITK.Image) -> Points:
    """Return points in mm as continuous (column, row, slice)."""
    directions = np.array(image.GetDirection()).reshape(3, 3)
    return (points - np.array(image.GetOrigin())) @ directions / np.array(image.GetSpacing())


def _planes(contours: Sequence[Points], what: str) -> dict[float, list[Points]]:
    """Return the contours, (N, 2) points (column, row), by their plane, a continuous slice."""
    planes: dict[float, list[Points]] = {}
    for points in contours:
        if np.ptp(points[:, 2]) > _FLAT:
            raise DataError(f"{what}: a contour does not lie in a slice of the CT; draw contours on the CT's slices")
        place = float(points[:, 2].mean())
        same = next((known for known in planes if abs(known - place) < _SAME_PLANE), place)
        planes.setdefault(same, []).append(points[:, :2])
    return planes


def _refuse_skipped_slices(places: Sequence[float], what: str) -> None:
    """Refuse contours on every second or third slice only: the gaps would be holes."""
    if len(places) >= 3 and (step := float(np.diff(places).min())) > 1.5:
        raise DataError(f"{what}: contoured on every {step:.0f}. slice only; interpolate it in the planning system")


def coverage(contours: Sequence[Points], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the share of each pixel (row, column) inside an odd number of closed contours.

    Args:
        contours: (N, 2) points (column, row) each; whole numbers are the centres of pixels.
        shape: rows and columns.
    """
    rows, columns = shape
    line, at = _crossings(contours, rows * _LINES_PER_ROW)
    order = np.lexsort((at, line))
    line, at = line[order], np.clip(at[order] + 0.5, 0, columns)  # 0 is the left edge of the first pixel
    first = np.searchsorted(line, line)  # of each line's crossings, by their order, every second one leaves
    sign = 1.0 - 2.0 * ((np.arange(line.size) - first) % 2)
    pixel = np.floor(at).astype(np.int64)
    # From a crossing on everything to the right is inside (or no longer): a step, of which the pixel it falls in gets
    # the part to the right of the crossing. Summing along the row turns steps into covered lengths.
    part = pixel + 1 - at
    flat = (line // _LINES_PER_ROW) * (columns + 2) + pixel
    steps = np.bincount(flat, sign * part, rows * (columns + 2))
    steps += np.bincount(flat + 1, sign * (1 - part), rows * (columns + 2))
    return np.cumsum(steps.reshape(rows, columns + 2), axis=1)[:, :columns] / _LINES_PER_ROW


def _crossings(contours: Sequence[Points], num_lines: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return where horizontal lines cross the edges: the line's number, and the column."""
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(points, -1, axis=0) for points in contours])
    up = start[:, 1] > end[:, 1]
    start[up], end[up] = end[up], start[up].copy()
    # Line n lies at row (n + 0.5) / lines per row - 0.5; an edge owns the lines from its start to just before its end.
    low = np.ceil((start[:, 1] + 0.5) * _LINES_PER_ROW - 0.5).clip(0, num_lines).astype(np.int64)
    high = np.ceil((end[:, 1] + 0.5) * _LINES_PER_ROW - 0.5).clip(0, num_lines).astype(np.int64)
    counts = high - low
    edge = np.repeat(np.arange(counts.size), counts)
    line = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
    y = (line + 0.5) / _LINES_PER_ROW - 0.5
    x1, y1, x2, y2 = start[edge, 0], start[edge, 1], end[edge, 0], end[edge, 1]
    return line, x1 + (y - y1) * (x2 - x1) / (y2 - y1)
