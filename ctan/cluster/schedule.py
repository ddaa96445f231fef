"""Run a pipeline again and again on a cluster: KFP's recurring runs, one of a name.

KFP's API cannot change a recurring run, only make, pause, resume and delete one. What is asked for is therefore
compared with what is there, and where they differ the old one is replaced: the new one is made *paused*, the old one
deleted, the new one resumed. So a request that the server refuses changes nothing, two are never on at once, and a
failure in between leaves either the old one as it was or a new one paused, and says which.

Where the server keeps pipelines, what is run is uploaded as a version and the schedule pinned to it; else the schedule
carries the pipeline itself. What KFP's server does not say back as it was told (the pipeline, the account of the steps)
is compared by a hash of it in the recurring run's description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from ctan.cluster.client import Package, connect, kfp_errors, quiet
from ctan.cluster.cron import Cron, cron_of_server
from ctan.cluster.endpoint import ClusterError
from ctan.cluster.versions import content_hash, uploaded
from ctan.errors import ConfigError

Change = Literal["created", "unchanged", "resumed", "replaced"]

_PAGE_SIZE = 100
_AT_A_TIME = 1  # runs; a time that comes while one runs is made up for once it has ended
# The API's default lets Kubernetes delete the runs with the schedule that started them, also one that is running.
_KEEP_RUNS = "ORPHAN"
_DEFAULT = object()  # equal to no value


@dataclass(frozen=True)
class Schedule:
    """A recurring run on the cluster.

    Attributes:
        schedule_id: KFP's id.
        name: display name.
        trigger: its cron expression as KFP reads it, or `every <n> s`; empty where it has neither.
        enabled: whether it starts runs; else it is paused.
        parameters: parameters its runs are started with.
        description: KFP's free text, here the hash of what is run.
        max_concurrency: runs at a time.
        no_catchup: whether at most one run makes up for times that were missed.
        created_at: when it was made.
        url: its page.
    """

    schedule_id: str
    name: str
    trigger: str
    enabled: bool
    parameters: dict[str, Any]
    description: str
    max_concurrency: int
    no_catchup: bool
    created_at: datetime | None
    url: str

    def next_time(self, now: datetime) -> datetime | None:
        """Return when the next run is due; None when it is paused, or has a trigger that cannot be read."""
        cron = cron_of_server(self.trigger)
        return next(cron.times(now, self.created_at), None) if cron and self.enabled else None


@dataclass(frozen=True)
class Applied:
    """What became of a request.

    Attributes:
        schedule: what is there now.
        change: what was done for it.
        reasons: for `replaced`: what differed.
    """

    schedule: Schedule
    change: Change
    reasons: tuple[str, ...] = ()


class Schedules:
    """The recurring runs of a cluster, or of one user's profile."""

    def __init__(self, endpoint: str | None = None, namespace: str | None = None) -> None:
        """Connect; see `ctan.cluster.client.connect`."""
        self._connection = connect(endpoint, namespace)
        self._client = self._connection.client

    def all(self) -> list[Schedule]:
        """Return all of them, by name.

        Raises:
            ClusterError: when the server does not answer or refuses.
        """
        found: list[Schedule] = []
        token = ""
        with kfp_errors("cannot list schedules"), quiet():
            while True:
                page = self._client.list_recurring_runs(
                    page_token=token, page_size=_PAGE_SIZE, namespace=self._connection.namespace
                )
                found += [self._schedule(answer) for answer in page.recurring_runs or []]
                token = page.next_page_token
                if not token:
                    return sorted(found, key=lambda schedule: (schedule.name, schedule.schedule_id))

    def find(self, name: str) -> Schedule | None:
        """Return the one of a name or id; None when there is none.

        Raises:
            ClusterError: when several have that name, with their ids and how to delete one.
        """
        found = [schedule for schedule in self.all() if name in (schedule.name, schedule.schedule_id)]
        if len(found) > 1:
            listed = "\n".join(f"  {one.schedule_id} {one.trigger}, {_state(one.enabled)}" for one in found)
            raise ClusterError(
                f"{name}: {len(found)} schedules have this name; keep one and delete the others with "
                f"`ctan schedule --delete --name ID`:\n{listed}"
            )
        return found[0] if found else None

    def apply(self, cron: Cron, package: Package, name: str | None = None) -> Applied:
        """Have a pipeline run at the times of a cron expression: make, resume or replace the schedule of that name.

        Runs are started one at a time, and times that were missed are not made up for one by one.

        Args:
            cron: when to start runs.
            package: pipeline with its parameters, see `ctan.cluster.client.packaged`.
            name: name of the schedule; None for the pipeline's.

        Raises:
            ClusterError: when the server refuses; what is then there is in the message.
        """
        name = name or package.pipeline.name
        old = self.find(name)
        if old is None:
            return Applied(self._create(name, cron, package, enabled=True), "created")
        if reasons := _differences(old, cron, package):
            return Applied(self._replace(old, cron, package), "replaced", tuple(reasons))
        return Applied(old, "unchanged") if old.enabled else Applied(self.switch(old, True), "resumed")

    def switch(self, schedule: Schedule, enabled: bool) -> Schedule:
        """Resume or pause a schedule; a run that is going on is left alone."""
        action = "resume" if enabled else "pause"
        with kfp_errors(f"cannot {action} schedule {schedule.name}"), quiet():
            if enabled:
                self._client.enable_recurring_run(schedule.schedule_id)
            else:
                self._client.disable_recurring_run(schedule.schedule_id)
        return replace(schedule, enabled=enabled)

    def delete(self, schedule: Schedule) -> None:
        """Delete a schedule; runs that it started stay, also one that is going on."""
        with kfp_errors(f"cannot delete schedule {schedule.name}"), quiet():
            # kfp's own method does not pass on what is to become of the runs.
            self._client.recurring_runs.recurring_run_service_delete_recurring_run(
                schedule.schedule_id, propagation_policy=_KEEP_RUNS
            )

    def _create(self, name: str, cron: Cron, package: Package, enabled: bool) -> Schedule:
        namespace = self._connection.namespace
        with kfp_errors(f"cannot create schedule {name}"), quiet(), package.file() as path:
            experiment = self._client.create_experiment(package.pipeline.name, namespace=namespace)
            version = uploaded(self._connection, package)
            what = {"pipeline_id": version[0], "version_id": version[1]} if version else {"pipeline_package_path": path}
            created = self._client.create_recurring_run(
                experiment_id=experiment.experiment_id,
                job_name=name,
                description=_description(package),
                cron_expression=cron.text,
                max_concurrency=_AT_A_TIME,
                no_catchup=True,
                params=package.parameters,
                **what,
                enabled=enabled,
                service_account=package.service_account,
            )
        return self._schedule(created)

    def _replace(self, old: Schedule, cron: Cron, package: Package) -> Schedule:
        """Replace a schedule so that no two are on at once; see the module for the order."""
        new = self._create(old.name, cron, package, enabled=False)
        try:
            self.delete(old)
        except ClusterError as error:
            raise ClusterError(
                f"{error}\nIt stays as it was ({old.schedule_id}, {_state(old.enabled)}). What was to replace it is "
                f"there, paused: `ctan schedule --delete --name {new.schedule_id}` removes that"
            ) from error
        try:
            return self.switch(new, True)
        except ClusterError as error:
            raise ClusterError(
                f"{error}\nThe old schedule is deleted, the new one ({new.schedule_id}) may still be paused; "
                "the same command again resumes it"
            ) from error

    def _schedule(self, answer: Any) -> Schedule:
        trigger = answer.trigger
        cron = getattr(trigger and trigger.cron_schedule, "cron", None)
        seconds = getattr(trigger and trigger.periodic_schedule, "interval_second", None)
        return Schedule(
            schedule_id=answer.recurring_run_id,
            name=answer.display_name or "",
            trigger=cron or (f"every {seconds} s" if seconds else ""),
            # `mode` is what was asked for; servers answer `status`, and both agree on those that give both.
            enabled=(answer.status or "") == "ENABLED" or (not answer.status and answer.mode == "ENABLE"),
            parameters=dict((answer.runtime_config and answer.runtime_config.parameters) or {}),
            description=answer.description or "",
            max_concurrency=int(answer.max_concurrency or 0),
            no_catchup=bool(answer.no_catchup),
            created_at=answer.created_at,
            url=self._connection.page(f"recurringrun/details/{answer.recurring_run_id}"),
        )


def check_name(name: str | None) -> None:
    """Refuse a name that KFP would refuse or nobody could read.

    Raises:
        ConfigError: when it is blank.
    """
    if name is not None and not name.strip():
        raise ConfigError("--name: expected the name of a schedule, such as ctan-retrain, found none")


def _differences(old: Schedule, cron: Cron, package: Package) -> list[str]:
    """Return in words what a schedule does otherwise than asked for."""
    found: list[str] = []
    if old.trigger != cron.text:
        found.append(f"cron: {old.trigger or 'none'} -> {cron.text}")
    for name in sorted(old.parameters.keys() | package.parameters.keys()):
        # Not as text: the server answers 1.0 as 1.
        if old.parameters.get(name, _DEFAULT) != package.parameters.get(name, _DEFAULT):
            found.append(f"{name}: {_shown(old.parameters, name)} -> {_shown(package.parameters, name)}")
    if old.description != _description(package):
        found.append("pipeline, values or service account")
    if old.max_concurrency != _AT_A_TIME:
        found.append(f"runs at a time: {old.max_concurrency} -> {_AT_A_TIME}")
    if not old.no_catchup:
        found.append("catch-up: on -> off")
    return found


def _shown(parameters: Mapping[str, Any], name: str) -> str:
    return json.dumps(parameters[name]) if name in parameters else "its default"


def _description(package: Package) -> str:
    return f"made by ctan schedule; pipeline and settings {content_hash(package)}"


def _state(enabled: bool) -> str:
    return "enabled" if enabled else "paused"
