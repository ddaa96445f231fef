"""What the Kubernetes API knows of a run's pods and TrainJobs, as far as the step's account may ask.

`infra/kubernetes/base/access.yaml` lets every step read pods, and `ctan-launcher` list and delete TrainJobs.
"""

from __future__ import annotations

from typing import Any

from ctan import in_cluster
from ctan.in_cluster import OWNER_LABEL

PIPELINE_LABEL = "pipeline/runid"  # of every pod of a run, set by KFP
_NODE = "workflows.argoproj.io/node-name"


def killed_for_memory(pipeline_run: str) -> list[str]:
    """Name the steps of a run whose container was killed for memory, with the limit; empty outside of a pod.

    Raises:
        KubernetesError: when the API refuses.
    """
    if not in_cluster.in_pod():
        return []
    from kubernetes.client import CoreV1Api

    found = []
    with in_cluster.api_errors("reading pods", "pods: list"):
        pods = CoreV1Api(in_cluster.cluster()).list_namespaced_pod(
            in_cluster.namespace(),
            label_selector=f"{PIPELINE_LABEL}={pipeline_run}",
            _request_timeout=in_cluster.SECONDS,
        )
        for pod in pods.items:
            limits = {
                c.name: ((c.resources and c.resources.limits) or {}).get("memory", "") for c in pod.spec.containers
            }
            for status in pod.status.container_statuses or []:
                ends = [state.terminated for state in (status.state, status.last_state) if state and state.terminated]
                if any(end.reason == "OOMKilled" for end in ends):
                    limit = (
                        f"its memory limit of {limits[status.name]}" if limits.get(status.name) else "the node's memory"
                    )
                    found.append(f"{_step_of(pod)}: its container was killed for memory; it needed more than {limit}.")
    return found


def stop_train_jobs(pipeline_run: str) -> list[str]:
    """Delete the TrainJobs that a run owns; nothing where there are none, or none can exist.

    Returns:
        Their names.

    Raises:
        KubernetesError: when the API refuses.
    """
    if not in_cluster.in_pod():
        return []
    from kubernetes.client import ApiException, CustomObjectsApi

    with in_cluster.api_errors("stopping TrainJobs", "trainjobs: list and delete, as ctan-launcher has them"):
        api = CustomObjectsApi(in_cluster.cluster())
        place = in_cluster.train_jobs()
        try:
            jobs = api.list_namespaced_custom_object(**place, label_selector=f"{OWNER_LABEL}={pipeline_run}")
        except ApiException as error:
            if error.status in (403, 404):  # an account of a run that cannot have started one; no Trainer here
                return []
            raise
        names = [job["metadata"]["name"] for job in jobs.get("items", [])]
        for name in names:
            api.delete_namespaced_custom_object(**place, name=name, propagation_policy="Foreground")
    return names


def _step_of(pod: Any) -> str:
    """Return the step of a pod: Argo's node is `<workflow>.root(0)...train(0).executor(0)`."""
    names = (pod.metadata.annotations or {}).get(_NODE, "").split(".")
    return names[-2].partition("(")[0] if len(names) > 1 else str(pod.metadata.name)
