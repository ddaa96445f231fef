"""Names for models of one architecture with different settings, so that they can stand side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ctan.evaluation.cases import CASES_FILE, read_cases, write_cases
from ctan.records import EvaluationRecord, ModelRecord
from ctan.records.names import ENSEMBLE

_NO_DIFFERENCE = ("architectures", "folds", "seeds", "profile", "promotion", "evaluation", "schema_version", "variant")
_ABSENT = "none"


def names_of(records: Sequence[ModelRecord]) -> list[str]:
    """Return a name a model: its architecture, and where others of it have other settings what differs.

    Such as `"ctan, epochs=4"`; folds and seeds of the same settings share a name, an ensemble of them has its own.
    """
    flat = [_flat({k: v for k, v in record.config.items() if k not in _NO_DIFFERENCE}) for record in records]
    names = []
    for record, own in zip(records, flat, strict=True):
        others = [settings for one, settings in zip(records, flat, strict=True) if one.arch == record.arch]
        keys = sorted({key for settings in others for key in settings.keys() | own.keys()})
        differing = [key for key in keys if len({settings.get(key, _ABSENT) for settings in others}) > 1]
        parts = [f"{_short(key, differing)}={own.get(key, _ABSENT)}" for key in differing]
        together = [f"{ENSEMBLE} {len(record.members)}"] if record.members else []
        names.append(", ".join([record.arch, *parts, *together]))
    return names


def rename(evaluation_dir: Path, name: str) -> None:
    """Give an evaluation another name in place of its architecture's; it is then for comparing alone."""
    table = read_cases(evaluation_dir / CASES_FILE)
    column = table.schema.get_field_index("arch")
    renamed = table.set_column(column, table.schema.field(column), pa.array([name] * table.num_rows, pa.string()))
    write_cases(renamed, evaluation_dir / CASES_FILE)
    ModelRecord.load(evaluation_dir).model_copy(update={"arch": name, "variant": ""}).save(evaluation_dir)
    EvaluationRecord.load(evaluation_dir).save(evaluation_dir)  # vouches for the files as they are now


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    parts = (_flat(inner, f"{prefix}.{name}" if prefix else name) for name, inner in value.items())
    return {name: text for part in parts for name, text in part.items()}


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the last part of a setting's name where that is enough."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
