"""Several acquisitions in one series, such as with and without contrast: the one that the contours were drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_MM = 0.01
_FEWEST = 2  # slices of an acquisition; one alone at the place of another is a fault of the series


def named_images(structure_set: Dataset | None) -> frozenset[str]:
    """Return the SOPInstanceUIDs of all images that a structure set, or a contour in it, refers to."""
    if structure_set is None:
        return frozenset()
    items = [
        image
        for frame in structure_set.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for series in study.get("RTReferencedSeriesSequence") or ()
        for image in series.get("ContourImageSequence") or ()
    ]
    items += [
        image
        for roi in structure_set.get("ROIContourSequence") or ()
        for contour in roi.get("ContourSequence") or ()
        for image in contour.get("ContourImageSequence") or ()
    ]
    return frozenset(str(item.get("ReferencedSOPInstanceUID", "")) for item in items) - {""}


def one_acquisition(slices: Sequence[Dataset], places: Sequence[float], structure_set: Dataset | None) -> list[Dataset]:
    """Return the slices of one acquisition.

    Acquisitions are told apart by AcquisitionNumber where those of one series overlap (some scanners number every slice
    of an axial scan), else by slices at one place; a structure set that names images of one of them decides.

    Args:
        slices: of one series.
        places: of each along the normal of its plane, in mm.
        structure_set: the RTSTRUCT; None where there is none.

    Raises:
        DataError: when there are several, and the structure set names images of none or of several.
    """
    named = named_images(structure_set)
    listed = list(zip(slices, places, strict=True))
    by_number: dict[str, list[tuple[Dataset, float]]] = {}
    for one, place in listed:
        by_number.setdefault(str(one.get("AcquisitionNumber", "") or ""), []).append((one, place))
    if len(by_number) > 1 and _overlap([[place for _, place in own] for own in by_number.values()]):
        meant = [
            own for own in by_number.values() if any(str(one.get("SOPInstanceUID", "")) in named for one, _ in own)
        ]
        if len(meant) != 1:
            sizes = ", ".join(str(len(own)) for own in by_number.values())
            raise DataError(
                f"CT: {len(by_number)} acquisitions in one series ({sizes} slices), and RTSTRUCT names images of "
                f"{len(meant)} of them; keep the one that it was drawn on"
            )
        listed = meant[0]
    listed.sort(key=lambda pair: pair[1])
    left_out = set()
    for (one, place), (other, next_place) in pairwise(listed):
        uids = [str(slice_.get("SOPInstanceUID", "")) for slice_ in (one, other)]
        if next_place - place <= _SAME_MM and uids[0] != uids[1] and (uids[0] in named) != (uids[1] in named):
            left_out.add(uids[0] if uids[1] in named else uids[1])
    if len(left_out) < _FEWEST:
        return [one for one, _ in listed]
    return [one for one, _ in listed if str(one.get("SOPInstanceUID", "")) not in left_out]


def _overlap(places: Sequence[Sequence[float]]) -> bool:
    """Return whether two of several stacks of slices reach into each other by more than one slice."""
    ranges = sorted((min(own), max(own)) for own in places if len(own) > 1)
    return any(low < last - _SAME_MM for (_, last), (low, _) in pairwise(ranges))
