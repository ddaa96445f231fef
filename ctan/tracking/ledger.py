"""The promotion ledger: an append-only file beside the stores in which every decision and its numbers stay.

`store_root/ledger/<model_name>.jsonl` holds a line a decision. `store_root/ledger/<model_name>/` keeps the per-case
table of every model that was decided about, so that later challengers are compared on the same cases. Both may lie in
object storage: there a decision is added by putting the whole file anew.

Decisions are chained: each names, as `previous`, a hash of all lines before it, so that none can be changed, dropped,
added or moved later without being found. Lines of release 0.1 have no such name; the first that has one seals them.
What nothing follows yet, the last line, is sealed by whoever keeps `Ledger.head`. Tables carry their SHA-256 beside
them and are not in the chain: a patient can be forgotten.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import atomic_path, sha256_of_file, write_text
from ctan.sources.buckets import cache_folder, check_root, check_writable, is_remote, join
from ctan.sources.objects import read_object, write_object

_START = "0" * 64  # the hash of no decisions
_PREVIOUS = "previous"
_NEEDED = (
    "decision",
    "version",
    "champion_before",
    "champion_after",
    "run_id",
    "weights_sha256",
    "comparison_hash",
    "evaluation_hash",
    "data_hash",
)
_HASH_ENDING = ".sha256"


def plain(value: Any) -> Any:
    """Return a nested value with None in place of numbers that JSON does not have (NaN, infinite)."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Ledger:
    """The ledger of one registered model.

    Args:
        store_root: folder or `s3://bucket/prefix` that holds the stores.
        model_name: of the registered model.
        needed: what every line says; without it the line is damaged.

    Attributes:
        address: folder or address that holds ledgers.
    """

    def __init__(self, store_root: str, model_name: str, needed: Sequence[str] = _NEEDED) -> None:
        self._needed = needed
        check_root(store_root, "store_root")
        self._remote = is_remote(store_root)
        local = cache_folder("ledger", store_root) if self._remote else Path(store_root).expanduser() / "ledger"
        self.address = join(store_root, "ledger") if self._remote else str(local)
        self.path = local / f"{model_name}.jsonl"
        self._tables = local / model_name

    def check_writable(self) -> None:
        """See that entries can be added, before anything else changes.

        Raises:
            DataError: naming the folder.
        """
        try:
            check_writable(self.address if self._remote else self._tables)
            if not self._remote:
                with self.path.open("ab"):
                    pass
        except (DataError, OSError) as error:
            raise DataError(
                f"the promotion ledger cannot be written, nothing has been promoted: {error}; make store_root writable "
                f"for promotion"
            ) from error

    def entries(self) -> list[dict[str, Any]]:
        """Return all decisions, oldest first.

        An unfinished last line is what a crash leaves of an entry that never took effect; it does not count.

        Raises:
            DataError: when a line is damaged.
        """
        return self._checked()[0]

    @property
    def head(self) -> str:
        """The hash of all decisions so far; `verify` tells with it whether the end is still there.

        Raises:
            DataError: when a line is damaged.
        """
        return self._checked()[1][-1]

    def verify(self, head: str = "") -> int:
        """Check every line against the chain; return how many decisions there are.

        Args:
            head: what `head` was at some time before; empty: nothing is known of the end.

        Raises:
            DataError: when a line is damaged, was changed, dropped, added or moved.
        """
        found, hashes = self._checked()
        if head and head not in hashes:
            raise DataError(
                f"{self._address(self.path)}: does not hold all decisions that were made: none of its {len(found)} "
                f"lines has the hash {head[:12]} that was noted; restore the file from a backup"
            )
        return len(found)

    def _checked(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return all decisions, and the hash before the first and after each."""
        complete, _, _ = self._read().rpartition(b"\n")
        found: list[dict[str, Any]] = []
        hashes = [_START]
        chained = False
        for number, line in enumerate(complete.split(b"\n") if complete else (), start=1):
            entry = self._entry(line, number)
            previous = entry.pop(_PREVIOUS, None)
            if previous is None and not chained:
                pass  # of release 0.1
            elif previous != hashes[-1]:
                raise DataError(
                    f"{self._address(self.path)}: line {number} does not follow from the lines before it: one of them, "
                    f"or this one, was changed, dropped, added or moved; restore the file from a backup"
                )
            else:
                chained = True
            found.append(entry)
            hashes.append(hashlib.sha256(hashes[-1].encode() + line).hexdigest())
        return found, hashes

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self._address(self.path)}: line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is damaged ({error}); restore the file from a backup") from error
        missing = [name for name in self._needed if name not in entry] if isinstance(entry, dict) else self._needed
        if missing:
            raise DataError(f"{where} is damaged (lacks {', '.join(missing)}); restore the file from a backup")
        return entry

    def looks(self, evaluation_hash: str, data_hash: str) -> set[str]:
        """Return the comparisons that have looked at an evaluation split of a data version."""
        split = (evaluation_hash, data_hash)
        return {e["comparison_hash"] for e in self.entries() if (e["evaluation_hash"], e["data_hash"]) == split}

    def append(self, entry: dict[str, Any]) -> None:
        """Add a decision: on return it is on the disk or in the bucket. The caller holds the promotion lock."""
        chained = {**entry, _PREVIOUS: self.head}
        line = json.dumps(chained, sort_keys=True, allow_nan=False) + "\n"  # JSON has no NaN: see `plain`
        if self._remote:
            return write_object(self._address(self.path), self._read() + line.encode())
        with self.path.open("r+b" if self.path.exists() else "wb") as stream:
            content = stream.read() if stream.readable() else b""
            stream.seek(content.rfind(b"\n") + 1)
            stream.truncate()
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def table_path(self, weights_sha256: str, evaluation_hash: str) -> Path:
        """Return where the per-case table of a model on one evaluation split is; the file exists when there is one.

        Raises:
            DataError: when it is not the table that was kept.
        """
        path = self._table(weights_sha256, evaluation_hash)
        if self._remote:
            for file in (path, _hash_of(path)):
                content = read_object(self._address(file))
                if content is None:
                    file.unlink(missing_ok=True)
                else:
                    with atomic_path(file) as copy:
                        copy.write_bytes(content)
        known = _hash_of(path)  # those of release 0.1 have none
        if path.exists() and known.exists() and known.read_text(errors="replace").strip() != sha256_of_file(path):
            raise DataError(
                f"{self._address(path)}: was changed since it was kept (its SHA-256 does not fit); restore it from a "
                f"backup, or remove it and {known.name}: the champion is then evaluated anew"
            )
        return path

    def keep_table(self, weights_sha256: str, evaluation_hash: str, table: Any) -> None:
        """Keep a model's per-case table (pyarrow)."""
        import pyarrow.parquet as pq

        path = self._table(weights_sha256, evaluation_hash)
        _hash_of(path).unlink(missing_ok=True)  # a table without is better than one beside the hash of another
        with atomic_path(path) as unfinished:
            pq.write_table(table, unfinished)
        write_text(_hash_of(path), sha256_of_file(path) + "\n")
        if self._remote:
            for file in (path, _hash_of(path)):
                write_object(self._address(file), file.read_bytes())

    def _table(self, weights_sha256: str, evaluation_hash: str) -> Path:
        return self._tables / f"{weights_sha256[:16]}-on-{evaluation_hash[:16]}.parquet"

    def _read(self) -> bytes:
        if self._remote:
            return read_object(self._address(self.path)) or b""
        return self.path.read_bytes() if self.path.exists() else b""

    def _address(self, path: Path) -> str:
        """Return where a file of the ledger really lies."""
        return join(self.address, path.relative_to(self.path.parent).as_posix()) if self._remote else str(path)


def _hash_of(table: Path) -> Path:
    return table.with_name(table.name + _HASH_ENDING)
