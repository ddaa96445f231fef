"""Which files of a folder are one case, whatever the folders are: a patient each, collections, series, modalities.

Files are told apart by PatientID first. A patient's files are one case unless several folders, or several groups of
files that refer to each other, each hold all that the patient has (CT, contours, dose): those are a case each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctan.datasets.listing import files_below
from ctan.dicom.scan import DicomFile, scan
from ctan.errors import DataError


@dataclass(frozen=True)
class Group:
    """The files of one case, or of several that nothing tells apart.

    Attributes:
        path: the folder that they all lie in.
        files: in the order of their paths.
        left_out: how many images of the same patient belong to no case.
    """

    path: Path
    files: tuple[DicomFile, ...]
    left_out: int = 0


def groups_of(raw_dir: Path, by_id: bool = True) -> list[Group]:
    """Return the cases of a folder in the order of their paths.

    Args:
        raw_dir: any folders below it.
        by_id: tell patients apart by PatientID; else by frame of reference, for data whose IDs are all the same.

    Raises:
        DataError: when there is no such folder.
    """
    if not raw_dir.is_dir():
        raise DataError(f"{raw_dir}: not a folder; give the folder with the patients' folders")
    groups = []
    for files in _patients(raw_dir, scan(files_below(raw_dir, hidden=True)), by_id):
        units = _by_folder(files, raw_dir)
        whole = [unit for unit in units if _kinds(unit) & {"contours", "RTDOSE"}] or units
        left_out = sum(len(unit) for unit in units) - sum(len(unit) for unit in whole)
        groups += [Group(_folder_of(unit), tuple(unit), left_out if unit is whole[0] else 0) for unit in whole]
    return sorted(groups, key=lambda group: (group.path, group.files[0].path))


def _patients(raw_dir: Path, files: Sequence[DicomFile], by_id: bool) -> list[list[DicomFile]]:
    """Return the files of each patient; those without an ID go with what they refer to or share a frame with."""
    named: dict[str, list[DicomFile]] = {}
    for file in files:
        if file.patient and by_id:
            named.setdefault(file.patient, []).append(file)
    owners: dict[Hashable, set[str]] = {}
    for patient, own in named.items():
        for file in own:
            for mark in (*_marks(file), *_folders(file, raw_dir)):
                owners.setdefault(mark, set()).add(patient)
    others = []
    for part in _connected([file for file in files if not (file.patient and by_id)]):
        marks = {mark for file in part for mark in _marks(file)}
        # What cannot be read goes with the patient of the folders around it, an image or a dose with its neighbours.
        places = [_folders(part[0], raw_dir)[:1]] if marks else [[place] for place in _folders(part[0], raw_dir)]
        for keys in (marks, *places):
            found = set().union(*(owners.get(key, ()) for key in keys))
            if len(found) == 1:
                named[found.pop()] += part
                break
        else:
            others.append(part)
    return [*(sorted(own, key=lambda file: file.path) for own in named.values()), *_in_one_folder(raw_dir, others)]


def _folders(file: DicomFile, raw_dir: Path) -> list[Path]:
    """Return the folders around a file, the nearest first."""
    return [folder for folder in file.path.parents if raw_dir in folder.parents]


def _in_one_folder(raw_dir: Path, parts: Sequence[list[DicomFile]]) -> list[list[DicomFile]]:
    """Join what lies in one folder of `raw_dir` and nothing else connects, where one part alone is no mere image."""
    by_folder: dict[str, list[list[DicomFile]]] = {}
    found = []
    for part in parts:
        folders = {file.path.relative_to(raw_dir).parts[0] for file in part if file.path.parent != raw_dir}
        if len(folders) == 1:
            by_folder.setdefault(folders.pop(), []).append(part)
        else:
            found.append(part)
    for inside in by_folder.values():
        joined = sum(bool(_kinds(part) & {"contours", "RTDOSE"}) for part in inside) == 1
        found += [[file for part in inside for file in part]] if joined else inside
    return [sorted(part, key=lambda file: file.path) for part in found]


def _by_folder(files: Sequence[DicomFile], folder: Path) -> list[list[DicomFile]]:
    """Divide a patient's files by folders that each hold all that the patient has, else by what refers to what."""
    children: dict[str, list[DicomFile]] = {}
    for file in files:
        first, *deeper = file.path.relative_to(folder).parts
        children.setdefault(first if deeper else "", []).append(file)
    if len(children) == 1 and "" not in children:
        return _by_folder(files, folder / next(iter(children)))
    wanted = _kinds(files)
    whole = [name for name, own in children.items() if name and _kinds(own) == wanted]
    if len(whole) > 1:
        divided = [part for name in whole for part in _by_folder(children[name], folder / name)]
        return divided + [own for name, own in children.items() if name not in whole]
    parts = _connected(files)
    return parts if sum(_kinds(part) == wanted for part in parts) > 1 else [list(files)]


def _connected(files: Iterable[DicomFile]) -> list[list[DicomFile]]:
    """Divide files into groups that share a frame of reference or a study, or refer to each other."""
    parent: dict[Hashable, Hashable] = {}

    def root(mark: Hashable) -> Hashable:
        while parent.setdefault(mark, mark) != mark:
            parent[mark] = mark = parent[parent[mark]]
        return mark

    listed = list(files)
    for file in listed:
        for mark in _marks(file):
            parent[root(mark)] = root(file.path)
    parts: dict[Hashable, list[DicomFile]] = {}
    for file in listed:
        parts.setdefault(root(file.path), []).append(file)
    return list(parts.values())


def _marks(file: DicomFile) -> list[tuple[str, str]]:
    marks = [("frame", file.frame), ("study", file.study), ("object", file.instance)]
    return [mark for mark in [*marks, *(("object", uid) for uid in file.refers)] if mark[1]]


def _kinds(files: Iterable[DicomFile]) -> set[str]:
    """Return which of images, contours and doses there are."""
    names = {"RTSTRUCT": "contours", "SEG": "contours"}
    return {names.get(file.kind, file.kind) for file in files} & {"CT", "contours", "RTDOSE"}


def _folder_of(files: Sequence[DicomFile]) -> Path:
    return Path(os.path.commonpath([file.path.parent for file in files]))


def same_id(groups: Sequence[Group]) -> bool:
    """Return whether several cases in different frames of reference all have one PatientID."""
    ids = Counter(file.patient for group in groups for file in group.files if file.patient)
    frames = {frozenset(file.frame for file in group.files if file.kind in ("RTSTRUCT", "SEG")) for group in groups}
    return len(groups) > 1 and len(ids) == 1 and len(frames) > 1


__all__ = ["Group", "groups_of", "same_id"]
