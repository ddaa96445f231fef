"""Whether pixel data and what a header says of them fit together; pydicom evens out much of it without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_SMOOTHER = 0.5  # share of the differences between rows that is left when rows and columns are exchanged back
_ROUGH = 0.3  # see `_roughness`
_TISSUE_HU = -500.0
_BODY_HU = -300.0
_SLICE_EDGE = 128  # pixels an edge that slices are compared by
_ODD_HU = 20.0
_UNUSUAL, _ODD = 1.5, 2.5  # times that a slice may differ from its neighbours as they differ from each other
_EMPTY = 0.1  # share of the tissue of the slice with most
_AT_ONCE = 4.0  # times the tissue of empty slices that there is in the next
_JUMP_HU = 300.0
_PADDING_HU = (-150.0, 300.0)  # of a padding value that is tissue's
_MOST_INSIDE = 1e-3  # share of the body that padding may be replaced in


def check_length(dataset: Dataset, what: str) -> None:
    """Compare the length of uncompressed pixel data with rows, columns, frames and bits.

    Raises:
        DataError: when they differ: pydicom would make further frames of what is too long.
    """
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    keywords = ("Rows", "Columns", "BitsAllocated", "NumberOfFrames")
    numbers = [_whole(dataset.get(keyword) or int(keyword == "NumberOfFrames")) for keyword in keywords]
    for keyword, number in zip(keywords, numbers, strict=True):
        if number <= 0:
            raise DataError(f"{what}: expected one positive number in {keyword}; export it again")
    rows, columns, bits, frames = numbers
    expected, found = (rows * columns * frames * bits + 7) // 8, len(dataset.PixelData)
    if found not in (expected, expected + expected % 2):
        raise DataError(
            f"{what}: {found} bytes of pixel data, expected {expected} for {rows} rows, {columns} columns, {frames} "
            f"frames and {bits} bits a pixel; export it again"
        )


def check_rows(stored: npt.NDArray[Any], what: str) -> None:
    """Refuse an image whose rows and columns are exchanged in the header: it is much smoother the other way round.

    Args:
        stored: (frame, row, column).
    """
    _, rows, columns = stored.shape
    if rows == columns or min(rows, columns) < 2:
        return
    planes = stored[np.linspace(0, len(stored) - 1, min(5, len(stored))).astype(int)].astype(np.float64)
    here, other = (float(np.abs(np.diff(a, axis=1)).mean()) for a in (planes, planes.reshape(-1, columns, rows)))
    if other < _SMOOTHER * min(1.0, rows / columns) * here:  # a slope from row to row alone gives rows / columns
        raise DataError(
            f"{what}: {rows} rows and {columns} columns make no image, {columns} rows and {rows} columns do; Rows and "
            f"Columns are exchanged: export it again"
        )


def check_bytes(stored: npt.NDArray[Any], what: str) -> None:
    """Refuse pixels whose bytes are in the other order than the file says: they are much smoother the other way round.

    Args:
        stored: (row, column) or (frame, row, column), whole numbers.
    """
    if stored.dtype.itemsize == 1 or min(stored.shape[-2:]) < 2:
        return
    here, other = (_roughness(values) for values in (stored, stored.byteswap()))
    if here > _ROUGH and other < _SMOOTHER * here:
        raise DataError(
            f"{what}: the pixels make no image, with their bytes in the other order they do; the transfer syntax is "
            f"wrong: export it again"
        )


def _roughness(stored: npt.NDArray[Any]) -> float:
    """Return the mean difference between neighbours as a share of the deviation of all pixels; of noise it is 1.1."""
    values = stored.astype(np.float64)
    deviation = float(values.std())
    between = [float(np.abs(np.diff(values, axis=axis)).mean()) for axis in (-1, -2)]
    return sum(between) / 2 / deviation if deviation else 0.0


def slice_signs(hounsfield: npt.NDArray[np.float32], place: Callable[[int], str]) -> list[str]:
    """Return what speaks for slices that are not of this series: air between tissue, parts of slices, other places.

    A slice that lies between its neighbours differs from their mean by at most 0.87 of what they differ from each other
    where all is noise, and by less where all is smooth: by 0.93 at most in 202 real patients but one, whose CT lacks a
    slice (4.3).

    Args:
        hounsfield: (slice, row, column).
        place: says where a slice lies.

    Raises:
        DataError: when a slice, or several, are plainly not.
    """
    if len(hounsfield) < 3:
        return []
    step = max(1, min(hounsfield.shape[1:]) // _SLICE_EDGE)
    few = np.clip(hounsfield[:, ::step, ::step], -1000, 1000)
    between = np.array([np.abs(few[i] - (few[i - 1] + few[i + 1]) / 2).mean() for i in range(1, len(few) - 1)])
    beside = np.array([np.abs(few[i + 1] - few[i - 1]).mean() for i in range(1, len(few) - 1)])
    times = np.where(between > _ODD_HU, between / np.maximum(beside, 1.0), 0.0)
    if empty := _empty_run(np.count_nonzero(few > _BODY_HU, axis=(1, 2))):
        first, last = empty
        count = last - first + 1
        raise DataError(
            f"CT: {count} slice{'s' * (count > 1)} from {place(first)} on hold no tissue, those before and after do; "
            f"export the series again"
        )
    odd = int(np.argmax(times))
    if times[odd] > _ODD:
        raise DataError(
            f"CT: the slice at {place(odd + 1)} does not belong between its neighbours, it differs {times[odd]:.1f} "
            f"times as much from them as they do from each other; export the series again"
        )
    if times[odd] > _UNUSUAL:
        return [f"the slice at {place(odd + 1)} differs {times[odd]:.1f} times as much from its neighbours as they do"]
    return []


def _empty_run(tissue: npt.NDArray[np.int64]) -> tuple[int, int] | None:
    """Return the first and last slice of a run with almost no tissue that begins and ends at once."""
    low = tissue < _EMPTY * int(tissue.max(initial=0))
    edges = np.flatnonzero(np.diff(np.r_[False, low, False].astype(np.int8)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        if first > 0 and end < len(tissue):
            inside, around = int(tissue[first:end].max()), min(int(tissue[first - 1]), int(tissue[end]))
            if around > _AT_ONCE * max(1, inside):
                return int(first), int(end) - 1
    return None


def check_scales(hounsfield: npt.NDArray[np.float32], scales: Sequence[tuple[float, float]]) -> None:
    """Refuse slices whose values jump where slope or intercept do: one of the two scales is wrong.

    Args:
        hounsfield: (slice, row, column).
        scales: slope and intercept of each slice.
    """
    for index, (last, here) in enumerate(pairwise(scales)):
        if last == here:
            continue
        below, above = hounsfield[index], hounsfield[index + 1]
        tissue = np.maximum(below, above) > _TISSUE_HU
        jump = float(np.median(np.abs(above - below)[tissue])) if tissue.any() else 0.0
        if jump > _JUMP_HU:
            raise DataError(
                f"CT: values jump by {jump:.0f} HU between slices {index + 1} and {index + 2} of {len(scales)}, where "
                f"slope and intercept change from {last[0]:g}, {last[1]:g} to {here[0]:g}, {here[1]:g}; export it again"
            )


def lost_bits(dataset: Dataset, stored: npt.NDArray[Any]) -> int:
    """Return how many pixels of uncompressed data hold bits beyond BitsStored, which decoding cuts off."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or dataset.BitsStored == dataset.BitsAllocated:
        return 0
    order = ">" if dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2" else "<"
    kind = "i" if dataset.PixelRepresentation else "u"
    raw = np.frombuffer(dataset.PixelData, f"{order}{kind}{stored.itemsize}", stored.size).reshape(stored.shape)
    return int(np.count_nonzero(raw != stored))


def header_signs(
    slices: Sequence[Dataset], padded: npt.NDArray[np.bool_], hounsfield: npt.NDArray[np.float32], num_lost: int
) -> list[str]:
    """Return what in the headers speaks for wrong CT numbers.

    Args:
        slices: in order.
        padded: (slice, row, column), where padding was replaced.
        hounsfield: the same, HU.
        num_lost: see `lost_bits`.
    """
    signs = []
    kinds = {str(s.get("RescaleType") or "HU") for s in slices} - {"HU"}
    if kinds:
        signs.append(f"RescaleType is {', '.join(sorted(kinds))}, expected HU")
    if num_lost:
        signs.append(f"{num_lost} pixels hold more bits than BitsStored says")
    if not padded.any():
        return signs
    values = {
        float(s.PixelPaddingValue) * float(s.RescaleSlope) + float(s.RescaleIntercept)
        for s in slices
        if s.get("PixelPaddingValue") is not None
    }
    if tissue := [value for value in sorted(values) if _PADDING_HU[0] < value < _PADDING_HU[1]]:
        signs.append(f"the padding value is {tissue[0]:.0f} HU, which is tissue")
    inside, body = (int(np.count_nonzero(part)) for part in (padded & _surrounded(padded), hounsfield > _TISSUE_HU))
    if inside > _MOST_INSIDE * (body + inside) and (inside := _enclosed(padded)) > _MOST_INSIDE * (body + inside):
        signs.append(f"{inside / (body + inside):.1%} of what is no air holds the padding value")
    return signs


def _surrounded(padded: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which voxels have others than padding on all four sides in their slice: all that may be enclosed."""
    image = ~padded
    found = np.ones(padded.shape, bool)
    for axis in (1, 2):
        for flip in (slice(None), slice(None, None, -1)):
            view = (slice(None),) * axis + (flip,)
            found &= np.logical_or.accumulate(image[view], axis=axis)[view]
    return found


def _enclosed(padded: npt.NDArray[np.bool_]) -> int:
    """Return how many voxels of padding are not connected with the edge of the slices."""
    from scipy import ndimage

    parts, count = ndimage.label(padded)
    edges = [parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]]
    outside = np.zeros(count + 1, bool)
    for edge in edges:
        outside[np.unique(edge)] = True
    outside[0] = True
    return int(np.count_nonzero(~outside[parts]))


def _whole(value: Any) -> int:
    """Return a whole number; 0 for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0
    return int(number) if number.is_integer() else 0
