"""What the Kubernetes API knows of a run's pods and TrainJobs, as far as the step's account may ask.

`infra/kubernetes/base/access.yaml` lets every step read pods, and `ctan-launcher` list and delete TrainJobs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import CtanError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PIPELINE_LABEL = "pipeline/runid"  # of every pod of a run, set by KFP
OWNER_LABEL = "ctan/pipeline-run"  # of a TrainJob: the run that owns it; a job that another run attached to keeps it
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NODE = "workflows.argoproj.io/node-name"
_GROUP, _VERSION, _PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
_SECONDS = 20


class KubernetesError(CtanError):
    """The Kubernetes API refuses or does not answer."""


def killed_for_memory(pipeline_run: str) -> list[str]:
    """Name the steps of a run whose container was killed for memory, with the limit; empty outside of a pod.

    Raises:
        KubernetesError: when the API refuses.
    """
    if not _in_pod():
        return []
    from kubernetes.client import CoreV1Api

    found = []
    with _errors("reading pods", "pods: list"):
        pods = CoreV1Api(_cluster()).list_namespaced_pod(
            _namespace(), label_selector=f"{PIPELINE_LABEL}={pipeline_run}", _request_timeout=_SECONDS
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
    if not _in_pod():
        return []
    from kubernetes.client import ApiException, CustomObjectsApi

    with _errors("stopping TrainJobs", "trainjobs: list and delete, as ctan-launcher has them"):
        api = CustomObjectsApi(_cluster())
        place: dict[str, Any] = {
            "group": _GROUP,
            "version": _VERSION,
            "namespace": _namespace(),
            "plural": _PLURAL,
            "_request_timeout": _SECONDS,
        }
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


def _in_pod() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()


def _namespace() -> str:
    return (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()


def _cluster() -> ApiClient:
    """Return a client of the API of the cluster that this pod is in."""
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config.incluster_config import InClusterConfigLoader

    configuration = Configuration()
    InClusterConfigLoader(str(ACCOUNT / "token"), str(ACCOUNT / "ca.crt")).load_and_set(configuration)
    return ApiClient(configuration)


def _step_of(pod: Any) -> str:
    """Return the step of a pod: Argo's node is `<workflow>.root(0)...train(0).executor(0)`."""
    names = (pod.metadata.annotations or {}).get(_NODE, "").split(".")
    return names[-2].partition("(")[0] if len(names) > 1 else str(pod.metadata.name)


@contextmanager
def _errors(doing: str, right: str) -> Iterator[None]:
    import urllib3
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException

    try:
        yield
    except ApiException as error:
        hint = f"; the account of the run needs {right}" if error.status == 403 else ""
        raise KubernetesError(f"{doing}: the Kubernetes API answered {error.status} {error.reason}{hint}") from error
    except (urllib3.exceptions.HTTPError, ConfigException) as error:
        raise KubernetesError(f"{doing}: the Kubernetes API does not answer ({error})") from error
