"""The prescribed dose of each target: from the settings, or from the plan's dose references and the ROIs they name.

Source: DICOM PS3.3 C.8.8.10 (RT prescription module).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ctan.dicom.dose import prescription_of
from ctan.dicom.series import integer_of, numbers_of
from ctan.dicom.settings import DicomConfig

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_GY = 0.01


def levels_of(plans: Sequence[Dataset], targets: Mapping[str, int], config: DicomConfig) -> dict[str, float]:
    """Return target -> prescribed dose in Gy; a target whose level is not clear has no entry.

    Settings come first. Of a plan, a target gets the dose of the reference that names its ROI. A plan with one level,
    or a patient with one target, leaves nothing open: it is the prescription, unless it names another target. Of
    several plans it is the sum, where each says it.

    Args:
        plans: the RTPLAN of the dose, or those of a sum; none where the settings prescribe, or there is none.
        targets: contoured targets -> number of their ROI.
        config: levels of the settings.
    """
    found = {name: gy for name, gy in config.levels_gy.items() if name in targets}
    rest = [name for name in targets if name not in found]
    if config.prescription_gy:
        return found | dict.fromkeys(rest, config.prescription_gy)
    each = [_of_plan(plan, targets) for plan in plans]
    if each:
        found |= {name: sum(gy[name] for gy in each) for name in rest if all(name in gy for gy in each)}
    return found


def _of_plan(plan: Dataset, targets: Mapping[str, int]) -> dict[str, float]:
    references, named = _references(plan), dict[int, float]()
    for number, gy in references:
        if number is not None:
            named[number] = max(gy, named.get(number, 0.0))
    found = {name: named[number] for name, number in targets.items() if number in named}
    levels, prescription_gy = [gy for _, gy in references], prescription_of([plan])
    is_clear = len(targets) == 1 or not levels or max(levels) - min(levels) < _SAME_GY
    if not found and is_clear and prescription_gy is not None:
        return dict.fromkeys(targets, prescription_gy)
    return found


def _references(plan: Dataset) -> list[tuple[int | None, float]]:
    """Return the ROI, if any, and the dose of each target that a plan prescribes."""
    found: list[tuple[int | None, float]] = []
    for item in plan.get("DoseReferenceSequence") or ():
        if item.get("DoseReferenceType") != "TARGET" or not item.get("TargetPrescriptionDose"):
            continue
        gy = float(numbers_of(item, "TargetPrescriptionDose", 1)[0])
        named = item.get("DoseReferenceStructureType") == "VOLUME" and item.get("ReferencedROINumber") is not None
        number = integer_of(item, "ReferencedROINumber", "RTPLAN: a dose reference") if named else None
        found += [(number, gy)] if gy > 0 else []
    return found
