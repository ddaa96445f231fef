"""Patients in the raw format of OpenKBP, as pandas and NumPy wrote the official files; see `reader`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK
from ctan.datasets.openkbp.format import SHAPE


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
        places = tuple(axis + start for axis, start in zip(np.nonzero(mask), patient.corner, strict=True))
        indices = np.ravel_multi_index(places, SHAPE).tolist()
        return "".join([",data\n", *(f"{i},{text}\n" for i, text in zip(indices, texts, strict=True))]).encode()

    for name, mask in patient.masks.items():
        (folder / f"{name}.csv").write_bytes(rows(mask, [""] * int(np.count_nonzero(mask))))
    body, possible = patient.ct > 0, patient.masks[POSSIBLE_DOSE_MASK]
    (folder / "ct.csv").write_bytes(rows(body, (f"{value}.0" for value in patient.ct[body].tolist())))
    gray = (str(value / 1000) for value in patient.dose_mgy[possible].tolist())
    (folder / "dose.csv").write_bytes(rows(possible, gray))
    spacing = "".join(f"{edge:.18e}\n" for edge in patient.spacing_mm)
    (folder / "voxel_dimensions.csv").write_bytes(spacing.encode())
