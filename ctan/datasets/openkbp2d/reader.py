"""OpenKBP's patients as axial slices: the same files and tasks in two dimensions, for experiments that are cheap.

Of every patient `data.options.slices` slices, evenly spaced over those where dose is possible, which is known before
there is a dose. Cases are called `pt_<n>-<k>`, k from 0, and grouped by patient. A structure of the patient that does
not reach a slice is known to be absent there. Scores are of slices: not those of the challenge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ctan.cases import POSSIBLE_DOSE_MASK, Case, RawCase
from ctan.config import DataConfig, Settings
from ctan.datasets.base import Dataset, Purpose
from ctan.datasets.listing import File
from ctan.datasets.openkbp.reader import OpenKBP
from ctan.errors import CaseError
from ctan.files import sha256_of_digests


class SliceOptions(Settings):
    """Options of OpenKBP's slices."""

    slices: int = Field(8, ge=1, le=128, description="slices of a patient, evenly spaced where dose is possible")


class OpenKBPSlices(Dataset):
    """Axial slices, (posterior, left), of the patients of OpenKBP; see `ctan.datasets.base.Dataset`."""

    name = "openkbp2d"
    version = 1
    uses: ClassVar[Mapping[str, int]] = {"openkbp": OpenKBP.version}
    to_train = OpenKBP.to_train
    to_predict = (*OpenKBP.to_predict, f"{POSSIBLE_DOSE_MASK}.csv")
    masks_may_be_empty = True
    Options = SliceOptions
    options: SliceOptions
    spec = OpenKBP.spec.model_copy(update={"dataset": name, "spatial_dims": 2})
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "*": {
            "validation": {"max_quarantined_share": 0.2},  # the outermost slices often receive less than 1 Gy
            "preprocess": {"grid_shape": [96, 128], "grid_spacing_mm": None},
            "network": {"num_stages": 5, "foreground_prior": 0.01},
            "training": {"batch_size": 8, "learning_rate": 3.0e-3, "rotate_probability": 0.0},
        },
        "smoke": {"network": {"num_stages": 4}},
    }

    def __init__(self, config: DataConfig | None = None, purpose: Purpose = "train") -> None:
        super().__init__(config, purpose)
        self._whole = OpenKBP(self.config.model_copy(update={"options": {}}), purpose)

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the slices of every patient, see `OpenKBP.find`."""
        number = self.options.slices
        return [replace(raw, case_id=f"{raw.case_id}-{k}") for raw in self._whole.find(raw_dir) for k in range(number)]

    def files(self, raw_dir: Path) -> Iterator[File]:
        """List the patients' CSV files."""
        return self._whole.files(raw_dir)

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say what `OpenKBP` says of the folder."""
        return self._whole.remarks(raw_dir)

    def read(self, raw: RawCase) -> Case:
        """Read one slice of a patient.

        Raises:
            CaseError: as `OpenKBP.read`; and when there is no possible-dose mask, or of fewer slices than are wanted.
        """
        patient, _, place = raw.case_id.rpartition("-")
        try:
            whole = self._whole.read(replace(raw, case_id=patient))
        except CaseError as error:
            raise CaseError(raw.case_id, error.reason) from error
        if POSSIBLE_DOSE_MASK not in whole.masks:
            raise CaseError(raw.case_id, f"{POSSIBLE_DOSE_MASK}.csv missing; slices are chosen by it")
        occupied = np.flatnonzero(whole.masks[POSSIBLE_DOSE_MASK].any(axis=(0, 1)))
        if len(occupied) < self.options.slices:
            raise CaseError(
                raw.case_id,
                f"{POSSIBLE_DOSE_MASK}.csv: dose is possible in {len(occupied)} slices, data.options.slices asks for "
                f"{self.options.slices}; ask for fewer",
            )
        index = int(occupied[int((int(place) + 0.5) * len(occupied) / self.options.slices)])
        return replace(
            whole,
            case_id=raw.case_id,
            spacing_mm=whole.spacing_mm[:2],
            images={name: _slice(image, index) for name, image in whole.images.items()},
            masks={name: _slice(mask, index) for name, mask in whole.masks.items()},
            doses={name: _slice(dose, index) for name, dose in whole.doses.items()},
            sha256=sha256_of_digests({"patient": whole.sha256, f"slice {index}": ""}),
        )

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients, see `OpenKBP.write_phantoms`."""
        self._whole.write_phantoms(output_dir, num_train, num_validation, seed, defects)


def _slice(volume: Any, index: int) -> Any:
    return np.ascontiguousarray(volume[:, :, index])
