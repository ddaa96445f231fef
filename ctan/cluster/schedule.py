"""The recurring run on Kubeflow Pipelines: made, listed, paused, deleted. Doing the same twice changes nothing."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.cron import six_fields
from ctan.cluster.endpoint import ClusterError
from ctan.cluster.parameters import check_complete, check_parameters
from ctan.cluster.render import render
from ctan.cluster.submit import Cluster, kfp_errors, quiet
from ctan.cluster.values import Values
from ctan.files import sha256_of_json

_MARK = re.compile(r"made by `ctan schedule`, content ([0-9a-f]{16})")
_PAGE = 100


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
        recurring_run_id: KFP's id.
        name: display name.
        cron: six fields, UTC; empty for one that runs at intervals.
        enabled: false while it is paused.
        parameters: typed values.
        content: hash of all that decides what runs and when; empty when it was not made by ctan.
        url: its page.
    """

    recurring_run_id: str
    name: str
    cron: str
    enabled: bool
    parameters: Mapping[str, Any]
    content: str
    url: str


@dataclass(frozen=True)
class Change:
    """What scheduling came to.

    Attributes:
        schedule: as it is now.
        what: `created`, `replaced`, `resumed` or `unchanged`.
    """

    schedule: Schedule
    what: str


class Schedules:
    """The recurring runs of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._client = cluster, cluster.client

    def schedule(
        self,
        name: str,
        cron: str,
        pipeline_yaml: str,
        parameters: Mapping[str, Any],
        values: Values | None = None,
        experiment: str | None = None,
    ) -> Change:
        """Let a pipeline run again and again, one run at a time, missed times left out.

        KFP cannot change a recurring run. A new one is made first and then older ones of the name are deleted: a
        failure in between leaves two, never none, and the next call deletes the older one.

        Args:
            name: of the recurring run.
            cron: expression, see `ctan.cluster.cron`.
            pipeline_yaml: compiled pipeline.
            parameters: typed values.
            values: settings of the cluster.
            experiment: None for one of the pipeline's name.

        Raises:
            ConfigError: when expression, parameters or values are wrong.
            ClusterError: when the server refuses, or a recurring run of this name was not made by ctan.
        """
        cron = six_fields(cron)
        text = pipeline_yaml if values is None else render(pipeline_yaml, values)
        pipeline = CompiledPipeline.parse(text)
        check_complete(pipeline, check_parameters(pipeline, parameters))
        account = values.service_account if values else None
        content = sha256_of_json([name, cron, text, dict(parameters), account, experiment])[:16]
        present = self._own(name)
        same = [schedule for schedule in present if schedule.content == content]
        if same:
            kept, what = same[0], "unchanged"
            if not kept.enabled:
                self._do("enable_recurring_run", kept)
                what = "resumed"
        else:
            kept = self._create(name, cron, text, parameters, account, experiment or pipeline.name, content)
            what = "replaced" if present else "created"
        for other in present:
            if other.recurring_run_id != kept.recurring_run_id:
                self._do("delete_recurring_run", other)
        return Change(self._get(kept.recurring_run_id), what)

    def find(self, name: str | None = None) -> list[Schedule]:
        """Return all recurring runs, or those of a name, oldest first.

        Raises:
            ClusterError: when the server refuses.
        """
        return sorted(self._list(name), key=lambda schedule: schedule.name)

    def pause(self, name: str) -> list[Schedule]:
        """Pause the recurring runs of a name; runs that are under way go on. Return those that were not paused yet.

        Raises:
            ClusterError: when there is none, or the server refuses.
        """
        return self._each(name, "disable_recurring_run", lambda schedule: schedule.enabled)

    def resume(self, name: str) -> list[Schedule]:
        """Undo `pause`. Return those that were paused."""
        return self._each(name, "enable_recurring_run", lambda schedule: not schedule.enabled)

    def delete(self, name: str) -> list[Schedule]:
        """Delete the recurring runs of a name and return them; runs that are under way go on."""
        return self._each(name, "delete_recurring_run", lambda _: True)

    def _each(self, name: str, action: str, wanted: Callable[[Schedule], bool]) -> list[Schedule]:
        present = self._own(name)
        if not present:
            known = ", ".join(schedule.name for schedule in self.find()) or "none"
            raise ClusterError(f"no recurring run is named {name!r}; there are: {known}")
        changed = [schedule for schedule in present if wanted(schedule)]
        for schedule in changed:
            self._do(action, schedule)
        return changed

    def _own(self, name: str) -> list[Schedule]:
        """Return the recurring runs of a name; refuse one that somebody else made."""
        found = self.find(name)
        for schedule in found:
            if not schedule.content:
                raise ClusterError(
                    f"recurring run {name!r} ({schedule.recurring_run_id}) was not made by `ctan schedule`: choose "
                    f"another --name, or delete it with `kfp recurring-run delete {schedule.recurring_run_id}`"
                )
        return found

    def _create(
        self,
        name: str,
        cron: str,
        text: str,
        parameters: Mapping[str, Any],
        account: str | None,
        experiment: str,
        content: str,
    ) -> Schedule:
        with kfp_errors("cannot schedule"), quiet(), tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "pipeline.yaml"
            package.write_text(text, encoding="utf-8")
            found = self._client.create_experiment(experiment, namespace=self._cluster.namespace)
            created = self._client.create_recurring_run(
                experiment_id=found.experiment_id,
                job_name=name,
                description=f"made by `ctan schedule`, content {content}",
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                enabled=True,
                pipeline_package_path=str(package),
                params=dict(parameters),
                service_account=account,
            )
        return self._read(created)

    def _do(self, action: str, schedule: Schedule) -> None:
        with kfp_errors(f"recurring run {schedule.name!r} ({schedule.recurring_run_id})"), quiet():
            getattr(self._client, action)(schedule.recurring_run_id)

    def _get(self, recurring_run_id: str) -> Schedule:
        with kfp_errors(f"recurring run {recurring_run_id}"), quiet():
            return self._read(self._client.get_recurring_run(recurring_run_id))

    def _list(self, name: str | None) -> Iterator[Schedule]:
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        token = ""
        while True:
            with kfp_errors("cannot list recurring runs"), quiet():
                page = self._client.list_recurring_runs(
                    page_token=token,
                    page_size=_PAGE,
                    namespace=self._cluster.namespace,
                    filter=json.dumps(wanted) if name else None,
                )
            for found in page.recurring_runs or []:
                schedule = self._read(found)
                if name in (None, schedule.name):
                    yield schedule
            token = page.next_page_token or ""
            if not token:
                return

    def _read(self, found: Any) -> Schedule:
        trigger = found.trigger.cron_schedule if found.trigger else None
        marked = _MARK.search(found.description or "")
        return Schedule(
            found.recurring_run_id,
            found.display_name,
            (trigger.cron if trigger else None) or "",
            (found.status or found.mode) in ("ENABLED", "ENABLE"),
            dict((found.runtime_config.parameters if found.runtime_config else None) or {}),
            marked[1] if marked else "",
            self._cluster.recurring_run_url(found.recurring_run_id),
        )
