"""Ending MLflow runs of trainings that were stopped or killed, so that none stays RUNNING for ever."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctan.errors import CtanError, TrackingError
from ctan.tracking.lineage import OWNER_MARK, PIPELINE_RUN
from ctan.tracking.owner import Mark, Owner
from ctan.tracking.server import connect, in_haste, is_server, prepare, tracking_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

_SECONDS = 0.7
_PAGE = 1000


@dataclass(frozen=True)
class EndedRun:
    """A run that was left RUNNING.

    Attributes:
        run_id: of MLflow.
        name: as people see it.
        memory_peak: bytes that its container was last seen to have used at most; 0 where that is not known.
        memory_limit: bytes that the container may use; 0 where that is not known.
    """

    run_id: str
    name: str = ""
    memory_peak: int = 0
    memory_limit: int = 0


def close_runs(pipeline_run: str = "") -> list[str]:
    """Do what `closed_runs` does, and return the ids alone."""
    return [run.run_id for run in closed_runs(pipeline_run)]


def closed_runs(pipeline_run: str = "") -> list[EndedRun]:
    """End the runs still RUNNING whose training is not at work any more, as KILLED.

    A training that another process of this pipeline run, or of any other, goes on with is left alone: its owner's mark
    says so.

    Args:
        pipeline_run: tag of the runs to end; empty: all whose owner's mark can be seen from here.

    Returns:
        The runs that were ended.

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
            mark, has_ended = _end_of(run, sure=bool(pipeline_run))
            if has_ended:
                client.set_terminated(run.info.run_id, "KILLED")
                memory = (mark.memory_peak, mark.memory_limit) if mark else (0, 0)
                ended.append(EndedRun(run.info.run_id, run.info.run_name or "", *memory))
    return ended


def close_quietly(pipeline_run: str = "") -> None:
    """Do the same where nothing depends on it: what cannot be closed now is closed by the next one."""
    with contextlib.suppress(CtanError):
        close_runs(pipeline_run)


def _end_of(run: Run, sure: bool) -> tuple[Mark | None, bool]:
    """Return the owner's mark of a run, where it can be seen, and whether nobody works on it any more.

    Args:
        run: to look at.
        sure: it has ended unless its owner's mark says otherwise.
    """
    address = run.data.tags.get(OWNER_MARK)
    if not address:
        return None, sure
    try:
        mark, at_work = Owner(address).present()
    except (CtanError, OSError):
        return None, False
    if mark is None:
        return None, sure
    return mark, not (at_work and mark.run_id in ("", run.info.run_id))


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
