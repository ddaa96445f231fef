"""Where runs and models are recorded: the embedded SQLite database or a tracking server, and how it is reached."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctan.errors import TrackingError
from ctan.telemetry import disable_telemetry
from ctan.tracking.moved import follow
from ctan.workspace import workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE_FILE, ARTIFACTS_FOLDER = "mlflow.db", "mlartifacts"
_PROBE_SECONDS = 5.0
_PAGE = 1000  # runs
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_DEFAULTS = {
    # Broken connections and answers 408, 429 and 5xx: again at once, then after 4, 8, 16, 32 and 64 s. In these two
    # minutes a server or its database starts anew. A refusal (401, 403, 404, a wrong value) is never repeated.
    _RETRIES: "6",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a uv project in the working folder is copied into every model
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",  # seconds: short trainings get a few points too
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, else the address of the SQLite database in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _embedded_uri()


def is_embedded(uri: str) -> bool:
    """Whether `uri` is that of the SQLite database in the workspace, which MLflow itself puts into the variable."""
    return uri == _embedded_uri()


def _embedded_uri() -> str:
    return f"sqlite:///{workspace() / DATABASE_FILE}"


def without_password(uri: str) -> str:
    """Return `uri` without user name and password, fit for logs, tags and files."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def is_server(uri: str) -> bool:
    """Whether `uri` is that of a tracking server, which keeps artifacts itself."""
    return uri.startswith(("http://", "https://"))


def prepare() -> str:
    """Create the embedded database, or migrate it to the installed MLflow, unless that has been done.

    Two processes that create the database at once break it, so this happens under a file lock. Behind a tracking
    server there is nothing to do but to see that it answers and takes the login.

    Returns:
        The tracking URI.

    Raises:
        TrackingError: when the server does not answer or refuses the login, or the database cannot be used.
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
        follow(database, database.with_name(ARTIFACTS_FOLDER))


def _read_something() -> None:
    """Ask the server or database for something; an embedded one gets its tables and their version is checked."""
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


def all_runs(client: MlflowClient, asked: str = "", deleted: bool = False) -> Iterator[Run]:
    """Yield the runs of all experiments.

    Args:
        client: see `connect`.
        asked: filter in MLflow's words; empty: all.
        deleted: those that were deleted, and of deleted experiments, too.
    """
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = [experiment.experiment_id for experiment in client.search_experiments(view_type=view)]
    token = None
    while experiments:
        page = client.search_runs(experiments, asked, run_view_type=view, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _configure() -> None:
    disable_telemetry()
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    _Waiting.announce()


class _Waiting(logging.Filter):
    """Tells that a request to the tracking server is repeated, in a line every now and then.

    MLflow leaves repeating to urllib3, which logs it: not at all, as seen by a user, when the server answers with an
    error, and as a page of internals when the connection breaks.
    """

    _LOGGER, _SECONDS_BETWEEN = "urllib3.connectionpool", 20.0

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level, self._last = level, float("-inf")

    @classmethod
    def announce(cls) -> None:
        """Start telling, once a process."""
        logger = logging.getLogger(cls._LOGGER)
        if not any(isinstance(one, cls) for one in logger.filters):
            logger.addFilter(cls(logger.getEffectiveLevel()))
            logger.setLevel(logging.DEBUG)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say it in place of urllib3's own line; other lines pass as they did before."""
        repeats = str(record.msg).startswith(("Retry: ", "Retrying ("))
        if not repeats or "/mlflow" not in record.getMessage():
            return record.levelno >= self._level
        now = time.monotonic()
        if now - self._last > self._SECONDS_BETWEEN:
            self._last = now
            place = without_password(tracking_uri())
            print(
                f"warning: {place}: the tracking server or its database is away, trying again",
                file=sys.stderr,
                flush=True,
            )
        return False


@contextmanager
def in_haste() -> Iterator[None]:
    """Repeat a request once only, at once: for what can as well be sent later. Holds for the whole process."""
    _configure()
    before = os.environ[_RETRIES]
    os.environ[_RETRIES] = str(min(int(before), 1))
    try:
        yield
    finally:
        os.environ[_RETRIES] = before


def _probe(uri: str) -> None:
    """Fail fast when no server answers; any answer will do, a proxy may ask for credentials first."""
    if not is_server(uri):
        return
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false").lower() in ("true", "1")
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    try:
        requests.head(uri, timeout=_PROBE_SECONDS, allow_redirects=False, verify=certificates)
    except OSError as error:  # requests' own, and that of a certificate file that is not there
        hint = "Start it, or correct MLFLOW_TRACKING_URI; without that variable the embedded database is used."
        if isinstance(error, requests.exceptions.SSLError):
            hint = "MLFLOW_TRACKING_SERVER_CERT_PATH names the file with the certificate of your own authority."
        raise TrackingError(
            f"{without_password(uri)}: the tracking server does not answer ({type(error).__name__}). {hint}"
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
        raise TrackingError(f"{without_password(uri)}: {_explain(error, doing)}") from error


def _explain(error: Exception, doing: str) -> str:
    """Say in one line what MLflow raised, and what to do where that is known."""
    what = f" while {doing}" if doing else ""
    code = getattr(error, "error_code", "")
    if code == "UNAUTHENTICATED":
        wrong = "did not accept" if os.environ.get("MLFLOW_TRACKING_USERNAME") else "asks for"
        return (
            f"the tracking server {wrong} a login{what}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            f"(or MLFLOW_TRACKING_TOKEN) to those of a user of the server"
        )
    first_line = without_password(str(error).strip().partition("\n")[0])
    if code == "PERMISSION_DENIED" and "Host header" in first_line:
        return (
            f"the tracking server does not know itself by this name{what}; correct MLFLOW_TRACKING_URI, or have the "
            f"name added to MLFLOW_SERVER_ALLOWED_HOSTS of the server"
        )
    if code == "PERMISSION_DENIED":
        return (
            f"the tracking server does not allow this{what} (user {os.environ.get('MLFLOW_TRACKING_USERNAME', '?')}): "
            f"{first_line}; ask its administrator for the permission"
        )
    return f"the tracking server or database failed{what}: {first_line}"
