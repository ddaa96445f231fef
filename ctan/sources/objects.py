"""Single small objects in S3: read, put whole or not at all, put on condition, and how errors on the way are told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from ctan.errors import DataError
from ctan.sources.s3 import S3Uri, s3_client, translated
from ctan.sources.transfer import DamagedTransferError, InterruptedTransferError

TRIES = 4
FIRST_PAUSE_SECONDS = 0.5


def _client() -> Any:
    """Return a client of the server that the environment names now; making one takes as long as many requests."""
    return _client_of(tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "MLFLOW_S3_")))))


@lru_cache(maxsize=4)
def _client_of(_environment: tuple[tuple[str, str], ...]) -> Any:
    return s3_client()


def read_object(uri: str) -> bytes | None:
    """Return the bytes of one small object, None when it does not exist.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client, tried = _client(), 0
    while True:
        with asking(uri, "read"):
            found = _found(client, uri)
        try:
            with translated(uri):
                return None if found is None else bytes(found["Body"].read())
        except (InterruptedTransferError, DamagedTransferError) as error:  # botocore asks for no body again
            tried += 1
            if tried == TRIES:
                raise unreachable(uri, error) from error
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (tried - 1))


def _found(client: Any, uri: str) -> Any:
    """Return the answer about an object, None when it does not exist."""
    from botocore.exceptions import ClientError

    try:
        return client.get_object(**place(uri))
    except ClientError as error:
        if error.response["Error"].get("Code") == "NoSuchKey":
            return None
        raise


def write_object(uri: str, content: bytes) -> None:
    """Put one small object, whole or not at all.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client = _client()
    with asking(uri, "write"):
        client.put_object(**place(uri), Body=content)


def create_object(uri: str, content: bytes) -> bool:
    """Put one small object unless there is one; say whether there was none. Of several that try one succeeds.

    A server that does not know the condition puts it in any case: read it back to see whose it is.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    return _put(uri, content, {"IfNoneMatch": "*"})


def replace_object(uri: str, content: bytes, tag: str) -> bool:
    """Put one small object unless it changed since it was read; say whether the content is there now.

    Args:
        uri: address.
        content: to be there.
        tag: of the state that is replaced, see `read_tagged`.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
    return _put(uri, content, condition) and read_object(uri) == content  # a server that knows no conditions


def _put(uri: str, content: bytes, condition: dict[str, str]) -> bool:
    """Put an object on a condition, where the server knows conditions; say whether it was met."""
    from botocore.exceptions import ClientError

    client = _client()
    with asking(uri, "write"):
        try:
            client.put_object(**place(uri), Body=content, **condition)
        except ClientError as error:
            code = str(error.response["Error"].get("Code", ""))
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"):
                return False
            if code not in ("NotImplemented", "501"):
                raise
            client.put_object(**place(uri), Body=content)
    return True


def read_tagged(uri: str) -> tuple[bytes | None, str]:
    """Return the bytes of one small object and the tag of this state; None and an empty tag when it does not exist.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client = _client()
    with asking(uri, "read"):
        found = _found(client, uri)
        return (bytes(found["Body"].read()), str(found["ETag"])) if found else (None, "")


def read_object_and_age(uri: str) -> tuple[bytes | None, float]:
    """Return the bytes of one small object, None when it does not exist, and its age in seconds by the server's clock.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client = _client()
    with asking(uri, "read"):
        found = _found(client, uri)
        if found is None:
            return None, 0.0
        content = bytes(found["Body"].read())
    headers = found["ResponseMetadata"]["HTTPHeaders"]
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
    return content, (now - found["LastModified"]).total_seconds()


def read_end(uri: str, num_bytes: int) -> bytes:
    """Return the last bytes of an object that exists.

    Raises:
        DataError: no bucket, no access, no answer, no such object.
    """
    client = _client()
    with asking(uri, "read"):
        return bytes(client.get_object(**place(uri), Range=f"bytes=-{num_bytes}")["Body"].read())


def remove_object(uri: str) -> None:
    """Delete one object; that there is none is no error.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    client = _client()
    with asking(uri, "delete"):
        client.delete_object(**place(uri))


def size_of(uri: str) -> int | None:
    """Return the bytes of an object, None when it does not exist.

    Raises:
        DataError: no bucket, no access, no answer.
    """
    from botocore.exceptions import ClientError

    client = _client()
    with asking(uri, "read"):
        try:
            return int(client.head_object(**place(uri))["ContentLength"])
        except ClientError as error:
            if error.response["Error"].get("Code") in ("404", "NoSuchKey", "NotFound"):
                return None
            raise


def modified_at(uri: str) -> float:
    """Return when an object was written, seconds since 1970.

    Raises:
        DataError: no bucket, no access, no answer, no such object.
    """
    client = _client()
    with asking(uri, "read"):
        return float(client.head_object(**place(uri))["LastModified"].timestamp())


def place(uri: str) -> dict[str, str]:
    """Return bucket and key as boto3 wants them."""
    parsed = S3Uri.parse(uri)
    return {"Bucket": parsed.bucket, "Key": parsed.prefix.removesuffix("/")}


def unreachable(uri: str, error: Exception) -> DataError:
    """Return what to say when the server does not answer."""
    return DataError(
        f"{uri}: the server cannot be reached or is busy ({error}); check AWS_ENDPOINT_URL, or try again later"
    )


@contextmanager
def asking(uri: str, verb: str) -> Iterator[None]:
    """Turn botocore's errors into `DataError`."""
    try:
        with translated(uri, verb):
            yield
    except (InterruptedTransferError, DamagedTransferError) as error:
        raise unreachable(uri, error) from error
