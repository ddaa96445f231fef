"""ROI names, which differ by clinic, to structures: regular expressions that a whole name must match."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ctan.dicom.settings import DicomConfig
from ctan.errors import DataError

BODY = "body contour"  # holds a space, which no structure's name may
_AMBIGUOUS = " | "


@dataclass(frozen=True)
class Roi:
    """One ROI of a structure set, or one segment.

    Attributes:
        number: ROI (or segment) number, which the planning system shows beside the name.
        mapped: what `RoiNames` made of its name.
        contoured: whether it has any closed contour.
    """

    number: int
    mapped: str
    contoured: bool


class RoiNames:
    """Maps ROI names to structures; called as a function."""

    def __init__(self, config: DicomConfig) -> None:
        self._patterns = {
            name: [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
            for name, patterns in {**config.structures, BODY: config.body}.items()
        }

    def __call__(self, roi_name: str) -> str:
        """Return the structure's name, `BODY`, an empty text for an unknown name, or several names joined by ` | `."""
        text = " ".join(unicodedata.normalize("NFKC", roi_name).split())
        found = [name for name, patterns in self._patterns.items() if any(p.fullmatch(text) for p in patterns)]
        if len(found) > 1 and BODY in found:  # a structure that is also the body contour is asked for as a structure
            found.remove(BODY)
        return _AMBIGUOUS.join(found)


def assigned(rois: Iterable[Roi], what: str = "RTSTRUCT: ROI") -> dict[str, int]:
    """Return structure -> ROI number of the contoured ROIs; unknown and empty ones are left out.

    Args:
        rois: of one object.
        what: they are, for messages.

    Raises:
        DataError: when a name matches two structures or two ROIs match one, by ROI number: a name may hold a person's.
    """
    found: dict[str, list[int]] = {}
    for roi in rois:
        if _AMBIGUOUS in roi.mapped:
            raise DataError(
                f"{what} {roi.number} has a name that matches {roi.mapped.replace(_AMBIGUOUS, ' and ')}; "
                f"make the expressions of data.options.structures narrower"
            )
        if roi.mapped and roi.contoured:
            found.setdefault(roi.mapped, []).append(roi.number)
    for name, numbers in found.items():
        if len(numbers) > 1:
            listed = ", ".join(str(number) for number in sorted(numbers))
            setting = "body" if name == BODY else "structures"
            raise DataError(
                f"{what}s {listed} all match {name}; make the expressions of data.options.{setting} narrower"
            )
    return {name: numbers[0] for name, numbers in found.items()}
