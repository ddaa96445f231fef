"""The model registry: versions, aliases, and a lock so that promotions happen one after the other."""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ctan.errors import ConfigError, TrackingError
from ctan.process import host_of, is_gone, this_process
from ctan.tracking.runs import WEIGHTS_TAG
from ctan.tracking.server import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER, CANDIDATE = "champion", "challenger", "candidate"
DECISION_TAG = "decision"  # set when a promotion is complete: aliases moved, ledger written
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")
_OWNER_TAG, _EXPIRES_TAG = "owner", "expires_at_unix_s"


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return a registered model, None when there is none.

    Asked for by search: to everyone but an administrator, a server with a login answers the question for a model that
    does not exist like that for a forbidden one.
    """
    return next(iter(client.search_registered_models(f"name='{name}'", max_results=1)), None)


def get_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version an alias points to, None when there is none."""
    model = find_model(client, name)
    version = model.aliases.get(alias) if model else None
    return client.get_model_version(name, str(version)) if version else None


def set_aliases(
    client: MlflowClient, name: str, champion: str | None, challenger: str | None, candidate: str | None = None
) -> None:
    """Let the aliases point to these versions; None removes the alias. What is so already is left alone."""
    for alias, version in ((CHAMPION, champion), (CHALLENGER, challenger), (CANDIDATE, candidate)):
        present = get_alias(client, name, alias)
        if version is None and present is not None:
            client.delete_registered_model_alias(name, alias)
        elif version is not None and (present is None or str(present.version) != version):
            _set_alias(client, name, alias, version)


def _set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Set an alias; again where another process set it for the first time in the same moment.

    MLflow asks whether it is there and then inserts: on PostgreSQL one of two gets a raw `UniqueViolation`.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        if not re.search("UniqueViolation|UNIQUE constraint", str(error)):
            raise
        client.set_registered_model_alias(name, alias, version)


def named_version(client: MlflowClient, reference: str) -> ModelVersion:
    """Return the registered version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names.

    Raises:
        ConfigError: when the reference is neither.
        TrackingError: when there is no such version.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(f"{reference!r}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, model = match["name"], find_model(client, match["name"])
    number = match["number"] or (model.aliases.get(match["alias"]) if model else None)
    versions = client.search_model_versions(f"name='{name}'") if model else []
    if found := next((version for version in versions if str(version.version) == str(number)), None):
        return client.get_model_version(name, found.version)
    known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
    place = without_password(client.tracking_uri)
    raise TrackingError(f"{reference}: not registered at {place}; registered models: {known}")


def find_version(client: MlflowClient, name: str, run_id: str, weights_sha256: str) -> ModelVersion | None:
    """Return the version with these weights of this run, None when it is not registered."""
    for version in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if version.tags.get(WEIGHTS_TAG) == weights_sha256 and version.status == "READY":
            return version
    return None


def register(
    client: MlflowClient, name: str, model_id: str, run_id: str, weights_sha256: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Register a logged model, once: the same weights of the same run are the same version.

    The tags of a version that exists are brought up to date.

    Args:
        client: of the registry.
        name: registered model, created when missing.
        model_id: the logged model.
        run_id: that logged it.
        weights_sha256: of its weights.
        tags: of the version.
    """
    import mlflow

    tags = {**tags, WEIGHTS_TAG: weights_sha256}
    version = find_version(client, name, run_id, weights_sha256)
    if version is None:
        return mlflow.register_model(f"models:/{model_id}", name, tags=tags)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    return client.get_model_version(name, version.version)


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, wait_seconds: float = 330.0, lease_seconds: float = 300.0
) -> Iterator[Callable[[], None]]:
    """Hold the lock on a registered model.

    Aliases have no compare-and-set, but of several clients that create a registered model of one name exactly one
    succeeds. The lock therefore is a registered model `<name>.lock`. One that a process of this host left which is gone
    is taken at once, one of another host when it has expired.

    Args:
        client: of the registry.
        name: registered model to lock.
        wait_seconds: how long to wait for another promotion; by default longer than a killed one keeps the lock.
        lease_seconds: after this long the lock may be taken away.

    Yields:
        A function that raises when the lock has been lost; to be called right before a change.

    Raises:
        TrackingError: when another promotion keeps the lock.
    """
    lock, owner = f"{name}.lock", f"{this_process()} {uuid.uuid4().hex[:8]}"
    deadline, told = time.monotonic() + wait_seconds, False
    while not _try_lock(client, lock, owner, lease_seconds):
        if not told and (holder := _owner(client, lock)):
            told = True
            print(
                f"another promotion of {name} is under way on {host_of(holder)}; waiting for it. If it was killed its "
                f"lock expires after {lease_seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        if time.monotonic() > deadline:
            raise TrackingError(
                f"another promotion of {name} is under way (registered model {lock}); wait for it and run "
                f"promote again. A lock that a killed promotion left expires after {lease_seconds:.0f} s."
            )
        time.sleep(0.3)

    def confirm() -> None:
        if _owner(client, lock) != owner:
            raise TrackingError(f"promotion of {name} took longer than {lease_seconds:.0f} s and lost its lock; again")

    try:
        yield confirm
    finally:
        if _owner(client, lock) == owner:
            client.delete_registered_model(lock)


def _try_lock(client: MlflowClient, lock: str, owner: str, lease_seconds: float) -> bool:
    from mlflow.exceptions import MlflowException

    tags = {_OWNER_TAG: owner, _EXPIRES_TAG: f"{time.time() + lease_seconds:.0f}"}
    try:
        client.create_registered_model(lock, tags=tags, description="held while a promotion decides; expires")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False  # it was there, and was released while MLflow looked why the name is taken
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        with suppress(MlflowException):  # released in between
            held = client.get_registered_model(lock)
            if held.tags.get(_OWNER_TAG) == owner:
                return True  # the answer to an earlier request was lost, and the request repeated
            # Another client may have replaced the expired lock by its own just now, and loses that: it will notice
            # when it confirms, before it changes anything.
            gone = is_gone(held.tags.get(_OWNER_TAG, "").partition(" ")[0])
            if gone or float(held.tags.get(_EXPIRES_TAG, 0)) < time.time():
                client.delete_registered_model(lock)
        return False
    return _owner(client, lock) == owner


def _owner(client: MlflowClient, lock: str) -> str | None:
    held = find_model(client, lock)
    return held.tags.get(_OWNER_TAG) if held else None
