"""The promotion ledger: an append-only file beside the stores in which every decision and its numbers stay.

`store_root/ledger/<model_name>.jsonl` holds a line a decision. `store_root/ledger/<model_name>/` keeps the per-case
table of every model that was decided about, so that later challengers are compared on the same cases. Both may lie in
object storage: there a decision is added by putting the whole file anew.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ctan.errors import DataError
from ctan.files import atomic_path
from ctan.sources.buckets import cache_folder, check_root, check_writable, is_remote, join, read_object, write_object


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

    Attributes:
        address: folder or address that holds ledgers.
    """

    def __init__(self, store_root: str, model_name: str) -> None:
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
        if self._remote:
            try:
                return check_writable(self.address)
            except DataError as error:
                raise DataError(
                    f"the promotion ledger cannot be written, nothing has been promoted: {error}"
                ) from error
        try:
            self._tables.mkdir(parents=True, exist_ok=True)
            probe = self._tables / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise DataError(
                f"{self.path.parent}: the promotion ledger cannot be written ({error.strerror}); "
                f"make store_root writable for promotion, nothing has been promoted"
            ) from error

    def entries(self) -> list[dict[str, Any]]:
        """Return all decisions, oldest first.

        An unfinished last line is what a crash leaves of an entry that never took effect; it does not count.

        Raises:
            DataError: when a line is damaged.
        """
        complete, _, _ = self._read().rpartition(b"\n")
        found = []
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise DataError(
                    f"{self._address(self.path)}: line {number} is damaged ({error}); restore the file from a backup"
                ) from error
        return found

    def looks(self, evaluation_hash: str, data_hash: str) -> set[str]:
        """Return the comparisons that have looked at an evaluation split of a data version."""
        split = (evaluation_hash, data_hash)
        return {e["comparison_hash"] for e in self.entries() if (e["evaluation_hash"], e["data_hash"]) == split}

    def append(self, entry: dict[str, Any]) -> None:
        """Add a decision: on return it is on the disk or in the bucket. The caller holds the promotion lock."""
        line = json.dumps(entry, sort_keys=True, allow_nan=False) + "\n"  # JSON has no NaN: see `plain`
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
        """Return where the per-case table of a model on one evaluation split is; the file exists when there is one."""
        path = self._table(weights_sha256, evaluation_hash)
        if self._remote:
            content = read_object(self._address(path))
            if content is None:
                path.unlink(missing_ok=True)
            else:
                with atomic_path(path) as copy:
                    copy.write_bytes(content)
        return path

    def keep_table(self, weights_sha256: str, evaluation_hash: str, table: Any) -> None:
        """Keep a model's per-case table (pyarrow)."""
        import pyarrow.parquet as pq

        path = self._table(weights_sha256, evaluation_hash)
        with atomic_path(path) as unfinished:
            pq.write_table(table, unfinished)
        if self._remote:
            write_object(self._address(path), path.read_bytes())

    def _table(self, weights_sha256: str, evaluation_hash: str) -> Path:
        return self._tables / f"{weights_sha256[:16]}-on-{evaluation_hash[:16]}.parquet"

    def _read(self) -> bytes:
        if self._remote:
            return read_object(self._address(self.path)) or b""
        return self.path.read_bytes() if self.path.exists() else b""

    def _address(self, path: Path) -> str:
        """Return where a file of the ledger really lies."""
        return join(self.address, path.relative_to(self.path.parent).as_posix()) if self._remote else str(path)
