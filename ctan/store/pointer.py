"""The small JSON artifact that names a store: steps hand it on instead of the arrays."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ctan.errors import DataError
from ctan.files import read_json, write_json
from ctan.seals import SEAL, sealed, unsealed
from ctan.sources.buckets import cache_folder, check_root, is_remote, join


@dataclass(frozen=True)
class StorePointer:
    """Where a store lies and what is in it.

    Attributes:
        store_root: folder or `s3://bucket/prefix` that holds stores, as given by the user.
        key: name of the store, from data, configuration and code.
        data_hash: SHA-256 over id, raw bytes, split and fold of every case.
        dataset: name of the data set.
        config_hash: SHA-256 of the settings that shape the store.
        num_cases: how many cases it holds.
        spec_hash: SHA-256 of the description of its data.
        store_sha256: seal of its `store.json`, which holds geometry and scale of every case, sizes of all files and
            the hashes of its tables; empty: not known yet.
    """

    store_root: str
    key: str
    data_hash: str
    dataset: str
    config_hash: str
    num_cases: int
    spec_hash: str = ""
    store_sha256: str = ""

    @property
    def folder(self) -> Path:
        """Folder of the store; of one in object storage its local copy in the workspace (see `open_store`).

        Raises:
            ConfigError: when `store_root` is an address of another kind than `s3://bucket/prefix`.
        """
        return stores_folder(self.store_root) / self.key

    @property
    def address(self) -> str:
        """Where the store lies: its folder, or its address in object storage."""
        return join(self.store_root, "stores", self.key) if is_remote(self.store_root) else str(self.folder)

    @property
    def is_reachable(self) -> bool:
        """Whether this machine sees the store, or can fetch it."""
        return is_remote(self.store_root) or self.folder.exists()

    def save(self, path: Path) -> None:
        """Write the pointer as JSON to `path`, atomically."""
        write_json(path, sealed(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> StorePointer:
        """Read a pointer that `save` wrote.

        Raises:
            DataError: when the file is missing or is not a pointer.
        """
        advice = "expected the pointer that `ctan data preprocess` writes"
        value = read_json(path, advice)
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or not {*names} - {"store_sha256"} <= {*value} <= {*names, SEAL}:
            raise DataError(f"{path}: not a store pointer (its fields are {', '.join(names)}); {advice}")
        return cls(**unsealed(value, str(path), "run `ctan data preprocess` again"))


def stores_folder(store_root: str) -> Path:
    """Return the local folder that holds one folder a store: under `store_root`, or copies of what lies there in S3.

    Raises:
        ConfigError: when `store_root` is an address of another kind than `s3://bucket/prefix`.
    """
    check_root(store_root, "store_root")
    return cache_folder("stores", store_root) if is_remote(store_root) else Path(store_root).expanduser() / "stores"
