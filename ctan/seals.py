"""Seals: what we wrote is known again when it is read, or refused by the name of the file.

A JSON file carries the hash of all else that it says. A folder of tables and settings carries `seal.json`, which lists
the SHA-256 of every file and is sealed itself. Files of earlier releases have no seals and are read as before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import read_json, sha256_of_file, sha256_of_json, write_json

SEAL = "sha256"  # name in a JSON file
SEAL_FILE = "seal.json"
AGAIN = "run the step that wrote it again"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON-able value with the hash of all that it says, the order of names included."""
    return {**value, SEAL: _hash(value)}


def unsealed(value: Mapping[str, Any], where: str, advice: str, required: bool = True) -> dict[str, Any]:
    """Return what a sealed value says, without its seal.

    Args:
        value: as it was read.
        where: it comes from, for errors.
        advice: what to do when it was changed, the end of the message.
        required: whether one without a seal is refused; earlier releases wrote none.

    Raises:
        DataError: when it was changed after it was written.
    """
    content = {name: inner for name, inner in value.items() if name != SEAL}
    if SEAL not in value and not required:
        return content
    # Tables of sides and stores were sealed without regard to the order of names before.
    if value.get(SEAL) not in (_hash(content), sha256_of_json(content)):
        raise DataError(f"{where}: was changed after it was written (its hash does not fit); {advice}")
    return content


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def seal_folder(folder: Path) -> None:
    """Write down the SHA-256 of every file of a folder, which holds no folders; the last thing that a step does."""
    found = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir()) if _counts(path)}
    write_json(folder / SEAL_FILE, sealed({"format_version": 1, "files": found}))


def seal_file(path: Path) -> None:
    """Take a file that came later into the seal of its folder, where that has one.

    Raises:
        DataError: when the seal itself was changed.
    """
    if listed := _listed(path.parent):
        files = {**listed, path.name: sha256_of_file(path)}
        write_json(path.parent / SEAL_FILE, sealed({"format_version": 1, "files": files}))


def _counts(path: Path) -> bool:
    return path.is_file() and path.name != SEAL_FILE and not path.name.startswith(".")


def check_folder(folder: Path) -> None:
    """Raise when any file of a sealed folder is missing or was changed; one without a seal passes.

    Raises:
        DataError: naming the file.
    """
    for name in _listed(folder):
        check_file(folder / name)


def check_file(path: Path) -> None:
    """Raise when the folder of a file is sealed and the file is not the one that was sealed.

    Raises:
        DataError: naming the file.
    """
    expected = _listed(path.parent).get(path.name)
    if expected is None:
        return
    if not path.is_file():
        raise DataError(f"{path}: is missing, {SEAL_FILE} lists it; {AGAIN}")
    if sha256_of_file(path) != expected:
        raise DataError(
            f"{path}: was changed after it was written (its SHA-256 is not that of {SEAL_FILE}); settings are changed "
            f"by `--set`, raw data at their source; {AGAIN}"
        )


def _listed(folder: Path) -> dict[str, str]:
    path = folder / SEAL_FILE
    if not path.exists():
        return {}
    value = read_json(path, AGAIN)
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        raise DataError(f"{path}: not the seal of a folder; {AGAIN}")
    return dict(unsealed(value, str(path), AGAIN)["files"])
