"""Files of HTTP servers: Dataverse repositories and GitHub."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctan.errors import DataError
from ctan.sources.transfer import Chunks, InterruptedTransferError, RemoteFile, hash_file
from ctan.sources.trust import require_secure

_CHUNK_BYTES = 2**16  # a piece that was not read to its end is lost when the connection breaks
_TIMEOUT_SECONDS = (10, 60)  # to connect, between two pieces
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class HttpSource:
    """Files with a URL each. A `ctan.sources.transfer.Source`.

    Args:
        num_connections: used at the same time.
    """

    def __init__(self, num_connections: int = 8) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        class Adapter(HTTPAdapter):
            """Refuses what is not encrypted, also where an encrypted address leads to it."""

            def send(self, request: Any, *arguments: Any, **more: Any) -> Any:
                require_secure(str(request.url), "download")
                return super().send(request, *arguments, **more)

        retry = Retry(total=3, backoff_factor=0.5, status_forcelist=_BUSY, raise_on_status=False)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Adapter(max_retries=retry, pool_maxsize=num_connections))
        self._session.headers["Accept-Encoding"] = "identity"  # sizes and ranges count the file's own bytes
        self._etags: dict[str, str] = {}
        self._lock = threading.Lock()

    def json(self, url: str, what: str) -> Any:
        """Return the JSON that a server answers.

        Raises:
            DataError: not reachable, no access, no JSON.
        """
        try:
            with _translated(what):
                response = self._session.get(url, timeout=_TIMEOUT_SECONDS)
                _require_ok(response, what)
                return response.json()
        except InterruptedTransferError as error:
            raise DataError(f"{what}: the server cannot be reached or is busy ({error}); try again later") from error
        except ValueError as error:
            raise DataError(f"{what}: expected JSON of {_host(url)}, found something else") from error

    def open(self, file: RemoteFile, offset: int) -> tuple[int, Chunks]:
        """Ask for the file from `offset` on; from the start where its ETag changed since the last attempt."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._lock:
            etag = self._etags.get(file.address)
        if offset and etag:
            headers["If-Range"] = etag
        with _translated(file.name):
            response = self._session.get(file.address, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
            if response.status_code == 416:  # what is there is longer than the file: it is not this file
                response.close()
                response = self._session.get(file.address, stream=True, timeout=_TIMEOUT_SECONDS)
            _require_ok(response, file.name)
        found = response.headers.get("ETag", "")
        if found and not found.startswith("W/"):
            with self._lock:
                self._etags[file.address] = found
        match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        begin = int(match[1]) if response.status_code == 206 and match else 0
        if begin > offset:
            response.close()
            raise DataError(f"{file.name}: asked for bytes from {offset} on, the server sent them from {begin} on")
        return begin, _chunks(response, file.name)

    def problem(self, file: RemoteFile, path: Path) -> str | None:
        """Compare size and digest with the listing's."""
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"{size} bytes arrived of {file.size}"
        kind, _, wanted = file.identity.partition(":")
        if kind == "git":
            found = hash_file(path, "sha1", b"blob %d\0" % size)
        elif kind in ("md5", "sha1", "sha256", "sha512"):
            found = hash_file(path, kind)
        else:
            return None
        return None if found == wanted else f"the {kind} of what arrived is {found}, the source's is {wanted}"


def list_dataverse(http: HttpSource, server: str, doi: str) -> list[RemoteFile]:
    """List the files of a data set's newest published version in a Dataverse repository.

    Tabular files are fetched as they were uploaded (`format=original`), not as the repository converted them. The MD5
    of the listing is not always that of the original there (github.com/IQSS/dataverse/issues/9501), so they are
    checked by size.

    Args:
        http: asks.
        server: such as `https://dataverse.harvard.edu`.
        doi: such as `doi:10.7910/DVN/DBW86T`.

    Raises:
        DataError: not reachable, no such data set, an unknown answer.
    """
    server = server.rstrip("/")
    url = f"{server}/api/datasets/:persistentId/versions/:latest-published/files?persistentId={quote(doi, safe=':/')}"
    answer = http.json(url, doi)
    try:
        return [_dataverse_file(server, entry) for entry in answer["data"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{doi}: {_host(server)} lists files in a form that is not known (no {error})") from error


def _dataverse_file(server: str, entry: dict[str, Any]) -> RemoteFile:
    data = entry["dataFile"]
    folder = f"{entry['directoryLabel']}/" if entry.get("directoryLabel") else ""
    address = f"{server}/api/access/datafile/{data['id']}"
    if "originalFileFormat" in data:
        name = data.get("originalFileName") or re.sub(r"\.tab$", ".csv", entry["label"])
        identity = f"dataverse:{data['id']} {data.get('UNF', '')}".strip()
        return RemoteFile(folder + name, data.get("originalFileSize"), identity, f"{address}?format=original")
    checksum = data.get("checksum") or {"type": "MD5", "value": data["md5"]}
    kind = checksum["type"].lower().replace("-", "")
    return RemoteFile(folder + entry["label"], data["filesize"], f"{kind}:{checksum['value']}", address)


def list_github(http: HttpSource, server: str, repository: str, revision: str = "HEAD") -> list[RemoteFile]:
    """List the files of a GitHub repository, each with the SHA-1 that git names its content by.

    One request lists them all; each file then comes from the server of raw files, so that a download is parallel,
    resumable and partial, which an archive of the repository is not.

    Args:
        http: asks.
        server: `https://github.com`, or an Enterprise server's address.
        repository: owner and name.
        revision: branch, tag or commit.

    Raises:
        DataError: not reachable, no such repository, too many files for one answer.
    """
    server = server.rstrip("/")
    if server == "https://github.com":
        api, raw = "https://api.github.com", "https://raw.githubusercontent.com"
    else:
        api, raw = f"{server}/api/v3", f"{server}/raw"
    what = f"github.com/{repository}"
    answer = http.json(f"{api}/repos/{repository}/git/trees/{quote(revision, safe='')}?recursive=1", what)
    try:
        if answer["truncated"]:
            raise DataError(f"{what} has more files than one listing holds")
        return [
            RemoteFile(
                entry["path"],
                entry["size"],
                f"git:{entry['sha']}",
                f"{raw}/{repository}/{quote(revision, safe='')}/{quote(entry['path'])}",
            )
            for entry in answer["tree"]
            if entry["type"] == "blob"
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{what}: {_host(api)} lists files in a form that is not known (no {error})") from error


def _require_ok(response: Any, what: str) -> None:
    """Turn a status other than success into an error."""
    status, host = response.status_code, _host(response.url)
    if status in (200, 206):
        return
    response.close()
    if status in _BUSY:
        raise InterruptedTransferError(f"{host} answers {status}")
    if status in (404, 410):
        raise DataError(f"{what}: {host} does not have it (HTTP {status})")
    if response.headers.get("X-RateLimit-Remaining") == "0":
        raise DataError(f"{what}: {host} allows no more requests for now; try again in an hour (HTTP {status})")
    if status in (401, 403):
        raise DataError(f"{what}: no access; {host} asks for a login or an accepted licence (HTTP {status})")
    raise DataError(f"{what}: {host} refuses the request (HTTP {status})")


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def _chunks(response: Any, name: str) -> Chunks:
    try:
        with _translated(name):
            yield from response.iter_content(_CHUNK_BYTES)
    finally:
        response.close()


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the errors of requests into those of `ctan.sources.transfer.Source`."""
    from requests import exceptions

    try:
        yield
    except exceptions.JSONDecodeError:
        raise
    except exceptions.SSLError as error:
        raise DataError(
            f"{what}: the server's certificate is not trusted; behind a proxy that opens TLS set REQUESTS_CA_BUNDLE"
        ) from error
    except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
        raise InterruptedTransferError(type(error).__name__) from error
    except exceptions.RequestException as error:
        raise DataError(f"{what}: {type(error).__name__}: {error}") from error
