"""What a repository or a listing that somebody else wrote may decide, and what not.

Names become paths and MD5s become names of files, options of a remote reach the libraries that open it: each is checked
before anything is fetched.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ctan.errors import ConfigError, DataError

Options = Mapping[str, str]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_INSECURE_VARIABLE = "CTAN_INSECURE"
# Options of a DVC remote that say where the data is and how it is arranged, in `.dvc/config` as committed.
_HARMLESS = frozenset(
    [
        "account_name",
        "allow_anonymous_login",
        "connect_timeout",
        "endpointurl",
        "jobs",
        "oss_endpoint",
        "port",
        "projectname",
        "read_timeout",
        "region",
        "ssl_verify",
        "url",
        "user",
        "verify",
        "version_aware",
        "worktree",
    ]
)
# Options that say who asks: only in `.dvc/config.local`, which is never committed.
_CREDENTIALS = frozenset(
    [
        "access_key_id",
        "account_key",
        "client_id",
        "client_secret",
        "connection_string",
        "keyfile",
        "oss_key_id",
        "oss_key_secret",
        "password",
        "profile",
        "sas_token",
        "secret_access_key",
        "session_token",
        "tenant_id",
    ]
)


def require_safe_names(names: Iterable[str], what: str = "the source") -> None:
    """Refuse names that would leave a folder, or of which one is a file and the folder of another.

    Raises:
        DataError: naming the first.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        is_plain = name == path.as_posix() and not path.is_absolute() and ".." not in path.parts and name != "."
        if not is_plain or re.search(r"[\\\x00-\x1f\x7f]", name):
            raise DataError(f"{what} lists {name!r}, which is not a path below a folder; nothing was fetched")
        if name in seen:
            raise DataError(f"{what} lists {name!r} twice; nothing was fetched")
        seen.add(name)
        folders |= {parent.as_posix() for parent in path.parents}
    if both := sorted(seen & folders):
        raise DataError(f"{what} lists {both[0]!r} as a file and as a folder; nothing was fetched")


def require_md5(md5: Any, what: str, ending: str = "") -> str:
    """Return an MD5 in hexadecimal digits, with its ending.

    Raises:
        DataError: when it is something else, such as a path.
    """
    if not isinstance(md5, str) or not re.fullmatch(rf"[0-9a-f]{{32}}{re.escape(ending)}", md5):
        raise DataError(f"{what}: expected an MD5 (32 hexadecimal digits{ending}), found {str(md5)[:60]!r}")
    return md5


def checked_listing(content: bytes, what: str) -> dict[str, str]:
    """Return the MD5 of each file by path, from the list that DVC keeps of a folder.

    Raises:
        DataError: not such a list, a name that leaves the folder, an MD5 that is none.
    """
    try:
        entries = json.loads(content)
        pairs = [(entry["relpath"], entry["md5"]) for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{what}: its list of files is not one that DVC writes") from error
    return checked_files(pairs, what)


def checked_files(pairs: Iterable[tuple[Any, Any]], what: str) -> dict[str, str]:
    """Return name -> MD5 of pairs of both.

    Raises:
        DataError: see `checked_listing`.
    """
    listed = list(pairs)
    if wrong := [name for name, _ in listed if not isinstance(name, str)]:
        raise DataError(f"{what} lists {wrong[0]!r}, expected the name of a file")
    require_safe_names((name for name, _ in listed), what)
    return {name: require_md5(md5, f"{what}, {name}") for name, md5 in listed}


def allowed_options(committed: Options, own: Options, where: str) -> dict[str, str]:
    """Return the options of a remote, those of this machine over the committed ones.

    Args:
        committed: of `.dvc/config`, which whoever made the repository wrote.
        own: of `.dvc/config.local`.
        where: the repository, for messages.

    Raises:
        DataError: an option that a repository must not decide.
    """
    for options, file, allowed in (
        (committed, ".dvc/config", _HARMLESS),
        (own, ".dvc/config.local", _HARMLESS | _CREDENTIALS),
    ):
        for name in options:
            if name not in allowed:
                raise DataError(f"{where}: {file} sets {name}, {_advice(name)}")
        if options.get("ssl_verify", "true").lower() != "true":
            raise DataError(
                f"{where}: {file} sets ssl_verify to something else than true, so that anybody on the way "
                "could answer; for certificates of your own set AWS_CA_BUNDLE"
            )
    merged = dict(committed) | dict(own)
    if address := committed.get("endpointurl"):
        require_secure(address, where)
        if not _is_loopback(address):
            print(
                f"remark: {where} sends requests, signed with your credentials, to {address} (endpointurl)",
                file=sys.stderr,
            )
    require_secure(merged.get("url", ""), where)
    return merged


def _advice(name: str) -> str:
    if name == "credentialpath":
        return "a file of this machine that no repository must name; set AWS_SHARED_CREDENTIALS_FILE"
    if name in _CREDENTIALS:
        return "which belongs to nobody's repository; `dvc remote modify --local`, or the environment"
    return "which is not among the options that a repository may decide; set it in the environment"


def require_secure(address: str, what: str) -> None:
    """Refuse addresses that are neither encrypted nor of this machine, unless the user allowed them.

    Raises:
        ConfigError: for `http://` and `git://` without `ctan --insecure`.
    """
    if urlsplit(address).scheme.lower() not in ("http", "git", "webdav", "ftp") or _is_loopback(address):
        return
    if os.environ.get(_INSECURE_VARIABLE, "").lower() not in ("1", "true", "yes"):
        shown = f"{address.partition(':')[0]}://{urlsplit(address).hostname}"
        raise ConfigError(
            f"{what}: {shown} is not encrypted, so that anybody on the way can read and change the data; "
            "use https://, or allow it with `ctan --insecure ...`"
        )


def _is_loopback(address: str) -> bool:
    return urlsplit(address).hostname in _LOOPBACK
