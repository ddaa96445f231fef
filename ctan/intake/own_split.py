"""A split of the user's own, `data.split`: it fills the table of sides once, for the cases that it names.

A CSV file `case,split[,fold]`; nnU-Net's `splits_final.json`; or the word `nnunet` for the five folds that nnU-Net
makes where it has no such file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION, RawCase
from ctan.config import DataConfig
from ctan.errors import ConfigError, DataError
from ctan.files import sha256_of_file

NNUNET = "nnunet"
_NNUNET_FOLDS, _NNUNET_SEED = 5, 12345  # nnunetv2.utilities.crossval_split
_WORDS = {
    "train": SPLIT_TRAIN,
    "training": SPLIT_TRAIN,
    "val": SPLIT_VALIDATION,
    "validation": SPLIT_VALIDATION,
    "evaluation": SPLIT_VALIDATION,
    "test": SPLIT_TEST,
}
_NUM_NAMED = 5


@dataclass(frozen=True)
class OwnSplit:
    """Sides and folds as the user wants them.

    Attributes:
        sides: group id -> side.
        folds: group id -> fold, for training groups whose fold is said.
    """

    sides: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def content_hash(data: DataConfig) -> str:
        """Return what changes when the split does; empty where there is none.

        Raises:
            ConfigError: when there is no such file.
        """
        return data.split if data.split in ("", NNUNET) else sha256_of_file(_file(data))

    @classmethod
    def of(cls, data: DataConfig, cases: Sequence[RawCase]) -> OwnSplit:
        """Read the split that the settings name.

        Raises:
            ConfigError: when there is no such file, or its folds are not those of the settings.
            DataError: naming the file and the case, when it contradicts itself, tears a group apart, or names a case
                that the source does not hold.
        """
        if not data.split:
            return cls()
        if data.split == NNUNET:
            places = _nnunet(sorted(case.case_id for case in cases if case.split in ("", SPLIT_TRAIN)), data)
        elif data.split.endswith(".json"):
            places = _splits_final(_file(data), data)
        else:
            places = _table(_file(data), data)
        return _by_group(places, cases, data)


_Places = dict[str, tuple[str, int | None]]  # case -> side, fold


def _file(data: DataConfig) -> Path:
    path = Path(data.split).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"data.split: {data.split!r} is no file; expected a CSV file case,split[,fold], nnU-Net's "
            f"splits_final.json, or {NNUNET} for the folds that nnU-Net makes itself"
        )
    return path


def _table(path: Path, data: DataConfig) -> _Places:
    places: _Places = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if not {"case", "split"} <= set(rows.fieldnames or ()):
            raise DataError(f"{path.name}: expected the columns case,split[,fold], found {rows.fieldnames}")
        for row in rows:
            where = f"{path.name}: line {rows.line_num}"
            case_id, side, fold = ((row.get(name) or "").strip() for name in ("case", "split", "fold"))
            if side not in _WORDS:
                raise DataError(f"{where}: split is {side!r}, expected {', '.join(_WORDS)}")
            if fold and not (fold.isascii() and fold.isdecimal() and int(fold) < data.num_folds):
                raise DataError(f"{where}: fold is {fold!r}, expected 0 to {data.num_folds - 1} (data.num_folds)")
            if case_id in places:
                raise DataError(f"{where}: {case_id} is listed twice")
            places[case_id] = _WORDS[side], int(fold) if fold else None
    return places


def _splits_final(path: Path, data: DataConfig) -> _Places:
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        validation = [list(map(str, fold["val"])) for fold in folds]
        training = [list(map(str, fold["train"])) for fold in folds]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{path.name}: expected nnU-Net\'s list of {{"train": [...], "val": [...]}} ({error})'
        ) from error
    places: _Places = {case_id: (SPLIT_TRAIN, None) for fold in training for case_id in fold}
    for number, cases in enumerate(validation):
        for case_id in cases:
            if places.get(case_id, ("", None))[1] is not None:
                raise DataError(f"{path.name}: {case_id} tunes two folds")
            places[case_id] = SPLIT_TRAIN, number
    return _with_evaluation(places, len(folds), data, path.name)


def _nnunet(case_ids: Sequence[str], data: DataConfig) -> _Places:
    """Divide as nnU-Net v2 does: scikit-learn's `KFold(5, shuffle=True, random_state=12345)` over sorted names."""
    order = np.arange(len(case_ids))
    np.random.RandomState(_NNUNET_SEED).shuffle(order)
    parts = np.array_split(order, _NNUNET_FOLDS)
    places: _Places = {case_ids[i]: (SPLIT_TRAIN, number) for number, part in enumerate(parts) for i in part}
    return _with_evaluation(places, _NNUNET_FOLDS, data, NNUNET)


def _with_evaluation(places: _Places, num_folds: int, data: DataConfig, where: str) -> _Places:
    """Let one of nnU-Net's folds measure: its validation cases choose nothing there, our tuning cases do."""
    if num_folds != data.num_folds:
        raise ConfigError(f"data.split: {where} has {num_folds} folds, data.num_folds is {data.num_folds}; set it so")
    if data.evaluation_fold is None:
        return places
    return {
        case_id: (SPLIT_VALIDATION, None) if fold == data.evaluation_fold else (side, fold)
        for case_id, (side, fold) in places.items()
    }


def _by_group(places: _Places, cases: Iterable[RawCase], data: DataConfig) -> OwnSplit:
    name = Path(data.split).name
    group_of = {case.case_id: case.group_id for case in cases}
    if unknown := sorted(set(places) - set(group_of)):
        some = ", ".join(unknown[:_NUM_NAMED])
        raise DataError(f"{name}: {len(unknown)} of its cases are not in the source ({some}); take them out")
    found: dict[str, tuple[str, int | None]] = {}
    for case_id, place in places.items():
        group = group_of[case_id]
        if found.setdefault(group, place) != place:
            raise DataError(
                f"{name}: tears {group} apart, which has several cases: {case_id} is in {_shown(place)}, another in "
                f"{_shown(found[group])}; give all of them one side and fold"
            )
    return OwnSplit(
        {group: side for group, (side, _) in found.items()},
        {group: fold for group, (side, fold) in found.items() if side == SPLIT_TRAIN and fold is not None},
    )


def _shown(place: tuple[str, int | None]) -> str:
    return place[0] if place[1] is None else f"{place[0]}, fold {place[1]}"
