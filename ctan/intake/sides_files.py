"""Where tables of sides lie: `store_root/sides/<name>.json`, sealed by a hash, never half-written.

Two at once: in a folder a lock keeps writers apart, in S3 a put that only succeeds when nobody else was faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import parse_json, write_text
from ctan.seals import sealed, unsealed
from ctan.sources.buckets import check_root, check_writable, is_remote, join
from ctan.sources.objects import read_tagged, replace_object

_VERSION = 1
_TRIES = 20
_ADVICE = "restore it from a backup; without it the next run divides anew, and models are scored on what they learnt"
Value = Mapping[str, Any]


def read_sides(root: str, name: str) -> dict[str, Any]:
    """Return what a table holds, `{"groups": ..., "seen": ...}`; an empty one where there is none yet.

    Args:
        root: folder or `s3://bucket/prefix` of the stores.
        name: of the table.

    Raises:
        ConfigError: when the root is an address of another kind.
        DataError: when the file was changed by something else, or the bucket cannot be read.
    """
    check_root(root, "store_root")
    if is_remote(root):
        return _parsed(read_tagged(_address(root, name))[0], _address(root, name))
    path = _path(root, name)
    return _parsed(path.read_bytes() if path.exists() else None, str(path))


def updated(root: str, name: str, change: Callable[[Value], Value]) -> dict[str, Any]:
    """Change a table; another process that changes it at the same time comes before or after, never in between.

    Args:
        root: folder or `s3://bucket/prefix` of the stores.
        name: of the table.
        change: from what the table holds to what it is to hold; called again when another process was faster.

    Raises:
        DataError: see `read_sides`; when it cannot be written.
    """
    check_writable(root)
    if not is_remote(root):
        from filelock import FileLock

        path = _path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            value = dict(change(read_sides(root, name)))
            write_text(path, _text(value))
            return value
    address = _address(root, name)
    for _ in range(_TRIES):
        content, tag = read_tagged(address)
        value = dict(change(_parsed(content, address)))
        if replace_object(address, _text(value).encode(), tag):
            return value
    raise DataError(f"{address}: {_TRIES} times something else wrote this table at the same time; run again")


def _text(value: Value) -> str:
    return json.dumps(sealed({"format_version": _VERSION, **value}), indent=1) + "\n"


def _parsed(content: bytes | None, where: str) -> dict[str, Any]:
    if content is None:
        return {"groups": {}, "seen": {}}
    value = parse_json(content, where, _ADVICE)
    if not isinstance(value, dict) or value.get("format_version") != _VERSION:
        raise DataError(f"{where}: not a table of sides of format {_VERSION}; {_ADVICE}")
    said = unsealed(value, where, _ADVICE)
    return {name: inner for name, inner in said.items() if name != "format_version"}


def _path(root: str, name: str) -> Path:
    return Path(root).expanduser() / "sides" / f"{name}.json"


def _address(root: str, name: str) -> str:
    return join(root, "sides", f"{name}.json")
