"""Files in S3 and what speaks like it: Amazon, MinIO, Ceph, SeaweedFS."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.errors import ConfigError, DataError
from ctan.sources.transfer import (
    LEDGER_FILE,
    Chunks,
    DamagedTransferError,
    InterruptedTransferError,
    RemoteFile,
    hash_file,
    transfer,
)

_CHUNK_BYTES = 2**16  # a piece that was not read to its end is lost when the connection breaks
_MIB = 2**20
# Part sizes that clients use by default, for servers that do not tell: aws-cli, boto3 and s3fs 8 MiB or 50 MiB, ...
_USUAL_PART_SIZES = tuple(size * _MIB for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024))
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "503", "500", "502", "504")
_MISSING = ("NoSuchKey", "404", "NotFound")
_CHANGED = ("PreconditionFailed", "412")
_HINTS = {
    "NoSuchBucket": "there is no such bucket at this endpoint; check the name, and AWS_ENDPOINT_URL for servers other "
    "than Amazon's",
    "InvalidAccessKeyId": "the server does not know the access key (AWS_ACCESS_KEY_ID or profile)",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key (AWS_SECRET_ACCESS_KEY or profile)",
    "ExpiredToken": "the session token has expired: get new credentials",
    "InvalidToken": "the session token is not valid: get new credentials",
    "AccessDenied": "no access: these credentials may not {verb} it",
    "403": "no access: these credentials may not {verb} it",
}


@dataclass(frozen=True)
class S3Uri:
    """`s3://bucket/prefix`; the prefix is empty or ends with a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Uri:
        """Read `s3://bucket/prefix`.

        Raises:
            ConfigError: when it is not of this form.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
        if match is None:
            raise ConfigError(f"{uri!r} is not an address of the form s3://bucket/prefix")
        prefix = (match[2] or "").strip("/")
        return cls(match[1], f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def s3_client(
    endpoint: str | None = None, region: str | None = None, public: bool = False, num_connections: int = 8
) -> Any:
    """Return a boto3 client that retries with back-off.

    Args:
        endpoint: address of the server; None for `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `MLFLOW_S3_ENDPOINT_URL`
            or, without these, Amazon.
        region: None for `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, or `us-east-1`.
        public: ask without credentials, and do not look for the endpoint in the environment, which names the team's
            own server. Otherwise credentials come from the environment, profile or instance as boto3 finds them; where
            it finds none, requests are unsigned too.
        num_connections: used at the same time.
    """
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")
    if not public:
        endpoint = endpoint or next(filter(None, map(os.environ.get, names)), None)
    session = boto3.Session()
    region = region or os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    signature = UNSIGNED if public or session.get_credentials() is None else None
    config = Config(
        signature_version=signature,
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=max(10, num_connections),
        ignore_configured_endpoint_urls=public,
        # Servers other than Amazon's seldom answer to bucket.host names.
        s3={"addressing_style": "path"} if endpoint else {},
    )
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)


class S3Source:
    """The objects below a prefix. A `ctan.sources.transfer.Source`.

    Attributes:
        checked_by_size: names of files whose ETag is no digest of their bytes (SSE-KMS, unusual multipart uploads).
    """

    def __init__(self, uri: S3Uri, client: Any) -> None:
        self.uri = uri
        self.checked_by_size: set[str] = set()
        self._client = client

    def objects(self) -> list[RemoteFile]:
        """Return all objects below the prefix, in the order of their keys; there may be none.

        Raises:
            DataError: no bucket, no access, no answer.
        """
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.uri.bucket, Prefix=self.uri.prefix)
        files = []
        try:
            with translated(str(self.uri)):
                for item in (item for page in pages for item in page.get("Contents", ())):
                    name, etag = item["Key"].removeprefix(self.uri.prefix), item["ETag"].strip('"')
                    # Not the marker of a folder, nor the notes of a download that was copied there whole.
                    if not item["Key"].endswith("/") and name.rpartition("/")[2] != LEDGER_FILE:
                        files.append(RemoteFile(name, item["Size"], f"etag:{etag}", item["Key"]))
        except InterruptedTransferError as error:
            raise DataError(
                f"{self.uri}: the server cannot be reached or is busy ({error}); try again later"
            ) from error
        return files

    def listing(self) -> list[RemoteFile]:
        """Return all objects below the prefix, in the order of their keys.

        Raises:
            DataError: no bucket, no access, no answer, nothing there.
        """
        files = self.objects()
        if not files:
            raise DataError(f"{self.uri} holds no objects; check bucket and prefix")
        return files

    def open(self, file: RemoteFile, offset: int) -> tuple[int, Chunks]:
        """Ask for the object from `offset` on, provided that it is still the one that was listed."""
        wanted: dict[str, str] = {"Bucket": self.uri.bucket, "Key": file.address, "IfMatch": f'"{_etag(file)}"'}
        if offset:
            wanted["Range"] = f"bytes={offset}-"
        with translated(file.name):
            response = self._client.get_object(**wanted)
        if offset and response["ResponseMetadata"]["HTTPStatusCode"] != 206:
            offset = 0  # the server sends the whole object
        return offset, _chunks(response["Body"], file.name)

    def problem(self, file: RemoteFile, path: Path) -> str | None:
        """Compare size and ETag: an MD5, or the MD5 of the parts' MD5s."""
        size = path.stat().st_size
        if size != file.size:
            return f"{size} bytes arrived of {file.size}"
        etag = _etag(file)
        if re.fullmatch("[0-9a-f]{32}", etag):
            found = hash_file(path, "md5")
        elif re.fullmatch("[0-9a-f]{32}-[0-9]+", etag):
            found = self._multipart_etag(file, path)
        else:
            found = ""
        if found == etag:
            return None
        if not found or self._is_encrypted(file):
            self.checked_by_size.add(file.name)
            return None
        return f"the ETag of what arrived is {found}, the source's is {etag}"

    def _multipart_etag(self, file: RemoteFile, path: Path) -> str:
        """Return the ETag of a file uploaded in parts as this one was; empty when the parts' sizes are not known."""
        etag = _etag(file)
        num_parts = int(etag.partition("-")[2])
        size = path.stat().st_size
        sizes = self._part_sizes(file, num_parts)
        if sizes:
            return multipart_etag(path, sizes)
        for part_size in _USUAL_PART_SIZES:
            if -(-size // part_size) == num_parts:
                full, rest = divmod(size, part_size)
                found = multipart_etag(path, [part_size] * full + ([rest] if rest else []))
                if found == etag:
                    return found
        return ""

    def _part_sizes(self, file: RemoteFile, num_parts: int) -> list[int]:
        """Ask the server for the sizes of the parts; [] when it does not tell."""
        first = self._head(file, PartNumber=1)
        if first.get("PartsCount") != num_parts:
            return []
        size, part_size = file.size or 0, int(first["ContentLength"])
        last = size - part_size * (num_parts - 1)
        if 0 < last <= part_size:  # all alike but the last one, as every usual client uploads
            return [part_size] * (num_parts - 1) + [last]
        return [int(self._head(file, PartNumber=number)["ContentLength"]) for number in range(1, num_parts + 1)]

    def _is_encrypted(self, file: RemoteFile) -> bool:
        """Say whether the ETag is no digest because of SSE-KMS or SSE-C."""
        head = self._head(file)
        return head.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in head

    def _head(self, file: RemoteFile, **more: Any) -> dict[str, Any]:
        with translated(file.name):
            return self._client.head_object(Bucket=self.uri.bucket, Key=file.address, **more)


def multipart_etag(path: Path, part_sizes: list[int]) -> str:
    """Return the ETag that S3 gives a file uploaded in parts: MD5 of the parts' MD5s, and how many there are."""
    digests = []
    with path.open("rb") as stream:
        for part_size in part_sizes:
            digest = hashlib.md5(usedforsecurity=False)
            while part_size > 0 and (chunk := stream.read(min(part_size, _CHUNK_BYTES))):
                digest.update(chunk)
                part_size -= len(chunk)
            digests.append(digest.digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


@contextmanager
def open_s3_source(
    uri: str,
    cache_dir: Path | None = None,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    num_workers: int = 8,
) -> Iterator[Path]:
    """Yield a folder with the objects below `s3://bucket/prefix`, every one checked against its ETag.

    Args:
        uri: bucket and prefix.
        cache_dir: keeps the files for the next time, in a folder an address; there only what changed is fetched, and
            what the bucket does not hold any more is removed. None: a temporary folder.
        endpoint, region: see `s3_client`.
        num_workers: objects fetched at the same time.

    Raises:
        ConfigError: when the address is not of the form s3://bucket/prefix.
        DataError: see `ctan.sources.transfer.transfer`.
    """
    from filelock import FileLock

    source = S3Source(S3Uri.parse(uri), s3_client(endpoint, region, num_connections=num_workers))
    if cache_dir is None:
        with tempfile.TemporaryDirectory(prefix="ctan-s3-") as folder_name:
            transfer(source.listing(), source, Path(folder_name), num_workers, "fetch")
            yield Path(folder_name)
        return
    digest = hashlib.sha256(f"{source._client.meta.endpoint_url} {source.uri}".encode()).hexdigest()[:16]
    folder = cache_dir / f"s3-{digest}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".s3-{digest}.lock"):
        files = source.listing()
        remove_others(folder, {file.name for file in files})
        transfer(files, source, folder, num_workers, "fetch")
    yield folder


def remove_others(folder: Path, names: set[str]) -> None:
    """Remove files that the bucket does not hold any more; unfinished ones and the ledger start with a dot and stay."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names and not path.name.startswith("."):
            path.unlink()


def is_clutter(name: str) -> bool:
    """Say whether a file is one that macOS or Windows leaves in every folder that somebody looked at."""
    last = name.rpartition("/")[2]
    return last in (".DS_Store", "Thumbs.db", "desktop.ini") or last.startswith("._")


def _etag(file: RemoteFile) -> str:
    return file.identity.removeprefix("etag:")


def _chunks(body: Any, name: str) -> Chunks:
    try:
        with translated(name):
            while chunk := body.read(_CHUNK_BYTES):
                yield chunk
    finally:
        body.close()


@contextmanager
def translated(what: str, verb: str = "read") -> Iterator[None]:
    """Turn botocore's errors into those of `ctan.sources.transfer.Source`.

    Args:
        what: address or name that the errors begin with.
        verb: what was tried.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response["Error"].get("Code", ""))
        if code in _BUSY:
            raise InterruptedTransferError(code) from error
        if code in _MISSING:
            raise DataError(f"{what}: the source lists it but does not have it (removed meanwhile?)") from error
        if code in _CHANGED:
            raise DataError(
                f"{what}: changed at the source since it was listed; run again to get the new one"
            ) from error
        hint = _HINTS.get(code, error.response["Error"].get("Message", "no explanation")).replace("{verb}", verb)
        raise DataError(f"{what}: {hint} ({code})") from error
    except exceptions.FlexibleChecksumError as error:
        raise DamagedTransferError("the checksum that the server sent does not fit what arrived") from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise InterruptedTransferError(type(error).__name__) from error
    except exceptions.BotoCoreError as error:
        raise DataError(f"{what}: {error}") from error
