"""Files of ours without one subject: its rows, keys, pages and names; what vouches for such a file is mended."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ctan.files import atomic_path, sha256_of_file, sha256_of_json
from ctan.seals import SEAL, SEAL_FILE, sealed

FORGOTTEN = "forgotten"
_ID_COLUMNS = ("group_id", "case_id")
_TEXTS = (".txt", ".log", ".md", ".yaml", ".yml")
ENDINGS = (".parquet", ".npz", ".html", ".json", ".jsonl", ".csv", *_TEXTS)  # files that are looked into


@dataclass(frozen=True)
class Subject:
    """Who is to be forgotten.

    Attributes:
        group: id of the patient or lesion.
        cases: ids of its cases.
    """

    group: str
    cases: frozenset[str]

    @cached_property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return self.cases | {self.group}

    @cached_property
    def _token(self) -> re.Pattern[str]:
        found = "|".join(re.escape(name) for name in sorted(self.ids, key=len, reverse=True))
        return re.compile(rf"(?<![A-Za-z0-9_])(?:{found})(?![A-Za-z0-9_])")

    @cached_property
    def _quoted(self) -> re.Pattern[str]:
        """A plain number is an id only where it stands alone, as a cell or in quotes."""
        found = "|".join(re.escape(name) for name in self.ids)
        return re.compile(rf"(?<=[>\"'(])(?:{found})(?=[<\"')])")

    @property
    def _pattern(self) -> re.Pattern[str]:
        return self._quoted if any(name.isdigit() for name in self.ids) else self._token

    def is_named(self, text: str) -> bool:
        """Say whether a text names the subject or one of its cases."""
        return text in self.ids or bool(self._pattern.search(text))

    def names_file(self, path: Path) -> bool:
        """Say whether a file or folder is named after it: `pt_1`, `pt_1.nii.gz`, `pt_1-axial.png`."""
        stem = path.name.split(".")[0]
        return stem in self.ids or any(re.match(rf"{re.escape(name)}[-_.](?!\d)", path.name) for name in self.ids)

    def replaced(self, text: str) -> str:
        """Return a text without it."""
        return FORGOTTEN if text in self.ids else self._pattern.sub(FORGOTTEN, text)


def without(name: str, content: bytes, subject: Subject) -> bytes | None:
    """Return the content of a file without a subject: the same bytes where it does not name it, None to remove it.

    Args:
        name: of the file; its ending says what it is.
        content: its bytes.
        subject: who is to be forgotten.
    """
    ending = Path(name).suffix
    if ending == ".parquet":
        return _table(content, subject)
    if ending == ".npz":
        return _arrays(content, subject)
    if ending not in ENDINGS:
        return content
    text = content.decode(errors="surrogateescape")
    if not subject.is_named(text):
        return content
    if ending == ".html":
        return None  # pictures of it may be on the page
    if ending == ".json":
        return _json(text, subject)
    if ending == ".csv":
        kept = [
            line for line in text.splitlines(keepends=True) if not subject.ids & set(re.split(r"[,;\t\r\n\"]", line))
        ]
        text = "".join(kept)
    return subject.replaced(text).encode(errors="surrogateescape")


def _table(content: bytes, subject: Subject) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
    except (OSError, pa.ArrowException):
        return content
    keep = [True] * table.num_rows
    for column in (name for name in _ID_COLUMNS if name in table.column_names):
        keep = [kept and value not in subject.ids for kept, value in zip(keep, table[column].to_pylist(), strict=True)]
    left = table.filter(pa.array(keep, pa.bool_()))
    for index, field in enumerate(left.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            before = left[field.name].to_pylist()
            after = [value and subject.replaced(value) for value in before]
            if after != before:
                left = left.set_column(index, field, pa.array(after, field.type))
    if left.equals(table):
        return content
    stream = io.BytesIO()
    pq.write_table(left, stream)
    return stream.getvalue()


def _arrays(content: bytes, subject: Subject) -> bytes:
    import numpy as np

    with np.load(io.BytesIO(content)) as found:
        kept = {name: found[name] for name in found.files if name.split("/")[0] not in subject.ids}
        if len(kept) == len(found.files):
            return content
    stream = io.BytesIO()
    np.savez_compressed(stream, **kept)
    return stream.getvalue()


def _json(text: str, subject: Subject) -> bytes:
    try:
        value = json.loads(text)
    except ValueError:
        return subject.replaced(text).encode(errors="surrogateescape")
    return (json.dumps(_sealed_again(value, _pruned(value, subject)), indent=2) + "\n").encode()


def _sealed_again(before: Any, after: Any) -> Any:
    if not isinstance(before, dict) or SEAL not in before or not isinstance(after, dict):
        return after
    content = {name: value for name, value in before.items() if name != SEAL}
    if before[SEAL] not in (sealed(content)[SEAL], sha256_of_json(content)):
        return after  # it did not fit before
    return sealed({name: value for name, value in after.items() if name != SEAL})


def _pruned(value: Any, subject: Subject) -> Any:
    """Return a value without the subject's keys and entries, and with its name replaced in texts."""
    if isinstance(value, dict):
        return {name: _pruned(inner, subject) for name, inner in value.items() if name not in subject.ids}
    if isinstance(value, list):
        return [_pruned(inner, subject) for inner in value if not _is_about(inner, subject)]
    return subject.replaced(value) if isinstance(value, str) else value


def _is_about(value: Any, subject: Subject) -> bool:
    if isinstance(value, dict):
        return any(value.get(name) in subject.ids for name in _ID_COLUMNS if isinstance(value.get(name), str))
    return isinstance(value, str) and value in subject.ids


def affected(folder: Path, subject: Subject) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield every file or folder below a folder that holds a subject, with what removes it from there.

    Links are not followed. What a folder's seal and records say of a file that changes is mended with it.
    """
    for path in _below(folder, subject):
        if subject.names_file(path):
            yield path, partial(_remove, path)
        elif path.suffix in ENDINGS and without(path.name, content := path.read_bytes(), subject) != content:
            yield path, partial(_rewrite, path, subject)


def _below(folder: Path, subject: Subject) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir() and not subject.names_file(path):
            yield from _below(path, subject)
        elif path.is_dir() or path.is_file():
            yield path


def _rewrite(path: Path, subject: Subject) -> None:
    """Write a file without the subject; read anew: the files beside it may have been mended since it was planned."""
    left = without(path.name, path.read_bytes(), subject) if path.is_file() else None
    if left is None:
        _remove(path)
    else:
        with atomic_path(path) as beside:
            beside.write_bytes(left)
        _vouch_again(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _vouch_again(path)


def _vouch_again(path: Path) -> None:
    """Mend the hashes by which the files beside one vouch for it."""
    for beside in _json_files(path.parent):
        try:
            value = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        files = value.get("files") if isinstance(value, dict) and SEAL in value else None
        if not isinstance(files, dict) or path.name not in files:
            continue
        listed = {name: said for name, said in files.items() if name != path.name}
        if path.is_file():
            listed[path.name] = sha256_of_file(path)
        content = {name: inner for name, inner in value.items() if name != SEAL} | {"files": listed}
        with atomic_path(beside) as unfinished:
            unfinished.write_text(json.dumps(sealed(content), indent=2) + "\n", encoding="utf-8")
        if beside.name != SEAL_FILE:
            _vouch_again(beside)


def _json_files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.glob("*.json") if path.is_file()) if folder.is_dir() else ()
