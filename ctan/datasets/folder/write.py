"""Volumes written beside the image that they belong to: same format, same grid, of NIfTI the same header."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases.prediction import LABEL
from ctan.cases.volumes import from_case_axes
from ctan.config import ReadingConfig
from ctan.datasets.folder.description import ending_of
from ctan.datasets.folder.nifti import Matrices, with_voxels
from ctan.datasets.folder.volumes import read_volume
from ctan.reading import read_bytes


def write_like(
    image: Path, arrays: Mapping[str, npt.NDArray[Any]], folder: Path, matrices: Matrices, limits: ReadingConfig
) -> None:
    """Write arrays on the grid of a volume, `<name>` and the ending of the volume's file.

    A NIfTI keeps the header of the image but for the type of its voxels, so that programs that disagree about headers
    put both in the same place. Beside a DICOM series they are NIfTI.

    Args:
        image: the volume.
        arrays: name -> (posterior, left, inferior); masks are written as 0 and 1.
        folder: to write to.
        matrices: which of two contradicting matrices of a NIfTI counts.
        limits: bounds of sizes that the settings give.

    Raises:
        DataError: when the image cannot be read any more.
    """
    grid = read_volume(image, matrices, limits).grid
    ending = ".nii.gz" if image.is_dir() else ending_of(image.name)
    header = read_bytes(image, limits) if ending.startswith(".nii") and image.is_file() else b""
    for name, array in arrays.items():
        voxels = from_case_axes(array, [float(value) for value in grid.direction.ravel()])
        voxels = voxels.astype(np.uint8 if array.dtype == bool else array.dtype)
        if header:
            content = with_voxels(header, voxels, LABEL, limits)
            packed = gzip.compress(content, 6, mtime=0) if ending == ".nii.gz" else content
            (folder / f"{name}{ending}").write_bytes(packed)
        else:
            import SimpleITK as sitk

            sitk.WriteImage(grid.image(voxels), str(folder / f"{name}{ending}"), useCompression=True)
