"""Finding and reading the description of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ctan.config_errors import explain
from ctan.datasets.folder.description import FolderDescription
from ctan.datasets.folder.nnunet import NNUNET_FILE, from_nnunet
from ctan.errors import DataError

DESCRIPTION_FILE = "dataset.yaml"


def load_description(folder: Path) -> FolderDescription:
    """Read `dataset.yaml`, else nnU-Net's `dataset.json`.

    Raises:
        DataError: when there is neither, or it cannot be used; names the file and the field.
    """
    own, theirs = folder / DESCRIPTION_FILE, folder / NNUNET_FILE
    if own.is_file():
        return _validated(_parsed(own), DESCRIPTION_FILE)
    if theirs.is_file():
        return _validated(from_nnunet(folder, _parsed(theirs)), NNUNET_FILE)
    raise DataError(
        f"{folder}: no {DESCRIPTION_FILE}, and no {NNUNET_FILE} of nnU-Net; `ctan data describe DIR` writes a first "
        f"{DESCRIPTION_FILE} from what it finds"
    )


def _validated(value: Any, name: str) -> FolderDescription:
    if not isinstance(value, dict):
        raise DataError(f"{name}: expected a mapping, found {type(value).__name__}")
    try:
        return FolderDescription.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{name}: {explain(error, FolderDescription)}") from error


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path.name}: not valid {'JSON' if path.suffix == '.json' else 'YAML'} ({error})") from error
