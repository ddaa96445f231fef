"""What can be wrong or unusual about a patient's DICOM-RT files, planted on purpose in a phantom, for tests.

`DEFECTS` is the table: what each one does to the files, and what a reader should make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctan.datasets.prostate import misplaced, planting


@dataclass(frozen=True)
class Defect:
    """One thing to spoil.

    Attributes:
        what: what the files then hold.
        reading: what a reader should do: refuse, or how to read it.
        plant: changes the files of a patient that was just written.
    """

    what: str
    reading: str
    plant: planting.Plant


DEFECTS: Mapping[str, Defect] = {
    "missing-slice": Defect("a slice in the middle is missing", "refuse", planting.middle_slice_missing),
    "duplicate-slice": Defect("a slice is there twice, as two instances", "refuse", planting.middle_slice_twice),
    "two-series": Defect(
        "a second CT series lies beside the one that the structure set refers to",
        "read the one referred to",
        planting.ct_again(series="ct_late"),
    ),
    "oblique": Defect("the slices are tilted by 8 degrees", "refuse", planting.ct_again(tilt_degrees=8.0)),
    "feet-first": Defect(
        "scanned feet first; CT and dose stored so", "read as head first", planting.rewritten(position="FFS")
    ),
    "prone": Defect("scanned prone; CT and dose stored so", "read as supine", planting.rewritten(position="HFP")),
    "rescale-per-slice": Defect("intercepts differ between slices", "read as without", planting.scale_per_slice),
    "padding": Defect("corners of the slices hold a bright pixel padding value", "read them as air", planting.padded),
    "truncated-file": Defect("a CT file ends in the middle of its pixels", "refuse", planting.file_truncated),
    "no-structures": Defect("the structure set is missing", "refuse", planting.remove("RS.dcm")),
    "empty-roi": Defect(
        "the rectum's ROI has no contours",
        "read the rectum as not contoured",
        planting.with_contours(lambda patient: {patient.roi_names["Rectum"]: []}),
    ),
    "unknown-roi": Defect(
        "an ROI is named after a person",
        "leave it out, its name nowhere",
        planting.with_contours(lambda patient: {planting.NAME_OF_A_PERSON: planting.contours_of(patient, "PTV")}),
    ),
    "double-roi": Defect("two ROIs are named as the prostate", "refuse", planting.with_contours(planting.double)),
    "point-contour": Defect(
        "the prostate's ROI holds a POINT outside it", "skip the point", planting.with_contours(planting.point)
    ),
    "hole": Defect(
        "the rectum is its wall: an inner contour in each slice",
        "leave the hole out",
        planting.with_contours(lambda patient: {patient.roi_names["Rectum"]: planting.wall_of_rectum(patient)[0]}),
    ),
    "keyhole": Defect(
        "the rectum is its wall: one keyhole contour in each slice",
        "leave the hole out",
        planting.with_contours(lambda patient: {patient.roi_names["Rectum"]: planting.wall_of_rectum(patient)[1]}),
    ),
    "one-number": Defect(
        "bladder and prostate have one ROI number", "refuse", planting.edited("RS.dcm", planting.one_number)
    ),
    "lost-roi": Defect(
        "the bladder's contours are of an ROI that is not listed",
        "refuse",
        planting.edited("RS.dcm", planting.lost_roi),
    ),
    "split-roi": Defect(
        "the bladder's contours are in two items",
        "join them, with a remark",
        planting.edited("RS.dcm", planting.split_roi),
    ),
    "contour-twice": Defect(
        "a contour of the bladder is there twice",
        "read it once, with a remark",
        planting.with_contours(planting.another(0)),
    ),
    "overlapping-contours": Defect(
        "two contours of the bladder overlap",
        "read their union, with a remark",
        planting.with_contours(planting.another(10)),
    ),
    "contour-off-image": Defect(
        "a contour of the bladder lies half a metre away", "refuse", planting.with_contours(planting.another(500))
    ),
    "lower-case-type": Defect(
        "the type of a contour is in lower case", "read it", planting.type_of_contours("closed_planar")
    ),
    "no-type": Defect("a contour has no type", "read it as closed, with a remark", planting.type_of_contours("")),
    "open-contour": Defect("a contour of the bladder is open", "refuse", planting.type_of_contours("OPEN_PLANAR")),
    "organ-gap": Defect(
        "a slice of the bladder has no contour",
        "read it as not contoured, with a remark",
        planting.with_contours(planting.gap("Bladder")),
    ),
    "target-gap": Defect("a slice of the target has no contour", "refuse", planting.with_contours(planting.gap("PTV"))),
    "other-images": Defect(
        "contours name other images than those they lie in",
        "refuse, or a remark by option",
        planting.edited("RS.dcm", planting.other_images),
    ),
    "sides-exchanged": Defect("the names of left and right are exchanged", "refuse", planting.sides_exchanged),
    "called-unsigned": Defect(
        "signed pixels are called unsigned: air is brighter than bone",
        "refuse",
        planting.edited("ct_*.dcm", planting.called_unsigned),
    ),
    "padding-of-water": Defect(
        "the padding value of signed HU is 0: water becomes air",
        "refuse",
        planting.edited("ct_*.dcm", planting.padding_of_water),
    ),
    "no-intercept": Defect("a slice lacks its intercept", "refuse", planting.no_intercept),
    "longer-pixels": Defect(
        "the CT's pixel data are twice as long", "refuse", planting.edited("ct_*.dcm", planting.longer_pixels)
    ),
    "exchanged-rows": Defect(
        "rows and columns of the CT are exchanged", "refuse", planting.edited("ct_*.dcm", planting.exchanged)
    ),
    "eight-bits": Defect(
        "the dose says that it stores 8 of its 16 bits", "refuse", planting.edited("RD.dcm", planting.eight_bits)
    ),
    "offsets-negated": Defect(
        "the frames of the dose run the other way", "refuse", planting.edited("RD.dcm", planting.other_way)
    ),
    "air-slice": Defect("a slice in the middle of the CT holds air", "refuse", misplaced.air_slice),
    "ct-bytes": Defect(
        "the bytes of the CT's pixels are swapped", "refuse", planting.edited("ct_*.dcm", misplaced.bytes_swapped)
    ),
    "dose-bytes": Defect(
        "the bytes of the dose are swapped", "refuse", planting.edited("RD.dcm", misplaced.bytes_swapped)
    ),
    "point-away": Defect(
        "one point of a contour of the bladder lies 85 mm away",
        "refuse",
        planting.with_contours(misplaced.middle_contour("Bladder", misplaced.one_point_away)),
    ),
    "shuffled-points": Defect(
        "the points of a contour of the bladder are in no order",
        "refuse",
        planting.with_contours(misplaced.middle_contour("Bladder", misplaced.shuffled)),
    ),
    "near-copy": Defect(
        "a contour of the bladder is there again, 3% smaller",
        "refuse",
        planting.with_contours(misplaced.middle_contour("Bladder", misplaced.near_copy)),
    ),
    "wide-pixels": Defect("the CT's pixels are twice as wide as high", "read it, with a remark", misplaced.wide_pixels),
    "ct-spacing": Defect(
        "as before, and the two numbers of their spacing are exchanged",
        "refuse",
        misplaced.one_after_the_other(misplaced.wide_pixels, planting.edited("ct_*.dcm", misplaced.spacing_exchanged)),
    ),
    "wide-dose": Defect("the dose's pixels are twice as wide as high", "read it", misplaced.wide_dose),
    "dose-spacing": Defect(
        "as before, and the two numbers of their spacing are exchanged",
        "refuse",
        misplaced.one_after_the_other(misplaced.wide_dose, planting.edited("RD.dcm", misplaced.spacing_exchanged)),
    ),
    "ct-moved": Defect(
        "the CT lies 30 mm to the left of contours and dose; the body is contoured",
        "refuse, or a remark by option",
        misplaced.one_after_the_other(
            planting.with_contours(misplaced.body), planting.edited("ct_*.dcm", misplaced.moved((30, 0, 0)))
        ),
    ),
    "dose-moved": Defect(
        "the dose lies 30 mm to the left",
        "refuse, or a remark by option",
        planting.edited("RD.dcm", misplaced.moved((30, 0, 0))),
    ),
    "dose-frames-reversed": Defect(
        "the frames of the dose are stored from the other end",
        "refuse, or a remark by option",
        misplaced.dose_reversed(0),
    ),
    "dose-rows-reversed": Defect(
        "the rows of the dose are stored from the other end",
        "refuse, or a remark by option",
        misplaced.dose_reversed(1),
    ),
    "dose-columns-reversed": Defect(
        "the columns of the dose are stored from the other end",
        "refuse, or a remark by option",
        misplaced.dose_reversed(2),
    ),
    "older-structures": Defect(
        "the plan was made on another structure set",
        "refuse, or a remark by option",
        planting.edited("RP.dcm", planting.older_structures),
    ),
    "mixed-frames": Defect("the structure set names another frame of reference", "refuse", planting.other_frame),
    "no-dose": Defect("the dose is missing", "refuse", planting.remove("RD.dcm")),
    "boost": Defect(
        "a second target around the first has a lower level; the plan names the ROI of each",
        "read each target's own level",
        planting.boost(named=True),
    ),
    "boost-unnamed": Defect(
        "as before, but the plan does not say which level is whose",
        "read; rejected where both are targets, unless levels are set",
        planting.boost(named=False),
    ),
    "dose-cut": Defect(
        "the dose grid ends inside the target",
        "read, the rest as unknown; rejected unless a share is allowed",
        planting.dose_cut,
    ),
    "relative-dose": Defect("the dose is in percent of the prescription", "read it in Gy", planting.relative_dose),
    "beam-doses": Defect(
        "a dose for each of the two beams, none of the plan", "refuse, or add them up by option", planting.beam_doses(2)
    ),
    "missing-beam": Defect("the dose of one of two beams, none of the plan", "refuse", planting.beam_doses(1)),
    "no-plan": Defect("the plan is missing", "read; rejected unless a prescription is set", planting.remove("RP.dcm")),
    "blank-id": Defect("the patient's ID is blank", "group by frame of reference", planting.with_id(lambda _: "")),
    "repeated-patient": Defect(
        "the ID is that of the patient before, in lower case and with blanks",
        "same group",
        planting.with_id(lambda own: f" ph{int(own[2:]) - 1:06d} "),
    ),
}
