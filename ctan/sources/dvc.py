"""Pulling one folder that DVC pins, without git and without the repository: the one module that calls DVC.

Tried with DVC 3.67: `Repo.pull` in a new folder (`no_scm`) with a written configuration and `data.dvc`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ctan.errors import DataError
from ctan.sources.pins import Pin
from ctan.sources.transfer import hash_file
from ctan.sources.trust import checked_listing

Settings = dict[str, dict[str, str]]  # section -> option -> value of .dvc/config
_LOGGERS = ("dvc", "dvc_data", "dvc_objects")


def parse_dvc_config(text: str) -> Settings:
    """Return the sections of a `.dvc/config`; a remote's is called `remote "name"`."""
    from configobj import ConfigObj

    parsed = ConfigObj(text.splitlines(), list_values=False, interpolation=False)
    return {name.strip("'"): {key: str(value) for key, value in parsed[name].items()} for name in parsed.sections}


def pull(pin: Pin, remote: str, options: Mapping[str, str], work: Path) -> dict[str, str]:
    """Let DVC fetch a folder to `work/data`.

    Args:
        pin: the folder.
        remote: name of the remote that holds it.
        options: of that remote (`ctan.sources.trust.allowed_options`); its `url` is absolute.
        work: an empty folder; everything DVC writes stays in it.

    Returns:
        The MD5 of each file by path, from a list whose own MD5 is that of the pin.

    Raises:
        DataError: naming a file that the remote does not give, or that its list would put elsewhere.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    path = pin.path if pin.files else "data"
    with _failures() as failed:
        Repo.init(str(work), no_scm=True).close()
        _configure(remote, options, work)
        known = ("files", "hash", "nfiles", "remote", "size")
        entry = (
            {key: pin.entry[key] for key in known if key in pin.entry} if pin.files else {"md5": pin.md5, "hash": "md5"}
        )
        file = work / f"{path}.dvc"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"outs": [entry | {"path": file.stem}]}), encoding="utf-8")
        repo = Repo(str(work))
        try:
            listing = dict(pin.files) or _listing(repo, pin.md5, work)
            repo.pull()
        except (DvcException, OSError, BotoCoreError, ClientError) as error:
            raise _explained(repo, pin, options.get("url", ""), failed, error) from error
        finally:
            repo.close()
    if path != "data":
        (work / path).rename(work / "pulled")
        shutil.rmtree(work / "data", ignore_errors=True)
        (work / "pulled").rename(work / "data")
    return listing


def _listing(repo: Any, md5: str, work: Path) -> dict[str, str]:
    """Return the list of files of a folder, checked, and put it where DVC looks first, so that it asks for no other."""
    remote = repo.cloud.get_remote_odb()
    content = remote.fs.cat_file(remote.oid_to_path(md5))
    if f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}.dir" != md5:
        raise DataError(f"version {md5}: the remote's list of files is not the one that was pinned")
    listing = checked_listing(content, f"version {md5}")
    path = work / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return listing


def verify(md5: str, folder: Path, listing: Mapping[str, str]) -> None:
    """Compare every file with the version's list, and make it an ordinary file (DVC's links are read-only).

    Raises:
        DataError: naming the first file that is missing, too many or of other bytes.
    """
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if missing := sorted(set(listing) - there):
        raise DataError(f"{missing[0]}: missing ({len(missing)} of {len(listing)} files of version {md5} are)")
    if others := sorted(there - set(listing)):
        raise DataError(f"{others[0]}: is not part of version {md5}")
    for name, wanted in listing.items():
        found = hash_file(folder / name, "md5")
        if found != wanted:
            raise DataError(
                f"{name}: its MD5 is {found}, version {md5} has {wanted}; the remote's object is damaged: remove it "
                "and `dvc push` from a copy that is whole"
            )
        (folder / name).chmod(0o644)


def _configure(remote: str, options: Mapping[str, str], work: Path) -> None:
    """Write the configuration of the folder that pulls: one remote, nothing outside of `work`."""
    from configobj import ConfigObj

    config = ConfigObj(list_values=False, interpolation=False)
    config.filename = str(work / ".dvc" / "config")
    config["core"] = {
        "no_scm": "true",
        "analytics": "false",
        "check_update": "false",
        "remote": remote,
        "site_cache_dir": str(work / ".dvc" / "site"),
    }
    config["cache"] = {"type": "hardlink,copy"}
    # Every byte is checked by `verify` here; DVC's `verify` would do it twice and name no file.
    values = dict(options) | {"verify": "false"}
    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    if endpoint and values.get("url", "").startswith("s3://") and "AWS_ENDPOINT_URL" not in os.environ:
        values.setdefault("endpointurl", endpoint)
    config[f"'remote \"{remote}\"'"] = values
    config.write()


class _Collector(logging.Handler):
    """Keeps which objects DVC could not transfer and why: its exceptions only count them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.failed: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args and record.exc_info and record.exc_info[1]:
            self.failed[str(record.args[0])] = _reason(record.exc_info[1])


@contextmanager
def _failures() -> Iterator[dict[str, str]]:
    """Keep DVC quiet and yield what it could not transfer: object -> reason."""
    collector = _Collector()
    before = {}
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        before[name] = (logger.handlers, logger.propagate)
        logger.handlers, logger.propagate = [collector], False
    try:
        yield collector.failed
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def _explained(repo: Any, pin: Pin, url: str, failed: Mapping[str, str], error: Exception) -> DataError:
    """Say which file is not there, where the remote's list of files can be read."""
    md5 = pin.md5
    where = url if "://" in url else "its remote"
    reason = next(iter(failed.values()), _reason(error))
    if not failed:
        return DataError(f"version {md5} cannot be fetched from {where}: {reason}")
    from botocore.exceptions import BotoCoreError, ClientError
    from dvc.exceptions import DvcException

    try:
        remote = repo.cloud.get_remote_odb()
        names = {entry["md5"]: entry["relpath"] for entry in json.loads(remote.fs.cat_file(remote.oid_to_path(md5)))}
    except (DvcException, OSError, BotoCoreError, ClientError, ValueError, TypeError, KeyError):
        names = {}  # cloud-versioned objects are called by their names anyway
    lost = sorted(names.get(name, name) for name in failed)
    return DataError(f"{lost[0]}: cannot be fetched from {where} ({len(lost)} objects of version {md5}): {reason}")


def _reason(error: BaseException) -> str:
    """Return what went wrong without paths of this machine."""
    if isinstance(error, FileNotFoundError):
        return "the remote does not have it; was `dvc push` forgotten?"
    if isinstance(error, PermissionError):
        return f"no access; check the credentials in the environment ({error.strerror or error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"
