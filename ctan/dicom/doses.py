"""Which RTDOSE files make a patient's dose: the plan's own, all of its beams, several plans, one file a plane.

Source: DICOM PS3.3 C.8.8.3 (RT dose module: DoseSummationType, single-frame doses), C.8.8.13 (fractions).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctan.dicom.series import decoded, integer_of, numbers_of, plane_of
from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_MM = 0.01
_GRID = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
_LISTS = ("PixelSpacing", "ImageOrientationPatient")
_CODES = ("SeriesInstanceUID", "FrameOfReferenceUID", "DoseSummationType", "DoseUnits", "DoseType")


def chosen(doses: Sequence[Dataset], plans: Sequence[Dataset], config: DicomConfig) -> list[Dataset]:
    """Return the doses that add up to the patient's: mostly one.

    Args:
        doses: every RTDOSE of the patient.
        plans: the RTPLAN of the dose, or those of a sum.
        config: whether beams, and plans, may be added up.

    Raises:
        DataError: when there is not exactly one way to take them, listing what there is.
    """
    if not doses:
        raise DataError("no RTDOSE; expected a CT series, an RTSTRUCT and an RTDOSE")
    doses = joined(doses)
    kinds = [str(dose.get("DoseSummationType", "")) or "none" for dose in doses]
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kinds).items()))
    of_kind = {kind: [d for d, k in zip(doses, kinds, strict=True) if k == kind] for kind in kinds}
    whole, beams = of_kind.get("PLAN", []), of_kind.get("BEAM", [])
    if config.sum_plans and (summed := _of_plans(of_kind.get("MULTI_PLAN", []), whole, plans, listed)):
        return summed
    if len(whole) == 1:
        return whole
    if whole:
        raise DataError(
            f"RTDOSE: {len(whole)} plan doses ({listed}); keep the one of the treated plan, or set "
            f"data.options.sum_plans to add up plans that were delivered one after the other"
        )
    if "MULTI_PLAN" in of_kind:
        raise DataError(
            f"RTDOSE: no plan dose (DoseSummationType PLAN), found {listed}; export the dose of the plan, or set "
            f"data.options.sum_plans to take the sum of several plans"
        )
    if not beams:
        raise DataError(f"RTDOSE: no plan dose (DoseSummationType PLAN), found {listed}; export the dose of the plan")
    if not config.sum_beams:
        raise DataError(
            f"RTDOSE: no plan dose (DoseSummationType PLAN), found {listed}; export the dose of the plan, or set "
            f"data.options.sum_beams to add up the beams"
        )
    if len(plans) != 1:
        raise DataError("RTDOSE: beams can be added up with their RTPLAN only, which lists them; export it too")
    expected, found = plan_beams(plans[0]), sorted(number for dose in beams for number in _beams_of(dose))
    if found != expected:
        raise DataError(
            f"RTDOSE: doses of beams {_join(found)} found, the plan has beams {_join(expected)}; export each once"
        )
    return beams


def _of_plans(
    sums: Sequence[Dataset], whole: Sequence[Dataset], plans: Sequence[Dataset], listed: str
) -> list[Dataset]:
    """Return the dose of several plans: a sum that was exported, or the dose of each; empty where there is one plan."""
    if len(sums) == 1:
        return list(sums)
    if sums:
        raise DataError(f"RTDOSE: {len(sums)} sums of plans ({listed}); keep one")
    if len(plans) < 2 and len(whole) < 2:
        return []
    named = {str(plan.get("SOPInstanceUID", "")) for plan in plans}
    each = [_plans_of(dose) for dose in whole]
    if Counter(uid for uids in each for uid in uids) != Counter(named) or any(len(uids) != 1 for uids in each):
        raise DataError(
            f"RTDOSE: {listed}, and {len(plans)} RTPLAN; plans can be added up where each has one plan dose that "
            f"refers to it: keep the plans that were delivered, and their doses"
        )
    return list(whole)


def plans_of(plans: Sequence[Dataset], doses: Sequence[Dataset], sum_plans: bool) -> list[Dataset]:
    """Return the plan that the doses refer to, or those of a sum; none where there is no plan.

    Raises:
        DataError: when there are plans but none, or several without a sum, are meant.
    """
    if not plans:
        return []
    referred = {uid for dose in doses for uid in _plans_of(dose)}
    found = [plan for plan in plans if str(plan.get("SOPInstanceUID", "")) in referred] if referred else list(plans)
    if sum_plans:
        if len(found) != len(plans) or len(referred) > len(plans):
            raise DataError(
                f"RTPLAN: {len(plans)} found, doses refer to {len(referred)}; expected a dose of each: keep the plans "
                f"that were delivered, and their doses"
            )
        return found
    if len(found) != 1:
        raise DataError(
            f"RTPLAN: {len(plans)} found, {len(found)} of which RTDOSE refers to; expected one: keep the plan of the "
            f"dose, or remove plans and set data.options.prescription_gy"
        )
    return found


def joined(doses: Sequence[Dataset]) -> list[Dataset]:
    """Return doses with those that are one file a plane joined to one of several frames.

    Raises:
        DataError: when two planes lie at one place.
    """
    planes: dict[Hashable, list[Dataset]] = {}
    found = []
    for dose in doses:
        if dose.get("NumberOfFrames") and integer_of(dose, "NumberOfFrames", "RTDOSE") > 1:
            found.append(dose)
        else:
            planes.setdefault(_series(dose), []).append(dose)
    return found + [_one(own) if len(own) > 1 else own[0] for own in planes.values()]


def _series(dose: Dataset) -> Hashable:
    """Return what planes of one dose have in common."""
    lists = tuple(tuple(np.atleast_1d(np.array(dose.get(key) or [], np.float64)).round(4)) for key in _LISTS)
    codes = tuple(str(dose.get(key, "")) for key in (*_GRID, *_CODES))
    return codes, lists, tuple(_plans_of(dose)), tuple(_beams_of(dose))


def _one(planes: Sequence[Dataset]) -> Dataset:
    """Return planes of one dose as one file would hold them."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    normal = np.cross(*plane_of(planes[0], "RTDOSE"))
    places = np.array([numbers_of(plane, "ImagePositionPatient", 3) @ normal for plane in planes])
    order = np.argsort(places)
    if np.diff(places[order]).min() < _SAME_MM:
        raise DataError(f"RTDOSE: two of {len(planes)} files of one plane each lie at one place; keep one")
    stored = [decoded(planes[index], "RTDOSE") for index in order]
    scalings = [numbers_of(planes[index], "DoseGridScaling", 1)[0] for index in order]
    if min(scalings) <= 0:
        raise DataError(f"RTDOSE: DoseGridScaling {min(scalings):g}, expected a positive number; export it again")
    whole, bits = np.stack(stored), stored[0].itemsize * 8
    if min(scalings) != max(scalings):  # each plane its own: in steps of 2e-10 of the largest dose
        gray = np.stack([values * scaling for values, scaling in zip(stored, scalings, strict=True)])
        scalings, bits = [max(float(gray.max()), 1e-6) / (2**32 - 1)], 32
        whole = np.rint(gray / scalings[0]).astype(np.uint32)
    one = Dataset()
    one.update({element.tag: element for element in planes[order[0]] if element.keyword != "PixelData"})
    one.NumberOfFrames, one.DoseGridScaling = len(planes), scalings[0]
    one.BitsAllocated = one.BitsStored = bits
    one.HighBit = bits - 1
    one.GridFrameOffsetVector = [float(place - places[order[0]]) for place in places[order]]
    one.add_new("PixelData", "OW", whole.tobytes())
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


def plan_beams(plan: Dataset) -> list[int]:
    """Return the numbers of a plan's treatment beams; fields for setup deliver no dose."""
    setup = {
        int(beam.BeamNumber) for beam in plan.get("BeamSequence") or () if beam.get("TreatmentDeliveryType") == "SETUP"
    }
    return sorted(number for number in _group_beams(plan.get("FractionGroupSequence")) if number not in setup)


def _plans_of(dose: Dataset) -> list[str]:
    items = dose.get("ReferencedRTPlanSequence") or ()
    return [uid for item in items if (uid := str(item.get("ReferencedSOPInstanceUID", "")))]


def _beams_of(dose: Dataset) -> list[int]:
    plans = dose.get("ReferencedRTPlanSequence") or ()
    return [number for plan in plans for number in _group_beams(plan.get("ReferencedFractionGroupSequence"))]


def _group_beams(groups: Sequence[Dataset] | None) -> list[int]:
    return [int(b.ReferencedBeamNumber) for group in groups or () for b in group.get("ReferencedBeamSequence") or ()]


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"


__all__ = ["chosen", "joined", "plan_beams", "plans_of"]
