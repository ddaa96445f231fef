"""One patient's planning data on one grid: CT, contours, dose, where dose is known, prescription."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctan.cases import DOSE_KNOWN, POSSIBLE_DOSE_MASK
from ctan.cases.covered import PER_EDGE, Covered
from ctan.cases.sides import check_sides
from ctan.cases.volumes import (
    box_of,
    case_axes,
    image_box,
    in_case_axes,
    judged_ct_numbers,
    laid_out,
    signs_of_wrong_ct_numbers,
    stored_ct,
)
from ctan.dicom.anatomy import check_body, check_targets
from ctan.dicom.contours import Outline, Structures, structures_of
from ctan.dicom.deidentify import Pseudonymiser, quiet_pydicom
from ctan.dicom.dose import PlannedDose, dose_on, prescription_of
from ctan.dicom.doses import plans_of
from ctan.dicom.levels import levels_of
from ctan.dicom.misfit import coarse, remarks_on_places
from ctan.dicom.names import BODY, RoiNames
from ctan.dicom.scan import DicomFile, Kind, open_files
from ctan.dicom.segments import NO_ROI, reference_of, with_segments
from ctan.dicom.series import volume_of
from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError
from ctan.files import sha256_of_digests

if TYPE_CHECKING:
    import SimpleITK
    from pydicom import Dataset

_BODY_HU = -300.0

BURNED_IN = "its header says that text is drawn into the CT (BurnedInAnnotation), perhaps a name: look at it"


@dataclass(frozen=True)
class Planning:
    """What a patient's files say, de-identified. Axes are (posterior, left, inferior).

    Attributes:
        spacing_mm: voxel edge per axis.
        ct: (D, H, W) uint16, HU + 1024.
        masks: (D, H, W) bool: contoured structures, `"possible_dose_mask"` (the body), `"dose_known"` (the dose grid).
        dose: (D, H, W) float32 Gy; 0 outside the body and where it is not known; None when it was not asked for.
        prescription_gy: the highest level; None when it is not known.
        levels_gy: target -> prescribed dose, of those contoured whose level is known.
        num_unknown_rois: ROIs whose names match no structure.
        sha256: of the bytes of all files, whatever their names.
        remarks: what was mended, left out or looks odd, a sentence each.
        covered: structure -> where its outline runs through voxels.
    """

    spacing_mm: tuple[float, float, float]
    ct: npt.NDArray[np.uint16]
    masks: Mapping[str, npt.NDArray[np.bool_]]
    dose: npt.NDArray[np.float32] | None
    prescription_gy: float | None
    levels_gy: Mapping[str, float]
    num_unknown_rois: int
    sha256: str
    remarks: tuple[str, ...]
    covered: Mapping[str, Covered]


def read_planning(
    files: Iterable[DicomFile], pseudonymiser: Pseudonymiser, config: DicomConfig, to_predict: bool = False
) -> Planning:
    """Read one patient's files.

    Args:
        files: of the patient.
        pseudonymiser: makes pseudonyms of what identifies.
        config: how files are read.
        to_predict: doses are not read, and a structure set need not be there.

    Raises:
        DataError: naming the kind of file, what was expected and what was found, and nothing that identifies anybody.
    """
    import SimpleITK as sitk

    opened = open_files(files, pseudonymiser, RoiNames(config))
    by_kind: dict[Kind, list[Dataset]] = {"CT": [], "RTSTRUCT": [], "SEG": [], "RTDOSE": [], "RTPLAN": []}
    for file in opened:
        by_kind[file.kind].append(file.dataset)
    with quiet_pydicom():
        # With the prescription set, plans matter for what they list only: which beams, which structure set.
        lists_only = config.prescription_gy and not (config.sum_beams or config.sum_plans)
        plans = [] if lists_only else plans_of(by_kind["RTPLAN"], by_kind["RTDOSE"], config.sum_plans)
        prescription_gy = config.prescription_gy or prescription_of(plans)
        structure_set = None
        if by_kind["RTSTRUCT"] or not (to_predict or by_kind["SEG"]):
            structure_set = _structure_set(by_kind["RTSTRUCT"], plans or by_kind["RTPLAN"])
        made_on = by_kind["RTPLAN"] if not plans and len(by_kind["RTPLAN"]) == 1 else plans
        ct = volume_of(by_kind["CT"], reference_of(by_kind["SEG"]) if structure_set is None else structure_set)
        planned_on: tuple[str, ...] = ()
        structures = Structures({}, 0, (), {})
        if structure_set is not None:
            planned_on = _planned_on(structure_set, made_on, config)
            structures = structures_of(structure_set, ct, config)
        if by_kind["SEG"]:
            structures = with_segments(structures, by_kind["SEG"], ct, config)
        planned = None if to_predict else dose_on(ct, by_kind["RTDOSE"], plans, prescription_gy, config)
        targets = {name: structures.numbers.get(name, NO_ROI) for name in config.targets if name in structures.masks}
        levels_gy = levels_of(plans, targets, config)
    direction, edges = ct.image.GetDirection(), ct.image.GetSpacing()
    axes, _ = case_axes(direction)
    spacing_mm = (edges[axes[0]], edges[axes[1]], edges[axes[2]])
    hounsfield = in_case_axes(sitk.GetArrayViewFromImage(ct.image), direction)
    in_case = {name: _in_case_axes(mask, ct.image) for name, mask in structures.masks.items()}
    signs = judged_ct_numbers([*ct.signs, *signs_of_wrong_ct_numbers(hounsfield)])
    drawn = in_case.pop(BODY, None)
    body = body_of(hounsfield) if drawn is None else drawn
    seen = _without_holes(coarse(hounsfield) > _BODY_HU)
    in_coarse = {name: coarse(mask) for name, mask in in_case.items()}
    fit = check_body(None if drawn is None else coarse(drawn), seen, in_coarse)
    fit += check_sides(in_case, config.mirrored_pairs, body)
    known, measured = {}, None
    if planned is not None:
        in_grid = _in_case_axes(planned.known, ct.image)
        if not (body & in_grid).any():
            raise DataError("RTDOSE: its grid does not meet the body; dose and CT are not of the same patient or frame")
        check_targets(in_case, config.targets, in_grid)
        other = planned.exchanged()
        turned = None if other is None else _dose_in_case_axes(other, _in_case_axes(other.known, ct.image))
        measured = _dose_in_case_axes(planned, in_grid), in_grid, turned
        known = {DOSE_KNOWN: in_grid}
    elsewhere = remarks_on_places(ct.image, spacing_mm, seen, in_case, drawn, measured, config)
    dose = None if measured is None else measured[0] * body
    order = [name for name in config.structures if name in in_case]
    return Planning(
        spacing_mm=spacing_mm,
        ct=laid_out(stored_ct(hounsfield)),
        masks={**{name: in_case[name] for name in order}, POSSIBLE_DOSE_MASK: body, **known},
        dose=dose,
        prescription_gy=max(levels_gy.values(), default=prescription_gy),
        levels_gy=levels_gy,
        num_unknown_rois=structures.num_unknown,
        sha256=sha256_of_digests({file.sha256: file.sha256 for file in opened}),
        remarks=planned_on + structures.remarks + signs + fit + elsewhere + _annotated(by_kind["CT"]),
        covered={name: _covered(structures.outlines[name], ct.image) for name in order if name in structures.outlines},
    )


def _annotated(images: Iterable[Dataset]) -> tuple[str, ...]:
    """Say that images have text in their pixels where their own headers do."""
    return (BURNED_IN,) if any(one.get("BurnedInAnnotation") == "YES" for one in images) else ()


def body_of(hounsfield: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return the body in a CT: the largest connected part above -300 HU, holes filled slice by slice.

    A couch that does not touch the patient is left out; one that does is taken for a part of the body, as is a mask.

    Args:
        hounsfield: (posterior, left, inferior).
    """
    from scipy import ndimage

    parts, count = ndimage.label(hounsfield > _BODY_HU)
    if count == 0:
        raise DataError(f"CT: nothing is above {_BODY_HU:g} HU, no body to be seen; check RescaleSlope and Intercept")
    return _without_holes(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def _without_holes(body: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a body (posterior, left, inferior) with the holes in its slices filled, such as lungs."""
    from scipy import ndimage

    in_slices = np.zeros((3, 3, 3), bool)
    in_slices[:, :, 1] = ndimage.generate_binary_structure(2, 1)
    parts, count = ndimage.label(~body, in_slices)
    open_air = np.zeros(count + 1, bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        open_air[edge] = True
    open_air[0] = False  # the body
    filled: npt.NDArray[np.bool_] = ~open_air[parts]
    return filled


def _structure_set(found: Sequence[Dataset], plans: Sequence[Dataset]) -> Dataset:
    """Return the structure set; of several the one that the plan refers to.

    Args:
        found: structure sets of the patient.
        plans: the plan of the dose, or all plans where the settings give the prescription.
    """
    if len(found) == 1:
        return found[0]
    items = [item for plan in plans for item in plan.get("ReferencedStructureSetSequence") or ()]
    referred = {str(item.get("ReferencedSOPInstanceUID", "")) for item in items}
    meant = [structure_set for structure_set in found if str(structure_set.get("SOPInstanceUID", "")) in referred]
    if len(meant) == 1:
        return meant[0]
    if not plans:
        reason = "no RTPLAN says which one is meant"
    elif meant:
        reason = f"{len(plans)} RTPLAN refer to {len(meant)} of them"
    else:
        reason = "the RTPLAN refers to none of them"
    raise DataError(f"RTSTRUCT: {len(found)} structure sets and {reason}; keep one")


def _planned_on(structure_set: Dataset, plans: Sequence[Dataset], config: DicomConfig) -> tuple[str, ...]:
    """Return a remark when a plan was made on another structure set.

    Raises:
        DataError: in that case, unless `data.options.contradictions` is `remark`.
    """
    each = [
        {str(item.get("ReferencedSOPInstanceUID", "")) for item in plan.get("ReferencedStructureSetSequence") or ()}
        - {""}
        for plan in plans
    ]
    if all(not referred or str(structure_set.get("SOPInstanceUID", "")) in referred for referred in each):
        return ()
    sentence = "RTPLAN refers to another structure set than the RTSTRUCT found"
    if config.contradictions == "refuse":
        raise DataError(
            f"{sentence}; export the structure set of the plan, or set data.options.contradictions to remark to read "
            f"this one"
        )
    return (sentence,)


def _in_case_axes(mask: npt.NDArray[np.bool_ | np.uint8], like: SimpleITK.Image) -> npt.NDArray[np.bool_]:
    """Return a mask (slice, row, column) on the grid of an image with the axes of a case."""
    turned = in_case_axes(mask, like.GetDirection())
    found = np.zeros(turned.shape, bool)
    box = box_of(turned)
    found[box] = laid_out(turned[box])
    return found


def _dose_in_case_axes(planned: PlannedDose, where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return a dose with the axes of a case; 0 outside a mask with these axes."""
    found, box = np.zeros(where.shape, np.float32), box_of(where)
    direction = planned.image.GetDirection()
    values = in_case_axes(planned.within(image_box(box, where.shape, direction)), direction)
    found[box] = laid_out(values) * where[box]
    return found


def _covered(outline: Outline, like: SimpleITK.Image) -> Covered:
    """Return an outline on the grid of an image with the axes of a case: they may be exchanged, and turned round."""
    voxels, points = outline
    sizes = like.GetSize()  # column, row, slice
    places = np.unravel_index(voxels, sizes[::-1])[::-1]
    inside = np.unpackbits(points, axis=1).reshape(-1, PER_EDGE, PER_EDGE).swapaxes(1, 2)  # by column, then by row
    axes, turned = case_axes(like.GetDirection())
    found = [sizes[a] - 1 - places[a] if back else places[a] for a, back in zip(axes, turned, strict=True)]
    flat = np.ravel_multi_index(found, [sizes[axis] for axis in axes])
    across = axes.index(2)
    first, second = (axis for axis in range(3) if axis != across)
    inside = inside if axes[first] == 0 else inside.swapaxes(1, 2)
    inside = inside[:, :: -1 if turned[first] else 1, :: -1 if turned[second] else 1]
    order = np.argsort(flat)
    return Covered(flat[order], np.packbits(inside[order], axis=-1)[..., 0], across)
