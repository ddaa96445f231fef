"""Plain writers of DICOM CT, RTSTRUCT, RTDOSE and RTPLAN, for phantoms and tests.

Arrays have axes (z, y, x) of the patient, whatever the position: indices grow to superior, posterior and the patient's
left. Spacing and origin are in the same order, in mm; the origin is the centre of voxel (0, 0, 0). Bytes depend on the
arguments only: UIDs are hashes of the patient's key, there is no clock, and numbers are written with fixed decimals.

Sources: DICOM PS3.3, C.7.6.2 (image plane), C.8.8.3 (RT dose, with the grid frame offset vector), C.8.8.5 and C.8.8.6
(structure set, contours), C.8.8.10 and C.8.8.14 (prescription, fraction scheme).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, CTImageStorage, RTDoseStorage, RTPlanStorage, RTStructureSetStorage

from ctan.dicom.objects import (
    Image,
    WrittenRoi,
    item,
    new_object,
    number,
    numbers,
    reference,
    set_dose,
    set_pixels,
    set_structures,
)
from ctan.dicom.outlines import ZYX, Contour

Position = Literal["HFS", "HFP", "FFS", "FFP"]

# Signs of the image's row, column and slice directions along the patient's x, y and z.
_SIGNS: Mapping[Position, tuple[int, int, int]] = {
    "HFS": (1, 1, 1),
    "HFP": (-1, -1, 1),
    "FFS": (-1, 1, -1),
    "FFP": (1, -1, -1),
}
_INTERPRETED = {"ptv": "PTV", "ctv": "CTV", "body": "EXTERNAL", "external": "EXTERNAL"}
_DOSE_STEP_GY = 0.002  # of a stored dose value; 16 bits reach 131 Gy


@dataclass(frozen=True)
class PatientHeader:
    """What all objects of one patient's planning study share.

    Attributes:
        key: every UID is a hash of it; another key gives other UIDs.
        patient_id: as the clinic wrote it, perhaps blank.
    """

    key: str
    patient_id: str
    patient_name: str = "PHANTOM^PELVIS"
    sex: str = "M"
    birth_date: str = "19500101"
    study_date: str = "20200101"

    def uid(self, *what: object) -> UID:
        """Return the UID of one thing of this patient: `2.25.` and a UUID."""
        digest = hashlib.sha256("\0".join([self.key, *map(str, what)]).encode()).digest()
        return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")

    @property
    def frame_uid(self) -> UID:
        """The frame of reference of the planning CT."""
        return self.uid("frame")


@dataclass(frozen=True)
class CtSeries:
    """A CT series as written, for structure sets to refer to. Slices from inferior to superior."""

    patient: PatientHeader
    series_uid: UID
    instance_uids: tuple[UID, ...]
    z_mm: tuple[float, ...]


def ct_series(patient: PatientHeader, num_slices: int, spacing_mm: ZYX, origin_mm: ZYX, name: str = "ct") -> CtSeries:
    """Return what `write_ct_series` returns, without writing."""
    uids = tuple(patient.uid(name, "slice", z) for z in range(num_slices))
    z_mm = tuple(round(origin_mm[0] + z * spacing_mm[0], 4) for z in range(num_slices))
    return CtSeries(patient, patient.uid(name), uids, z_mm)


def write_ct_series(
    folder: Path,
    hounsfield: npt.NDArray[np.int16],
    spacing_mm: ZYX,
    origin_mm: ZYX,
    *,
    patient: PatientHeader,
    position: Position = "HFS",
    series: str = "ct",
    rescale: Sequence[tuple[int, int]] = ((1, -1024),),
    padding: npt.NDArray[np.bool_] | None = None,
    padding_value: int = -2000,
    tilt_degrees: float = 0.0,
    frame_uid: str | None = None,
) -> CtSeries:
    """Write one file a slice, named without regard to their order.

    Args:
        folder: receives `<series>_0000.dcm`...; made when missing.
        hounsfield: (z, y, x) HU.
        position: how the patient lay; rows and columns are stored as a scanner would, patient coordinates stay.
        series: names the series; another name gives other UIDs and files.
        rescale: slope and intercept, one for all slices or one a slice.
        padding: (z, y, x), voxels that hold the pixel padding value.
        padding_value: as stored; GE scanners write -2000 outside the reconstruction circle.
        tilt_degrees: rotation of the whole grid about the patient's x axis, which makes the series oblique.
        frame_uid: frame of reference; the patient's when left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_slices = len(hounsfield)
    scales = list(rescale) * (num_slices if len(rescale) == 1 else 1)
    cosines, first = _plane(position, hounsfield.shape, spacing_mm, origin_mm, tilt_degrees)
    across = np.cross(cosines[:3], cosines[3:])
    flip = _flips(position)
    written = ct_series(patient, num_slices, spacing_mm, origin_mm, series)
    shuffle = np.random.default_rng(list(hashlib.sha256(f"{patient.key}{series}".encode()).digest()))
    names = shuffle.permutation(num_slices)
    header = _object(patient, CTImageStorage, UID(""), "CT", written.series_uid)
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.FrameOfReferenceUID = frame_uid or patient.frame_uid
    header.PatientPosition = position
    header.ImageOrientationPatient = numbers(cosines, 6)
    header.PixelSpacing = numbers(spacing_mm[1:])
    header.SliceThickness = number(spacing_mm[0])
    header.KVP, header.AcquisitionNumber, header.RescaleType = "120", 1, "HU"
    if padding is not None:
        header.PixelPaddingValue = padding_value
    for index in range(num_slices):  # in the order of acquisition, from the feet or from the head
        z = index if flip[0] > 0 else num_slices - 1 - index
        slope, intercept = scales[z]
        stored = np.rint((hounsfield[z].astype(np.float64) - intercept) / slope).astype(np.int16)
        if padding is not None:
            stored[padding[z]] = padding_value
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = written.instance_uids[z]
        header.InstanceNumber = index + 1
        header.ImagePositionPatient = numbers(first + index * spacing_mm[0] * across)
        header.RescaleSlope, header.RescaleIntercept = str(slope), str(intercept)
        set_pixels(header, stored[:: flip[1], :: flip[2]], signed=True)
        _save(header, folder / f"{series}_{names[index]:04d}.dcm")
    return written


def write_rtstruct(
    path: Path, structures: Mapping[str, Sequence[Contour]], series: CtSeries, *, frame_uid: str | None = None
) -> None:
    """Write a structure set.

    Args:
        structures: ROI name -> closed contours; one of a single point is written as POINT, none gives an empty ROI.
        series: the CT that it was drawn on.
        frame_uid: frame of reference; the patient's when left out.
    """
    patient = series.patient
    frame_uid = frame_uid or patient.frame_uid
    header = _object(
        patient, RTStructureSetStorage, patient.uid("structures"), "RTSTRUCT", patient.uid("structures", 0)
    )
    header.StructureSetLabel, header.StructureSetDate, header.StructureSetTime = "PLAN", patient.study_date, "120000"
    rois = [
        WrittenRoi(
            name,
            next((kind for start, kind in _INTERPRETED.items() if name.lower().startswith(start)), "ORGAN"),
            [(contour, _nearest(contour, series)) for contour in contours],
        )
        for name, contours in structures.items()
    ]
    images = [(CTImageStorage, uid) for uid in series.instance_uids]
    set_structures(header, rois, images, series.series_uid, frame_uid, 2)
    _save(header, path)


def write_rtdose(
    path: Path,
    dose: npt.NDArray[np.floating],
    spacing_mm: ZYX,
    origin_mm: ZYX,
    *,
    patient: PatientHeader,
    units: Literal["GY", "RELATIVE"] = "GY",
    summation: str = "PLAN",
    beam: int | None = None,
    offsets: Literal["relative", "absolute"] = "relative",
    reverse: bool = False,
    position: Position = "HFS",
    step: float = _DOSE_STEP_GY,
    bits: Literal[16, 32] = 16,
    frame_uid: str | None = None,
) -> None:
    """Write a dose grid.

    Args:
        dose: (z, y, x), in `units`, written as whole multiples of `step`.
        summation: DoseSummationType, such as PLAN, BEAM or FRACTION.
        beam: number of the beam of a BEAM dose.
        offsets: the grid frame offset vector starts at zero and runs along the normal of the image plane, or holds
            the patient's z of each frame.
        reverse: store the frames against the normal of the image plane.
        position: gives the directions of rows, columns and the normal; patient coordinates stay.
        step: DoseGridScaling.
        bits: of a stored value.
        frame_uid: frame of reference; the patient's when left out.
    """
    instance = patient.uid("dose", path.name)
    header = _object(patient, RTDoseStorage, instance, "RTDOSE", patient.uid("dose", "series"))
    cosines, first = _plane(position, dose.shape, spacing_mm, origin_mm)
    flip = _flips(position)
    along = np.arange(dose.shape[0]) * spacing_mm[0]
    if reverse:
        first = first + np.array([0, 0, flip[0] * along[-1]])
        along = -along
    values = np.rint(dose / step).astype(np.int64)
    if values.min() < 0 or values.max() >= 2**bits:
        raise ValueError(f"dose {dose.min():g}..{dose.max():g} does not fit {bits} bits in steps of {step:g}")
    stored = values.astype(f"uint{bits}")[:: flip[0] * (-1 if reverse else 1), :: flip[1], :: flip[2]]
    places = along if offsets == "relative" else first[2] + flip[0] * along
    frame = frame_uid or patient.frame_uid
    set_dose(header, stored, f"{step:.10g}", first, list(cosines), (spacing_mm[1], spacing_mm[2]), places, frame)
    header.DoseUnits, header.DoseSummationType = units, summation
    plan = reference(RTPlanStorage, patient.uid("plan"))
    if beam is not None:
        beams = DicomSequence([item(ReferencedBeamNumber=beam)])
        group = item(ReferencedFractionGroupNumber=1, ReferencedBeamSequence=beams)
        plan.ReferencedFractionGroupSequence = DicomSequence([group])
    header.ReferencedRTPlanSequence = DicomSequence([plan])
    _save(header, path)


def write_rtplan(
    path: Path,
    prescription_gy: float | None,
    *,
    patient: PatientHeader,
    num_fractions: int = 35,
    beams: Sequence[str] = ("A1",),
    position: Position = "HFS",
) -> None:
    """Write a plan: its prescription, fractions and beams, without their geometry.

    Args:
        prescription_gy: dose prescribed to the target; None writes a plan without one.
        beams: a name each; numbered from 1.
    """
    header = _object(patient, RTPlanStorage, patient.uid("plan"), "RTPLAN", patient.uid("plan", "series"))
    header.RTPlanLabel, header.RTPlanDate, header.RTPlanTime = "PROSTATE", patient.study_date, "120000"
    header.RTPlanGeometry = "PATIENT"
    header.FrameOfReferenceUID = patient.frame_uid
    if prescription_gy is not None:
        target = item(
            DoseReferenceNumber=1,
            DoseReferenceStructureType="SITE",
            DoseReferenceDescription="PTV",
            DoseReferenceType="TARGET",
            TargetPrescriptionDose=number(prescription_gy),
        )
        header.DoseReferenceSequence = DicomSequence([target])
    group = item(
        FractionGroupNumber=1,
        NumberOfFractionsPlanned=num_fractions,
        NumberOfBeams=len(beams),
        NumberOfBrachyApplicationSetups=0,
    )
    group.ReferencedBeamSequence = DicomSequence([item(ReferencedBeamNumber=n + 1) for n in range(len(beams))])
    header.FractionGroupSequence = DicomSequence([group])
    header.PatientSetupSequence = DicomSequence([item(PatientSetupNumber=1, PatientPosition=position)])
    kind = {"BeamType": "DYNAMIC", "RadiationType": "PHOTON", "TreatmentDeliveryType": "TREATMENT"}
    header.BeamSequence = DicomSequence([item(BeamNumber=n + 1, BeamName=name, **kind) for n, name in enumerate(beams)])
    header.ReferencedStructureSetSequence = DicomSequence([reference(RTStructureSetStorage, patient.uid("structures"))])
    _save(header, path)


def _flips(position: Position) -> tuple[int, int, int]:
    x, y, z = _SIGNS[position]
    return z, y, x


def _plane(
    position: Position, shape: tuple[int, ...], spacing_mm: ZYX, origin_mm: ZYX, tilt_degrees: float = 0.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the direction cosines (rows, then columns) and the position (x, y, z) of the first stored voxel."""
    x, y, _ = _SIGNS[position]
    angle = np.deg2rad(tilt_degrees)
    cosine, sine = round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    corner = [
        0.0 if sign > 0 else (size - 1) * edge
        for sign, size, edge in zip(_SIGNS[position], shape[::-1], spacing_mm[::-1], strict=True)
    ]
    cosines = np.concatenate([turn @ [x, 0, 0], turn @ [0, y, 0]])
    return cosines, np.array(origin_mm[::-1]) + turn @ corner


def _object(patient: PatientHeader, sop_class: UID, instance: UID, modality: str, series: UID) -> Dataset:
    """Return the part that every object has."""
    header = new_object(sop_class, instance, modality, patient.uid("study"), series, "CTAN_PHANTOM")
    header.PatientName, header.PatientID = patient.patient_name, patient.patient_id
    header.PatientBirthDate, header.PatientSex = patient.birth_date, patient.sex
    header.StudyDate, header.StudyTime, header.StudyID = patient.study_date, "120000", "1"
    header.ReferringPhysicianName, header.InstitutionName = "PHANTOM^REFERRING", "PHANTOM CLINIC"  # must never get out
    return header


def _nearest(contour: Contour, series: CtSeries) -> Image:
    """Return the image whose plane is nearest to a contour."""
    index = int(np.argmin(np.abs(np.array(series.z_mm) - contour[0, 2])))
    return CTImageStorage, series.instance_uids[index]


def _save(header: Dataset, path: Path) -> None:
    header.save_as(path, enforce_file_format=True)
