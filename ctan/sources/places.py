"""How a source is named in what leaves this machine: a folder's path may hold a patient's or a clinician's name.

MLflow, the ledger and logs get a hash of the path, and its last component where that is known to be harmless. Which
folder it was is remembered on this machine alone, in the workspace, so that `ctan reproduce` finds it again.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ctan import plugins
from ctan.files import write_text
from ctan.workspace import workspace

_FOLDER = "folder:"
_DIGITS = 16
NAMES_VARIABLE = "CTAN_SOURCE_NAMES"  # further last components that may be recorded, separated by commas


def recorded(source: str) -> str:
    """Return how a source is recorded: `folder:<hash of its path>[/name]` for a folder, else as it is."""
    if source == "phantom" or re.match(r"\w+:", source):
        return source
    folder = Path(source).expanduser().resolve()
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:_DIGITS]
    allowed = {*plugins.names(plugins.DATASETS), *os.environ.get(NAMES_VARIABLE, "").split(",")}
    return f"{_FOLDER}{digest}/{folder.name}" if folder.name in allowed else f"{_FOLDER}{digest}"


def remember(source: str) -> None:
    """Remember on this machine which folder a recorded name stands for."""
    if (name := recorded(source)) != source:
        write_text(_note(name), str(Path(source).expanduser().resolve()))


def recalled(name: str) -> str:
    """Return the source that was recorded by a name; empty where this machine does not know it."""
    if not name.startswith(_FOLDER):
        return name
    try:
        return _note(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _note(name: str) -> Path:
    return workspace() / "cache" / "sources" / name.removeprefix(_FOLDER)[:_DIGITS]
