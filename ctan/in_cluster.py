"""This pod's own cluster: whether there is one, its API, and what it answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan.errors import CtanError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
OWNER_LABEL = "ctan/pipeline-run"  # of a TrainJob: the run that owns it; a job that another run attached to keeps it
SECONDS = 20  # a call may take


class KubernetesError(CtanError):
    """The Kubernetes API refuses or does not answer."""


def in_pod() -> bool:
    """Whether this process runs in a pod with an account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (ACCOUNT / "token").exists()


def namespace() -> str:
    """Return the pod's namespace."""
    return (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()


def cluster() -> ApiClient:
    """Return a client of the API of the cluster that this pod is in."""
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config.incluster_config import InClusterConfigLoader

    configuration = Configuration()
    InClusterConfigLoader(str(ACCOUNT / "token"), str(ACCOUNT / "ca.crt")).load_and_set(configuration)
    return ApiClient(configuration)


def train_jobs() -> dict[str, Any]:
    """Return where the TrainJobs of this namespace are, as the client's arguments."""
    return {
        "group": "trainer.kubeflow.org",
        "version": "v1alpha1",
        "namespace": namespace(),
        "plural": "trainjobs",
        "_request_timeout": SECONDS,
    }


@contextmanager
def api_errors(doing: str, right: str) -> Iterator[None]:
    """Say what was being done, and which right an account needs that is refused it.

    Raises:
        KubernetesError: when the API refuses or does not answer.
    """
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
