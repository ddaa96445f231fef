"""What a run starts from, pinned before its first step: the version of the data, the settings, the code.

A branch moves on and a folder changes while a run is under way. The first step therefore finds out what is meant now;
all later steps get that, and every MLflow run and registered version records it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ctan import versions
from ctan.config import RunConfig
from ctan.datasets import get_dataset
from ctan.errors import ConfigError, DataError
from ctan.files import parse_json, read_json, sha256_of_json, write_json
from ctan.seals import check_file, seal_file
from ctan.sources import is_phantom, open_source, parse_phantom, source_folder
from ctan.sources.contents import md5s_of, version_of
from ctan.sources.places import recalled, recorded, recorded_repository, remember, remember_repository
from ctan.sources.synthetic import is_marked
from ctan.sources.versions import DataVersion, is_version, resolve_version, tree_md5
from ctan.tasks import tasks_of

ORIGIN_FILE = "origin.json"
_ADVICE = "run `ctan data ingest` again"


def _versions(config: RunConfig) -> dict[str, int]:
    dataset = get_dataset(config.data)
    return versions.of_run(dataset, tasks_of(dataset.spec), config)


@dataclass(frozen=True)
class Origin:
    """What a run starts from. Equal hashes mean equal results on the same machine.

    Attributes:
        source: the source as all steps use it: a DVC revision is replaced by its commit, a folder is absolute.
        data_version: changes when the raw bytes do: DVC's hash of the folder; `s3:` and a hash of names, sizes and
            ETags; `files:` and a hash of names and contents of the files that the data set reads, also of a DICOMweb
            server's; or the phantoms' numbers.
        settings_hash: of the settings before ingestion plans what they leave open.
        code_hash: of the versions of the code that decides results, see `ctan.versions`.
        pinned: what DVC knows of the version; empty for data that DVC does not pin.
        synthetic: the data are phantoms. Of a version that DVC pins only ingestion knows.
        sides: which table says who trains and who measures, and the hash of what it says of this data, see
            `ctan.intake.sides`; empty for phantoms.
    """

    source: str
    data_version: str
    settings_hash: str
    code_hash: str
    pinned: Mapping[str, str] = field(default_factory=dict)
    synthetic: bool = False
    sides: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str, config: RunConfig) -> Origin:
        """Find out what a source is now.

        Args:
            source: see `ctan.datasets.open_source`.
            config: settings of the run.

        Raises:
            ConfigError, DataError: when the source is not understood or not there, or holds nothing to read.
        """
        synthetic = _is_synthetic(source)
        source, data_version, pinned = _version(source, config)
        remember(source)
        if pinned is not None and pinned.repository:
            remember_repository(pinned.repository)
        known = {} if pinned is None else {name: value for name, value in pinned.to_json().items() if value}
        return cls(
            source,
            data_version,
            sha256_of_json(config.to_yaml()),
            versions.sha256_of(_versions(config)),
            known,
            synthetic,
        )

    @property
    def hashes(self) -> tuple[str, str, str, str]:
        """Data, settings, code, and sides of the data."""
        return self.data_version, self.settings_hash, self.code_hash, self.sides_hash

    @property
    def sides_hash(self) -> str:
        """Of the sides and folds of this data; empty for phantoms, whose numbers decide them."""
        return str(self.sides.get("hash", ""))

    def tags(self) -> dict[str, str]:
        """Return what MLflow runs and registered versions carry of it."""
        about_data = {
            f"data_{name}": self.pinned[name]
            for name in ("repository", "revision", "commit", "path", "md5")
            if name in self.pinned
        }
        if repository := about_data.get("data_repository"):
            about_data["data_repository"] = recorded_repository(repository)
        return {
            "data_source": recorded(self.source),
            "data_version": self.data_version,
            "settings_hash": self.settings_hash,
            "pipeline_code_hash": self.code_hash,
            **({"sides_hash": self.sides_hash} if self.sides else {}),
            **({"synthetic": "true"} if self.synthetic else {}),
        } | about_data

    def to_json(self) -> str:
        """Return the fields as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Read what `to_json` returned.

        Raises:
            DataError: when it is something else.
        """
        return cls._of(parse_json(text, "origin of the run", _ADVICE), "origin of the run")

    @classmethod
    def load(cls, manifest_dir: Path) -> Origin:
        """Read what `save` wrote.

        Raises:
            DataError: when it is missing or something else.
        """
        path = manifest_dir / ORIGIN_FILE
        check_file(path)
        found = cls._of(read_json(path, _ADVICE), str(path))
        return replace(found, source=recalled(found.source) or found.source)

    @classmethod
    def _of(cls, value: Any, where: str) -> Origin:
        names = {known.name for known in fields(cls)}
        if not isinstance(value, dict) or not names - {"synthetic", "sides"} <= set(value) <= names:
            raise DataError(f"{where}: not what the step `resolve` writes; {_ADVICE}")
        return cls(**value)

    def save(self, manifest_dir: Path) -> None:
        """Write it beside a manifest, and into the seal of the folder; paths of this machine only as hashes."""
        value = asdict(self) | {"source": recorded(self.source)}
        places = {
            name: recorded_repository(self.pinned[name]) for name in ("repository", "remote") if name in self.pinned
        }
        value["pinned"] = {**self.pinned, **places}
        if "root" in self.sides:
            value["sides"] = {**self.sides, "root": recorded(self.sides["root"])}
        write_json(manifest_dir / ORIGIN_FILE, value)
        seal_file(manifest_dir / ORIGIN_FILE)


def read_origin(manifest_dir: str | Path) -> Origin:
    """Return the origin that ingestion wrote beside a manifest.

    Raises:
        DataError: when it is missing or damaged.
    """
    return Origin.load(Path(manifest_dir))


def _is_synthetic(source: str) -> bool:
    local = not is_version(source) and not source.startswith(("s3://", "dicomweb:"))
    return is_phantom(source) or (local and is_marked(Path(source).expanduser()))


def _version(source: str, config: RunConfig) -> tuple[str, str, DataVersion | None]:
    """Return the source as it is to be used, what names its bytes, and what DVC knows of it."""
    if is_version(source):
        version = resolve_version(source)
        return _at_commit(source, version), version.md5, version
    if source.startswith("s3://"):
        return source, f"s3:{_s3_listing_hash(source)}", None
    if source.startswith("dicomweb:"):
        dataset = get_dataset(config.data)
        with open_source(source, dataset) as folder:
            return source, f"files:{version_of(dataset, folder)}", None
    if is_phantom(source):
        numbers = ",".join(f"{name}={number}" for name, number in parse_phantom(source).items())
        return f"phantom:{numbers}", f"phantom:{numbers}", None
    folder = source_folder(source).resolve()
    pinned = _pinned_here(folder)
    if pinned is not None:
        return str(folder), pinned.md5, pinned
    return str(folder), f"files:{version_of(get_dataset(config.data), folder)}", None


def _at_commit(source: str, version: DataVersion) -> str:
    if not version.repository:
        return source
    return f"dvc:{version.repository}@{version.commit}:{version.path}"


def _pinned_here(folder: Path) -> DataVersion | None:
    """Return the version of a folder in a DVC checkout, None when its files are not those that HEAD pins."""
    root = next((parent for parent in folder.parents if (parent / ".dvc" / "config").is_file()), None)
    if root is None:
        return None
    try:
        version = resolve_version(f"dvc:{root}@HEAD:{folder.relative_to(root).as_posix()}")
    except (ConfigError, DataError):
        return None  # not a git checkout, or this folder is not pinned in it
    if any(path.is_symlink() and path.is_dir() for path in folder.rglob("*")):
        return None  # the reader follows such links, DVC leaves out what lies behind them
    found = md5s_of(folder)
    visible = {name: md5 for name, md5 in found.items() if not any(part.startswith(".") for part in name.split("/"))}
    return version if version.md5 in (tree_md5(found), tree_md5(visible)) else None


def _s3_listing_hash(source: str) -> str:
    from ctan.sources.s3 import S3Source, S3Uri, is_clutter, s3_client

    files = S3Source(S3Uri.parse(source), s3_client()).listing()
    return sha256_of_json(sorted([file.name, file.identity] for file in files if not is_clutter(file.name)))[:32]
