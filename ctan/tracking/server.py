"""Where runs and models are recorded: the embedded SQLite database or a tracking server, and how it is reached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import TrackingError
from ctan.telemetry import disable_telemetry
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

DATABASE_FILE, ARTIFACTS_FOLDER = "mlflow.db", "mlartifacts"
_PROBE_SECONDS = 5.0
_DEFAULTS = {
    # Seven retries, MLflow's default, are four minutes of silence in front of a dead server; three are 15 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a uv project in the working folder is copied into every model
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",  # seconds: short trainings get a few points too
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, else the address of the SQLite database in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace() / DATABASE_FILE}"


def without_password(uri: str) -> str:
    """Return `uri` without user name and password, fit for logs, tags and files."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def is_server(uri: str) -> bool:
    """Whether `uri` is that of a tracking server, which keeps artifacts itself."""
    return uri.startswith(("http://", "https://"))


def prepare() -> str:
    """Create the embedded database, or migrate it to the installed MLflow, unless that has been done.

    Two processes that create the database at once break it, so this happens under a file lock. Behind a tracking
    server there is nothing to do but to see that it answers, and lets us in.

    Returns:
        The tracking URI.

    Raises:
        TrackingError: when the server does not answer, refuses the login, or the database cannot be used.
    """
    uri = tracking_uri()
    if not uri.startswith("sqlite:"):
        _read_something()
        return uri
    database = Path(uri.removeprefix("sqlite:///"))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(database.parent, os.W_OK) or (database.exists() and not os.access(database, os.W_OK)):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        raise TrackingError(
            f"{database}: the tracking database cannot be written ({error.strerror}); "
            f"set CTAN_WORKSPACE to a folder you can write to, or MLFLOW_TRACKING_URI to a tracking server"
        ) from error
    _create_and_migrate(uri, database)
    return uri


def _create_and_migrate(uri: str, database: Path) -> None:
    import sqlite3

    from filelock import FileLock

    with FileLock(database.with_name(f".{database.name}.lock"), timeout=300):
        try:
            with closing(sqlite3.connect(database)) as connection:
                # Readers (`ctan ui`) and the writer do not wait for each other; the mode stays with the file.
                connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as error:
            raise TrackingError(
                f"{database}: not a usable SQLite database ({error}). Move the file away to start an empty one."
            ) from error
        try:
            _read_something()
        except TrackingError as error:
            if "out-of-date database schema" not in str(error):
                raise
            _upgrade(uri, database)
            _read_something()


def _read_something() -> None:
    """Open the database through MLflow, which creates the tables and checks their version."""
    client = connect()
    with tracking_errors(tracking_uri()):
        client.search_experiments(max_results=1)


def _upgrade(uri: str, database: Path) -> None:
    """Do what `mlflow db upgrade` does."""
    from alembic.util import CommandError
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine_with_retry

    engine = create_sqlalchemy_engine_with_retry(uri)
    try:
        _upgrade_db(engine)
    except CommandError as error:
        raise TrackingError(f"{database}: written by a newer MLflow than the one installed ({error})") from error
    finally:
        engine.dispose()


def connect() -> MlflowClient:
    """Return a client of the tracking server or database, which also holds the model registry.

    Raises:
        TrackingError: when nothing answers at the address, within seconds.
    """
    uri = tracking_uri()
    _configure()
    _probe(uri)
    import mlflow

    mlflow.set_tracking_uri(uri)
    with tracking_errors(uri):
        return mlflow.MlflowClient(uri)


def _configure() -> None:
    disable_telemetry()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def _probe(uri: str) -> None:
    """Fail fast when no server answers; any answer will do, a proxy may ask for credentials first."""
    if not is_server(uri):
        return
    import requests

    try:
        requests.head(uri, timeout=_PROBE_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise TrackingError(
            f"{without_password(uri)}: the tracking server does not answer ({type(error).__name__}). Start it, "
            f"or correct MLFLOW_TRACKING_URI; without that variable the embedded database is used."
        ) from error


@contextmanager
def tracking_errors(uri: str, doing: str = "") -> Iterator[None]:
    """Turn what MLflow, its database and its server raise into a `TrackingError` that names the address.

    Args:
        uri: of the server or database.
        doing: what was being done, such as `"registering ctan-openkbp"`.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        if isinstance(error, MlflowException) and (refusal := _refusal(error)):
            raise TrackingError(f"{without_password(uri)}: {refusal}") from error
        what = f" while {doing}" if doing else ""
        first_line = str(error).strip().partition("\n")[0]
        raise TrackingError(
            f"{without_password(uri)}: the tracking server or database failed{what}: {first_line}"
        ) from error


def _refusal(error: MlflowException) -> str | None:
    """Say what to do when the server refuses to listen at all; None when it refuses something else."""
    text = str(error)
    if "Invalid Host header" in text:
        return (
            "the tracking server does not know itself by this name; whoever runs it adds the name to "
            "MLFLOW_SERVER_ALLOWED_HOSTS"
        )
    if error.error_code == "UNAUTHENTICATED":
        return (
            "the tracking server refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    return None
