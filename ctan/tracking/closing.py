"""Ending MLflow runs of trainings that were stopped or killed, so that none stays RUNNING for ever."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from ctan.errors import CtanError, TrackingError
from ctan.tracking.lineage import OWNER_MARK, PIPELINE_RUN
from ctan.tracking.owner import Owner
from ctan.tracking.server import connect, in_haste, is_server, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

_SECONDS = 0.7
_PAGE = 1000


def close_runs(pipeline_run: str = "") -> list[str]:
    """End the runs still RUNNING whose training is not at work any more, as KILLED.

    A training that another process of this pipeline run, or of any other, goes on with is left alone: its owner's mark
    says so.

    Args:
        pipeline_run: tag of the runs to end; empty: all whose owner's mark can be seen from here.

    Returns:
        Ids of the runs that were ended.

    Raises:
        TrackingError: when the tracking server or database cannot be used.
    """
    uri = prepare()
    client = connect()
    ended = []
    wanted = f"tags.{PIPELINE_RUN} = '{pipeline_run}'" if pipeline_run else f"tags.{OWNER_MARK} LIKE '%'"
    with in_haste(), tracking_errors(uri, "closing runs"):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        running = client.search_runs(experiments, f"attributes.status = 'RUNNING' and {wanted}", max_results=_PAGE)
        for run in running:
            if _has_ended(run, sure=bool(pipeline_run)):
                client.set_terminated(run.info.run_id, "KILLED")
                ended.append(run.info.run_id)
    return ended


def close_quietly(pipeline_run: str = "") -> None:
    """Do the same where nothing depends on it: what cannot be closed now is closed by the next one."""
    with contextlib.suppress(CtanError):
        close_runs(pipeline_run)


def _has_ended(run: Run, sure: bool) -> bool:
    """Whether nobody works on a run.

    Args:
        run: to look at.
        sure: it has ended unless its owner's mark says otherwise.
    """
    address = run.data.tags.get(OWNER_MARK)
    if not address:
        return sure
    try:
        mark, at_work = Owner(address).present()
    except (CtanError, OSError):
        return False
    if mark is None:
        return sure
    return not (at_work and mark.run_id in ("", run.info.run_id))


def mark_killed(uri: str, run_id: str) -> None:
    """Note the end of a run within half a second: one plain request, or one line in SQLite. Never raises.

    MLflow's own client would wait for minutes where the server is away.

    Args:
        uri: of the tracking server or database.
        run_id: of the run.
    """
    now = int(time.time() * 1000)
    with contextlib.suppress(Exception):
        if is_server(uri):
            _ask_server(uri, {"run_id": run_id, "status": "KILLED", "end_time": now})
        elif uri.startswith("sqlite:///"):
            with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=_SECONDS)) as database, database:
                database.execute("UPDATE runs SET status='KILLED', end_time=? WHERE run_uuid=?", (now, run_id))


def _ask_server(uri: str, update: dict[str, object]) -> None:
    import requests

    variable = os.environ.get
    token, user = variable("MLFLOW_TRACKING_TOKEN"), variable("MLFLOW_TRACKING_USERNAME")
    insecure = variable("MLFLOW_TRACKING_INSECURE_TLS", "false").lower() in ("true", "1")
    answer = requests.post(
        f"{uri.rstrip('/')}/api/2.0/mlflow/runs/update",
        json=update,
        headers={"Authorization": f"Bearer {token}"} if token and not user else {},
        auth=(user, variable("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
        timeout=_SECONDS,
        verify=variable("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure,
    )
    if not answer.ok:
        raise TrackingError(f"{answer.status_code}")
