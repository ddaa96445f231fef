"""Plain volumes to predict with a model of any data set of volumes: NIfTI, NRRD or MetaImage without a layout.

A case is a file, `<case>.nii.gz`. A structure that the model is shown lies beside it as `<case>.<structure>.nii.gz`,
0 and one other value, on the same grid; where dose is possible as `<case>.possible_dose_mask.nii.gz`. CT is in HU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, Case, DataSpec, Prediction, RawCase
from ctan.cases.volumes import judged_ct_numbers, signs_of_wrong_ct_numbers, stored_ct, to_case_axes
from ctan.config import DataConfig
from ctan.datasets.base import Dataset
from ctan.datasets.folder.grid import Volume, difference
from ctan.datasets.folder.volumes import read_volume
from ctan.datasets.folder.write import write_like
from ctan.datasets.listing import files_of_kind, ids_of
from ctan.datasets.outputs import Asked, arrays_of
from ctan.errors import CaseError, DataError
from ctan.files import sha256_of_digests

_NIFTI = (".nii.gz", ".nii", ".nrrd")
_ENDINGS = (*_NIFTI, ".mha")
_DIMS_OF_VOLUME = 3


def are_plain_volumes(path: Path, dataset: Dataset, spec: DataSpec) -> bool:
    """Say whether files at a path are volumes without the layout of a data set, whose own reader does not take them.

    Args:
        path: a file or a folder.
        dataset: whose model is asked.
        spec: of the model.
    """
    if spec.spatial_dims != _DIMS_OF_VOLUME or spec.image.num_channels > 1 or dataset.reads_volumes:
        return False
    return bool(files_of_kind(path, _NIFTI)) or (path.is_file() and path.name.lower().endswith(_ENDINGS[-1]))


class PlainVolumes(Dataset):
    """Volumes without a layout, read as the description of a model says; see `ctan.datasets.base.Dataset`.

    Args:
        spec: of the model.
        config: settings that its data were read with.
    """

    name = "plain volumes"
    to_predict = ("image",)

    def __init__(self, spec: DataSpec, config: DataConfig) -> None:
        super().__init__(DataConfig(reading=config.reading), "predict")
        self._spec = spec
        self._matrices = config.options.get("nifti_matrix", "refuse")
        prescribed = config.options.get("prescription_gy")  # of data sets whose settings may give it for all cases
        asked = "prescription_gy" in spec.facts
        self._facts: dict[str, str | float] = {"prescription_gy": float(prescribed)} if prescribed and asked else {}

    @property
    def spec(self) -> DataSpec:
        """The description of the model's data."""
        return self._spec

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the images, at any depth, or the one that was given; files of structures are none.

        Raises:
            DataError: when there is none.
        """
        paths = [path for path in files_of_kind(raw_dir, _ENDINGS) if not self._is_structure(path)]
        if not paths:
            raise DataError(f"{raw_dir}: no volumes to predict, expected {', '.join(_ENDINGS)} files; found none")
        ids = ids_of(paths, raw_dir.parent if raw_dir.is_file() else raw_dir, _ENDINGS)
        return [RawCase(case_id, case_id, "", path) for case_id, path in zip(ids, paths, strict=True)]

    def parts(self, raw: RawCase) -> list[Path]:
        """List the image and the structures beside it."""
        return [raw.path, *self._structures(raw.path).values()]

    def read(self, raw: RawCase) -> Case:
        """Read one image and the structures beside it.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        image = self._volume(raw, raw.path)
        digests, masks = {"image": image.sha256}, {}
        for name, path in self._structures(raw.path).items():
            volume = self._volume(raw, path)
            if off := difference(image.grid, volume.grid):
                raise CaseError(raw.case_id, f"{path.name}: does not lie on its image: {off}; resample it")
            values = np.unique(volume.values)
            if np.count_nonzero(values) > 1:
                raise CaseError(
                    raw.case_id, f"{path.name}: expected 0 and one other value, found {values[:5].tolist()}"
                )
            masks[name], _ = to_case_axes(volume.grid.image((volume.values != 0).astype(np.uint8)))
            digests[name] = volume.sha256
        values, spacing_mm = to_case_axes(image.grid.image(image.values))
        masks = {name: mask.astype(bool) for name, mask in masks.items()}
        try:
            return self.case_of(raw, values, spacing_mm, masks, sha256_of_digests(digests))
        except DataError as error:
            raise CaseError(raw.case_id, f"{raw.path.name}: {error}") from error

    def case_of(
        self,
        raw: RawCase,
        values: npt.NDArray[Any],
        spacing_mm: tuple[float, ...],
        masks: Mapping[str, npt.NDArray[np.bool_]],
        sha256: str,
        prescription_gy: float | None = None,
    ) -> Case:
        """Return a case of arrays that were read already.

        Args:
            raw: names the case.
            values: of the image on the axes of `Case`; CT in HU.
            spacing_mm: edges of a voxel.
            masks: of structures, by name.
            sha256: of what was read.
            prescription_gy: the highest prescribed dose; None: as the settings say, if they do.

        Raises:
            DataError: when the values are none that the model can have learned from.
        """
        stored, remarks = self._stored(values)
        given = {} if prescription_gy is None else {"prescription_gy": float(prescription_gy)}
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=spacing_mm,
            images={self._spec.image.name: stored},
            masks=masks,
            doses={},
            sha256=sha256,
            facts=self._facts | given,
            remarks=remarks,
        )

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write structures, dose and maps in the format of the image, on its grid."""
        del case, asked
        try:
            write_like(raw.path, arrays_of(prediction), folder, self._matrices, self.config.reading)
        except DataError as error:
            raise CaseError(raw.case_id, f"{raw.path.name}: {error}") from error

    def _is_structure(self, path: Path) -> bool:
        stem = path.name[: -len(next(end for end in _ENDINGS if path.name.lower().endswith(end)))]
        return any(stem.endswith(f".{name}") for name in (*self._spec.structures, POSSIBLE_DOSE_MASK))

    def _structures(self, image: Path) -> dict[str, Path]:
        """Return the files of structures that lie beside an image."""
        ending = next(end for end in _ENDINGS if image.name.lower().endswith(end))
        stem = image.name[: -len(ending)]
        beside = {
            name: image.with_name(f"{stem}.{name}{image.name[len(stem) :]}")
            for name in (*self._spec.structures, POSSIBLE_DOSE_MASK)
        }
        return {name: path for name, path in beside.items() if path.is_file()}

    def _volume(self, raw: RawCase, path: Path) -> Volume:
        try:
            return read_volume(path, self._matrices, self.config.reading)
        except DataError as error:
            raise CaseError(raw.case_id, f"{path.name}: {error}") from error

    def _stored(self, values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
        """Return an image in the type it is kept in, and remarks."""
        if self._spec.image.modality == "ct":
            return stored_ct(values), judged_ct_numbers(signs_of_wrong_ct_numbers(values))
        dtype = np.dtype(self._spec.image.dtype)
        if dtype.kind == "f":
            return values.astype(dtype), ()
        limits = np.iinfo(dtype)
        low, high = float(values.min()), float(values.max())
        if low < limits.min or high > limits.max or np.any(values != np.rint(values)):
            raise DataError(
                f"values from {low:g} to {high:g}, the model learned from whole numbers, {limits.min} to {limits.max}"
            )
        return values.astype(dtype), ()
