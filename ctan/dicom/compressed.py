"""Compressed pixel data, decoded by the GDCM inside SimpleITK: JPEG Lossless, as most archives keep CT, and its kin.

pydicom's own plug-in for JPEG Lossless is under the GPL; GDCM and SimpleITK are not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

_JPEG = "1.2.840.10008.1.2.4."  # JPEG, JPEG-LS, JPEG 2000
_PIXEL_MODULE = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)


def is_jpeg(dataset: Dataset) -> bool:
    """Return whether pixel data are compressed in a way of the JPEG family."""
    return str(dataset.file_meta.TransferSyntaxUID).startswith(_JPEG)


def decode(dataset: Dataset) -> npt.NDArray[Any]:
    """Return the stored values, (row, column) or (frame, row, column); slope and intercept are not applied.

    Raises:
        RuntimeError: when they cannot be decoded.
        ValueError: when there are other numbers of rows, columns or frames than the header says.
    """
    import SimpleITK as sitk
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    plain = Dataset()
    for keyword in _PIXEL_MODULE:
        if (value := dataset.get(keyword)) is not None:
            setattr(plain, keyword, value)
    plain.SOPClassUID, plain.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.1"
    plain.add_new("PixelData", "OB", dataset.PixelData)
    plain["PixelData"].is_undefined_length = True
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory(prefix="ctan-pixels-") as folder:
        path = str(Path(folder) / "pixels.dcm")
        plain.save_as(path, enforce_file_format=True)
        quiet = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # GDCM writes to the terminal
        try:
            values = sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(quiet)
    frames = int(dataset.get("NumberOfFrames") or 1)
    expected = (frames, int(dataset.Rows), int(dataset.Columns))
    if values.size != np.prod(expected) or values.shape[-2:] != expected[1:]:
        raise ValueError("another size than the header says")
    return values.reshape(expected if frames > 1 else expected[1:])
