"""Volumes of a folder: NIfTI, NRRD, MetaImage and DICOM series, all to values and a grid."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.config import ReadingConfig
from ctan.datasets.folder.description import ending_of
from ctan.datasets.folder.grid import Grid, Volume
from ctan.datasets.folder.nifti import Matrices, read_nifti
from ctan.datasets.folder.series import read_series
from ctan.datasets.metaimage import read_mha
from ctan.errors import DataError
from ctan.reading import check_voxels, read_bytes

DEFAULT_LIMITS = ReadingConfig()


def read_volume(path: Path, matrices: Matrices = "refuse", limits: ReadingConfig = DEFAULT_LIMITS) -> Volume:
    """Read a volume.

    Args:
        path: ends in `.nii`, `.nii.gz`, `.nrrd` or `.mha`, or is a folder with a DICOM series.
        matrices: which of two contradicting matrices of a NIfTI counts.
        limits: bounds of sizes that the settings give.

    Raises:
        DataError: what was expected and what was found, without the file's name.
    """
    ending = ending_of(path.name)
    try:
        if path.is_dir():
            return read_series(path, limits)
        if ending == ".mha":
            volume = _mha(path, limits)
        elif ending == ".nrrd":
            volume = _nrrd(path, limits)
        else:
            content = read_bytes(path, limits)
            values, grid = read_nifti(content, matrices, limits)
            volume = Volume(values, grid, hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    if unknown := int(np.count_nonzero(~np.isfinite(volume.values))):
        raise DataError(f"{unknown:,} voxels are NaN or infinite, expected numbers")
    return volume


def _mha(path: Path, limits: ReadingConfig) -> Volume:
    found = read_mha(path, lambda plane: plane, np.float32, limits)
    fields, image = found.header.fields, found.image
    text = next((fields[name] for name in ("Offset", "Position", "Origin") if name in fields), "0 0 0")
    try:
        x, y, z = (float(number) for number in text.split())
    except ValueError as error:
        raise DataError(f"header: expected three numbers for Offset, found {text!r}") from error
    image.SetOrigin((x, y, z))
    return Volume(_array(image), Grid.of_image(image), found.sha256)


def _nrrd(path: Path, limits: ReadingConfig) -> Volume:
    import SimpleITK as sitk

    content = read_bytes(path, limits)
    header = content.split(b"\n\n", 1)[0].replace(b"\r", b"").lower()
    if not header.startswith(b"nrrd"):
        raise DataError("not a NRRD file: the header is missing or damaged")
    if b"\ndata file:" in header or b"\ndatafile:" in header:
        raise DataError("its voxels lie in another file; save both as one .nrrd")
    if b"\nspace:" not in header and b"\nspace dimension:" not in header:
        raise DataError("no space: where left and right are is not known; write the file with a space")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise DataError(
                f"expected three axes and one number a voxel, found {reader.GetDimension()} axes and "
                f"{reader.GetNumberOfComponents()} numbers: channels are files of their own"
            )
        check_voxels(reader.GetSize(), 8 * math.prod(reader.GetSize()), limits)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).replace(str(path), path.name).strip().splitlines()[-1]
        raise DataError(f"truncated or damaged ({reason})") from error
    return Volume(_array(image), Grid.of_image(image), hashlib.sha256(content).hexdigest())


def _array(image: Any) -> npt.NDArray[np.float32]:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(image).astype(np.float32)
