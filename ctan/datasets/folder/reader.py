"""The data set `folder`: whatever images, masks and table a folder holds, as its description says.

The description comes with the source and is kept in the settings (`data.options.description`), so that every process
knows it; a folder whose description changed since is refused. Volumes become (posterior, left, inferior) whatever the
order in the file; an oblique volume keeps its own voxels, its axes are turned and reversed to the nearest ones of the
patient. Ids of cases and groups are used as they are: nothing here de-identifies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ctan import versions
from ctan.cases import SPLIT_TEST, Case, DataSpec, Prediction, RawCase
from ctan.datasets.base import Dataset
from ctan.datasets.folder.content import Content, read_content
from ctan.datasets.folder.description import FolderDescription
from ctan.datasets.folder.load import DESCRIPTION_FILE, load_description
from ctan.datasets.folder.nnunet import NNUNET_FILE
from ctan.datasets.folder.options import FolderOptions
from ctan.datasets.folder.predicting import image_files, images_to_predict, matches
from ctan.datasets.folder.table import Table, known_of, place_of, read_table, strata_of
from ctan.datasets.folder.write import write_like
from ctan.datasets.listing import files_below
from ctan.datasets.outputs import Asked, arrays_of
from ctan.errors import CaseError, ConfigError, DataError
from ctan.files import sha256_of_digests, sha256_of_json

_FEW = 5


class Folder(Dataset):
    """A folder that describes itself; see `ctan.datasets.base.Dataset`."""

    name = "folder"
    version = 1
    signs = (DESCRIPTION_FILE, NNUNET_FILE)
    uses: ClassVar[Mapping[str, int]] = {
        "metaimage": versions.METAIMAGE,
        "pictures": versions.PICTURES,
        "dicom": versions.DICOM,
    }
    to_train = ("images", "mask or row")
    to_predict = ("images",)
    reads_volumes = True
    masks_may_be_empty = True
    Options = FolderOptions
    options: FolderOptions

    @property
    def description(self) -> FolderDescription:
        """The description that the settings carry.

        Raises:
            ConfigError: when they carry none.
        """
        if self.options.description is None:
            raise ConfigError(
                "data.options.description: the data set 'folder' is described by its source, and none was given; "
                "give the folder (--source DIR) wherever the settings are made"
            )
        return self.options.description

    @property
    def spec(self) -> DataSpec:
        """The description of the data."""
        return self.description.spec()

    @property
    def profiles(self) -> Mapping[str, Mapping[str, Any]]:  # type: ignore[override]
        """What the description decides of every profile: a registered model of its own, any spacing of pictures."""
        values: dict[str, Any] = {"promotion": {"model_name": f"ctan-{self.description.name}"}}
        if self.description.image.is_picture:
            edges = self.description.image.spacing_mm
            values["validation"] = {"min_spacing_mm": min(0.5, *edges), "max_spacing_mm": max(10.0, *edges)}
        return {"*": values}

    @property
    def tables(self) -> tuple[str, ...]:  # type: ignore[override]
        """The description and the table, which people edit by hand."""
        table = self.description.table
        return (DESCRIPTION_FILE, NNUNET_FILE, *([table.file] if table else []))

    @classmethod
    def options_from(cls, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings with the description that a folder brings."""
        return {**options, "description": load_description(folder).model_dump(mode="json")}

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the cases that have an image. A mask or a row that is missing is unknown, or told by `read`.

        Raises:
            DataError: when the folder is missing, holds no image or no mask at all, or its description or table is
                damaged or not the one that the settings were made from.
        """
        if self.purpose == "predict":
            return images_to_predict(raw_dir, self.description)
        if not raw_dir.is_dir():
            raise DataError(f"{raw_dir}: the folder does not exist")
        if load_description(raw_dir) != self.description:
            raise DataError(f"{raw_dir}: {DESCRIPTION_FILE} changed since the settings were made; start the run again")
        table = read_table(raw_dir, self.description, self.config.reading)
        cases = self._cases(raw_dir, table)
        self._check_groups(cases)
        if table is not None and not any(case.case_id in table.rows for case in cases):
            raise DataError(
                f"{table.name}: no row belongs to an image; images are {_few([c.case_id for c in cases])}, "
                f"rows are {_few(list(table.rows))}"
            )
        if patterns := self._mask_patterns():
            ids = {case.case_id for case in cases}
            if not any(set(matches(raw_dir, pattern)) & ids for pattern in patterns):
                raise DataError(f"{raw_dir}: not one image has a mask; expected {', '.join(patterns)}")
        return cases

    def _mask_patterns(self) -> list[str]:
        described = self.description
        return [*([described.label_map.file] if described.label_map else []), *described.masks.values()]

    def _cases(self, raw_dir: Path, table: Table | None) -> list[RawCase]:
        described = self.description
        parts = [(described.image.files[0], "")]
        if described.test:
            parts.append((described.test.files[0], SPLIT_TEST))
        found: dict[str, RawCase] = {}
        for pattern, split in parts:
            for case_id, path in matches(raw_dir, pattern).items():
                if case_id in found:
                    raise DataError(f"{pattern}: {case_id} is a case of {described.image.files[0]} too")
                group, told = case_id, ""
                if table is not None and described.table is not None:
                    group, told = place_of(table, described.table, case_id)
                strata = strata_of(table, described, case_id)
                found[case_id] = RawCase(case_id, group, split or told, path, strata=strata)
        if not found:
            raise DataError(f"{raw_dir}: no images, expected {', '.join(pattern for pattern, _ in parts)}; found none")
        return list(found.values())

    def _check_groups(self, cases: Sequence[RawCase]) -> None:
        """Raise when the official split tears a group apart."""
        splits: dict[str, set[str]] = {}
        for case in cases:
            splits.setdefault(case.group_id, set()).add(case.split)
        if torn := sorted(group for group, of_group in splits.items() if len(of_group) > 1):
            raise DataError(
                f"{len(torn)} groups have cases in several splits ({_few(torn)}); give all cases of a group the same"
            )

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say what was left out, what is not known, and what the settings allow."""
        described = self.description
        cases = self.find(raw_dir)
        ids = {case.case_id for case in cases if case.split != SPLIT_TEST or described.test is None}
        said = list(described.notes)
        for pattern in self._mask_patterns():
            there = set(matches(raw_dir, pattern))
            if spare := sorted(there - ids):
                said.append(f"{pattern}: {len(spare)} files without an image are left out ({_few(spare)})")
            if missing := sorted(ids - there):
                said.append(f"{pattern}: {len(missing)} of {len(ids)} cases have no file, unknown ({_few(missing)})")
        if (table := read_table(raw_dir, described, self.config.reading)) is not None:
            known = {case.case_id for case in cases}
            if spare := [case_id for case_id in table.rows if case_id not in known]:
                said.append(f"{table.name}: {len(spare)} rows without an image are left out ({_few(spare)})")
            if missing := sorted(known - set(table.rows)):
                said.append(f"{table.name}: {len(missing)} images have no row ({_few(missing)})")
        if self.options.geometry_tolerance_mm:
            said.append(f"masks may lie up to {self.options.geometry_tolerance_mm:g} mm off (geometry_tolerance_mm)")
        if self.options.nifti_matrix != "refuse":
            said.append(f"where qform and sform differ the {self.options.nifti_matrix} counts (nifti_matrix)")
        return said

    def read(self, raw: RawCase) -> Case:
        """Read one case: its channels, masks and row.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        try:
            return self._read(raw)
        except DataError as error:
            raise CaseError(raw.case_id, str(error)) from error

    def _read(self, raw: RawCase) -> Case:
        described = self.description
        if self.purpose == "predict":
            return self._image_alone(raw)
        is_test = raw.split == SPLIT_TEST and described.test is not None
        files = described.test.files if is_test and described.test else described.image.files
        root = raw.path.parents[len(PurePosixPath(files[0]).parts) - 1]
        label_map = described.label_map.file if described.label_map else ""
        if is_test and described.test:
            label_map = described.test.label_map
        content: Content = read_content(
            root, raw.case_id, files, label_map, described, self.options, self.config.reading
        )
        digests = dict(content.digests)
        known = None
        if (table := read_table(root, described, self.config.reading)) is not None:
            known = known_of(table, described, raw.case_id)
            digests["row"] = sha256_of_json(known.text)
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=content.spacing_mm,
            images={described.image.spec().name: content.image},
            masks=content.masks,
            doses={},
            sha256=sha256_of_digests(digests),
            labels=known.labels if known else {},
            numbers=known.numbers if known else {},
            facts=known.facts if known else {},
            remarks=content.remarks,
        )

    def _image_alone(self, raw: RawCase) -> Case:
        described = self.description
        root, files = image_files(raw, described)
        content = read_content(root, raw.case_id, files, "", described, self.options, self.config.reading, False)
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=content.spacing_mm,
            images={described.image.spec().name: content.image},
            masks={},
            doses={},
            sha256=sha256_of_digests(content.digests),
            remarks=content.remarks,
        )

    def parts(self, raw: RawCase) -> list[Path]:
        """List the files of the image."""
        root, files = image_files(raw, self.description)
        paths = [root / name for name in files]
        return [Path(f) for path in paths for f in (files_below(path) if path.is_dir() else [path])]

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write structures and maps in the format of the image, on its grid; pictures as PNG."""
        if self.description.image.is_picture:
            super().write(raw, case, prediction, asked, folder)
            return
        root, files = image_files(raw, self.description)
        options = self.options
        try:
            write_like(root / files[0], arrays_of(prediction), folder, options.nifti_matrix, self.config.reading)
        except DataError as error:
            raise CaseError(raw.case_id, f"{files[0]}: {error}") from error

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients with their description, see `ctan.datasets.folder.phantom`."""
        from ctan.datasets.folder.phantom import write_folder_phantoms

        write_folder_phantoms(output_dir, num_train, num_validation, seed, defects)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


__all__ = ["Folder"]
