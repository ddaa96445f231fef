"""A first `dataset.yaml` from what a folder holds, with comments that teach.

The folder is nnU-Net's own, or holds images, masks and a table.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ctan.datasets.folder.description import LOSSY, PICTURES, RESERVED, VOLUMES, ending_of
from ctan.datasets.folder.load import DESCRIPTION_FILE
from ctan.datasets.folder.nnunet import NNUNET_FILE, from_nnunet
from ctan.datasets.folder.pictures import read_picture
from ctan.datasets.folder.table import SPLITS
from ctan.datasets.folder.volumes import read_volume
from ctan.errors import DataError
from ctan.files import write_text

_MASK_WORDS = ("mask", "label", "seg", "annot", "contour", "gt")
_GROUP_WORDS = ("patient", "subject", "lesion", "person", "group")
_MOST_CLASSES, _MOST_LABELS, _NUM_LOOKED_AT = 12, 100, 20
_YES_NO = {"0", "1", "0.0", "1.0"}  # the only numbers that are taken for classes
_AIR_HU = -500  # nothing but CT has values below

_COMMENTS = {
    "name": "Models are registered as ctan-<name>.",
    "image": "Every case has these files; {case} stands for its id. Several patterns are channels of one image.\n"
    "modality: ct (Hounsfield units), mr, photo (colours) or other. dtype: uint8, uint16, int16 or float32.\n"
    "normalise: per_case (mean and deviation of each case, as MR needs) or fixed (by mean and std).\n"
    "window: [lowest, highest] value that matters; unit; spacing_mm: [rows, columns] of pictures.",
    "label_map": "A file whose values name structures; a list of values is a region and may overlap others\n"
    "(then regions_class_order says which value to paste for each). A case without the file: not known.",
    "masks": "Or a file a structure: 0 and one other value. A case without the file: not known.",
    "empty_masks": "A mask without a voxel: the structure is absent from the case, or unknown.",
    "table": "A row a case. group: column with the patient, whose cases never end up in two splits: fill it in\n"
    "wherever a patient may have several cases. split: column with train, validation or test, where official.",
    "labels": "Classes to predict, in order; of two the second is the positive one. An empty cell: not known.",
    "numbers": "Numbers to predict.",
    "facts": "Further columns to keep: number or text.",
    "licence": "Licence and source, printed with pictures.",
    "notes": "What ingestion says of this copy.",
}


@dataclass(frozen=True)
class _Files:
    """Files of one place and one format: the pattern they share, and the ids of the cases."""

    pattern: str
    cases: tuple[str, ...]


def describe(folder: Path, force: bool = False) -> str:
    """Write a first `dataset.yaml` and return what was found, in a few lines.

    Args:
        folder: of images.
        force: overwrite a `dataset.yaml` that is there.

    Raises:
        DataError: when there is one already, or nothing in the folder looks like images.
    """
    path = folder / DESCRIPTION_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder does not exist")
    if path.exists() and not force:
        raise DataError(f"{path}: exists already; --force writes it anew")
    found = _of_nnunet(folder) if (folder / NNUNET_FILE).is_file() else _of_files(folder)
    write_text(path, _text(found))
    lines = [f"image: {', '.join(found['image']['files'])} ({found['image']['modality']})"]
    if found.get("label_map"):
        lines.append(f"label map: {found['label_map']['file']} ({', '.join(found['label_map']['values'])})")
    lines += [f"mask of {name}: {pattern}" for name, pattern in found.get("masks", {}).items()]
    lines += [f"label {name}: {', '.join(label['classes'])}" for name, label in found.get("labels", {}).items()]
    return "\n".join([*lines, f"written to {path}; read it, then: ctan run --dataset folder --source {folder}"])


def _of_nnunet(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / NNUNET_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{NNUNET_FILE}: cannot be read ({error})") from error
    return from_nnunet(folder, value)


def _of_files(folder: Path) -> dict[str, Any]:
    """Describe a folder by the names of its files and a look into the first ones."""
    groups = _groups(folder)
    masks = [files for files in groups if _is_mask(files.pattern)]
    images = [files for files in groups if files not in masks]
    if not images:
        endings = ", ".join((*VOLUMES, *PICTURES))
        raise DataError(f"{folder}: no images found ({endings}), in this folder or one below")
    first = images[0]
    same = [
        files for files in images if files.cases == first.cases and ending_of(files.pattern) == ending_of(first.pattern)
    ]
    channels = _channels(same)
    found: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_.-]", "-", folder.resolve().name).strip("-_.") or "folder",
        "image": _image(folder, channels, first.cases[0]),
    }
    found |= _masks(folder, [files for files in masks if set(files.cases) & set(first.cases)])
    found |= _table(folder, first.cases)
    return found | {"licence": ""}


def _groups(folder: Path) -> list[_Files]:
    """Return files by place and shape of their name, those with the most cases first."""
    names: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and ending_of(path.name) and not any(part.startswith(".") for part in place.parts):
            names.setdefault((place.parent.as_posix(), ending_of(path.name)), []).append(path.name)
    groups = []
    for (parent, ending), of_place in names.items():
        for pattern, cases in _patterns(of_place, ending).items():
            groups.append(_Files(pattern if parent == "." else f"{parent}/{pattern}", tuple(cases)))
    return sorted(groups, key=lambda files: (-len(files.cases), files.pattern))


def _patterns(names: Sequence[str], ending: str) -> dict[str, list[str]]:
    """Return pattern -> ids: `_0000` and what all names end in belong to the pattern, not to the id."""
    stems = [name[: -len(ending)] for name in names]
    tails = Counter(match[0] for stem in stems if (match := re.search(r"_[0-9]{4}$", stem)))
    if sum(tails.values()) == len(stems) and len(tails) * max(tails.values()) == len(stems):
        return {
            f"{{case}}{tail}{ending}": [s[: -len(tail)] for s in stems if s.endswith(tail)] for tail in sorted(tails)
        }
    common = _common_tail(stems)
    return {f"{{case}}{common}{ending}": [stem.removesuffix(common) for stem in stems]}


def _common_tail(stems: Sequence[str]) -> str:
    """Return the last words that all names share, such as `_segmentation`."""
    tails = {match[0] if (match := re.search(r"[_.-][A-Za-z]+$", stem)) else "" for stem in stems}
    return tails.pop() if len(tails) == 1 else ""


def _is_mask(pattern: str) -> bool:
    words = re.findall(r"[a-z]+", pattern.replace("{case}", "").lower())
    return ending_of(pattern) not in LOSSY and any(word.startswith(_MASK_WORDS) for word in words)


def _channels(groups: Sequence[_Files]) -> list[str]:
    """Return the patterns of all channels: names that differ in `_0000` alone."""
    first = groups[0].pattern
    numbered = re.sub(r"_[0-9]{4}(?=\.)", "_#", first)
    return sorted(files.pattern for files in groups if re.sub(r"_[0-9]{4}(?=\.)", "_#", files.pattern) == numbered)


def _image(folder: Path, patterns: list[str], case_id: str) -> dict[str, Any]:
    path = folder / patterns[0].replace("{case}", case_id)
    section: dict[str, Any] = {"files": patterns}
    try:
        if ending_of(path.name) in PICTURES:
            values = read_picture(path, "ignore").values
            if values.ndim == 3:
                return section | {"modality": "photo"}
            return section | {"modality": "other", "dtype": "uint8" if values.dtype == np.uint8 else "uint16"}
        low = float(read_volume(path).values.min())
    except DataError as error:
        raise DataError(f"{path.relative_to(folder)}: {error}") from error
    if len(patterns) > 1:
        section["channels"] = [f"channel{number}" for number in range(len(patterns))]
    return section | ({"modality": "ct"} if low < _AIR_HU else {"modality": "mr", "dtype": "float32"})


def _masks(folder: Path, groups: Sequence[_Files]) -> dict[str, Any]:
    """Describe mask files: one place with more than one value is a label map, all else a file a structure."""
    masks: dict[str, str] = {}
    for files in groups:
        values = _values(folder, files)
        if len(values) > 1 and max(values) <= _MOST_LABELS:
            return {"label_map": {"file": files.pattern, "values": {f"structure{v}": v for v in sorted(values)}}}
        words = re.findall(r"[A-Za-z]+", Path(files.pattern.replace("{case}", "")).name.partition(".")[0])
        masks[_unique(words[-1].capitalize() if words else "Structure", masks)] = files.pattern
    return {"masks": masks} if masks else {}


def _values(folder: Path, files: _Files) -> set[int]:
    """Return the values of the first mask files, without 0."""
    found: set[int] = set()
    for case_id in files.cases[:_NUM_LOOKED_AT]:
        path = folder / files.pattern.replace("{case}", case_id)
        try:
            picture = ending_of(path.name) in PICTURES
            values = read_picture(path, "ignore").values if picture else read_volume(path, "sform").values
        except DataError as error:
            raise DataError(f"{path.relative_to(folder)}: {error}") from error
        found |= {int(value) for value in np.unique(np.rint(values))}
    return found - {0}


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else f"{name}{len(taken) + 1}"


def _table(folder: Path, cases: Sequence[str]) -> dict[str, Any]:
    """Describe the first CSV with a column that holds the ids of the images."""
    for path in sorted(folder.glob("*.csv")):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        rows = list(
            csv.DictReader(text.splitlines(), delimiter=max((",", ";", "\t"), key=text.partition("\n")[0].count))
        )
        columns = {name: [(row[name] or "").strip() for row in rows] for name in (rows[0] if rows else {}) if name}
        ids = next((name for name, cells in columns.items() if set(cells) & set(cases)), None)
        if ids is None:
            continue
        group = next((name for name in columns if name != ids and name.lower().startswith(_GROUP_WORDS)), "")
        section = {"file": path.name, "case": ids} | ({"group": group} if group else {})
        split = next(
            (name for name, cells in columns.items() if set(cells) & set(SPLITS) and set(cells) <= {*SPLITS, ""}), ""
        )
        section |= {"split": split} if split else {}
        others = {name: cells for name, cells in columns.items() if name not in (ids, group, split, *RESERVED)}
        return {"table": section} | _columns(others)
    return {}


def _columns(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return columns with few different words as labels, all others as facts."""
    labels: dict[str, Any] = {}
    facts: dict[str, str] = {}
    for name, cells in columns.items():
        known = {cell for cell in cells if cell}
        word = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        is_few = 2 <= len(known) <= min(_MOST_CLASSES, max(2, len(cells) // 2))
        is_class = not all(map(_is_number, known)) or known <= _YES_NO
        if is_few and word[:1].isalpha() and is_class:
            labels[word] = {"column": name, "classes": sorted(known)}
        else:
            facts[name] = "number" if known and all(map(_is_number, known)) else "text"
    return {key: value for key, value in (("labels", labels), ("facts", facts)) if value}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text) is not None


def _text(found: Mapping[str, Any]) -> str:
    """Return the file: every section under the sentence that explains it; sections that are not there as an example."""
    examples = {
        "masks": "masks:\n  Tumour: masks/{case}_tumour.nii.gz",
        "empty_masks": "empty_masks: absent",
        "table": "table: {file: table.csv, case: id, group: patient, split: split}",
        "labels": "labels:\n  diagnosis: {column: dx, classes: [benign, malignant]}",
        "numbers": "numbers:\n  volume: {column: volume_ml, unit: ml}",
        "facts": "facts: {age: number, sex: text}",
    }
    parts = ["# What this folder holds, for `ctan run --dataset folder`. All fields: docs/folder.md."]
    for key, comment in _COMMENTS.items():
        about = "\n".join(f"# {line}" for line in comment.splitlines())
        if found.get(key) or key in ("name", "licence"):
            value = json.loads(json.dumps({key: found.get(key, "")}))
            value = _without_empty(value) if isinstance(value[key], dict) else value
            parts.append(f"{about}\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).rstrip()}")
        elif key in examples:
            parts.append(about + "\n" + "\n".join(f"# {line}" for line in examples[key].splitlines()))
    if "test" in found:
        parts.append("# An official test split.\n" + yaml.safe_dump({"test": found["test"]}, sort_keys=False).rstrip())
    return "\n\n".join(parts) + "\n"


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    return {key: {k: v for k, v in section.items() if v not in (None, [], "")} for key, section in value.items()}
