"""Planning data in the raw format of OpenKBP, so that one's own DICOM runs through everything made for the challenge.

Each patient is brought to OpenKBP's 128 x 128 x 128 grid: cropped and padded where the patient fits with the voxels as
they are, else resampled to the smallest voxels that hold the patient. As in OpenKBP the CT is 0 outside the patient,
the targets do not overlap, and the possible-dose mask is where dose is known: a target must lie in it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctan.cases import POSSIBLE_DOSE_MASK, SPLIT_TRAIN, Case, RawCase
from ctan.cases.geometry import Geometry, dose_to_working, masks_to_working, place, to_working
from ctan.cases.volumes import HU_OFFSET
from ctan.config import ValidationConfig
from ctan.datasets.base import Dataset
from ctan.datasets.openkbp.format import ORGANS, SHAPE, SPLIT_FOLDERS, TARGETS
from ctan.datasets.openkbp.write import OpenKBPPatient, write_patient
from ctan.errors import CaseError, ConfigError, DataError
from ctan.files import atomic_path, write_text

MAPPING_FILE = "mapping.csv"
_MAPPING_COLUMNS = ("split", "patient", "case_id", "group_id")
_RESERVED = ("ct", "dose", POSSIBLE_DOSE_MASK, "voxel_dimensions")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*")
_ROUNDING = 1e-6

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion wrote and what it left out.

    Attributes:
        patients: written patient (`pt_<n>`) -> case id.
        skipped: (case id, reason) of every case that was not written.
        remarks: what a person should know before using the files, a sentence each.
    """

    patients: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{_patients(len(self.patients))} converted, {len(self.skipped)} skipped"]
        lines += [f"skipped {case_id}: {reason}" for case_id, reason in self.skipped]
        return "\n".join([*lines, *self.remarks])


def parse_names(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """Return `["PTV=PTV70"]` as `{"PTV": "PTV70"}`.

    Raises:
        ConfigError: naming the option and the pair that is not understood or comes twice.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (text.strip() for text in pair.partition("="))
        if not equals or not old:
            raise ConfigError(f"{option}: cannot read {pair!r}; expected NAME=NEW, such as PTV=PTV70")
        if old in names:
            raise ConfigError(f"{option}: {old} is given twice, {names[old]!r} and {new!r}")
        names[old] = new
    return names


def read_cases(raw_cases: Iterable[RawCase], dataset: Dataset) -> Iterator[Case | CaseError]:
    """Yield each case, or why it cannot be read."""
    for raw in raw_cases:
        try:
            yield dataset.read(raw)
        except CaseError as error:
            yield error


def convert_to_openkbp(
    source_cases: Iterable[Case | CaseError],
    dataset: Dataset,
    output_dir: Path,
    structure_names: Mapping[str, str],
    target_levels: Mapping[str, str],
    split: str = SPLIT_TRAIN,
    scale_to_gy: float | None = None,
) -> ConversionSummary:
    """Write cases as OpenKBP patients, a folder each that appears whole or not at all, and `mapping.csv`.

    Patients are numbered in the order of the cases (`Dataset.find` lists them by case id), from 1, or from where
    another split in `output_dir` ends: as in OpenKBP no number is in two splits.

    Args:
        source_cases: cases, or why one cannot be read, see `read_cases`; taken one at a time.
        dataset: which the cases are of; it has doses.
        output_dir: receives `{train-pats,validation-pats,test-pats}/pt_<n>/*.csv` and `mapping.csv`, which lists each
            patient's case id and group id: pseudonyms, as far as the data set gives them.
        structure_names: structure -> name of its file; empty: left out. Others keep their name.
        target_levels: structure -> PTV70, PTV63 or PTV56.
        split: `"train"`, `"validation"` or `"test"`.
        scale_to_gy: scale each case's dose so that its prescription becomes this; None: doses stay as they are.

    Raises:
        ConfigError: for names, a split or a data set that cannot be meant.
        DataError: when the split's folder exists already, or no case could be converted.
    """
    names = _new_names(dataset, structure_names, target_levels)
    folder = _new_folder(output_dir, split)
    rows = _read_mapping(output_dir)
    earlier = {row["case_id"]: f"{row['split']} as {row['patient']}" for row in rows}
    first = 1 + max((_number_of(path) for path in output_dir.glob("*-pats/pt_*")), default=0)
    patients: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []
    notes = _Notes()
    for case in source_cases:
        try:
            if isinstance(case, CaseError):
                raise case
            if case.case_id in earlier:
                raise CaseError(case.case_id, f"is in {earlier[case.case_id]} already")
            converted = to_openkbp(case, names, dose_factor(case, dataset, scale_to_gy))
        except CaseError as error:
            skipped.append((error.case_id, error.reason))
            continue
        patient = f"pt_{first + len(patients)}"
        with atomic_path(folder / patient) as beside:
            beside.mkdir()
            write_patient(converted, beside)
        patients[patient] = case.case_id
        rows.append(dict(zip(_MAPPING_COLUMNS, (split, patient, case.case_id, case.group_id), strict=True)))
        _write_mapping(rows, output_dir / MAPPING_FILE)  # after each: it is whole whenever this is stopped
        notes.add(patient, case, converted, names)
    if not patients:
        reasons = "; ".join(f"{case_id}: {reason}" for case_id, reason in skipped[:5])
        raise DataError(f"none of {len(skipped)} cases can be converted{': ' * bool(reasons)}{reasons}")
    return ConversionSummary(patients, tuple(skipped), (*notes.sentences(), *_grouped(rows)))


def to_openkbp(case: Case, names: Mapping[str, str], factor: float = 1.0) -> OpenKBPPatient:
    """Bring one case to OpenKBP's grid. CT is averaged, masks cover at least half a voxel, dose keeps its rim bright.

    Args:
        case: with CT, dose and possible-dose mask.
        names: structure -> name of its file; structures without one are left out.
        factor: that doses are multiplied by.

    Raises:
        CaseError: when dose or possible-dose mask is missing or empty, or no target is contoured.
    """
    ct, dose, possible = case.images.get("ct"), case.doses.get("dose"), case.masks.get(POSSIBLE_DOSE_MASK)
    if ct is None or dose is None or possible is None or not possible.any():
        raise CaseError(case.case_id, "no dose; OpenKBP's form needs a CT, a dose and where dose is possible")
    contoured = {new: case.masks[old] for old, new in names.items() if old in case.masks and case.masks[old].any()}
    if not any(new in TARGETS for new in contoured):
        targets = ", ".join(old for old, new in names.items() if new in TARGETS)
        raise CaseError(case.case_id, f"no target is contoured ({targets}); without one a dose cannot be predicted")
    for name in TARGETS:
        if name in contoured and (unknown := np.count_nonzero(contoured[name] & ~case.dose_known)):
            share = unknown / np.count_nonzero(contoured[name])
            raise CaseError(
                case.case_id,
                f"the dose of {share:.1%} of {name} is not known, which OpenKBP's form cannot say; export a dose grid "
                f"that covers the target",
            )
    possible = possible & case.dose_known
    patient = _body(case.case_id, ct) | possible
    geometry = openkbp_grid(np.any([patient, *contoured.values()], axis=0), possible, case.spacing_mm)

    def on_grid(mask: Mask) -> Mask:
        return masks_to_working(mask[None], geometry)[0]

    possible_there = on_grid(possible)
    gray = factor * dose_to_working(dose, possible, geometry)[0].astype(np.float64) * possible_there
    value = np.rint(to_working(ct, geometry)) * (on_grid(patient) | possible_there)
    masks = _disjoint_targets({new: on_grid(mask) for new, mask in contoured.items()})
    return OpenKBPPatient(
        corner=(0, 0, 0),
        spacing_mm=(geometry.spacing_mm[0], geometry.spacing_mm[1], geometry.spacing_mm[2]),
        ct=value.astype(np.int64),
        dose_mgy=np.rint(1000 * gray).astype(np.int64),
        masks={**{new: mask for new, mask in masks.items() if mask.any()}, POSSIBLE_DOSE_MASK: possible_there},
    )


def openkbp_grid(patient: Mask, possible: Mask, native_spacing_mm: tuple[float, ...]) -> Geometry:
    """Return a grid of 128 x 128 x 128 that holds the patient, with the smallest voxels not below the native ones.

    Where the patient fits, voxels stay as they are. In plane both edges grow together, to whole micrometres, as
    OpenKBP gives them.

    Args:
        patient: (D, H, W) what must lie on the grid.
        possible: (D, H, W) possible-dose mask, part of it.
        native_spacing_mm: voxel edges.
    """
    needed = []
    for axis, edge in enumerate(native_spacing_mm):
        taken = np.flatnonzero(patient.any(axis=tuple(other for other in range(3) if other != axis)))
        needed.append((int(taken[-1]) + 1 - int(taken[0])) * edge / SHAPE[axis])
    spacing = list(native_spacing_mm)
    for axes in ((0, 1), (2,)):
        if any(needed[axis] > native_spacing_mm[axis] * (1 + _ROUNDING) for axis in axes):
            edge = max(max(needed[axis], native_spacing_mm[axis]) for axis in axes)
            for axis in axes:
                spacing[axis] = math.ceil(1000 * edge - _ROUNDING) / 1000
    geometry = place(patient, possible, native_spacing_mm, SHAPE, tuple(spacing))
    # along an axis whose voxels stay as they are, the grids coincide: nothing is blurred there
    same = [new == native for new, native in zip(spacing, native_spacing_mm, strict=True)]
    corner = (math.floor(at) if kept else at for at, kept in zip(geometry.corner, same, strict=True))
    return replace(geometry, corner=tuple(float(at) for at in corner))


def dose_factor(case: Case, dataset: Dataset, scale_to_gy: float | None) -> float:
    """Return what a case's doses are multiplied by so that its prescription becomes `scale_to_gy`; None: 1.

    Raises:
        CaseError: when the prescription is not known; nothing is guessed.
    """
    if scale_to_gy is None:
        return 1.0
    if "prescription_gy" not in dataset.spec.facts:
        return scale_to_gy / max(dataset.spec.targets.values())
    if "prescription_gy" not in case.facts:
        raise CaseError(
            case.case_id,
            "the prescribed dose is not known, so doses cannot be scaled by it; add the RTPLAN or set "
            "data.options.prescription_gy",
        )
    return scale_to_gy / float(case.facts["prescription_gy"])


def _body(case_id: str, ct: npt.NDArray[np.uint16]) -> Mask:
    from ctan.dicom.patient import body_of

    try:
        return body_of(ct.astype(np.float32) - HU_OFFSET)
    except DataError as error:
        raise CaseError(case_id, str(error)) from error


def _disjoint_targets(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """Take voxels of a higher target out of the lower ones: OpenKBP's targets do not overlap."""
    result, taken = dict(masks), np.zeros(SHAPE, bool)
    for name in sorted(TARGETS, key=lambda name: -TARGETS[name]):
        if name in result:
            result[name] = result[name] & ~taken
            taken |= result[name]
    return result


def _new_names(
    dataset: Dataset, structure_names: Mapping[str, str], target_levels: Mapping[str, str]
) -> dict[str, str]:
    """Return structure -> name of its file, of those that are written.

    Raises:
        ConfigError: for a name that is unknown, cannot be a file's, or is meant twice; for no target.
    """
    if not dataset.spec.has_dose or dataset.spec.spatial_dims != 3:
        raise ConfigError(f"{dataset.name} has no dose; OpenKBP's form is for planning data with CT, contours and dose")
    for option, names in (("rename", structure_names), ("target", target_levels)):
        if unknown := [name for name in names if name not in dataset.spec.structures]:
            raise ConfigError(
                f"{option}: unknown structure {', '.join(unknown)}; "
                f"{dataset.name} has {', '.join(dataset.spec.structures)}"
            )
    if twice := [name for name in structure_names if name in target_levels]:
        raise ConfigError(f"{', '.join(twice)}: renamed and a target; give it once")
    if wrong := [name for name in target_levels.values() if name not in TARGETS]:
        raise ConfigError(f"target: {', '.join(wrong)} is no target of OpenKBP; allowed: {', '.join(TARGETS)}")
    chosen = {**dict.fromkeys(dataset.spec.structures), **structure_names, **target_levels}
    names = {old: old if new is None else new for old, new in chosen.items() if new != ""}
    for new in names.values():
        if not _NAME.fullmatch(new) or new in _RESERVED:
            raise ConfigError(f"rename: {new!r} cannot be a structure's file; allowed: letters, digits, _ . + -")
        if len(olds := [old for old, other in names.items() if other == new]) > 1:
            raise ConfigError(f"{', '.join(olds)} would all be written as {new}; name or leave out all but one")
    if not any(new in TARGETS for new in names.values()):
        example = next(iter(dataset.spec.targets), "PTV")
        raise ConfigError(f"no target: say which structure is which, such as --target {example}=PTV70")
    return names


def _new_folder(output_dir: Path, split: str) -> Path:
    folders = {name: folder for folder, name in SPLIT_FOLDERS.items()}
    if split not in folders:
        raise ConfigError(f"split: unknown {split!r}; allowed: {', '.join(folders)}")
    folder = output_dir / folders[split]
    if folder.exists():
        raise DataError(f"{folder}: exists already; name another folder, nothing is overwritten")
    return folder


def _number_of(path: Path) -> int:
    number = path.name.removeprefix("pt_")
    return int(number) if number.isdecimal() else 0


def _read_mapping(output_dir: Path) -> list[dict[str, str]]:
    """Return the rows of the patients that are there: whoever removes a split may convert it again."""
    path = output_dir / MAPPING_FILE
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    rows = list(reader)
    if tuple(reader.fieldnames or ()) != _MAPPING_COLUMNS:
        raise DataError(f"{path}: expected the columns {', '.join(_MAPPING_COLUMNS)}; name another folder")
    folders = {split: output_dir / folder for folder, split in SPLIT_FOLDERS.items()}
    return [row for row in rows if row["split"] in folders and (folders[row["split"]] / row["patient"]).is_dir()]


def _write_mapping(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _MAPPING_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


class _Notes:
    """Collects what should be known about the converted patients as a whole."""

    def __init__(self) -> None:
        self._unknown: dict[str, list[str]] = {}  # structure of the data set -> its new name, once a patient
        self._empty: dict[str, list[str]] = {}  # structure -> patients where nothing is left of it
        self._off: dict[str, list[float]] = {}  # target -> mean doses in Gy, far from its level

    def add(self, patient: str, case: Case, converted: OpenKBPPatient, names: Mapping[str, str]) -> None:
        """Note what is unusual about a patient."""
        for old, new in names.items():
            mask = converted.masks.get(new)
            if mask is None:
                if old in case.masks:
                    self._empty.setdefault(new, []).append(patient)
                continue
            if new not in (*ORGANS, *TARGETS):
                self._unknown.setdefault(old, []).append(new)
            if new in TARGETS:
                mean_gy = float(converted.dose_mgy[mask].mean()) / 1000
                if abs(mean_gy / TARGETS[new] - 1) > ValidationConfig().target_dose_tolerance:
                    self._off.setdefault(new, []).append(mean_gy)

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of thing."""
        sentences = []
        if self._unknown:
            listed = ", ".join(f"{found[0]} ({_patients(len(found))})" for found in self._unknown.values())
            example = next(iter(self._unknown))
            sentences.append(
                f"{listed}: OpenKBP has no such structures and its reader refuses patients that have them; rename "
                f"them (--rename {example}=NAME) or leave them out (--rename {example}=)"
            )
        for name, patients in self._empty.items():
            sentences.append(
                f"{name}: contoured but empty, or inside a higher target, in {', '.join(patients)}; no file"
            )
        for name, doses in self._off.items():
            sentences.append(
                f"{name}: mean dose {min(doses):.1f} to {max(doses):.1f} Gy in {_patients(len(doses))}, far from "
                f"its {TARGETS[name]:g} Gy, so validation refuses them; --scale-to-gy scales by each prescription"
            )
        return sentences


def _grouped(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Say which patients are one person: OpenKBP's form cannot."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["group_id"], []).append(row["patient"])
    same = [" and ".join(patients) for patients in groups.values() if len(patients) > 1]
    if not same:
        return []
    return [
        f"{', '.join(same)}: cases of one patient, which OpenKBP's form cannot say; folds may part them, so keep one "
        f"(see {MAPPING_FILE})"
    ]


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"
