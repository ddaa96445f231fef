"""Planning data as every clinic has it: a folder a patient with a CT series, an RTSTRUCT, an RTDOSE, maybe an RTPLAN.

Prostate by default; which structures there are, which of them are targets, and what a clinic calls them are settings
(`DicomConfig`), so that the same reader serves any site of the body. Patients become keyed hashes, see
`ctan.dicom.deidentify`. Raw layout: see `ctan.dicom.scan`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ctan import versions
from ctan.cases import CT, SPLIT_TRAIN, Augmentation, Case, DataSpec, Prediction, RawCase
from ctan.config import ValidationConfig
from ctan.datasets.base import Dataset, Expectation, between
from ctan.datasets.listing import File, files_below
from ctan.datasets.outputs import Asked, write_plain
from ctan.datasets.prostate.patients import Group, groups_of, same_id
from ctan.dicom.deidentify import Pseudonymiser, read_key
from ctan.dicom.names import RoiNames
from ctan.dicom.patient import read_planning
from ctan.dicom.scan import DicomFile, identity, read_header, scan
from ctan.dicom.settings import DicomConfig
from ctan.errors import CaseError, DataError
from ctan.tasks import DoseRegression, Segmentation

DEFAULT_PRESCRIPTION_GY = 78.0
_RARE = 0.2  # share of the structure sets


@dataclass(frozen=True)
class PlanningRawCase(RawCase):
    """A patient's folder and the files in it that belong to the case."""

    files: tuple[DicomFile, ...] = field(default=(), repr=False)


class Prostate(Dataset):
    """The reader and the tasks of planning data in DICOM-RT; see `ctan.datasets.base.Dataset`."""

    name = "prostate"
    version = 2
    looks_inside = True
    signs = ("*.dcm", "*/*.dcm", "*/*/*.dcm")
    to_train = ("CT", "RTSTRUCT", "RTDOSE")
    to_predict = ("CT",)
    Options = DicomConfig
    uses: ClassVar[Mapping[str, int]] = {"dicom": versions.DICOM}
    not_decisive = frozenset({"key_file"})  # other keys give other ids, which tell
    options: DicomConfig
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "preprocess": {"grid_shape": [48, 64, 48], "grid_spacing_mm": [5.0, 6.0, 5.0]},
            "network": {"num_stages": 3},
            "training": {"batch_size": 1},
        },
        "cpu": {"training": {"batch_size": 1}},
        "gpu": {"training": {"rotate_probability": 0.0}},
    }

    @cached_property
    def spec(self) -> DataSpec:
        """The structures, targets and mirrored pairs that the settings name; tasks are contouring and dose."""
        options = self.options
        organs = tuple(name for name in options.structures if name not in options.targets)
        pairs = options.mirrored_pairs
        return DataSpec(
            dataset=self.name,
            spatial_dims=3,
            image=CT,
            tasks=(Segmentation("contouring", organs, mirrored_pairs=pairs), DoseRegression("dose")),
            structures=(*organs, *options.targets),
            targets={
                name: options.levels_gy.get(name, options.prescription_gy or DEFAULT_PRESCRIPTION_GY)
                for name in options.targets
            },
            has_dose=True,
            facts={"prescription_gy": "float64"},
            mirrored_pairs=pairs,
            augmentation=Augmentation(flip_axes=(1,), left_right_axis=1),
            licence="your own data: de-identified here, still medical data of people; keep it inside your institution",
        )

    @property
    def pseudonyms(self) -> str:
        """The pseudonym of nobody, another one with every key."""
        return self._pseudonymiser().pseudonym("nobody")

    def find(self, raw_dir: Path) -> list[RawCase]:
        """List the cases of the patients, by pseudonym, whatever the folders are; see `prostate.patients`.

        Raises:
            DataError: when the folder is missing or holds no planning data, or there is no key.
        """
        pseudonymiser = self._pseudonymiser()
        groups = self._groups(raw_dir)
        if not groups:
            found = "the folder is empty" if raw_dir.is_dir() and not any(raw_dir.iterdir()) else "found none"
            raise DataError(
                f"{raw_dir}: no planning data, expected DICOM files (CT, RTSTRUCT or SEG, RTDOSE), in any folders; "
                f"{found}"
            )
        patients = [pseudonymiser.pseudonym(self._identity(group.files)[0]) for group in groups]
        repeated = {patient for patient, count in Counter(patients).items() if count > 1}
        cases: dict[str, RawCase] = {}
        for group, patient in zip(groups, patients, strict=True):
            case_id = f"{patient}-{_study(group.files, pseudonymiser)}" if patient in repeated else patient
            copies = sum(known == case_id or known.startswith(f"{case_id}-copy") for known in cases)
            case_id = f"{case_id}-copy{copies}" if copies else case_id
            cases[case_id] = PlanningRawCase(case_id, patient, "", group.path, group.files)
        return [cases[case_id] for case_id in sorted(cases)]

    def files(self, raw_dir: Path) -> Iterator[File]:
        """List all files: DICOM files may have any name."""
        return files_below(raw_dir, hidden=True)

    def is_read(self, path: Path) -> bool:
        """Say whether a file is of a kind that planning needs."""
        return read_header(path) is not None

    def remarks(self, raw_dir: Path) -> list[str]:
        """Say which patients have no ID of their own, and how many ROI names the name map does not know."""
        pseudonymiser, names = self._pseudonymiser(), RoiNames(self.options)
        groups = self._groups(raw_dir)
        remarks = []
        unnamed = [text for text, named in (self._identity(group.files) for group in groups) if text and not named]
        if unnamed and not self.options.ignore_patient_ids:
            listed = ", ".join(sorted({pseudonymiser.pseudonym(text) for text in unnamed})[:10])
            remarks.append(
                f"{len(unnamed)} of {len(groups)} cases have a blank or placeholder PatientID and are grouped by "
                f"FrameOfReferenceUID: two studies of one such patient may come into different splits ({listed})"
            )
        if not self.options.ignore_patient_ids and same_id(groups):
            remarks.append(
                f"all {len(groups)} cases have one PatientID, so that they are one patient to every split and a model "
                f"has no other to be judged on; where an anonymiser wrote one ID for everybody, set "
                f"data.options.ignore_patient_ids"
            )
        if left_out := sum(group.left_out for group in groups):
            remarks.append(f"{left_out} images of these patients belong to neither contours nor dose and are left out")
        structure_sets = [file for group in groups for file in group.files if file.kind in ("RTSTRUCT", "SEG")]
        roi_names = [name for file in structure_sets for name in file.roi_names]
        if unknown := sum(not names(name) for name in roi_names):
            remarks.append(
                f"{unknown} of {len(roi_names)} ROIs match no structure of data.options.structures and are left out; "
                f"ctan data names shows them"
            )
        with_structure = Counter(name for file in structure_sets for name in {names(roi) for roi in file.roi_names})
        for name in self.spec.structures:
            if 0 < (count := with_structure[name]) < _RARE * len(structure_sets):
                remarks.append(f"{name} is listed in {count} of {len(structure_sets)} structure sets only")
        return remarks

    def roi_names(self, raw_dir: Path) -> dict[str, tuple[int, str]]:
        """Return each ROI name as the clinic wrote it, how often it is there, and its structure (empty: none).

        For the eyes of the person who writes the expressions: a name may hold a person's, so it is to be in no log.
        """
        names = RoiNames(self.options)
        files = [file for group in self._groups(raw_dir) for file in group.files]
        found = Counter(name for file in files for name in file.roi_names)
        return {name: (count, names(name)) for name, count in sorted(found.items(), key=lambda one: (-one[1], one[0]))}

    def read(self, raw: RawCase) -> Case:
        """Read one patient, see `ctan.dicom.patient`.

        Raises:
            CaseError: naming the kind of file, what was expected and what was found.
        """
        files = _files_of(raw)
        pseudonymiser, kinds = self._pseudonymiser(), {"RTSTRUCT" if f.kind == "SEG" else f.kind for f in files}
        if "unreadable" not in kinds and (missing := self.missing(kinds)):
            raise CaseError(raw.case_id, f"no {', no '.join(missing)}; expected {', '.join(self.needed)}")
        try:
            planning = read_planning(files, pseudonymiser, self.options, to_predict=self.purpose == "predict")
        except DataError as error:
            raise CaseError(raw.case_id, str(error)) from None  # causes may quote values of the files
        except Exception as error:  # what no check foresaw costs its case, not the run
            raise CaseError(
                raw.case_id,
                f"cannot be read ({type(error).__name__}); a file is damaged in a way that is not known here",
            ) from None
        known = planning.prescription_gy is not None
        return Case(
            case_id=raw.case_id,
            group_id=raw.group_id,
            split=raw.split,
            spacing_mm=planning.spacing_mm,
            images={"ct": planning.ct},
            masks=planning.masks,
            doses={} if planning.dose is None else {"dose": planning.dose},
            sha256=planning.sha256,
            facts={"prescription_gy": float(planning.prescription_gy or 0)} if known else {},
            levels_gy=planning.levels_gy,
            covered=planning.covered,
            remarks=planning.remarks,
        )

    def parts(self, raw: RawCase) -> list[Path]:
        """List the patient's DICOM files."""
        return [file.path for file in _files_of(raw)]

    def write(self, raw: RawCase, case: Case, prediction: Prediction, asked: Asked, folder: Path) -> None:
        """Write a dose as RTDOSE and structures as RTSTRUCT, see `ctan.dicom.predicted`."""
        from ctan.dicom.predicted import DOSE_FILE, STRUCTURES_FILE, Identity, PlanningCt, write_dose, write_structures

        try:
            ct = PlanningCt.read(_files_of(raw))
        except DataError as error:
            raise CaseError(raw.case_id, str(error)) from None
        identity = Identity(asked.key, raw.group_id, asked.identified, asked.model)
        if "dose" in prediction.doses:
            write_dose(folder / DOSE_FILE, prediction.doses["dose"], ct, identity)
        if prediction.masks:
            write_structures(folder / STRUCTURES_FILE, prediction.masks, ct, identity)
        write_plain(case, replace(prediction, masks={}, doses={}), folder)

    def expectations(self, limits: ValidationConfig) -> list[Expectation]:
        """Return that the prescription is known and plausible, every target contoured and near its prescribed dose."""
        tolerance = limits.target_dose_tolerance
        found = [
            between(
                "prescription",
                "prescription_gy",
                1.0,
                limits.max_dose_gy,
                "Gy",
                f"Prescribed dose is between 1 and {limits.max_dose_gy:g} Gy",
            ),
            Expectation(
                "prescription-known",
                "The prescribed dose is known (RTPLAN or data.options.prescription_gy)",
                "",
                "ExpectColumnValuesToNotBeNull",
                {"column": "prescription_gy"},
            ),
        ]
        for name in self.spec.organs:
            arguments = {
                "column": f"voxels_{name}",
                "min_value": 0,
                "strict_min": True,
                "row_condition": f'split=="{SPLIT_TRAIN}"',
                "condition_parser": "pandas",
            }
            sentence = (
                f"{name} is contoured in at least one training case, else a network would never learn it (its names "
                f"or its entry in data.options.structures)"
            )
            kind = "ExpectColumnProportionOfNonNullValuesToBeBetween"
            found.append(Expectation(f"{name}-contoured", sentence, "", kind, arguments, about_cases=False))
        for name in self.spec.targets:
            present = Expectation(
                f"{name}-present",
                f"{name} is contoured",
                "",
                "ExpectColumnValuesToNotBeNull",
                {"column": f"voxels_{name}"},
            )
            found.append(present)
            sentence = (
                f"The prescribed dose of {name} is known: one level for all targets, a dose reference of the RTPLAN "
                f"that names its ROI, or data.options.levels_gy"
            )
            found.append(between(f"{name}-level", f"unknown_level_{name}", 0, 0, "unknown levels", sentence))
            sentence = f"Mean dose in {name}, beside higher targets, is within {tolerance:.0%} of its prescription"
            found.append(
                between(f"{name}-dose", f"dose_share_{name}", 1 - tolerance, 1 + tolerance, "of prescribed", sentence)
            )
        return found

    def write_phantoms(
        self, output_dir: Path, num_train: int, num_validation: int, seed: int, defects: Sequence[str] = ()
    ) -> None:
        """Write synthetic patients, see `ctan.datasets.prostate.write_phantom`."""
        from ctan.datasets.prostate.write_phantom import write_prostate_phantoms

        write_prostate_phantoms(output_dir, num_train, num_validation, seed, defects)

    def _groups(self, raw_dir: Path) -> list[Group]:
        return groups_of(raw_dir, by_id=not self.options.ignore_patient_ids)

    def _identity(self, files: Sequence[DicomFile]) -> tuple[str, bool]:
        return identity(files, by_id=not self.options.ignore_patient_ids)

    def _pseudonymiser(self) -> Pseudonymiser:
        return Pseudonymiser(read_key(self.options.key_file))


def _files_of(raw: RawCase) -> tuple[DicomFile, ...]:
    return raw.files if isinstance(raw, PlanningRawCase) else tuple(scan(files_below(raw.path, hidden=True)))


def _study(files: Sequence[DicomFile], pseudonymiser: Pseudonymiser) -> str:
    """Return a short keyed hash that tells the studies of one patient apart, whatever their files are called."""
    objects = sorted(file.instance for file in files if file.kind != "CT") or sorted(file.instance for file in files)
    return pseudonymiser.digest("study\0" + "\n".join(objects)).hex()[:6]
