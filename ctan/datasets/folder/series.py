"""A folder with the slices of one DICOM series becomes a volume: MR above all, whose numbers have no unit.

Slices are put in order by their places. Several images at one place (echoes, diffusion weights, points in time) are
several volumes: refused, with what tells them apart. Slope and intercept count where they are there; MR mostly has
none. An oblique series keeps its voxels.
Source: DICOM PS3.3 C.7.6.2 (image plane), C.8.3 (MR image).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctan.config import ReadingConfig
from ctan.datasets.folder.grid import Grid, Volume
from ctan.datasets.listing import files_below
from ctan.dicom.complete import check_complete
from ctan.dicom.deidentify import quiet_pydicom
from ctan.dicom.series import decoded, integer_of, numbers_of
from ctan.errors import DataError
from ctan.files import sha256_of_digests
from ctan.reading import check_voxels, read_bytes

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE = 128
_WITHOUT_PREAMBLE = (b"\x02\x00", b"\x08\x00")  # how old exports begin
_SAME_MM = 0.01  # positions closer than this are equal
_UNEVEN = 0.05  # share of the distance between slices
_ALIKE = {"PixelSpacing": 1e-3, "ImageOrientationPatient": 1e-4}
# What tells images at one place apart, by the words of the message.
_APART = {
    "EchoTime": "echo times",
    "DiffusionBValue": "b-values",
    "TemporalPositionIdentifier": "points in time",
    "AcquisitionNumber": "acquisitions",
    "ImageType": "image types",
}


def read_series(folder: Path, limits: ReadingConfig) -> Volume:
    """Read the one series in a folder; files whose names start with a dot are left out.

    Args:
        folder: with a file a slice, at any depth.
        limits: bounds of sizes that the settings give.

    Raises:
        DataError: what was expected and what was found, without names of files or values that identify.
    """
    import hashlib

    digests: dict[str, str] = {}
    slices = []
    for entry in sorted(files_below(folder), key=lambda one: one.path):
        content = read_bytes(Path(entry.path), limits)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in digests:  # a copy of a file is no second slice
            digests[digest] = digest
            slices.append(_opened(content))
    if not slices:
        raise DataError("no files in this folder, expected the slices of a DICOM series")
    _check_alike(slices)
    cosines = numbers_of(slices[0], "ImageOrientationPatient", 6)
    directions = np.stack([cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])])
    positions = np.array([numbers_of(one, "ImagePositionPatient", 3) for one in slices])
    order = np.argsort(positions @ directions[2])
    slices, positions = [slices[index] for index in order], positions[order]
    step = _step(slices, positions @ directions[2])
    down, across = (float(edge) for edge in numbers_of(slices[0], "PixelSpacing", 2))
    shape = (integer_of(slices[0], "Columns", "slice"), integer_of(slices[0], "Rows", "slice"), len(slices))
    check_voxels(shape, 4 * int(np.prod(shape)), limits)
    run = (positions[-1] - positions[0]) / (len(slices) - 1)  # a series that is sheared (tilted) says so here
    affine = np.column_stack([directions[0] * across, directions[1] * down, run, positions[0]])
    grid = Grid.of(shape, affine)
    strayed = np.abs(positions - positions[0] - np.outer(np.arange(len(slices)), run)).max()
    if strayed > _UNEVEN * step + _SAME_MM:
        raise DataError(f"slices lie up to {strayed:.2g} mm beside a straight line; export one volume")
    return Volume(np.stack([_values(one) for one in slices]), grid, sha256_of_digests(digests))


def _opened(content: bytes) -> Dataset:
    import pydicom
    from pydicom.uid import ImplicitVRLittleEndian

    declared = content[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
    if not declared and content[:2] not in _WITHOUT_PREAMBLE:
        raise DataError("a file in this folder is not DICOM; take it out")
    try:
        with quiet_pydicom():
            check_complete(content)
            found = pydicom.dcmread(io.BytesIO(content), force=not declared)
    except DataError as error:
        raise DataError(f"a DICOM file in this folder is {error}") from None
    except Exception as error:  # pydicom raises many kinds, with values in the message
        raise DataError(f"a DICOM file in this folder is damaged ({type(error).__name__})") from None
    if "TransferSyntaxUID" not in found.file_meta:
        found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return found


def _check_alike(slices: list[Dataset]) -> None:
    """Refuse slices that are not of one series, or not of one plane and size."""
    kinds = sorted({str(one.get("Modality", "")) for one in slices})
    if "CT" in kinds:
        raise DataError("a CT series: read it with --dataset prostate, which checks its HU, or convert it to NIfTI")
    if (number := len({str(one.get("SeriesInstanceUID", "")) for one in slices})) > 1:
        raise DataError(f"{number} series in one folder ({len(slices)} files), expected one; give each its folder")
    if any(int(one.get("NumberOfFrames") or 1) > 1 for one in slices):
        raise DataError("multi-frame (enhanced) DICOM, expected a file a slice; export it so, or convert it to NIfTI")
    if len(slices) < 2:
        raise DataError("a single slice, expected a volume")
    for keyword in ("Rows", "Columns"):
        if len(sizes := {integer_of(one, keyword, "slice") for one in slices}) > 1:
            raise DataError(f"slices differ in size, {keyword} {', '.join(map(str, sorted(sizes)))}; keep one volume")
    for keyword, tolerance in _ALIKE.items():
        count = 2 if keyword == "PixelSpacing" else 6
        if np.ptp(np.array([numbers_of(one, keyword, count) for one in slices]), axis=0).max() > tolerance:
            raise DataError(f"slices differ in {keyword}; keep one volume (localisers are of several planes)")


def _step(slices: list[Dataset], places: Any) -> float:
    """Return the distance between slices in mm."""
    steps = np.diff(places)
    if (twice := np.flatnonzero(steps <= _SAME_MM)).size:
        told = [
            f"{len(values)} {words}"
            for keyword, words in _APART.items()
            if len(values := {str(one.get(keyword, "")) for one in slices}) > 1
        ]
        raise DataError(
            f"{len(twice)} places hold several images ({', '.join(told) or 'which nothing tells apart'}); give each "
            f"volume a folder, as a channel of its own"
        )
    usual = float(np.median(steps))
    if (uneven := np.flatnonzero(np.abs(steps - usual) > _UNEVEN * usual + _SAME_MM)).size:
        gaps = ", ".join(f"{steps[index]:.2f} mm after {places[index]:.2f}" for index in uneven[:5])
        raise DataError(f"slices are missing or uneven, {usual:.2f} mm apart but {gaps}; export the whole series")
    return usual


def _values(one: Dataset) -> Any:
    """Return (row, column) float32: as stored, or scaled where the file says how."""
    stored = decoded(one, "slice")
    if one.get("RescaleSlope") is None and one.get("RescaleIntercept") is None:
        return stored.astype(np.float32)
    slope = float(numbers_of(one, "RescaleSlope", 1)[0])
    intercept = float(numbers_of(one, "RescaleIntercept", 1)[0])
    if slope <= 0:
        raise DataError(f"RescaleSlope {slope:g}, expected a positive number; export it again")
    return (stored * np.float64(slope) + intercept).astype(np.float32)
