"""Predictions as DICOM: an RTDOSE and an RTSTRUCT that refer to the planning CT they were made from.

Both lie in the CT's study and frame of reference; every contour names its slice. Who the patient is comes from the CT
when that is asked for, else a pseudonym stands there; the UIDs of the CT are its own either way, or nothing could be
opened beside it. There is no plan: the dose says PLAN and refers to none, which a validator of DICOM remarks on.
Sources: see `ctan.dicom.objects`; DICOM PS3.3 C.8.8.6.3 (keyholes).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian, RTDoseStorage, RTStructureSetStorage

import ctan
from ctan.cases.prediction import LABEL
from ctan.cases.volumes import from_case_axes
from ctan.dicom.deidentify import quiet_pydicom
from ctan.dicom.objects import WrittenRoi, new_object, set_dose, set_structures
from ctan.dicom.outlines import polygons_of_slice
from ctan.dicom.scan import DicomFile
from ctan.dicom.segments import reference_of
from ctan.dicom.series import Stack, numbers_of, stack_of
from ctan.errors import DataError

DOSE_FILE, STRUCTURES_FILE = "RTDOSE.dcm", "RTSTRUCT.dcm"
_STEPS = 65535  # of a dose value in 16 bits
_DECIMALS = 3  # of coordinates in mm
_STUDY = ("StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName")
_LEFT_EMPTY = ("PatientBirthDate", "PatientSex", *_STUDY)
_IDENTITY = ("PatientName", "PatientID", "StudyDescription", "AccessionNumber", *_LEFT_EMPTY)
_MAX_TEXT = 64  # characters of LO


@dataclass(frozen=True)
class PlanningCt:
    """The CT that was predicted from, as its files say; identifying. It stays in the writer.

    Attributes:
        stack: the slices with all their attributes but pixels.
    """

    stack: Stack

    @classmethod
    def read(cls, files: Iterable[DicomFile]) -> PlanningCt:
        """Read the headers of a patient's CT, chosen as in reading.

        Raises:
            DataError: when there is no one series, or a header cannot be read.
        """
        found: dict[str, list[Dataset]] = {"CT": [], "RTSTRUCT": [], "SEG": []}
        with quiet_pydicom():
            try:
                for file in files:
                    if file.kind in found:
                        found[file.kind].append(pydicom.dcmread(file.path, stop_before_pixels=True, force=True))
            except Exception as error:  # pydicom raises many kinds on damaged bytes, with values in the message
                raise DataError(f"a DICOM file changed since it was read ({type(error).__name__})") from None
            structure_sets = found["RTSTRUCT"]
            named = structure_sets[0] if len(structure_sets) == 1 else reference_of(found["SEG"])
            return cls(stack_of(found["CT"], named))

    @property
    def direction(self) -> list[float]:
        """Nine direction cosines, as SimpleITK has them."""
        return [float(value) for value in np.column_stack(self.stack.directions).ravel()]

    def on_slices(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return an array in the axes of a case as (slice, row, column), in the order of the stack."""
        return from_case_axes(array, self.direction)


@dataclass(frozen=True)
class Identity:
    """Who the patient of what is written is.

    Attributes:
        key: UIDs are hashes of it: the same for the same prediction.
        pseudonym: of the patient.
        identified: the CT's own attributes instead.
        model: that predicted.
    """

    key: str
    pseudonym: str
    identified: bool
    model: str


def write_dose(path: Path, dose: npt.NDArray[np.float32], ct: PlanningCt, identity: Identity) -> None:
    """Write a dose on the grid of the CT, every slice of it.

    Args:
        path: of the file.
        dose: (posterior, left, inferior), Gy; written in 65,535 steps of the largest.
        ct: it was predicted from.
        identity: of the patient.
    """
    stack = ct.stack
    values = np.asarray(ct.on_slices(dose), np.float64)
    scaling = _scaling(float(values.max()))
    stored = np.rint(values / float(scaling)).astype(np.uint16)
    header = _new(RTDoseStorage, "RTDOSE", ct, identity, scaling.encode() + stored.tobytes())
    rows, columns, _ = stack.directions
    across, down, step = stack.spacing_mm
    offsets = [step * index for index in range(len(stored))]
    set_dose(header, stored, scaling, stack.first, [*rows, *columns], (down, across), offsets, stack.frame)
    header.DoseComment = LABEL
    header.save_as(path, enforce_file_format=True)


def write_structures(
    path: Path, masks: Mapping[str, npt.NDArray[np.bool_]], ct: PlanningCt, identity: Identity
) -> None:
    """Write structures as contours on the slices of the CT; one that is empty is listed without contours.

    Implicit VR: pydicom writes contours of more than 64 kB as unknown in explicit VR, and other readers drop them.

    Args:
        path: of the file.
        masks: structure -> (posterior, left, inferior).
        ct: it was predicted from.
        identity: of the patient.
    """
    images = [(str(s.SOPClassUID), str(s.SOPInstanceUID)) for s in ct.stack.slices]
    rois = []
    for name, mask in masks.items():
        planes = ct.on_slices(mask).astype(bool)
        contours = [
            (_in_mm(polygon, ct.stack, int(index)), images[index])
            for index in np.flatnonzero(planes.any(axis=(1, 2)))
            for polygon in polygons_of_slice(planes[index])
        ]
        rois.append(WrittenRoi(name, "ORGAN", contours, "AUTOMATIC", LABEL))
    content = hashlib.sha256()
    for roi in rois:
        content.update(roi.name.encode())
        for points, _ in roi.contours:
            content.update(np.round(points, _DECIMALS).tobytes())
    header = _new(RTStructureSetStorage, "RTSTRUCT", ct, identity, content.digest())
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    header.StructureSetLabel, header.StructureSetName = "PREDICTED", LABEL
    header.StructureSetDate = header.StructureSetTime = ""
    header.ApprovalStatus = "UNAPPROVED"
    series = str(ct.stack.slices[0].get("SeriesInstanceUID", ""))
    set_structures(header, rois, images, series, ct.stack.frame, _DECIMALS)
    header.save_as(path, enforce_file_format=True, implicit_vr=True, little_endian=True)


def _in_mm(polygon: npt.NDArray[np.float64], stack: Stack, index: int) -> npt.NDArray[np.float64]:
    """Return (column, row) points on a slice as (x, y, z) in mm, from the position that this slice has itself."""
    rows, columns, _ = stack.directions
    across, down, _ = stack.spacing_mm
    first = numbers_of(stack.slices[index], "ImagePositionPatient", 3)
    return first + np.outer(polygon[:, 0] * across, rows) + np.outer(polygon[:, 1] * down, columns)


def _scaling(largest: float) -> str:
    """Return a DoseGridScaling of at most 16 characters by which the largest value fits 16 bits."""
    if largest <= 0:
        return "0.001"
    exponent = math.floor(math.log10(largest / _STEPS)) - 7
    return f"{math.ceil(largest / _STEPS / 10.0**exponent)}e{exponent}"


def _new(sop_class: UID, modality: str, ct: PlanningCt, identity: Identity, content: bytes) -> Dataset:
    """Return an object of the CT's study, in a series of its own."""
    image = ct.stack.slices[0]

    def uid(*what: bytes) -> UID:
        digest = hashlib.sha256(b"\0".join([identity.key.encode(), modality.encode(), *what])).digest()
        return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")

    own = f"{identity.identified}".encode() + content
    study = UID(str(image.get("StudyInstanceUID", "")))
    header = new_object(sop_class, uid(b"instance", own), modality, study, uid(b"series", own), "CTAN")
    if identity.identified:
        for keyword in _IDENTITY:
            if keyword in image:
                header[keyword] = image[keyword]
        if "SpecificCharacterSet" in image:
            header.SpecificCharacterSet = image.SpecificCharacterSet
    else:
        header.PatientName = header.PatientID = identity.pseudonym
        for keyword in _LEFT_EMPTY:
            setattr(header, keyword, "")
        header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", "Allow-list of ctan"
    header.SeriesDescription, header.OperatorsName = LABEL, ""  # type 2: there, also where it says nothing
    header.ManufacturerModelName = identity.model[:_MAX_TEXT]
    header.SoftwareVersions = f"ctan {ctan.__version__}"[:_MAX_TEXT]
    header.FrameOfReferenceUID = ct.stack.frame
    return header
