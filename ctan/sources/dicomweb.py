"""DICOMweb servers (Orthanc, dcm4chee, clouds): planning data from one as a source, predictions to one.

A source is written `dicomweb:https://host/dicom-web?PatientID=...`; the query is QIDO-RS's for studies and may be left
out. What ctan reads of these studies is fetched into the workspace. Nothing on such a server names the bytes of an
object, so the version of the data is a hash of contents. An image of one UID is one image, by the standard, and is
fetched once; contours, segmentations, doses and plans are edited, and are fetched every time.
Credentials come from the environment: `CTAN_DICOMWEB_TOKEN`, or `CTAN_DICOMWEB_USER` and `CTAN_DICOMWEB_PASSWORD`.
Source: DICOM PS3.18, chapter 10 (QIDO-RS, WADO-RS, STOW-RS).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ctan.cases.prediction import LABEL
from ctan.dicom.complete import check_complete
from ctan.dicom.deidentify import quiet_pydicom
from ctan.errors import ConfigError, DataError
from ctan.files import atomic_path
from ctan.progress import track
from ctan.sources.trust import require_secure

PREFIX = "dicomweb:"
TOKEN, USER, PASSWORD = "CTAN_DICOMWEB_TOKEN", "CTAN_DICOMWEB_USER", "CTAN_DICOMWEB_PASSWORD"
_FORM = "dicomweb:https://host/dicom-web?PatientID=..."
_IMAGES = ("CT", "MR")
_READ = (*_IMAGES, "RTSTRUCT", "RTDOSE", "RTPLAN", "SEG")
_STUDY, _SERIES, _INSTANCE, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_FAILED, _REASON = "00081198", "00081197"
_PAGE = 500
_TIMEOUT_SECONDS = (10, 300)
_NUM_THREADS = 4
_BUSY = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class DicomWeb:
    """A server, by the address that its services lie below, and a query for studies.

    Attributes:
        address: such as `https://host/dicom-web`.
        query: QIDO-RS attributes and values.
    """

    address: str
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, source: str) -> DicomWeb:
        """Read `dicomweb:ADDRESS[?QUERY]`, or an address alone.

        Raises:
            ConfigError: for another form, or an address that holds a password or is not encrypted.
        """
        parts = urlsplit(source.removeprefix(PREFIX))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"expected {_FORM}, found an address without https:// and a host")
        if parts.username or parts.password:
            raise ConfigError(
                f"dicomweb: the address holds a login, which would be recorded with every run; set {TOKEN}, or {USER} "
                f"and {PASSWORD}, instead"
            )
        address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        require_secure(address, "dicomweb")
        return cls(address, tuple(parse_qsl(parts.query, keep_blank_values=True)))

    @property
    def host(self) -> str:
        """For messages."""
        return urlsplit(self.address).netloc


@contextmanager
def open_dicomweb(source: str, cache_dir: Path) -> Iterator[Path]:
    """Yield a folder with the files of the studies that a query names, as they are on the server now.

    Args:
        source: see the module.
        cache_dir: keeps images for the next time, in a folder a source.

    Raises:
        ConfigError: when the source is not understood.
        DataError: no server, no access, no study, or an object that is not what was asked for.
    """
    from filelock import FileLock

    server = DicomWeb.parse(source)
    digest = hashlib.sha256(f"{server.address}?{urlencode(server.query)}".encode()).hexdigest()[:16]
    folder = cache_dir / f"dicomweb-{digest}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".dicomweb-{digest}.lock"):
        _fetch(server, folder)
    yield folder


def send(folder: Path, target: str, identified: bool = False) -> int:
    """Store the predicted DICOM objects below a folder on a server, and return how many it took.

    An object is sent only if it says that it was predicted. Its UIDs are hashes of what made it: sent again it is the
    same object.

    Args:
        folder: of a prediction.
        target: `dicomweb:ADDRESS`, or the address alone.
        identified: send objects too that hold who the patient is.

    Raises:
        ConfigError: when the address is not understood.
        DataError: nothing to send, an object that may not be sent, or that the server refuses.
    """
    server = DicomWeb.parse(target)
    objects = [(path, path.read_bytes()) for path in sorted(folder.rglob("*.dcm"))]
    if not objects:
        raise DataError(f"{folder}: holds no .dcm files; predict cases that came as DICOM, or name another folder")
    for path, content in objects:
        if reason := _not_to_send(content, identified):
            raise DataError(f"{path.relative_to(folder).as_posix()}: {reason}; nothing was sent")
    session = _session()
    for path, content in track(objects, len(objects), "send"):
        _store(server, session, content, path.relative_to(folder).as_posix())
    return len(objects)


def _fetch(server: DicomWeb, folder: Path) -> None:
    session = _session()
    studies = sorted({_one(item, _STUDY) for item in _search(server, session, "studies", server.query)})
    if not studies:
        raise DataError(f"{server.host}: no study fits the query; check its attributes and values")
    wanted: dict[str, tuple[str, bool]] = {}
    for study in studies:
        series = {
            _one(item, _SERIES): _one(item, _MODALITY)
            for item in _search(server, session, f"studies/{_uid(study)}/series", ())
        }
        for uid in (uid for uid, modality in series.items() if modality in _READ):
            path = f"studies/{_uid(study)}/series/{_uid(uid)}/instances"
            for item in _search(server, session, path, ()):
                wanted[f"{path}/{_uid(_one(item, _INSTANCE))}"] = (
                    _name(study, uid, _one(item, _INSTANCE)),
                    (series[uid] in _IMAGES),
                )
    if not wanted:
        raise DataError(f"{server.host}: {len(studies)} studies without a series of {', '.join(_READ)}")
    todo = [path for path, (name, is_image) in wanted.items() if not (is_image and (folder / name).is_file())]

    def fetch(path: str) -> None:
        target = folder / wanted[path][0]
        target.parent.mkdir(parents=True, exist_ok=True)
        content = _retrieved(server, session, path)
        with atomic_path(target) as beside:
            beside.write_bytes(content)

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="ctan-dicomweb") as pool:
        for _ in track(pool.map(fetch, todo), len(todo), "fetch"):
            pass
    names = {name for name, _ in wanted.values()}
    for old in sorted(folder.rglob("*"), reverse=True):
        if old.is_dir() and not any(old.iterdir()):
            old.rmdir()
        elif old.is_file() and old.relative_to(folder).as_posix() not in names:
            old.unlink()  # no longer on the server


def _search(server: DicomWeb, session: Any, path: str, query: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return all answers to a query, page by page; also of servers that ignore pages."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        asked = [*query, ("limit", str(_PAGE)), ("offset", str(len(found)))]
        response = _asked(
            server,
            session,
            "GET",
            f"{path}?{urlencode(asked, safe='*^,:', quote_via=quote)}",
            accept="application/dicom+json",
        )
        try:
            items = response.json() if response.status_code != 204 else []
            page = {"".join(str(_value(item, tag)) for tag in (_STUDY, _SERIES, _INSTANCE)): item for item in items}
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError(
                f"{server.host}: expected DICOM JSON, found something else; is it a DICOMweb address?"
            ) from error
        fresh = page.keys() - found.keys()
        found |= page
        if not fresh:
            return list(found.values())


def _retrieved(server: DicomWeb, session: Any, path: str) -> bytes:
    """Return an object as the server holds it, checked to be whole and the one that was asked for."""
    import pydicom

    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    response = _asked(server, session, "GET", path, accept=accept)
    content = _first_part(response.content, response.headers.get("Content-Type", ""))
    try:
        with quiet_pydicom():
            check_complete(content)
            header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
    except DataError as error:
        raise DataError(f"{server.host}: sent a DICOM file that is {error}") from None
    except Exception as error:  # pydicom raises many kinds, with values in the message
        raise DataError(f"{server.host}: sent something else than a DICOM file ({type(error).__name__})") from None
    if str(header.get("SOPInstanceUID", "")) != path.rpartition("/")[2]:
        raise DataError(f"{server.host}: sent another object than was asked for")
    return content


def _first_part(body: bytes, content_type: str) -> bytes:
    """Return the first part of a multipart answer, or the body of a plain one."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if not content_type.lower().startswith("multipart/") or not boundary:
        return body
    _, _, rest = body.partition(b"--" + boundary.encode())
    part, _, _ = rest.partition(b"\r\n--" + boundary.encode())
    return part.partition(b"\r\n\r\n")[2]


def _store(server: DicomWeb, session: Any, content: bytes, name: str) -> None:
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    response = _asked(server, session, "POST", "studies", "application/dicom+json", body, kind, (200, 202, 409))
    try:
        failed = (response.json().get(_FAILED) or {}).get("Value") or []
    except (ValueError, AttributeError):
        failed = []
    if failed or response.status_code == 409:
        codes = ", ".join(f"{_value(item, _REASON)}" for item in failed) or str(response.status_code)
        raise DataError(f"{name}: {server.host} did not store it (reason {codes}, see DICOM PS3.18 table 10.5.3-1)")


def _not_to_send(content: bytes, identified: bool) -> str:
    """Return why an object is not to be sent; empty when it may."""
    import pydicom

    try:
        with quiet_pydicom():
            header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
            marked = str(header.get("SeriesDescription", "")) == LABEL
            removed = str(header.get("PatientIdentityRemoved", "")) == "YES"
    except Exception as error:  # pydicom raises many kinds, with values in the message
        return f"cannot be read ({type(error).__name__})"
    if not marked:
        return f"does not say that it was predicted (SeriesDescription {LABEL!r}); only predictions are sent"
    if not removed and not identified:
        return "holds who the patient is; predict without --identified, or send it with --identified"
    return ""


def _session() -> Any:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class Adapter(HTTPAdapter):
        """Refuses what is not encrypted, also where an encrypted address leads to it."""

        def send(self, request: Any, *arguments: Any, **more: Any) -> Any:
            require_secure(str(request.url), "dicomweb")
            return super().send(request, *arguments, **more)

    retry = Retry(total=3, backoff_factor=0.5, status_forcelist=_BUSY, raise_on_status=False)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=retry, pool_maxsize=_NUM_THREADS))
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if token:
        session.headers["Authorization"] = f"Bearer {token}"  # taken off by requests where another host is named
    elif user:
        session.auth = (user, password)
    return session


def _asked(
    server: DicomWeb,
    session: Any,
    method: str,
    path: str,
    accept: str,
    body: bytes | None = None,
    content_type: str = "",
    accepted: Sequence[int] = (200, 204, 206),
) -> Any:
    """Return an answer; no message says more than the host and the status: a query may name a patient."""
    from requests import exceptions

    headers = {"Accept": accept} | ({"Content-Type": content_type} if content_type else {})
    try:
        response = session.request(
            method, f"{server.address}/{path}", data=body, headers=headers, timeout=_TIMEOUT_SECONDS
        )
    except exceptions.SSLError:
        raise DataError(f"{server.host}: its certificate is not trusted; set REQUESTS_CA_BUNDLE") from None
    except exceptions.RequestException as error:
        raise DataError(f"{server.host}: no answer ({type(error).__name__}); check address and network") from None
    status = response.status_code
    if status in accepted:
        return response
    if status in (401, 403):
        raise DataError(f"{server.host}: no access (HTTP {status}); set {TOKEN}, or {USER} and {PASSWORD}")
    hint = "is it the address of its DICOMweb services?" if status == 404 else "see the server's log"
    raise DataError(f"{server.host}: refuses the request (HTTP {status}); {hint}")


def _value(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [""]
    return values[0]


def _one(item: dict[str, Any], tag: str) -> str:
    return str(_value(item, tag))


def _uid(text: str) -> str:
    """Return a UID of an answer, which becomes part of an address."""
    if not re.fullmatch(r"[0-9.]{1,64}", text):
        raise DataError("dicomweb: the server lists something else than UIDs")
    return text


def _name(*uids: str) -> str:
    """Return the name of a file: a folder a study and a series, by hashes."""
    return "/".join(hashlib.sha256(uid.encode()).hexdigest()[:16] for uid in uids) + ".dcm"
