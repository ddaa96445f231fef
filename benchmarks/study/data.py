"""The store of one data set, by the steps of the pipeline; made once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.config import RunConfig
from ctan.files import sha256_of_json
from ctan.settings import load_config, read_config
from ctan.steps.data import gate, ingest, preprocess, resolve, validate
from ctan.store import StorePointer


@dataclass(frozen=True)
class Prepared:
    """Data that trainings can begin from."""

    pointer: StorePointer
    manifest_dir: Path

    def config(self, overrides: Mapping[str, Any]) -> RunConfig:
        """Return the settings of a training: those of the data, planned ones included, and its own."""
        return read_config(self.manifest_dir, [f"{field}={json.dumps(value)}" for field, value in overrides.items()])


def prepare(name: str, source: str, profile: str, settings: Mapping[str, Any], work: Path) -> Prepared:
    """Return the store of a source, made by the steps of a run unless it is there.

    Args:
        name: of the data in the table.
        source: folder of raw files.
        profile: packaged profile.
        settings: dotted field -> value.
        work: holds everything that is not a result.

    Raises:
        GateError: when validation stops the data.
    """
    config = load_config(profile, dict(settings), source)
    decides = config.model_dump(mode="json", include={"data", "preprocess", "planning", "validation", "network"})
    folder = work / "data" / f"{name}-{sha256_of_json([source, decides])[:12]}"
    manifest_dir, pointer = folder / "validated", folder / "pointer.json"
    if not pointer.is_file():
        pinned, text, origin = resolve(source, config, str(work / "store"))
        ingest(text, origin, str(folder / "manifest"), 1)
        gate(validate(str(folder / "manifest"), str(manifest_dir), str(folder / "validation.html")))
        preprocess(pinned, str(manifest_dir), str(pointer), str(work / "store"), num_workers=1)
    return Prepared(StorePointer.load(pointer), manifest_dir)
