"""Finds the DICOM files of a folder and tells what they are by their headers; reads one, de-identified.

Files may have any name and lie at any depth. DICOMDIR, files that are not DICOM and kinds that planning does not need
are skipped. Names and paths may identify a patient: messages count files in the order of their paths instead.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctan.dicom.complete import check_complete
from ctan.dicom.deidentify import (
    Pseudonymiser,
    Seen,
    deidentified,
    is_placeholder,
    normalised_patient_id,
    quiet_pydicom,
)
from ctan.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["CT", "RTSTRUCT", "SEG", "RTDOSE", "RTPLAN", "unreadable"]

_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # label map
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.481.8": "RTPLAN",  # ions
}
_MODALITIES: dict[str, Kind] = {
    "CT": "CT",
    "RTDOSE": "RTDOSE",
    "RTSTRUCT": "RTSTRUCT",
    "RTPLAN": "RTPLAN",
    "SEG": "SEG",
}
_HEADER = [
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence",
    "SegmentSequence",
    "ReferencedRTPlanSequence",
    "ReferencedStructureSetSequence",
]
_REFERENCES = ("ReferencedRTPlanSequence", "ReferencedStructureSetSequence")
_PREAMBLE = 128


@dataclass(frozen=True, repr=False)
class DicomFile:
    """One file and what its header says. Identifying: it stays inside the reader.

    Attributes:
        path: the file.
        kind: `"unreadable"` for a DICOM file whose header cannot be read.
        instance: SOPInstanceUID.
        patient: normalised PatientID; empty when it is blank or a placeholder.
        frame: FrameOfReferenceUID, of a structure set the first it refers to.
        study: StudyInstanceUID.
        roi_names: of a structure set, or the labels of segments.
        refers: SOPInstanceUIDs of the plan, and of the structure set, that it was made for.
    """

    path: Path
    kind: Kind
    instance: str = ""
    patient: str = ""
    frame: str = ""
    study: str = ""
    roi_names: tuple[str, ...] = ()
    refers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Keep names and IDs out of logs and tracebacks."""
        return f"DicomFile({self.kind})"


def scan(paths: Iterable[os.PathLike[str]]) -> list[DicomFile]:
    """Return the planning files among some files, in the order of their paths."""
    found = (read_header(path) for path in sorted(Path(path) for path in paths))
    return [file for file in found if file is not None]


def read_header(path: Path) -> DicomFile | None:
    """Return what a file is; None when it is not DICOM or of a kind that planning does not need."""
    import pydicom

    with quiet_pydicom():
        try:
            with path.open("rb") as stream:
                start = stream.read(_PREAMBLE + 4)
                declared = start[_PREAMBLE:] == b"DICM"
                # Old exports lack the preamble and begin with group 0002 or 0008.
                if not declared and start[:2] not in (b"\x02\x00", b"\x08\x00"):
                    return None
                stream.seek(0)
                dataset = pydicom.dcmread(stream, force=not declared, stop_before_pixels=True, specific_tags=_HEADER)
            kind, empty = _kind(dataset), not len(dataset)
            if kind is None:
                return DicomFile(path, "unreadable") if declared and empty and not _class(dataset) else None
            return _described(path, kind, dataset)
        except Exception:  # pydicom raises many kinds on damaged bytes, with values in the message
            return DicomFile(path, "unreadable") if declared else None


def _class(dataset: Dataset) -> str:
    """Return the SOP class; some archives blank it in the data set and leave it in the file meta information."""
    return str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def _kind(dataset: Dataset) -> Kind | None:
    sop_class = _class(dataset)
    return _KINDS.get(sop_class) if sop_class else _MODALITIES.get(str(dataset.get("Modality", "")))


def _described(path: Path, kind: Kind, dataset: Dataset) -> DicomFile:
    patient_id = dataset.get("PatientID", "")
    frame = str(dataset.get("FrameOfReferenceUID", "") or "")
    for item in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frame = frame or str(item.get("FrameOfReferenceUID", ""))
    return DicomFile(
        path=path,
        kind=kind,
        instance=str(dataset.get("SOPInstanceUID", "") or ""),
        patient="" if is_placeholder(patient_id) else normalised_patient_id(patient_id),
        frame=frame,
        study=str(dataset.get("StudyInstanceUID", "") or ""),
        roi_names=(
            *(str(item.get("ROIName", "")) for item in dataset.get("StructureSetROISequence") or ()),
            *(str(item.get("SegmentLabel", "")) for item in dataset.get("SegmentSequence") or ()),
        ),
        refers=tuple(
            str(item.get("ReferencedSOPInstanceUID", ""))
            for keyword in _REFERENCES
            for item in dataset.get(keyword) or ()
        ),
    )


def identity(files: Iterable[DicomFile], by_id: bool = True) -> tuple[str, bool]:
    """Return what tells the patient of these files from others, and whether that is a real PatientID.

    Without one it is the frame of reference, which all objects of one planning CT share, or else the study or the
    objects themselves. With `by_id` False the IDs are not asked.
    """
    listed = sorted((file for file in files if file.kind != "unreadable"), key=lambda file: file.kind)  # CT first
    if by_id and (named := [file.patient for file in listed if file.patient]):
        return max(sorted(set(named)), key=named.count), True
    for attribute in ("frame", "study", "instance"):
        for kind in dict.fromkeys(file.kind for file in listed):
            if values := sorted({getattr(file, attribute) for file in listed if file.kind == kind} - {""}):
                return f"{attribute}\0{values[0]}", False
    return "", False


@dataclass(frozen=True)
class Opened:
    """A file that was read: de-identified, with the SHA-256 of its bytes and a name for messages."""

    kind: Kind
    dataset: Dataset
    sha256: str
    label: str


def open_files(
    files: Iterable[DicomFile], pseudonymiser: Pseudonymiser, structure_of: Callable[[str], str]
) -> list[Opened]:
    """Read files whole and de-identify them at once; dates are dropped.

    Raises:
        DataError: when one is damaged or the files are of several patients.
    """
    listed = list(files)
    patients = {file.patient for file in listed} - {""}
    if len(patients) > 1:
        raise DataError(
            f"the folder holds files of {len(patients)} patients (by PatientID), expected one; separate them"
        )
    opened = []
    seen: Seen = {}  # slices of a CT share most of their headers
    for number, file in enumerate(listed, start=1):
        label = f"{file.kind} file (number {number} of {len(listed)} DICOM files of the patient, in order of path)"
        opened.append(_open(file, label, pseudonymiser, structure_of, seen if file.kind == "CT" else None))
    return opened


def _open(
    file: DicomFile, label: str, pseudonymiser: Pseudonymiser, structure_of: Callable[[str], str], seen: Seen | None
) -> Opened:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if file.kind == "unreadable":
        raise DataError(f"{label}: the header cannot be read; the file is damaged, export it again")
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise DataError(f"{label}: cannot be read ({os.strerror(error.errno or 0)})") from None
    try:
        with quiet_pydicom():
            check_complete(content)
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:  # old exports are plain
                implicit, _ = dataset.original_encoding
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            reduced = deidentified(dataset, pseudonymiser, structure_of, seen=seen)
    except DataError as error:
        raise DataError(f"{label}: {error}") from None
    except Exception as error:  # pydicom raises many kinds on damaged bytes, with values in the message
        raise DataError(f"{label}: damaged ({type(error).__name__} while reading); export it again") from None
    return Opened(file.kind, reduced, hashlib.sha256(content).hexdigest(), label)
