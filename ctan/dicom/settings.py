"""How planning data in DICOM-RT is read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ctan.cases import DOSE_KNOWN, POSSIBLE_DOSE_MASK
from ctan.cases.sides import side_of
from ctan.config import Settings


class DicomConfig(Settings):
    """How planning data in DICOM-RT is read: CT series, RTSTRUCT, RTDOSE, RTPLAN."""

    structures: dict[str, tuple[str, ...]] = Field(
        {  # also TG-263's names, and names that an exporter cut to 16 letters
            "Prostate": (r"prostate", r"prostata", r"ctv[ _-]*prostate"),
            "Bladder": (r"bladder", r"blase", r"vessie"),
            "Rectum": (r"rectum", r"rektum"),
            "FemoralHeadRight": (
                r"fem(oral|ur)?[ _-]*head[ _-]*(r|rt|rig|righ|right)",
                r"(right|rt|r)[ _-]*fem(oral|ur)?[ _-]*(he|hea|head)",
            ),
            "FemoralHeadLeft": (
                r"fem(oral|ur)?[ _-]*head[ _-]*(l|lt|lef|left)",
                r"(left|lt|l)[ _-]*fem(oral|ur)?[ _-]*(he|hea|head)",
            ),
            "PenileBulb": (r"penile[ _-]*bulb", r"bulbus.*penis"),
            "SeminalVesicles": (r"seminal[ _-]*ves(icles?)?", r"sv"),
            "PTV": (r"ptvp?([ _-]*(high|1|\d{2}(\.\d)?|\d{4}))?",),
        },
        description="structure -> regular expressions that its ROI name must match whole, upper or lower case",
    )
    mirrored_pairs: tuple[tuple[str, str], ...] = Field(
        (("FemoralHeadLeft", "FemoralHeadRight"),), description="(left, right) structures that a flip swaps"
    )
    targets: tuple[str, ...] = Field(("PTV",), description="structures that are prescribed the dose, not organs")
    body: tuple[str, ...] = Field(
        (r"body", r"external", r"skin", r"outer[ _-]*contour"),
        description="regular expressions of the body contour; made from the CT where there is none",
    )
    prescription_gy: float | None = Field(None, gt=0, description="prescribed dose; null: from each RTPLAN")
    levels_gy: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="target -> its prescribed dose, where targets have several levels; else from each RTPLAN"
    )
    allow_gaps: tuple[str, ...] = Field(
        (), description="structures of several parts: slices without a contour between others are meant"
    )
    fill_gaps: tuple[str, ...] = Field(
        (), description="structures whose slices without a contour between others are filled by shape"
    )
    contradictions: Literal["refuse", "remark"] = Field(
        "refuse",
        description="contours that lie elsewhere than the image they name, plans made on another structure set, CT, "
        "contours and dose that would fit each other better elsewhere: refuse the case, or read it as its own numbers "
        "say, with a remark",
    )
    sum_beams: bool = Field(False, description="add up a complete set of BEAM doses where there is no PLAN dose")
    sum_plans: bool = Field(
        False,
        description="add up the PLAN doses of plans that follow each other (a boost), or take their MULTI_PLAN dose",
    )
    ignore_patient_ids: bool = Field(
        False, description="tell patients apart by frame of reference: an anonymiser wrote one PatientID for everybody"
    )
    key_file: str = Field("", description="file with the key of the de-identification; empty: CTAN_DEID_KEY")
    dates: Literal["drop", "shift"] = Field("drop", description="drop dates, or shift all of a patient by one offset")

    @model_validator(mode="after")
    def _consistent(self) -> DicomConfig:
        for name in self.structures:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", name) or name in (POSSIBLE_DOSE_MASK, DOSE_KNOWN):
                raise ValueError(f"structures: {name!r} cannot be a name; allowed: letters, digits, _ . + -")
        for name, patterns in {**self.structures, "body": self.body}.items():
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name}: {pattern!r} is not a regular expression ({error})") from error
        if unknown := [name for name in self.targets if name not in self.structures]:
            raise ValueError(f"targets: {', '.join(unknown)} not in structures ({', '.join(self.structures)})")
        if unknown := [name for name in self.levels_gy if name not in self.targets]:
            raise ValueError(f"levels_gy: {', '.join(unknown)} not in targets ({', '.join(self.targets)})")
        if not self.targets:
            raise ValueError("targets: expected at least one structure, whose prescription scales the dose")
        for setting in ("allow_gaps", "fill_gaps"):
            if unknown := [name for name in getattr(self, setting) if name not in self.structures]:
                raise ValueError(f"{setting}: {', '.join(unknown)} not in structures ({', '.join(self.structures)})")
        if both := [name for name in self.allow_gaps if name in self.fill_gaps]:
            raise ValueError(f"allow_gaps and fill_gaps both name {', '.join(both)}; expected one of them")
        organs = [name for name in self.structures if name not in self.targets]
        if not organs:
            raise ValueError("structures: expected an organ besides the targets")
        if unknown := [name for pair in self.mirrored_pairs for name in pair if name not in organs]:
            raise ValueError(f"mirrored_pairs: {', '.join(unknown)} not among the organs ({', '.join(organs)})")
        for left, right in self.mirrored_pairs:
            if side_of(left) == "right" or side_of(right) == "left":
                raise ValueError(f"mirrored_pairs: ({left}, {right}), expected the left structure first")
        return self
