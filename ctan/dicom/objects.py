"""What DICOM objects are written of: the parts that phantoms and predictions share.

Numbers are written as decimal strings of at most 16 characters, never by pydicom, which writes longer ones.
Sources: DICOM PS3.3, C.8.8.3 (RT dose, with the grid frame offset vector), C.8.8.5 and C.8.8.6 (structure set,
contours); PS3.5, 6.2 (DS).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from ctan.dicom.outlines import Contour

IMPLEMENTATION = UID("2.25.171104395093746203906217186437265463871")
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # detached study management, as every vendor writes it
Image = tuple[str, str]  # SOP class and instance


@dataclass(frozen=True)
class WrittenRoi:
    """One ROI of a structure set.

    Attributes:
        name: of the ROI.
        kind: RT ROI interpreted type, such as ORGAN.
        contours: closed contours in mm, each with the image that it lies on; a single point is written as POINT.
        algorithm: AUTOMATIC, SEMIAUTOMATIC or MANUAL.
        description: of how it was made; "" for none.
    """

    name: str
    kind: str
    contours: Sequence[tuple[Contour, Image]]
    algorithm: str = "MANUAL"
    description: str = ""


def new_object(sop_class: UID, instance: UID, modality: str, study: UID, series: UID, version: str) -> Dataset:
    """Return an object of explicit little-endian encoding without a patient.

    Args:
        sop_class: what it is.
        instance: its own UID.
        modality: such as RTDOSE.
        study, series: where it belongs.
        version: implementation version name, at most 16 characters.
    """
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = sop_class
    header.file_meta.MediaStorageSOPInstanceUID = instance
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.ImplementationClassUID = IMPLEMENTATION
    header.file_meta.ImplementationVersionName = version
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID, header.SOPInstanceUID = sop_class, instance
    header.StudyInstanceUID, header.SeriesInstanceUID = study, series
    header.Modality, header.Manufacturer = modality, "ctan"
    header.AccessionNumber = header.PositionReferenceIndicator = ""
    header.SeriesNumber, header.InstanceNumber = 1, 1
    return header


def set_structures(
    header: Dataset, rois: Sequence[WrittenRoi], images: Sequence[Image], series: str, frame: str, decimals: int
) -> None:
    """Give an object the ROIs of a structure set.

    Args:
        header: of an RTSTRUCT.
        rois: numbered from 1.
        images: every image of the series that it was drawn on.
        series: SeriesInstanceUID of that series.
        frame: FrameOfReferenceUID.
        decimals: of coordinates in mm.
    """
    in_series = item(SeriesInstanceUID=series, ContourImageSequence=[reference(*image) for image in images])
    study = item(
        ReferencedSOPClassUID=_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[in_series],
    )
    header.ReferencedFrameOfReferenceSequence = DicomSequence(
        [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    )
    header.StructureSetROISequence, header.ROIContourSequence = DicomSequence(), DicomSequence()
    header.RTROIObservationsSequence = DicomSequence()
    for number, roi in enumerate(rois, start=1):
        listed = item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=frame,
            ROIName=roi.name,
            ROIGenerationAlgorithm=roi.algorithm,
        )
        if roi.description:
            listed.ROIGenerationDescription = roi.description
        header.StructureSetROISequence.append(listed)
        drawn = item(ROIDisplayColor=[255, 40 * number % 256, 90 * number % 256])
        if roi.contours:
            drawn.ContourSequence = DicomSequence([_contour(*contour, decimals) for contour in roi.contours])
        drawn.ReferencedROINumber = number
        header.ROIContourSequence.append(drawn)
        header.RTROIObservationsSequence.append(
            item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=roi.kind, ROIInterpreter="")
        )


def set_dose(
    header: Dataset,
    stored: npt.NDArray[Any],
    scaling: str,
    first: npt.NDArray[np.float64],
    cosines: Sequence[float],
    spacing_mm: tuple[float, float],
    offsets_mm: Iterable[float],
    frame: str,
) -> None:
    """Give an object the grid of an RTDOSE in Gy, with `DoseSummationType` PLAN.

    Args:
        header: of an RTDOSE.
        stored: (frame, row, column) unsigned whole multiples of the scaling.
        scaling: DoseGridScaling as it is written.
        first: centre of the first voxel (x, y, z) in mm.
        cosines: of rows, then of columns.
        spacing_mm: between rows, between columns.
        offsets_mm: of each frame, GridFrameOffsetVector.
        frame: FrameOfReferenceUID.
    """
    header.FrameOfReferenceUID = frame
    header.ImageOrientationPatient = numbers(cosines, 6)
    header.ImagePositionPatient = numbers(first)
    header.PixelSpacing = numbers(spacing_mm)
    header.SliceThickness = ""
    header.GridFrameOffsetVector = numbers(offsets_mm)
    header.FrameIncrementPointer = 0x3004000C
    header.NumberOfFrames = len(stored)
    header.DoseUnits, header.DoseType, header.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    header.DoseGridScaling = scaling
    set_pixels(header, stored, signed=False)


def set_pixels(header: Dataset, stored: npt.NDArray[Any], signed: bool) -> None:
    """Give an object its pixel values, (..., row, column), as they are stored."""
    bits = 8 * stored.itemsize
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = stored.shape[-2:]
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation = int(signed)
    header.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    header["PixelData"].VR = "OW"


def reference(sop_class: str, instance: str) -> Dataset:
    """Return an item that refers to an object."""
    return item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=instance)


def item(**values: Any) -> Dataset:
    """Return an item of a sequence."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, DicomSequence(value) if keyword.endswith("Sequence") else value)
    return made


def number(value: float, decimals: int = 4) -> str:
    """Return a decimal string of at most 16 characters, the same on every platform."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def numbers(values: Any, decimals: int = 4) -> list[str]:
    """Return decimal strings."""
    return [number(float(value), decimals) for value in values]


def _contour(points: Contour, image: Image, decimals: int) -> Dataset:
    made = Dataset()
    made.ContourImageSequence = DicomSequence([reference(*image)])
    made.ContourGeometricType = "POINT" if len(points) == 1 else "CLOSED_PLANAR"
    made.NumberOfContourPoints = len(points)
    made.ContourData = numbers(points.ravel(), decimals)
    return made
