"""A workspace that was moved or copied: its database names the folder of the artifacts as it was.

MLflow writes the whole address of an artifact into each row. In a copy these lead into the original, where a run here
would be written, and models read from.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def follow(database: Path, artifacts: Path) -> None:
    """Let a database name the artifacts where they are now; all of its rows, or none.

    Args:
        database: of an embedded workspace, not in use by a server of an older place.
        artifacts: the folder beside it.
    """
    now = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        known = [address for (address,) in connection.execute("SELECT artifact_location FROM experiments") if address]
        before = {address for address in known if address.endswith(f"/{artifacts.name}") and address != now}
        for old in before:
            for table, column in ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (names of our own)
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (now, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
    if before:
        print(
            f"this workspace was moved or copied from {', '.join(sorted(before))}: its runs and models now name "
            f"{now}, the original is left alone",
            file=sys.stderr,
            flush=True,
        )
