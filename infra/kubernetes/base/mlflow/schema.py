"""Bring MLflow's databases to the schema of the installed MLflow (`migrate`), or wait until they are (`wait`).

Runs in the migration Job and in front of each server. Servers must not migrate themselves: MLflow locks per machine
only, and two that create the tables at once break the database.

The addresses hold passwords, so they are read from the environment and a file, never from the command line, which
every process of the node can read: `MLFLOW_BACKEND_STORE_URI`, and `database_uri` in `MLFLOW_AUTH_CONFIG_PATH`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

POLL_SECONDS, PATIENCE_SECONDS = 5.0, 1800.0
LOCK = 0x6374616E  # any number that others do not use


def main(arguments: list[str]) -> int:
    """Do what the one argument says; return the exit status."""
    if arguments not in (["migrate"], ["wait"]):
        print("say migrate or wait", file=sys.stderr)
        return 2
    import sqlalchemy
    from mlflow.server.auth.config import read_auth_config
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry

    engine = create_sqlalchemy_engine_with_retry(os.environ["MLFLOW_BACKEND_STORE_URI"])
    auth_engine = sqlalchemy.create_engine(read_auth_config().database_uri)
    if arguments == ["migrate"]:
        with alone(engine):
            migrate(engine, auth_engine)
        print("both databases are current")
        return 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_current(engine, auth_engine):
        if time.monotonic() > deadline:
            print("the databases have not been migrated: see the log of job/mlflow-migrate", file=sys.stderr)
            return 1
        print("waiting for job/mlflow-migrate", flush=True)
        time.sleep(POLL_SECONDS)
    return 0


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Hold a lock of the database: Kubernetes may, rarely, run a Job's pod twice. Released when the process dies."""
    import sqlalchemy

    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        yield


def migrate(engine: Engine, auth_engine: Engine) -> None:
    """Create or upgrade the tables of both databases; nothing happens when they are current."""
    from mlflow.server.auth.db.utils import migrate_if_needed
    from mlflow.store.db import utils

    # What `mlflow db upgrade URL` does.
    if utils._is_empty_database(engine):
        utils._initialize_tables(engine)
    else:
        utils._upgrade_db(engine)
    migrate_if_needed(auth_engine, "head")


def is_current(engine: Engine, auth_engine: Engine) -> bool:
    """Whether both databases have the schema of the installed MLflow."""
    from mlflow.server.auth.db.utils import _get_alembic_dir
    from mlflow.store.db.utils import _get_latest_schema_revision

    return revision(engine, "alembic_version") == _get_latest_schema_revision() and revision(
        auth_engine, "alembic_version_auth"
    ) == head(str(_get_alembic_dir()))


def revision(engine: Engine, table: str) -> str | None:
    """Return the revision that a database is at, None when it has no tables yet."""
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": table}).get_current_revision()


def head(folder: str) -> str | None:
    """Return the newest revision among the migration scripts of a folder."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(folder).get_current_head()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
