"""The log of a step on a cluster, from whichever place still has it.

KFP's API names no log. A step's pod is known from its place in the pipeline (`ctan.cluster.nodes`); the pages' server
and the API server both hand out a pod's log by that name, and once the pod is gone the one that Argo archived, where
the two are set up alike. A step that failed by itself has also left the artifact `executor-logs` in the pipeline root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ctan.cluster.client import Connection
from ctan.cluster.nodes import Nodes, Place
from ctan.errors import CtanError

ROOT_VARIABLE = "CTAN_KFP_PIPELINE_ROOT"  # s3://bucket/prefix of KFP's artifacts; AWS_* open it
_SINGLE_USER_NAMESPACE = "kubeflow"
_SECONDS = 20.0  # for one answer
_LAUNCHER = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ .*|time=\".*")  # of KFP's launcher and Argo's executor
_ARTIFACT = "executor-logs"


@dataclass(frozen=True)
class StepLog:
    """What is known of a step's output.

    Attributes:
        lines: without those of KFP's launcher; empty where nobody had it.
        source: who answered, or how to ask.
    """

    lines: tuple[str, ...]
    source: str


class Logs:
    """The logs of one run."""

    def __init__(self, connection: Connection, run_id: str, pipeline_name: str) -> None:
        self._client, self._run_id, self._pipeline_name = connection.client, run_id, pipeline_name
        self.namespace = connection.namespace or _SINGLE_USER_NAMESPACE

    def of(self, place: Place, nodes: Nodes) -> StepLog:
        """Return the log of a step's last try.

        Args:
            place: the step.
            nodes: of the answer about its run.
        """
        pod = next(reversed(nodes.pods(place)), "")
        for source, text in self._answers(place, pod):
            lines = tuple(line for line in text.splitlines() if line.strip() and not _LAUNCHER.fullmatch(line))
            if lines:
                return StepLog(lines, source)
        return StepLog((), f"kubectl logs --namespace {self.namespace} {pod} --container main" if pod else "")

    def _answers(self, place: Place, pod: str) -> Iterator[tuple[str, str]]:
        if not place.step.loop:  # the names of artifacts do not tell iterations apart
            yield f"artifact {_ARTIFACT}", self._artifact(place.step.name)
        if pod:
            query = urlencode({"podname": pod, "runid": self._run_id, "podnamespace": self.namespace})
            yield "pod or archive, by Kubeflow's pages", self._get(f"/k8s/pod/logs?{query}")
            path = f"/apis/v1alpha1/runs/{quote(self._run_id)}/nodes/{quote(pod)}/log"
            yield "pod or archive, by the API server", self._get(path)

    def _artifact(self, task: str) -> str:
        root = os.environ.get(ROOT_VARIABLE, "")
        if not root.startswith("s3://"):
            return ""

        from ctan.sources import buckets, objects

        folder = buckets.join(root, self._pipeline_name, self._run_id)
        try:
            found = [name for name in buckets.list_objects(folder) if name.split("/")[-1] == _ARTIFACT]
            mine = [name for name in found if task in name.split("/")]
            content = objects.read_object(buckets.join(folder, mine[-1])) if mine else None
        except CtanError:  # the other places are asked
            return ""
        return (content or b"").decode("utf-8", errors="replace")

    def _get(self, address: str) -> str:
        """Return a text of the server; empty where it has none, which a page of HTML says too."""
        import kfp_server_api
        import urllib3

        api = self._client.runs.api_client
        try:
            text, _, headers = api.call_api(
                address, "GET", response_type="str", auth_settings=["Bearer"], _request_timeout=_SECONDS
            )
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, OSError, ValueError):
            return ""
        kind = {name.lower(): value for name, value in dict(headers).items()}.get("content-type", "")
        return "" if "html" in kind else str(text)
