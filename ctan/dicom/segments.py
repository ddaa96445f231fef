"""DICOM SEG: segments on the voxels of the CT, beside an RTSTRUCT or instead of one.

A frame is one segment in one slice; slices without a frame are empty, as the standard allows them to be left out. Its
place is its own, never its number: readers that stack frames lose the slices between. BINARY and LABELMAP are read,
FRACTIONAL is refused: where a share or a probability becomes a structure is not for a reader to say.
Source: DICOM PS3.3 C.8.20 (segmentation image), A.51 and A.86 (segmentation and label map segmentation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ctan.dicom.contours import Mask, Structures, at
from ctan.dicom.names import BODY, Roi, assigned
from ctan.dicom.series import CtVolume, decoded, integer_of, numbers_of
from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

NO_ROI = -1  # number of a structure that no ROI is
_OFF_GRID = 0.02  # of a voxel
_TURNED = 1e-3  # of a direction cosine
_STRETCHED = 1e-3  # share of a voxel's edge


def reference_of(segmentations: Sequence[Dataset]) -> Dataset | None:
    """Return which series and images segmentations were made on, in the form of an RTSTRUCT; None without any."""
    from pydicom import Dataset

    if not segmentations:
        return None
    series = []
    for segmentation in segmentations:
        for item in segmentation.get("ReferencedSeriesSequence") or ():
            images = [_named(image) for image in item.get("ReferencedInstanceSequence") or ()]
            series.append(_series(str(item.get("SeriesInstanceUID", "")), images))
        frames = segmentation.get("PerFrameFunctionalGroupsSequence") or ()
        series.append(_series("", [uid for frame in frames for uid in _sources(frame)]))
    study, frame, reference = Dataset(), Dataset(), Dataset()
    study.RTReferencedSeriesSequence = series
    frame.RTReferencedStudySequence = [study]
    reference.ReferencedFrameOfReferenceSequence, reference.Modality = [frame], "SEG"
    return reference


def with_segments(
    structures: Structures, segmentations: Sequence[Dataset], ct: CtVolume, config: DicomConfig
) -> Structures:
    """Return the structures of an RTSTRUCT, perhaps none, and those of segmentations beside it.

    A structure that is in both is that of the RTSTRUCT, which a plan was made on; a remark says so.

    Args:
        structures: of the RTSTRUCT.
        segmentations: de-identified, whose segments have names of structures, see `ctan.dicom.names`.
        ct: the series that they were made on.
        config: which structures are targets.

    Raises:
        DataError: when a segmentation is of another kind, grid or frame, or two have the same structure.
    """
    found: dict[str, Mask] = {}
    unknown, remarks = structures.num_unknown, list(structures.remarks)
    for segmentation in segmentations:
        masks, others, said = _segments(segmentation, ct, config)
        if twice := sorted(found.keys() & masks.keys()):
            raise DataError(f"SEG: {_listed(twice)} in two segmentations; keep the one that is meant")
        found |= masks
        unknown += others
        remarks += said
    if both := sorted(found.keys() & structures.masks.keys()):
        remarks.append(f"SEG: {_listed(both)} also in the RTSTRUCT, which counts")
    masks = {**found, **structures.masks}
    if not masks.keys() - {BODY}:
        raise DataError(
            "SEG: none of its segments is a structure of data.options.structures with voxels; add their labels there"
        )
    return Structures(masks, unknown, tuple(remarks), structures.numbers, structures.outlines)


def _segments(segmentation: Dataset, ct: CtVolume, config: DicomConfig) -> tuple[dict[str, Mask], int, list[str]]:
    """Return the masks of one segmentation, how many segments match no structure, and remarks."""
    kind = str(segmentation.get("SegmentationType", "") or "none")
    if kind not in ("BINARY", "LABELMAP"):
        what = "shares or probabilities, of which no value makes a structure" if kind == "FRACTIONAL" else "not known"
        raise DataError(f"SEG: SegmentationType {kind} ({what}); expected BINARY or LABELMAP: export it as that")
    if str(segmentation.get("FrameOfReferenceUID", "") or ct.frame) != ct.frame:
        raise DataError("SEG is in another frame of reference than the CT")
    items = segmentation.get("SegmentSequence") or ()
    rois = [Roi(integer_of(i, "SegmentNumber", "SEG: a segment"), str(i.get("SegmentLabel", "")), True) for i in items]
    if len({roi.number for roi in rois}) < len(rois):
        raise DataError("SEG: two segments have one number; which voxels are whose is not known: export it again")
    numbers = assigned(rois, "SEG: segment")
    masks = {name: np.zeros(ct.image.GetSize()[::-1], np.uint8) for name in numbers}
    drawn: dict[str, set[int]] = {name: set() for name in numbers}
    for frame, pixels in _frames(segmentation):
        place = _place(frame, ct, pixels.shape)
        index = place[0].start
        if uid := next((uid for uid in _sources(frame) if uid in ct.instances and ct.instances[index] != uid), ""):
            off = abs(ct.instances.index(uid) - index) * ct.image.GetSpacing()[2]
            if config.contradictions == "refuse" and len(_sources(frame)) == 1:
                raise DataError(
                    f"SEG: a frame lies {off:.2f} mm from the image that it names ({at([index], ct.image)})"
                )
        number = _number(frame)
        for name, own in numbers.items():
            if kind == "BINARY" and number != own:
                continue
            inside = pixels != 0 if kind == "BINARY" else pixels == own
            if index in drawn[name]:
                raise DataError(f"SEG: segment {own} ({name}) has two frames in one slice ({at([index], ct.image)})")
            drawn[name] |= {index}
            masks[name][place] |= inside
    remarks = []
    for name, number in numbers.items():
        slices = np.flatnonzero(masks[name].any(axis=(1, 2)))
        gaps = sorted(set(range(slices[0], slices[-1])) - set(slices.tolist())) if len(slices) else []
        if gaps and name not in config.allow_gaps:
            where = at(gaps, ct.image)
            remarks.append(f"SEG: segment {number} ({name}) is empty in {len(gaps)} slices between others ({where})")
        if not len(slices) and name in config.targets:
            raise DataError(
                f"SEG: segment {number} ({name}): a target without a voxel; take it out, or export it again"
            )
    filled = {name: mask for name, mask in masks.items() if mask.any()}
    return filled, sum(not roi.mapped for roi in rois), remarks


def _frames(segmentation: Dataset) -> Iterator[tuple[Dataset, npt.NDArray[Any]]]:
    """Yield what is said of each frame, with what is said of all, and its pixels."""
    from pydicom import Dataset

    shared, each = (
        list(segmentation.get(f"{which}FunctionalGroupsSequence") or ()) for which in ("Shared", "PerFrame")
    )
    pixels = decoded(segmentation, "SEG")
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if len(each) != len(pixels):
        raise DataError(f"SEG: {len(pixels)} frames and {len(each)} descriptions of frames; export it again")
    for own, plane in zip(each, pixels, strict=True):
        frame = Dataset()
        frame.update(shared[0] if shared else Dataset())
        frame.update(own)
        yield frame, plane


def _place(frame: Dataset, ct: CtVolume, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """Return the voxels of the CT, (slice, row, column), that a frame lies on."""
    position, orientation, measures = (
        _first(frame, keyword)
        for keyword in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    first = numbers_of(position, "ImagePositionPatient", 3)
    cosines = numbers_of(orientation, "ImageOrientationPatient", 6).reshape(2, 3)
    down, across = numbers_of(measures, "PixelSpacing", 2)
    directions, spacing = np.array(ct.image.GetDirection()).reshape(3, 3), np.array(ct.image.GetSpacing())
    if np.abs(cosines - directions[:, :2].T).max() > _TURNED:
        raise DataError("SEG: rows and columns run in other directions than the CT's; resample it to the CT")
    if np.abs(np.array([across, down]) / spacing[:2] - 1).max() > _STRETCHED:
        raise DataError(
            f"SEG: pixels of {across:.4g} x {down:.4g} mm, the CT has {spacing[0]:.4g} x {spacing[1]:.4g}; resample it "
            f"to the CT"
        )
    index = (first - np.array(ct.image.GetOrigin())) @ directions / spacing
    whole = np.rint(index).astype(int)
    if (off := np.abs(index - whole)).max() > _OFF_GRID:
        mm = float((off * spacing).max())
        raise DataError(
            f"SEG: a frame lies {mm:.2f} mm beside the voxels of the CT ({at([float(index[2])], ct.image)}); resample "
            f"it to the CT"
        )
    column, row, number = (int(n) for n in whole)
    columns, rows, num_slices = ct.image.GetSize()
    if min(column, row, number) < 0 or row + shape[0] > rows or column + shape[1] > columns or number >= num_slices:
        raise DataError(f"SEG: a frame reaches beyond the CT ({at([float(number)], ct.image)}); it is of another image")
    return slice(number, number + 1), slice(row, row + shape[0]), slice(column, column + shape[1])


def _first(frame: Dataset, keyword: str) -> Dataset:
    items = frame.get(keyword) or ()
    if not items:
        raise DataError(f"SEG: a frame without {keyword}: where it lies is not known; export it again")
    found: Dataset = items[0]
    return found


def _number(frame: Dataset) -> int:
    """Return the segment of a frame; `NO_ROI` of a label map's, which holds all."""
    items = frame.get("SegmentIdentificationSequence") or ()
    return integer_of(items[0], "ReferencedSegmentNumber", "SEG: a frame") if items else NO_ROI


def _sources(frame: Dataset) -> list[str]:
    """Return the images that a frame was made from."""
    items = [
        image for item in frame.get("DerivationImageSequence") or () for image in item.get("SourceImageSequence") or ()
    ]
    return [uid for item in items if (uid := _named(item))]


def _named(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID", ""))


def _series(uid: str, images: Sequence[str]) -> Dataset:
    """Return an item of RTReferencedSeriesSequence."""
    from pydicom import Dataset

    series, items = Dataset(), []
    for image in dict.fromkeys(images):
        items.append(Dataset())
        items[-1].ReferencedSOPInstanceUID = image
    series.SeriesInstanceUID, series.ContourImageSequence = uid, items
    return series


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
