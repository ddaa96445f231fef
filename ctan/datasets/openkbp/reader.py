"""OpenKBP: head-and-neck planning CT, contours and dose as sparse CSV files.

Raw layout: `{train-pats,validation-pats,test-pats}/pt_<n>/*.csv`, every array 128 x 128 x 128 in C order, axes
(posterior, left, inferior). A file has the header `,data` and rows `flat index,value`; the value of a mask is empty.
`voxel_dimensions.csv` holds three numbers in mm, without header or index.
Source: Babier et al., "OpenKBP: The open-access knowledge-based planning grand challenge and dataset" (2021).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ctan.cases import CT, POSSIBLE_DOSE_MASK, Augmentation, Case, DataSpec, Prediction, RawCase
from ctan.cases.volumes import HU_OFFSET, judged_ct_numbers, signs_of_wrong_ct_numbers
from ctan.config import ReadingConfig, ValidationConfig
from ctan.datasets.base import Dataset, Expectation, between
from ctan.datasets.listing import File, files_below, files_in, ids_of
from ctan.datasets.openkbp.format import ORGANS, SHAPE, SPLIT_FOLDERS, TARGETS
from ctan.datasets.outputs import Asked, Record, write_plain
from ctan.errors import CaseError, ConfigError, DataError
from ctan.files import sha256_of_digests
from ctan.reading import is_plain_id, is_sane_spacing, plain_number, printable, read_bytes
from ctan.tasks import DoseRegression, Segmentation

_CT, _DOSE, _SPACING = "ct", "dose", "voxel_dimensions"
_VALUES = (_CT, _DOSE, POSSIBLE_DOSE_MASK, _SPACING)  # files that are no structure
_PAIRS = (("LeftParotid", "RightParotid"),)
_MAX_CT = 4095
_NUM_VOXELS = SHAPE[0] * SHAPE[1] * SHAPE[2]
_MAX_FILE_BYTES = 64 * _NUM_VOXELS  # an index, a value with all its digits, line ends

# Limits of organs: RTOG H-0225; 95 % of a target receive 95 % of its prescription (ICRU 50).
_GOALS = [
    "Brainstem D0.1cc < 54 Gy",
    "SpinalCord D0.1cc < 45 Gy",
    "RightParotid Dmean < 26 Gy",
    "LeftParotid Dmean < 26 Gy",
    "Mandible D1cc < 75 Gy",
    "PTV70 D95% > 66.5 Gy",
    "PTV63 D95% > 59.85 Gy",
    "PTV56 D95% > 53.2 Gy",
]


class OpenKBP(Dataset):
    """The reader and the tasks of OpenKBP; see `ctan.datasets.base.Dataset`."""

    name = "openkbp"
    version = 1
    signs = ("*-pats/pt_*/ct.csv", "provided-data/*-pats/pt_*/ct.csv")
    to_train = ("ct.csv", "dose.csv", f"{POSSIBLE_DOSE_MASK}.csv", "voxel_dimensions.csv")
    to_predict = ("ct.csv", "voxel_dimensions.csv")
    spec = DataSpec(
        dataset="openkbp",
        spatial_dims=3,
        image=CT,
        tasks=(Segmentation("contouring", ORGANS, mirrored_pairs=_PAIRS), DoseRegression("dose")),
        structures=(*ORGANS, *TARGETS),
        targets=TARGETS,
        has_dose=True,
        mirrored_pairs=_PAIRS,
        augmentation=Augmentation(
            flip_axes=(1,), left_right_axis=1, rotate_plane=(0, 1), rotate_step_degrees=40
        ),  # nine equispaced beams
        licence="OpenKBP, A. Babier et al., Medical Physics 48 (2021); MIT",
    )

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "*": {"evaluation": {"clinical_goals": _GOALS}},
        "smoke": {
            "preprocess": {"grid_shape": [48, 64, 48], "grid_spacing_mm": [4.0, 4.0, 4.0]},
            "network": {"num_stages": 3},
            "training": {"batch_size": 1},
        },
        "cpu": {
            "preprocess": {"grid_shape": [96, 128, 128], "grid_spacing_mm": None},
            "network": {"num_stages": 5},
            "training": {"batch_size": 1},
        },
        "gpu": {
            "preprocess": {"grid_shape": [96, 128, 128], "grid_spacing_mm": None},
            "network": {"num_stages": 6},
            "training": {"batch_size": 2},
        },
        "gpu-short": {"network": {"num_stages": 5}},
    }

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the patients of a folder by split and number; the folder may also be the one above `provided-data`.

        Raises:
            DataError: when the folder is missing or holds no patient.
        """
        if self.purpose == "predict":
            return _anywhere(raw_dir)
        cases = [RawCase(item.name, item.name, split, Path(item)) for item, split in _patients(raw_dir)]
        if not cases:
            expected = ", ".join(f"{folder}/pt_<n>/ct.csv" for folder in SPLIT_FOLDERS)
            found = "the folder is empty" if raw_dir.is_dir() and not any(raw_dir.iterdir()) else "found none"
            raise DataError(f"{raw_dir}: no OpenKBP patients, expected {expected}; {found}")
        order = list(SPLIT_FOLDERS.values())
        return sorted(cases, key=lambda case: (order.index(case.split), int(case.case_id.removeprefix("pt_"))))

    def files(self, raw_dir: Path) -> Iterator[File]:
        """List the patients' CSV files."""
        for folder, _ in _patients(raw_dir):
            yield from files_in(folder, ".csv")

    def read(self, raw: RawCase) -> Case:
        """Read one patient: CT (clipped to 0..4095), dose in Gy, contours, possible-dose mask, spacing.

        Raises:
            CaseError: naming the file, what was expected and what was found.
        """
        contents = _read_files(raw, self.config.reading)
        if missing := self.missing([f"{name}.csv" for name in contents]):
            raise CaseError(raw.case_id, f"{', '.join(missing)} missing; every patient needs them")
        known = {*_VALUES, *self.spec.structures}
        unknown = [f"{printable(name)}.csv" for name in contents if name not in known]
        if unknown:
            raise CaseError(
                raw.case_id, f"{', '.join(unknown)}: unknown structure; known: {', '.join(self.spec.structures)}"
            )
        from ctan.datasets.openkbp.sparse_csv import read_mask, read_values  # only readers pay for Arrow

        masks = {
            name: _parsed(raw.case_id, name, partial(read_mask, contents[name], _NUM_VOXELS))
            for name in (*self.spec.structures, POSSIBLE_DOSE_MASK)
            if name in contents
        }
        ct = _parsed(raw.case_id, "ct", lambda: read_values(contents["ct"], _NUM_VOXELS, np.uint16, 0, _MAX_CT))
        try:
            remarks = judged_ct_numbers(signs_of_wrong_ct_numbers(ct - np.float32(HU_OFFSET)))
        except DataError as error:
            raise CaseError(raw.case_id, f"ct.csv: {error}") from error
        doses = {}
        if "dose.csv" in self.needed:
            dose = _parsed(raw.case_id, _DOSE, lambda: read_values(contents[_DOSE], _NUM_VOXELS, np.float32))
            if dose.min() < 0:
                raise CaseError(raw.case_id, f"dose.csv: negative dose {dose.min():.3f} Gy")
            doses[_DOSE] = dose
        digests = {f"{name}.csv": hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=_read_spacing(raw.case_id, contents["voxel_dimensions"]),
            images={"ct": ct},
            masks=masks,
            doses=doses,
            sha256=sha256_of_digests(digests),
            remarks=remarks,
        )

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write the dose as the challenge takes it, `<patient>.csv`, and structures as the contours of the data set."""
        from ctan.datasets.openkbp.write import write_prediction

        del asked
        write_prediction(raw.case_id, prediction, folder)
        write_plain(case, replace(prediction, masks={}, doses={}), folder)

    def gather(self, records: Sequence[Record], folder: Path) -> None:
        """Put the doses of all patients into one folder, what is packed and sent to the challenge."""
        from ctan.datasets.openkbp.write import write_submission

        write_submission([str(record["case_id"]) for record in records], folder)
        super().gather(records, folder)

    def remarks(self, raw_dir: Path) -> list[str]:
        """Name the folders that look like patients and have no number; every patient speaks for itself."""
        paths = [path for folder in SPLIT_FOLDERS for path in _root(raw_dir).glob(f"{folder}/pt_*") if path.is_dir()]
        odd = sorted(printable(path.name) for path in paths if not is_plain_id(path.name, "pt_"))
        names = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        return [f"folders that are not called pt_<n> and are left out: {len(odd)} ({names})"] if odd else []

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return that PTV70 is contoured and that mean doses in targets are near their prescriptions."""
        main_target = max(TARGETS, key=lambda name: TARGETS[name])
        found = [
            Expectation(
                f"{main_target}-present",
                f"{main_target} is contoured",
                "",
                "ExpectColumnValuesToNotBeNull",
                {"column": f"voxels_{main_target}"},
            )
        ]
        for name, level_gy in TARGETS.items():
            low, high = (level_gy * (1 + sign * limits.target_dose_tolerance) for sign in (-1, 1))
            sentence = (
                f"Mean dose in {name} is within {limits.target_dose_tolerance:.0%} of its prescription {level_gy:g} Gy"
            )
            found.append(between(f"{name}-dose", f"dose_mean_gy_{name}", round(low, 3), round(high, 3), "Gy", sentence))
        return found

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients, see `ctan.datasets.openkbp.phantom`."""
        from ctan.datasets.openkbp.phantom import write_openkbp_phantoms

        if defects:
            raise ConfigError(f"defects: OpenKBP's phantoms have none to plant, found {', '.join(defects)}")
        write_openkbp_phantoms(output_dir, num_train, num_validation, seed)


def _anywhere(raw_dir: Path) -> list[RawCase]:
    """List the patients to predict: folders with a `ct.csv` at any depth, or the folder itself."""
    folders = sorted(Path(file).parent for file in files_below(raw_dir) if file.name == f"{_CT}.csv")
    if not folders:
        raise DataError(f"{raw_dir}: no patient, expected a folder with ct.csv, or folders with one; found none")
    return [RawCase(name, name, "", path) for path, name in zip(folders, ids_of(folders, raw_dir), strict=True)]


def _root(raw_dir: Path) -> Path:
    return raw_dir / "provided-data" if (raw_dir / "provided-data").is_dir() else raw_dir


def _patients(raw_dir: Path) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield the patients' folders and the split of each."""
    for folder, split in SPLIT_FOLDERS.items():
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(_root(raw_dir) / folder) as entries:
            yield from ((item, split) for item in entries if is_plain_id(item.name, "pt_") and item.is_dir())


def _read_files(raw: RawCase, limits: ReadingConfig) -> dict[str, bytes]:
    """Return the bytes of every CSV file by its name; a Mac leaves files such as `._ct.csv` beside the real ones."""
    contents = {}
    for path in sorted(raw.path.glob("*.csv")):
        if path.name.startswith("."):
            continue
        try:
            contents[path.stem] = read_bytes(path, limits, _MAX_FILE_BYTES)
        except DataError as error:
            raise CaseError(raw.case_id, f"{printable(path.name)}: {error}") from error
    return contents


def _parsed(case_id: str, name: str, read: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return what `read` returns in the grid's shape; name case and file in its errors."""
    try:
        return read().reshape(SHAPE)
    except DataError as error:
        raise CaseError(case_id, f"{name}.csv: {error}") from error


def _read_spacing(case_id: str, content: bytes) -> tuple[float, float, float]:
    """Return the voxel edges in mm, in the order of the axes."""
    text = " ".join(content.decode("ascii", "backslashreplace").split())
    edges = [plain_number(word) for word in text.split()]
    if len(edges) != 3 or not is_sane_spacing(edges):
        raise CaseError(case_id, f"voxel_dimensions.csv: expected three positive numbers in mm, found {text[:80]!r}")
    return edges[0], edges[1], edges[2]
