"""Ways to change the DICOM-RT files of a phantom that was just written; `defects` says what each is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset, config

from ctan.datasets.prostate.phantom import Patient, write_patient
from ctan.datasets.shapes import distance
from ctan.dicom.outlines import Contour, contours_of_mask, keyhole
from ctan.dicom.writers import CtSeries, ct_series, write_ct_series, write_rtdose, write_rtstruct

NAME_OF_A_PERSON = "Ring Dr Miller"
LOWER_TARGET, LOWER_SHARE = "PTV_Low", 0.8  # of the prescription
_AROUND_MM = 12.0
_BEAM_SHARES = (0.6, 0.4)
_PADDING = 3000  # what scanners store outside the circle is not always dark
_DOSE_STEP_GY = 0.01  # of phantoms

Plant = Callable[[Patient, Path], None]


def slices(folder: Path) -> list[Path]:
    """Return the CT files from inferior to superior."""
    return sorted(folder.glob("ct_*.dcm"), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def series(patient: Patient) -> CtSeries:
    return ct_series(patient.header, len(patient.hounsfield), patient.spacing_mm, patient.origin_mm)


def remove(pattern: str) -> Plant:
    def plant(_: Patient, folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return plant


def rewritten(**changes: Any) -> Plant:
    """Write all files again for a patient that differs in some attributes."""

    def plant(patient: Patient, folder: Path) -> None:
        write_patient(replace(patient, **changes), folder)

    return plant


def with_id(make: Callable[[str], str]) -> Plant:
    def plant(patient: Patient, folder: Path) -> None:
        header = replace(patient.header, patient_id=make(patient.header.patient_id))
        write_patient(replace(patient, header=header), folder)

    return plant


def with_contours(
    change: Callable[[Patient], Mapping[str, Sequence[Contour]]],
) -> Plant:
    """Write the structure set with these ROIs instead of, or besides, its own."""

    def plant(patient: Patient, folder: Path) -> None:
        write_rtstruct(folder / "RS.dcm", {**patient.contours, **change(patient)}, series(patient))

    return plant


def ct_again(**options: Any) -> Plant:
    """Write the CT again with other options of `write_ct_series`."""

    def plant(patient: Patient, folder: Path) -> None:
        write_ct_series(
            folder, patient.hounsfield, patient.spacing_mm, patient.origin_mm, patient=patient.header, **options
        )

    return plant


def middle_slice_missing(_: Patient, folder: Path) -> None:
    paths = slices(folder)
    paths[len(paths) // 2].unlink()


def middle_slice_twice(patient: Patient, folder: Path) -> None:
    paths = slices(folder)
    header = pydicom.dcmread(paths[len(paths) // 2])
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = patient.header.uid("ct", "again")
    header.save_as(folder / "ct_again.dcm", enforce_file_format=True)


def file_truncated(_: Patient, folder: Path) -> None:
    path = slices(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def scale_per_slice(patient: Patient, folder: Path) -> None:
    scales = [(1, -1024 - 8 * (z % 3)) for z in range(len(patient.hounsfield))]
    ct_again(rescale=scales)(patient, folder)


def padded(patient: Patient, folder: Path) -> None:
    _, rows, columns = patient.hounsfield.shape
    y, x = np.ogrid[:rows, :columns]
    outside = (y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2 > (columns / 2) ** 2
    padding = np.broadcast_to(outside, patient.hounsfield.shape)
    ct_again(padding=padding, padding_value=_PADDING)(patient, folder)


def other_frame(patient: Patient, folder: Path) -> None:
    other = patient.header.uid("other frame")
    write_rtstruct(folder / "RS.dcm", patient.contours, series(patient), frame_uid=other)


def relative_dose(patient: Patient, folder: Path) -> None:
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


def boost(named: bool) -> Plant:
    """Contour a second target around the first, and prescribe both; `named`: the plan says which ROI gets which."""

    def plant(patient: Patient, folder: Path) -> None:
        around = (distance(patient.masks["PTV"], patient.spacing_mm) <= _AROUND_MM) & patient.masks["Body"]
        low = contours_of_mask(around, patient.spacing_mm, patient.origin_mm)
        write_rtstruct(folder / "RS.dcm", {**patient.contours, LOWER_TARGET: low}, series(patient))
        names = [*patient.contours, LOWER_TARGET]  # numbered from 1, in this order

        def prescribe(plan: Dataset, _: Patient) -> None:
            (high,) = plan.DoseReferenceSequence
            lower = deepcopy(high)
            lower.DoseReferenceNumber = 2
            lower.TargetPrescriptionDose = f"{LOWER_SHARE * patient.prescription_gy:.2f}"
            for item, name in ((high, patient.roi_names["PTV"]), (lower, LOWER_TARGET)):
                if named:
                    item.DoseReferenceStructureType, item.ReferencedROINumber = "VOLUME", names.index(name) + 1
            plan.DoseReferenceSequence.append(lower)

        edited("RP.dcm", prescribe)(patient, folder)

    return plant


def dose_cut(patient: Patient, folder: Path) -> None:
    """Leave out the planes of the dose above three quarters of the target."""
    taken = np.flatnonzero(patient.masks["PTV"].any(axis=(1, 2)))
    end_mm = patient.origin_mm[0] + patient.spacing_mm[0] * (taken[0] + 0.75 * (taken[-1] - taken[0]))
    kept = int((end_mm - patient.dose_origin_mm[0]) / patient.dose_spacing_mm[0]) + 1
    write_patient(replace(patient, dose_gy=patient.dose_gy[:kept]), folder)


def beam_doses(num_beams: int) -> Plant:
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


def contours_of(patient: Patient, structure: str) -> Sequence[Contour]:
    return patient.contours[patient.roi_names[structure]]


def point(patient: Patient) -> dict[str, list[Contour]]:
    contours = contours_of(patient, "Prostate")
    point = contours[0][:1] + (60.0, 0.0, 0.0)  # far outside the prostate
    return {patient.roi_names["Prostate"]: [*contours, point]}


def double(patient: Patient) -> dict[str, Sequence[Contour]]:
    name = "Prostate" if patient.roi_names["Prostate"] == "PROSTATA" else "PROSTATA"
    return {name: contours_of(patient, "Prostate")}


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


def edited(name: str, edit: Callable[[Dataset, Patient], None]) -> Plant:
    """Change files in place, as they were written; `edit` gets each and the patient."""

    def plant(patient: Patient, folder: Path) -> None:
        for path in sorted(folder.glob(name)):
            dataset = pydicom.dcmread(path)
            with config.disable_value_validation():
                edit(dataset, patient)
                dataset.save_as(path, enforce_file_format=True)

    return plant


def roi(dataset: Dataset, patient: Patient, structure: str) -> Dataset:
    """Return the contours of a structure's ROI."""
    numbers = {item.ROIName: item.ROINumber for item in dataset.StructureSetROISequence}
    number = numbers[patient.roi_names[structure]]
    return next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number)


def type_of_contours(kind: str) -> Plant:
    """Give another type to a contour in the middle of the bladder; empty: none."""

    def edit(dataset: Dataset, patient: Patient) -> None:
        contours = roi(dataset, patient, "Bladder").ContourSequence
        contours[len(contours) // 2].ContourGeometricType = kind

    return edited("RS.dcm", edit)


def one_number(dataset: Dataset, patient: Patient) -> None:
    items = {item.ROIName: item for item in dataset.StructureSetROISequence}
    bladder, prostate = (items[patient.roi_names[name]] for name in ("Bladder", "Prostate"))
    bladder.ROINumber = prostate.ROINumber


def lost_roi(dataset: Dataset, patient: Patient) -> None:
    roi(dataset, patient, "Bladder").ReferencedROINumber = 99


def split_roi(dataset: Dataset, patient: Patient) -> None:
    first = roi(dataset, patient, "Bladder")
    second, half = Dataset(), len(first.ContourSequence) // 2
    second.ReferencedROINumber = first.ReferencedROINumber
    second.ContourSequence = first.ContourSequence[half:]
    first.ContourSequence = first.ContourSequence[:half]
    dataset.ROIContourSequence.append(second)


def another(shift_mm: float) -> Callable[[Patient], dict[str, list[Contour]]]:
    """Return the bladder with its middle contour once more, moved to the left."""

    def with_another(patient: Patient) -> dict[str, list[Contour]]:
        contours = contours_of(patient, "Bladder")
        moved = contours[len(contours) // 2] + np.array([shift_mm, 0, 0])
        return {patient.roi_names["Bladder"]: [*contours, moved]}

    return with_another


def gap(structure: str) -> Callable[[Patient], dict[str, list[Contour]]]:
    def without_a_slice(patient: Patient) -> dict[str, list[Contour]]:
        contours = contours_of(patient, structure)
        places = sorted({float(contour[0, 2]) for contour in contours})
        middle = places[len(places) // 2]
        return {patient.roi_names[structure]: [contour for contour in contours if contour[0, 2] != middle]}

    return without_a_slice


def other_images(dataset: Dataset, patient: Patient) -> None:
    contours = roi(dataset, patient, "Bladder").ContourSequence
    named = [contour.ContourImageSequence for contour in contours]
    for contour, image in zip(contours, named[-2:] + named[:-2], strict=True):
        contour.ContourImageSequence = image


def sides_exchanged(patient: Patient, folder: Path) -> None:
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
    write_rtstruct(folder / "RS.dcm", {**others, **heads}, series(patient))


def signed_hu(dataset: Dataset) -> None:
    """Store HU themselves, as signed numbers."""
    stored = dataset.pixel_array.astype(np.int32) + int(dataset.RescaleIntercept)
    dataset.PixelData, dataset.RescaleIntercept = stored.astype("<i2").tobytes(), "0"


def called_unsigned(dataset: Dataset, _: Patient) -> None:
    signed_hu(dataset)
    dataset.PixelRepresentation = 0


def padding_of_water(dataset: Dataset, _: Patient) -> None:
    signed_hu(dataset)
    dataset.add_new("PixelPaddingValue", "SS", 0)


def no_intercept(patient: Patient, folder: Path) -> None:
    path = slices(folder)[len(patient.hounsfield) // 2]
    dataset = pydicom.dcmread(path)
    dataset.RescaleIntercept = "0"
    dataset.save_as(path, enforce_file_format=True)


def longer_pixels(dataset: Dataset, _: Patient) -> None:
    dataset.PixelData = dataset.PixelData + dataset.PixelData


def exchanged(dataset: Dataset, _: Patient) -> None:
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


def eight_bits(dataset: Dataset, _: Patient) -> None:
    dataset.BitsStored, dataset.HighBit = 8, 7


def other_way(dataset: Dataset, _: Patient) -> None:
    """Let the frames of the dose run the other way from its first."""
    offsets = [float(value) for value in dataset.GridFrameOffsetVector]
    dataset.GridFrameOffsetVector = [f"{offsets[0] - value:.4g}" for value in offsets]


def older_structures(dataset: Dataset, patient: Patient) -> None:
    dataset.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = patient.header.uid("older structures")
