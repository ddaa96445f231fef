"""RTSTRUCT: closed planar contours become masks on the grid of the CT.

A voxel is inside when at least half of its area in the slice is, see `ctan.dicom.raster`. What cannot be
read in one way only is refused, naming the ROI's number and the place along the slice axis; what can be mended is, with
a remark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.dicom.misdrawn import signs_of
from ctan.dicom.names import BODY, assigned
from ctan.dicom.raster import Points, covered_half, has_area, plane_of, points_inside, signed_area
from ctan.dicom.rois import Drawn, closed_contours, rois_of
from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError

if TYPE_CHECKING:
    import SimpleITK
    from pydicom import Dataset

    from ctan.dicom.series import CtVolume

Mask = npt.NDArray[np.uint8]
Outline = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]  # flat indices of voxels, (N, 8) points inside them

_FLAT = 0.1  # slices; a contour must not leave its plane by more
_SAME_PLANE = 0.02  # slices; also how far contours midway between slices may be rounded
_BEYOND = 1.0  # voxels that contours may reach beyond the outermost centres of a slice
_OFF_IMAGE = 0.55  # slices between a contour and the image that it names: half, and rounding
_LISTED = 8  # places in a message


@dataclass(frozen=True)
class Structures:
    """What a structure set holds.

    Attributes:
        masks: structure (or `BODY`) -> (slice, row, column) 0/1 in the order of the CT's own axes; what was not
            contoured, or not clearly, has no entry.
        num_unknown: ROIs whose names match no structure.
        remarks: what was mended or left out, a sentence each.
        numbers: structure -> number of its ROI.
        outlines: structure -> which points of voxels it holds, see `Filled`; of all but the body.
    """

    masks: dict[str, Mask]
    num_unknown: int
    remarks: tuple[str, ...]
    numbers: dict[str, int]
    outlines: dict[str, Outline] = field(default_factory=dict)


@dataclass(frozen=True)
class Filled:
    """A structure on the grid.

    Attributes:
        mask: (slice, row, column) 0/1.
        gaps: slices without a contour between those with one.
        remarks: what was mended.
        outline: where the mask is not all that the contours say.
    """

    mask: Mask
    gaps: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()
    outline: Outline | None = None


def structures_of(structure_set: Dataset, ct: CtVolume, config: DicomConfig) -> Structures:
    """Return the contoured structures on the grid of the CT.

    Args:
        structure_set: de-identified RTSTRUCT, whose ROI names are those of structures, see `dicomrt.names`.
        ct: the series it was drawn on.
        config: which structures are targets, and which may have gaps.

    Raises:
        DataError: when names are not clear, or contours are damaged, in another frame, not in the CT's planes or
            outside of it.
    """
    rois, found = rois_of(structure_set)
    remarks = list(found)
    masks: dict[str, Mask] = {}
    outlines: dict[str, Outline] = {}
    numbers = assigned(roi.roi for roi in rois.values())
    for name, number in numbers.items():
        what = f"RTSTRUCT: ROI {number} ({name})"
        if (rois[number].frame or ct.frame) != ct.frame:
            raise DataError(f"{what} is in another frame of reference than the CT")
        drawn = closed_contours(rois[number].contours, what)
        remarks += drawn.remarks
        remarks += _references(drawn, ct, what, config)
        filled = mask_of(drawn.points, ct.image, what, clip=name == BODY, exclusive=drawn.exclusive)
        remarks += filled.remarks
        mask, remark = _without_gaps(filled, name, ct.image, what, config)
        remarks += [remark] if remark else []
        if mask is not None and _filled(mask):
            masks[name] = mask
            if name != BODY and filled.outline is not None:
                outlines[name] = filled.outline
        elif mask is not None and name in config.targets:
            raise DataError(f"{what}: a target without an area; contour it, or take its ROI out")
    if not masks.keys() - {BODY}:
        raise DataError(
            f"RTSTRUCT: none of its {len(rois)} ROIs is a contoured structure of data.options.structures; "
            f"add this clinic's names there{''.join(f'. {remark}' for remark in remarks)}"
        )
    return Structures(masks, sum(not roi.roi.mapped for roi in rois.values()), tuple(remarks), numbers, outlines)


def mask_of(
    contours: Sequence[Points], image: SimpleITK.Image, what: str, clip: bool = False, exclusive: bool = False
) -> Filled:
    """Return the mask of a structure.

    Contours between slices belong to the nearest slice, those midway to the one after; of several planes nearest to one
    slice the closest counts. A structure too small to cover half a voxel keeps the voxel it covers most.

    Args:
        contours: (N, 3) points in mm each.
        image: the grid.
        what: name for messages.
        clip: leave what lies beyond the image out instead of refusing it.
        exclusive: see `raster.plane_of`.
    """
    indexed = [_to_index(points, image) for points in contours]
    _check_inside(indexed, image, what, clip)
    planes, remarks = _planes(indexed, image, what)
    remarks += _misdrawn(planes, image, what)
    columns, rows, num_slices = image.GetSize()
    mask = np.zeros((num_slices, rows, columns), np.uint8)
    nearest: dict[int, float] = {}
    for place in planes:
        index = int(np.floor(place + 0.5 + _SAME_PLANE))
        if 0 <= index < num_slices and (index not in nearest or abs(place - index) < abs(nearest[index] - index)):
            nearest[index] = place
    best = (0.0, (0, 0, 0))
    outline = []
    copies, overlapping, rims = [], [], []
    for index, place in sorted(nearest.items()):
        plane = plane_of(planes[place], exclusive)
        copies += [place] * plane.num_copies
        overlapping += [place] if plane.num_overlapping else []
        rims += [place] if plane.num_rims else []
        covered = covered_half(plane, (rows, columns))
        mask[index][covered.box] = covered.half
        if not clip:
            outline.append(_on_outline(index, *points_inside(plane, (rows, columns)), mask[index]))
        if (most := float(covered.share.max(initial=0.0))) > best[0]:
            row, column = np.unravel_index(int(covered.share.argmax()), covered.share.shape)
            best = (most, (index, int(row) + covered.box[0].start, int(column) + covered.box[1].start))
        elif best[0] == 0:  # too small for any line of the rasteriser
            column, row = np.rint(plane.contours[0].mean(axis=0)).clip(0, (columns - 1, rows - 1)).astype(int)
            best = (0.0, (index, row, column))
    if nearest and not _filled(mask):
        mask[best[1]] = 1
    if copies:
        remarks.append(f"{what}: {len(copies)} contours are there twice, read once ({at(copies, image)})")
    if overlapping:
        remarks.append(f"{what}: contours that overlap each other are read as their union ({at(overlapping, image)})")
    remarks += _rims(rims, len(nearest), image, what)
    inner = range(min(nearest, default=0), max(nearest, default=0))
    gaps = tuple(index for index in inner if index not in nearest)
    joined = None
    if outline:
        joined = np.concatenate([voxels for voxels, _ in outline]), np.concatenate([points for _, points in outline])
    return Filled(mask, gaps, tuple(remarks), joined)


def _filled(mask: Mask) -> bool:
    """Return whether a mask has a voxel; as bool, of which numpy looks at many at once."""
    return bool(mask.view(bool).any())


def _on_outline(index: int, pixels: npt.NDArray[np.int64], points: npt.NDArray[np.uint8], half: Mask) -> Outline:
    """Return the voxels of a slice whose points are not what its mask says: all of them or none."""
    told = ~((points == 255).all(axis=1) & (half.reshape(-1)[pixels] > 0))
    return pixels[told] + index * half.size, points[told]


def at(places: Sequence[float], image: SimpleITK.Image) -> str:
    """Return continuous slices as places along the slice axis in mm, for messages."""
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    start, step = float(np.array(image.GetOrigin()) @ normal), image.GetSpacing()[2]
    sign = float(normal.sum())  # an axis of the patient: in its own direction, as planning systems count
    listed = ", ".join(f"{sign * (start + step * place):.2f}" for place in sorted(set(places))[:_LISTED])
    more = f" and {len(set(places)) - _LISTED} more" if len(set(places)) > _LISTED else ""
    return f"at {listed}{more} mm along the slice axis"


def _to_index(points: Points, image: SimpleITK.Image) -> Points:
    """Return points in mm as continuous (column, row, slice)."""
    directions = np.array(image.GetDirection()).reshape(3, 3)
    return (points - np.array(image.GetOrigin())) @ directions / np.array(image.GetSpacing())


def _check_inside(contours: Sequence[Points], image: SimpleITK.Image, what: str, clip: bool) -> None:
    """Refuse contours across slices, and those beyond the image: cut off they would be another structure."""
    size = np.array(image.GetSize())
    for points in contours:
        if np.ptp(points[:, 2]) > _FLAT:
            place = at([float(points[:, 2].mean())], image)
            raise DataError(
                f"{what}: a contour does not lie in a slice of the CT ({place}); draw contours on the CT's slices"
            )
    if clip:
        if contours and not any((p.max(axis=0) >= 0).all() and (p.min(axis=0) < size).all() for p in contours):
            raise DataError(f"{what}: all contours lie outside the CT; they are of another image")
        return
    low = -0.5 - _SAME_PLANE
    if beyond := {float(p[0, 2]) for p in contours if not low <= p[:, 2].mean() < low + size[2]}:
        raise DataError(f"{what}: contours in {len(beyond)} planes lie beyond the CT's {size[2]} slices")
    for points in contours:
        outside = np.maximum(-points[:, :2].min(axis=0), points[:, :2].max(axis=0) - (size[:2] - 1))
        if (outside > _BEYOND).any():
            mm = float((outside * np.array(image.GetSpacing()[:2])).max())
            raise DataError(
                f"{what}: a contour reaches {mm:.1f} mm beyond the centres of the CT's outermost voxels "
                f"({at([float(points[:, 2].mean())], image)}); cut off it would be another structure: crop it in the "
                f"planning system, or export the whole CT"
            )


def _planes(
    contours: Sequence[Points], image: SimpleITK.Image, what: str
) -> tuple[dict[float, list[Points]], list[str]]:
    """Return the contours, (N, 2) points (column, row), by their plane, a continuous slice, and remarks."""
    planes: dict[float, list[Points]] = {}
    empty: list[float] = []
    for points in contours:
        place = float(points[:, 2].mean())
        if not has_area(points[:, :2]):
            if abs(signed_area(points)) > 1e-3:
                raise DataError(f"{what}: a contour runs around itself twice ({at([place], image)}); draw it again")
            empty.append(place)
            continue
        same = next((known for known in planes if abs(known - place) < _SAME_PLANE), place)
        planes.setdefault(same, []).append(points[:, :2])
    remark = f"{what}: {len(empty)} contours enclose no area and are left out ({at(empty, image)})" if empty else ""
    return planes, [remark] if remark else []


def _misdrawn(planes: Mapping[float, Sequence[Points]], image: SimpleITK.Image, what: str) -> list[str]:
    """Return a remark for contours with one sign that nobody drew them so.

    Raises:
        DataError: when two signs agree.
    """
    columns, rows, _ = image.GetSpacing()
    found = signs_of(planes, (columns, rows))
    for place, signs in found:
        if len(signs) > 1:
            raise DataError(
                f"{what}: a contour is not as it was drawn ({at([place], image)}): {'; '.join(signs)}; draw it again"
            )
    if not found:
        return []
    place, (sign,) = found[0]
    more = f", and {len(found) - 1} more are odd" if len(found) > 1 else ""
    return [f"{what}: a contour is odd: {sign} ({at([place], image)}){more}; look at it"]


def _rims(places: Sequence[float], num_planes: int, image: SimpleITK.Image, what: str) -> list[str]:
    """Return a remark for holes that leave no more than a rim, such as those of a skin.

    Raises:
        DataError: when most slices have none: the inner contour is another version of the outer one.
    """
    if not places:
        return []
    sentence = f"{what}: a contour almost as large as the one around it cuts a hole ({at(places, image)})"
    if len(places) <= num_planes / 2:
        raise DataError(f"{sentence}, and other slices have none; one of the two is a copy: keep the one that is meant")
    return [f"{sentence}; what is left is a rim: look at it"]


def _references(drawn: Drawn, ct: CtVolume, what: str, config: DicomConfig) -> list[str]:
    """Compare contours with the images that they name.

    Raises:
        DataError: when they lie elsewhere, unless `data.options.contradictions` is `remark`.
    """
    slices = {uid: index for index, uid in enumerate(ct.instances)}
    places = [float(_to_index(points, ct.image)[:, 2].mean()) for points in drawn.points]
    off = [
        (abs(place - slices[uid]), place)
        for place, uid in zip(places, drawn.images, strict=True)
        if uid in slices and abs(place - slices[uid]) > _OFF_IMAGE
    ]
    foreign = [place for place, uid in zip(places, drawn.images, strict=True) if uid and uid not in slices]
    if not off:
        there = f"{what}: {len(foreign)} of {len(places)} contours name images that are not in the CT"
        return [f"{there} ({at(foreign, ct.image)})"] if foreign else []
    mm = max(off)[0] * ct.image.GetSpacing()[2]
    sentence = (
        f"{what}: {len(off)} of {len(places)} contours lie up to {mm:.2f} mm from the image that they name "
        f"({at([place for _, place in off], ct.image)})"
    )
    if config.contradictions == "refuse":
        raise DataError(
            f"{sentence}; export it again, or set data.options.contradictions to remark to trust the points"
        )
    return [sentence]


def _without_gaps(
    filled: Filled, name: str, image: SimpleITK.Image, what: str, config: DicomConfig
) -> tuple[Mask | None, str]:
    """Return a structure's mask, None when gaps make it unknown, and a remark.

    Raises:
        DataError: when a target has gaps.
    """
    if not filled.gaps or name in config.allow_gaps:
        return filled.mask, ""
    where = f"{what}: no contour in {len(filled.gaps)} slices between others ({at(filled.gaps, image)})"
    if name in config.fill_gaps:
        return _interpolated(filled, image), f"{where}; filled by shape"
    advice = (
        "contour them, or name it in data.options.fill_gaps to fill them by shape, or in data.options.allow_gaps if it "
        "has several parts"
    )
    if name in config.targets:
        raise DataError(f"{where}; {advice}")
    if name == BODY:
        return None, f"{where}; the body is taken from the CT instead"
    return None, f"{where}; read as not contoured: {advice}"


def _interpolated(filled: Filled, image: SimpleITK.Image) -> Mask:
    """Fill empty slices by the signed distances to the outlines above and below, in proportion."""
    from scipy import ndimage

    column, row, _ = image.GetSpacing()

    def distance(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        inside, outside = (ndimage.distance_transform_edt(part, (row, column)) for part in (mask, ~mask))
        return inside - outside

    mask = filled.mask.copy()
    for index in filled.gaps:
        below = max(i for i in range(index) if i not in filled.gaps)
        above = next(i for i in range(index + 1, len(mask)) if i not in filled.gaps)
        part = (index - below) / (above - below)
        ends = [filled.mask[end].astype(bool) for end in (below, above)]
        if all(end.any() for end in ends):
            mask[index] = (1 - part) * distance(ends[0]) + part * distance(ends[1]) >= 0
    return mask
