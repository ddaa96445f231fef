"""How a source is named in what leaves this machine: a folder's path may hold a patient's or a clinician's name.

MLflow, the ledger, logs and what lies beside a manifest get a hash of the path, and its last component where that is
known to be harmless; of a query to a DICOMweb server, which may name a patient, they get the address and a hash. Which
folder or query it was is remembered on this machine alone, in the workspace, so that `ctan reproduce` finds it again.
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
_DICOMWEB, _QUERY = "dicomweb:", "?query="  # in place of the query, its hash follows
_DIGITS = 16
_PINNED = re.compile(r"dvc:(?P<repository>.+)(?P<rest>@[^@:]+(?::[^@:]+)?)")
_REMOTE = re.compile(r"\w+://|[^/]+@[^/]+:|folder:")  # an address, `git@host:path`, or a name that was recorded
NAMES_VARIABLE = "CTAN_SOURCE_NAMES"  # further last components that may be recorded, separated by commas


def recorded(source: str) -> str:
    """Return how a source is recorded: `folder:<hash of its path>[/name]` for a folder, else as it is.

    A local repository, of which DVC pins a version, is a folder too: `dvc:folder:<hash>@<revision>:<path in it>`. Of a
    DICOMweb server's query a hash stands in its place.
    """
    if pinned := _PINNED.fullmatch(source):
        repository = pinned["repository"]
        return f"dvc:{recorded_repository(repository)}{pinned['rest']}"
    address, asked, query = source.partition("?")
    if source.startswith(_DICOMWEB) and asked and not source.startswith(f"{address}{_QUERY}"):
        return f"{address}{_QUERY}{hashlib.sha256(f'{address}?{query}'.encode()).hexdigest()[:_DIGITS]}"
    if source == "phantom" or re.match(r"\w+:", source):
        return source
    folder = Path(source).expanduser().resolve()
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:_DIGITS]
    allowed = {*plugins.names(plugins.DATASETS), *os.environ.get(NAMES_VARIABLE, "").split(",")}
    return f"{_FOLDER}{digest}/{folder.name}" if folder.name in allowed else f"{_FOLDER}{digest}"


def recorded_repository(address: str) -> str:
    """Return how the address of a repository is recorded: of one on this machine as a hash."""
    return address if _is_remote(address) else recorded(address.removeprefix("file://"))


def remember(source: str) -> None:
    """Remember on this machine which folder a recorded name stands for."""
    if pinned := _PINNED.fullmatch(source):
        remember_repository(pinned["repository"])
    elif (name := recorded(source)) != source:
        place = source if source.startswith(_DICOMWEB) else str(Path(source).expanduser().resolve())
        write_text(_note(name), place)


def remember_repository(address: str) -> None:
    """Remember a repository that lies on this machine."""
    if not _is_remote(address):
        remember(address.removeprefix("file://"))


def recalled(name: str) -> str:
    """Return the source that was recorded by a name; empty where this machine does not know it."""
    if pinned := _PINNED.fullmatch(name):
        repository = recalled(pinned["repository"])
        return f"dvc:{repository}{pinned['rest']}" if repository else ""
    if not name.startswith(_FOLDER) and not (name.startswith(_DICOMWEB) and _QUERY in name):
        return name
    try:
        return _note(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _is_remote(repository: str) -> bool:
    return bool(_REMOTE.match(repository)) and not repository.startswith("file://")


def _note(name: str) -> Path:
    digest = name.partition(_QUERY)[2] if _QUERY in name else name.removeprefix(_FOLDER)
    return workspace() / "cache" / "sources" / digest[:_DIGITS]
