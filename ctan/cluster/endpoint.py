"""Where Kubeflow Pipelines answers: found as its own client finds it, and tried before that client starts.

kfp's client tries an address five times and prints a traceback for each; one question beforehand says the same
in a line.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ctan.errors import CtanError

_VARIABLES = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")  # kfp's command line reads the first, its client the second
_HEALTH = "/apis/v2beta1/healthz"
_SECONDS = 10.0
_POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

MISSING = (
    "no Kubeflow Pipelines endpoint: set it with `export KFP_ENDPOINT=http://localhost:8080`, or give --endpoint URL.\n"
    "To open one: `kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8080:80`"
)


class ClusterError(CtanError):
    """The Kubeflow Pipelines server cannot be reached, or refuses a request."""


@dataclass(frozen=True)
class Endpoint:
    """Where the server is.

    Attributes:
        url: address to give to kfp's client; None when it finds the server itself, in a pod or by a kubeconfig.
        probe: address to try beforehand.
        whole: whether the address is the server's own, and not that of a cluster that passes requests on.
    """

    url: str | None
    probe: str
    whole: bool = True


def find_endpoint(given: str | None = None, namespace: str = "kubeflow") -> Endpoint:
    """Return the endpoint: the given one, else that of the environment, the pod's cluster or the kubeconfig's.

    Raises:
        ClusterError: when there is none, in two lines that say what to set.
    """
    url = given or next(filter(None, map(os.environ.get, _VARIABLES)), None)
    if url:
        address = url if url.startswith(("http://", "https://")) else f"https://{url}"
        return Endpoint(url, address.rstrip("/"))
    if os.environ.get("KUBERNETES_SERVICE_HOST") and _POD_TOKEN.exists():
        return Endpoint(None, f"http://ml-pipeline.{namespace}.svc.cluster.local:8888")
    if server := _kubeconfig_server():
        return Endpoint(None, server, whole=False)
    raise ClusterError(MISSING)


def check_reachable(endpoint: Endpoint) -> None:
    """Ask the server once whether it is there. Asking for a login or a certificate counts as being there.

    Raises:
        ClusterError: when nothing answers, or what answers is not Kubeflow Pipelines.
    """
    # As kfp's client: no proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(endpoint.probe + (_HEALTH if endpoint.whole else ""), timeout=_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if endpoint.whole and (error.code == 404 or error.code >= 500):
            raise ClusterError(
                f"{endpoint.probe}: {_HEALTH} answers {error.code} ({error.reason}); expected Kubeflow Pipelines.\n"
                "Check the address, and whether the ml-pipeline pods are ready"
            ) from error
    except ValueError as error:
        raise ClusterError(f"{endpoint.probe}: not an address ({error}); expected http://HOST:PORT") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" not in str(reason):
            raise ClusterError(
                f"{endpoint.probe}: Kubeflow Pipelines does not answer there ({reason}).\n"
                "Check the address in KFP_ENDPOINT or --endpoint, and that a port-forward is still running"
            ) from error


def _kubeconfig_server() -> str | None:
    """Return the address of the API server of the kubeconfig's current context."""
    files = [
        Path(name).expanduser() for name in os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep) if name
    ]
    if not any(path.is_file() for path in files):
        return None
    from kubernetes import client, config

    found = client.Configuration()
    try:
        config.load_kube_config(os.pathsep.join(map(str, files)), client_configuration=found)
    except config.ConfigException as error:
        raise ClusterError(f"kubeconfig {', '.join(map(str, files))}: {error}\n{MISSING.splitlines()[0]}") from error
    return str(found.host)
