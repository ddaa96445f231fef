"""What can be wrong or unusual about a patient's DICOM-RT files, planted on purpose in a phantom, for tests.

`DEFECTS` is the table: what each one does to the files, and what a reader should make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset, config

from ctan.datasets.prostate.phantom import Patient, write_patient
from ctan.dicom.outlines import Contour, contours_of_mask, keyhole
from ctan.dicom.writers import CtSeries, ct_series, write_ct_series, write_rtdose, write_rtstruct

NAME_OF_A_PERSON = "Ring Dr Miller"
_BEAM_SHARES = (0.6, 0.4)
_PADDING = 3000  # what scanners store outside the circle is not always dark
_DOSE_STEP_GY = 0.01  # of phantoms


Plant = Callable[[Patient, Path], None]


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
    plant: Plant


def _slices(folder: Path) -> list[Path]:
    """Return the CT files from inferior to superior."""
    return sorted(folder.glob("ct_*.dcm"), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def _series(patient: Patient) -> CtSeries:
    return ct_series(patient.header, len(patient.hounsfield), patient.spacing_mm, patient.origin_mm)


def _remove(pattern: str) -> Plant:
    def plant(_: Patient, folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return plant


def _rewritten(**changes: Any) -> Plant:
    """Write all files again for a patient that differs in some attributes."""

    def plant(patient: Patient, folder: Path) -> None:
        write_patient(replace(patient, **changes), folder)

    return plant


def _with_id(make: Callable[[str], str]) -> Plant:
    def plant(patient: Patient, folder: Path) -> None:
        header = replace(patient.header, patient_id=make(patient.header.patient_id))
        write_patient(replace(patient, header=header), folder)

    return plant


def _with_contours(
    change: Callable[[Patient], Mapping[str, Sequence[Contour]]],
) -> Plant:
    """Write the structure set with these ROIs instead of, or besides, its own."""

    def plant(patient: Patient, folder: Path) -> None:
        write_rtstruct(folder / "RS.dcm", {**patient.contours, **change(patient)}, _series(patient))

    return plant


def _ct_again(**options: Any) -> Plant:
    """Write the CT again with other options of `write_ct_series`."""

    def plant(patient: Patient, folder: Path) -> None:
        write_ct_series(
            folder, patient.hounsfield, patient.spacing_mm, patient.origin_mm, patient=patient.header, **options
        )

    return plant


def _middle_slice_missing(_: Patient, folder: Path) -> None:
    paths = _slices(folder)
    paths[len(paths) // 2].unlink()


def _middle_slice_twice(patient: Patient, folder: Path) -> None:
    paths = _slices(folder)
    header = pydicom.dcmread(paths[len(paths) // 2])
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = patient.header.uid("ct", "again")
    header.save_as(folder / "ct_again.dcm", enforce_file_format=True)


def _file_truncated(_: Patient, folder: Path) -> None:
    path = _slices(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _scale_per_slice(patient: Patient, folder: Path) -> None:
    scales = [(1, -1024 - 8 * (z % 3)) for z in range(len(patient.hounsfield))]
    _ct_again(rescale=scales)(patient, folder)


def _padded(patient: Patient, folder: Path) -> None:
    _, rows, columns = patient.hounsfield.shape
    y, x = np.ogrid[:rows, :columns]
    outside = (y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2 > (columns / 2) ** 2
    padding = np.broadcast_to(outside, patient.hounsfield.shape)
    _ct_again(padding=padding, padding_value=_PADDING)(patient, folder)


def _other_frame(patient: Patient, folder: Path) -> None:
    other = patient.header.uid("other frame")
    write_rtstruct(folder / "RS.dcm", patient.contours, _series(patient), frame_uid=other)


def _relative_dose(patient: Patient, folder: Path) -> None:
    percent = 100 * patient.dose_gy / patient.prescription_gy
    write_rtdose(
        folder / "RD.dcm",
        percent,
        patient.dose_spacing_mm,
        patient.dose_origin_mm,
        patient=patient.header,
        units="RELATIVE",
        step=0.01,
        offsets=patient.offsets,
        reverse=patient.reverse,
    )


def _beam_doses(num_beams: int) -> Plant:
    """Write the dose of each beam instead of the plan's; they add up to it, when none is left out."""

    def plant(patient: Patient, folder: Path) -> None:
        (folder / "RD.dcm").unlink()
        whole = np.rint(patient.dose_gy / _DOSE_STEP_GY)
        first = np.floor(_BEAM_SHARES[0] * whole)
        for beam, steps in list(enumerate((first, whole - first), start=1))[:num_beams]:
            write_rtdose(
                folder / f"RD_{beam}.dcm",
                steps * _DOSE_STEP_GY,
                patient.dose_spacing_mm,
                patient.dose_origin_mm,
                patient=patient.header,
                summation="BEAM",
                beam=beam,
                step=_DOSE_STEP_GY,
                offsets=patient.offsets,
                reverse=patient.reverse,
            )

    return plant


def _contours(patient: Patient, structure: str) -> Sequence[Contour]:
    return patient.contours[patient.roi_names[structure]]


def _point(patient: Patient) -> dict[str, list[Contour]]:
    contours = _contours(patient, "Prostate")
    point = contours[0][:1] + (60.0, 0.0, 0.0)  # far outside the prostate
    return {patient.roi_names["Prostate"]: [*contours, point]}


def _double(patient: Patient) -> dict[str, Sequence[Contour]]:
    name = "Prostate" if patient.roi_names["Prostate"] == "PROSTATA" else "PROSTATA"
    return {name: _contours(patient, "Prostate")}


def wall_of_rectum(patient: Patient) -> tuple[list[Contour], list[Contour]]:
    """Return the contours of the rectum with its lumen left out: two a slice, and one keyhole a slice.

    The lumen is the rectum without the voxels at its edge; slices without a lumen keep their one contour.
    """
    from scipy import ndimage

    rectum = patient.masks["Rectum"]
    lumen = ndimage.binary_erosion(rectum, np.ones((1, 3, 3)))
    rings: list[Contour] = []
    keyholes: list[Contour] = []
    for z in range(len(rectum)):
        only = np.arange(len(rectum))[:, None, None] == z
        outer, inner = (
            contours_of_mask(mask & only, patient.spacing_mm, patient.origin_mm) for mask in (rectum, lumen)
        )
        rings += outer + inner
        keyholes += [keyhole(outer[0], inner[0])] if len(outer) == len(inner) == 1 else outer
    return rings, keyholes


def _edited(name: str, edit: Callable[[Dataset, Patient], None]) -> Plant:
    """Change files in place, as they were written; `edit` gets each and the patient."""

    def plant(patient: Patient, folder: Path) -> None:
        for path in sorted(folder.glob(name)):
            dataset = pydicom.dcmread(path)
            with config.disable_value_validation():
                edit(dataset, patient)
                dataset.save_as(path, enforce_file_format=True)

    return plant


def _roi(dataset: Dataset, patient: Patient, structure: str) -> Dataset:
    """Return the contours of a structure's ROI."""
    numbers = {item.ROIName: item.ROINumber for item in dataset.StructureSetROISequence}
    number = numbers[patient.roi_names[structure]]
    return next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)


def _type_of_contours(kind: str) -> Plant:
    """Give another type to a contour in the middle of the bladder; empty: none."""

    def edit(dataset: Dataset, patient: Patient) -> None:
        contours = _roi(dataset, patient, "Bladder").ContourSequence
        contours[len(contours) // 2].ContourGeometricType = kind

    return _edited("RS.dcm", edit)


def _one_number(dataset: Dataset, patient: Patient) -> None:
    items = {item.ROIName: item for item in dataset.StructureSetROISequence}
    bladder, prostate = (items[patient.roi_names[name]] for name in ("Bladder", "Prostate"))
    bladder.ROINumber = prostate.ROINumber


def _lost_roi(dataset: Dataset, patient: Patient) -> None:
    _roi(dataset, patient, "Bladder").ReferencedROINumber = 99


def _split_roi(dataset: Dataset, patient: Patient) -> None:
    first = _roi(dataset, patient, "Bladder")
    second, half = Dataset(), len(first.ContourSequence) // 2
    second.ReferencedROINumber = first.ReferencedROINumber
    second.ContourSequence = first.ContourSequence[half:]
    first.ContourSequence = first.ContourSequence[:half]
    dataset.ROIContourSequence.append(second)


def _another(shift_mm: float) -> Callable[[Patient], dict[str, list[Contour]]]:
    """Return the bladder with its middle contour once more, moved to the left."""

    def with_another(patient: Patient) -> dict[str, list[Contour]]:
        contours = _contours(patient, "Bladder")
        moved = contours[len(contours) // 2] + np.array([shift_mm, 0, 0])
        return {patient.roi_names["Bladder"]: [*contours, moved]}

    return with_another


def _gap(structure: str) -> Callable[[Patient], dict[str, list[Contour]]]:
    def without_a_slice(patient: Patient) -> dict[str, list[Contour]]:
        contours = _contours(patient, structure)
        places = sorted({float(contour[0, 2]) for contour in contours})
        middle = places[len(places) // 2]
        return {patient.roi_names[structure]: [contour for contour in contours if contour[0, 2] != middle]}

    return without_a_slice


def _other_images(dataset: Dataset, patient: Patient) -> None:
    contours = _roi(dataset, patient, "Bladder").ContourSequence
    named = [contour.ContourImageSequence for contour in contours]
    for contour, image in zip(contours, named[-2:] + named[:-2], strict=True):
        contour.ContourImageSequence = image


def _sides_exchanged(patient: Patient, folder: Path) -> None:
    """Contour both femoral heads, whether or not they are, with the names of the other side."""
    names = {"FemoralHeadRight": "Fem Head L", "FemoralHeadLeft": "Fem Head R"}
    others = {
        name: found
        for name, found in patient.contours.items()
        if name not in [patient.roi_names.get(structure) for structure in names]
    }
    heads = {
        name: contours_of_mask(patient.masks[structure], patient.spacing_mm, patient.origin_mm)
        for structure, name in names.items()
    }
    write_rtstruct(folder / "RS.dcm", {**others, **heads}, _series(patient))


def _signed_hu(dataset: Dataset) -> None:
    """Store HU themselves, as signed numbers."""
    stored = dataset.pixel_array.astype(np.int32) + int(dataset.RescaleIntercept)
    dataset.PixelData, dataset.RescaleIntercept = stored.astype("<i2").tobytes(), "0"


def _called_unsigned(dataset: Dataset, _: Patient) -> None:
    _signed_hu(dataset)
    dataset.PixelRepresentation = 0


def _padding_of_water(dataset: Dataset, _: Patient) -> None:
    _signed_hu(dataset)
    dataset.add_new("PixelPaddingValue", "SS", 0)


def _no_intercept(patient: Patient, folder: Path) -> None:
    path = _slices(folder)[len(patient.hounsfield) // 2]
    dataset = pydicom.dcmread(path)
    dataset.RescaleIntercept = "0"
    dataset.save_as(path, enforce_file_format=True)


def _longer_pixels(dataset: Dataset, _: Patient) -> None:
    dataset.PixelData = dataset.PixelData + dataset.PixelData


def _exchanged(dataset: Dataset, _: Patient) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def _eight_bits(dataset: Dataset, _: Patient) -> None:
    dataset.BitsStored, dataset.HighBit = 8, 7


def _other_way(dataset: Dataset, _: Patient) -> None:
    """Let the frames of the dose run the other way from its first."""
    offsets = [float(value) for value in dataset.GridFrameOffsetVector]
    dataset.GridFrameOffsetVector = [f"{offsets[0] - value:.4g}" for value in offsets]


def _older_structures(dataset: Dataset, patient: Patient) -> None:
    dataset.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = patient.header.uid("older structures")


DEFECTS: Mapping[str, Defect] = {
    "missing-slice": Defect("a slice in the middle is missing", "refuse", _middle_slice_missing),
    "duplicate-slice": Defect("a slice is there twice, as two instances", "refuse", _middle_slice_twice),
    "two-series": Defect(
        "a second CT series lies beside the one that the structure set refers to",
        "read the one referred to",
        _ct_again(series="ct_late"),
    ),
    "oblique": Defect("the slices are tilted by 8 degrees", "refuse", _ct_again(tilt_degrees=8.0)),
    "feet-first": Defect("scanned feet first; CT and dose stored so", "read as head first", _rewritten(position="FFS")),
    "prone": Defect("scanned prone; CT and dose stored so", "read as supine", _rewritten(position="HFP")),
    "rescale-per-slice": Defect("intercepts differ between slices", "read as without", _scale_per_slice),
    "padding": Defect("corners of the slices hold a bright pixel padding value", "read them as air", _padded),
    "truncated-file": Defect("a CT file ends in the middle of its pixels", "refuse", _file_truncated),
    "no-structures": Defect("the structure set is missing", "refuse", _remove("RS.dcm")),
    "empty-roi": Defect(
        "the rectum's ROI has no contours",
        "read the rectum as not contoured",
        _with_contours(lambda patient: {patient.roi_names["Rectum"]: []}),
    ),
    "unknown-roi": Defect(
        "an ROI is named after a person",
        "leave it out, its name nowhere",
        _with_contours(lambda patient: {NAME_OF_A_PERSON: _contours(patient, "PTV")}),
    ),
    "double-roi": Defect("two ROIs are named as the prostate", "refuse", _with_contours(_double)),
    "point-contour": Defect("the prostate's ROI holds a POINT outside it", "skip the point", _with_contours(_point)),
    "hole": Defect(
        "the rectum is its wall: an inner contour in each slice",
        "leave the hole out",
        _with_contours(lambda patient: {patient.roi_names["Rectum"]: wall_of_rectum(patient)[0]}),
    ),
    "keyhole": Defect(
        "the rectum is its wall: one keyhole contour in each slice",
        "leave the hole out",
        _with_contours(lambda patient: {patient.roi_names["Rectum"]: wall_of_rectum(patient)[1]}),
    ),
    "one-number": Defect("bladder and prostate have one ROI number", "refuse", _edited("RS.dcm", _one_number)),
    "lost-roi": Defect(
        "the bladder's contours are of an ROI that is not listed", "refuse", _edited("RS.dcm", _lost_roi)
    ),
    "split-roi": Defect(
        "the bladder's contours are in two items", "join them, with a remark", _edited("RS.dcm", _split_roi)
    ),
    "contour-twice": Defect(
        "a contour of the bladder is there twice", "read it once, with a remark", _with_contours(_another(0))
    ),
    "overlapping-contours": Defect(
        "two contours of the bladder overlap", "read their union, with a remark", _with_contours(_another(10))
    ),
    "contour-off-image": Defect(
        "a contour of the bladder lies half a metre away", "refuse", _with_contours(_another(500))
    ),
    "lower-case-type": Defect("the type of a contour is in lower case", "read it", _type_of_contours("closed_planar")),
    "no-type": Defect("a contour has no type", "read it as closed, with a remark", _type_of_contours("")),
    "open-contour": Defect("a contour of the bladder is open", "refuse", _type_of_contours("OPEN_PLANAR")),
    "organ-gap": Defect(
        "a slice of the bladder has no contour",
        "read it as not contoured, with a remark",
        _with_contours(_gap("Bladder")),
    ),
    "target-gap": Defect("a slice of the target has no contour", "refuse", _with_contours(_gap("PTV"))),
    "other-images": Defect(
        "contours name other images than those they lie in",
        "refuse, or a remark by option",
        _edited("RS.dcm", _other_images),
    ),
    "sides-exchanged": Defect("the names of left and right are exchanged", "refuse", _sides_exchanged),
    "called-unsigned": Defect(
        "signed pixels are called unsigned: air is brighter than bone", "refuse", _edited("ct_*.dcm", _called_unsigned)
    ),
    "padding-of-water": Defect(
        "the padding value of signed HU is 0: water becomes air", "refuse", _edited("ct_*.dcm", _padding_of_water)
    ),
    "no-intercept": Defect("a slice lacks its intercept", "refuse", _no_intercept),
    "longer-pixels": Defect("the CT's pixel data are twice as long", "refuse", _edited("ct_*.dcm", _longer_pixels)),
    "exchanged-rows": Defect("rows and columns of the CT are exchanged", "refuse", _edited("ct_*.dcm", _exchanged)),
    "eight-bits": Defect("the dose says that it stores 8 of its 16 bits", "refuse", _edited("RD.dcm", _eight_bits)),
    "offsets-negated": Defect("the frames of the dose run the other way", "refuse", _edited("RD.dcm", _other_way)),
    "older-structures": Defect(
        "the plan was made on another structure set",
        "refuse, or a remark by option",
        _edited("RP.dcm", _older_structures),
    ),
    "mixed-frames": Defect("the structure set names another frame of reference", "refuse", _other_frame),
    "no-dose": Defect("the dose is missing", "refuse", _remove("RD.dcm")),
    "relative-dose": Defect("the dose is in percent of the prescription", "read it in Gy", _relative_dose),
    "beam-doses": Defect(
        "a dose for each of the two beams, none of the plan", "refuse, or add them up by option", _beam_doses(2)
    ),
    "missing-beam": Defect("the dose of one of two beams, none of the plan", "refuse", _beam_doses(1)),
    "no-plan": Defect("the plan is missing", "read; rejected unless a prescription is set", _remove("RP.dcm")),
    "blank-id": Defect("the patient's ID is blank", "group by frame of reference", _with_id(lambda _: "")),
    "repeated-patient": Defect(
        "the ID is that of the patient before, in lower case and with blanks",
        "same group",
        _with_id(lambda own: f" ph{int(own[2:]) - 1:06d} "),
    ),
}
