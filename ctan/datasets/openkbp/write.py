"""Patients in the raw format of OpenKBP, as pandas and NumPy wrote the official files; see `reader`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Prediction
from ctan.datasets.openkbp.format import SHAPE
from ctan.files import atomic_path

_SUBMISSION = "submission"
_DECIMALS = 4  # of a dose in Gy


@dataclass(frozen=True)
class OpenKBPPatient:
    """One patient inside a box on the grid; everywhere else there is nothing.

    Attributes:
        corner: the box's first voxel on the grid.
        spacing_mm: voxel edges.
        ct: (D, H, W) whole values, HU + 1024; 0 is not written.
        dose_mgy: (D, H, W) thousandths of a Gray, the digits that OpenKBP keeps; written inside the possible-dose mask.
        masks: name -> (D, H, W) bool, contoured structures and `"possible_dose_mask"`; none empty.
    """

    corner: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    ct: npt.NDArray[np.int64]
    dose_mgy: npt.NDArray[np.int64]
    masks: Mapping[str, npt.NDArray[np.bool_]]


def write_patient(patient: OpenKBPPatient, folder: Path) -> None:
    """Write a patient's files into a folder that exists.

    CT has a row where it is above 0, dose where the possible-dose mask is set, zeros included.
    """

    def rows(mask: npt.NDArray[np.bool_], texts: Iterable[str]) -> bytes:
        return _rows(mask, texts, patient.corner)

    for name, mask in patient.masks.items():
        (folder / f"{name}.csv").write_bytes(rows(mask, [""] * int(np.count_nonzero(mask))))
    body, possible = patient.ct > 0, patient.masks[POSSIBLE_DOSE_MASK]
    (folder / "ct.csv").write_bytes(rows(body, (f"{value}.0" for value in patient.ct[body].tolist())))
    gray = (str(value / 1000) for value in patient.dose_mgy[possible].tolist())
    (folder / "dose.csv").write_bytes(rows(possible, gray))
    spacing = "".join(f"{edge:.18e}\n" for edge in patient.spacing_mm)
    (folder / "voxel_dimensions.csv").write_bytes(spacing.encode())


def write_prediction(case_id: str, prediction: Prediction, folder: Path) -> None:
    """Write a predicted dose as `<case_id>.csv`, a row where it is not 0, and structures as files of their names.

    A structure that was not found has no file, as in the data set: an empty one is refused by its readers.
    """
    for name, mask in prediction.masks.items():
        if mask.any():
            (folder / f"{name}.csv").write_bytes(_rows(mask, [""] * int(np.count_nonzero(mask))))
    for dose in prediction.doses.values():
        written = np.round(dose.astype(np.float64), _DECIMALS)
        texts = map(repr, written[written > 0].tolist())
        (folder / f"{case_id}.csv").write_bytes(_rows(written > 0, texts))


def write_submission(case_ids: Sequence[str], folder: Path) -> None:
    """Copy the doses of all cases to `submission/`, which appears whole; an earlier one is replaced."""
    files = [folder / case_id / f"{case_id}.csv" for case_id in case_ids]
    target = folder / _SUBMISSION
    shutil.rmtree(target, ignore_errors=True)
    if doses := [file for file in files if file.is_file()]:
        with atomic_path(target) as beside:
            beside.mkdir()
            for file in doses:
                shutil.copyfile(file, beside / file.name)


def _rows(mask: npt.NDArray[np.bool_], texts: Iterable[str], corner: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """Return a file with a row for each voxel of a mask, in the order of their indices."""
    places = tuple(axis + start for axis, start in zip(np.nonzero(mask), corner, strict=True))
    indices = np.ravel_multi_index(places, SHAPE).tolist()
    return "".join([",data\n", *(f"{i},{text}\n" for i, text in zip(indices, texts, strict=True))]).encode()
