"""Clinical goals of a plan: what a structure should, or must not, receive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PATTERN = re.compile(
    r"(?P<structure>\S(?:.*\S)?)\s+"
    r"(?P<measure>Dmean|Dmax|D(?P<dose_at>\d+(?:\.\d+)?)\s*(?P<volume_unit>%|cc)|V(?P<volume_at>\d+(?:\.\d+)?)\s*Gy)\s*"
    r"(?P<sign><=?|>=?)\s*(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>Gy|%|cc)"
)
GOAL = "goal"  # rows of the per-case table: one a clinical goal
GRAMMAR = (
    "STRUCTURE MEASURE < LIMIT, such as 'SpinalCord D0.1cc < 45 Gy', 'ParotidLeft Dmean < 26 Gy', "
    "'PTV70 D95% > 66.5 Gy' or 'Lung V20Gy < 30 %'"
)


@dataclass(frozen=True)
class Goal:
    """One goal, such as that the spinal cord's hottest 0.1 cc stay below 45 Gy.

    Attributes:
        structure: that it is about.
        measure: `"Dmean"`, `"Dmax"`, `"D<x>%"` or `"D<x>cc"` (the least dose of the hottest part of that size), or
            `"V<x>Gy"` (the part that receives at least this dose).
        sign: `"<"` or `">"`; the limit itself meets the goal.
        limit: in `unit`.
        unit: Gy for doses, % or cc for volumes.
    """

    structure: str
    measure: str
    sign: Literal["<", ">"]
    limit: float
    unit: Literal["Gy", "%", "cc"]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a goal.

        Raises:
            ValueError: when the text is no goal, with an example of one.
        """
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no goal; expected {GRAMMAR}")
        measure, unit = re.sub(r"\s", "", found["measure"]), found["unit"]
        if measure.startswith("D") != (unit == "Gy"):
            raise ValueError(
                f"{text!r}: {measure} is in {'Gy' if measure.startswith('D') else '% or cc'}, not in {unit}"
            )
        if found["volume_unit"] == "%" and float(found["dose_at"]) > 100:
            raise ValueError(f"{text!r}: {measure} asks for more than 100 % of the volume")
        sign: Literal["<", ">"] = "<" if found["sign"].startswith("<") else ">"
        return cls(found["structure"], measure, sign, float(found["limit"]), cast(Literal["Gy", "%", "cc"], unit))

    def __str__(self) -> str:
        return f"{self.structure} {self.measure} {self.sign} {self.limit:g} {self.unit}"

    def value(self, dose: npt.NDArray[np.floating], voxel_volume_mm3: float) -> float:
        """Return the measure of a dose, in the goal's unit.

        Args:
            dose: (N,) Gy of the structure's voxels, at least one.
            voxel_volume_mm3: volume of a voxel.
        """
        import numpy as np

        if self.measure == "Dmean":
            return float(dose.mean(dtype=np.float64))
        if self.measure == "Dmax":
            return float(dose.max())
        amount = float(re.sub(r"[^\d.]", "", self.measure))
        if self.measure.startswith("V"):
            share = float(np.mean(dose >= amount))
            return 100 * share if self.unit == "%" else share * len(dose) * voxel_volume_mm3 / 1000
        percent = amount if self.measure.endswith("%") else 100 * amount * 1000 / (voxel_volume_mm3 * len(dose))
        return float(np.percentile(dose.astype(np.float64), min(max(100 - percent, 0.0), 100.0)))

    def is_met(self, value: float) -> bool:
        """Whether a value of the measure meets the goal."""
        return value <= self.limit if self.sign == "<" else value >= self.limit
