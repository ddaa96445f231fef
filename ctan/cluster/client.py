"""kfp's client: connected, quiet, and with errors that say what the server said.

Credentials are those it finds (`KFP_EXISTING_TOKEN`, the pod's account, a kubeconfig).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import ClusterError, check_reachable, find_endpoint
from ctan.cluster.parameters import check_complete, check_parameters, settings_of
from ctan.cluster.render import render
from ctan.cluster.values import Values

_TOKEN = "KFP_EXISTING_TOKEN"  # noqa: S105 a name; by the environment only: a command line is seen by all and kept in histories
_UI = "KF_PIPELINES_UI_ENDPOINT"


@dataclass(frozen=True)
class Connection:
    """Kubeflow Pipelines, reached through kfp's client.

    Attributes:
        client: kfp's client.
        namespace: profile to work in where Kubeflow serves several users; None otherwise.
        ui: address of its pages.
    """

    client: Any
    namespace: str | None
    ui: str

    def page(self, path: str) -> str:
        """Return the address of a page, such as `runs/details/<id>`."""
        return f"{self.ui.rstrip('/')}/#/{path}"


def connect(endpoint: str | None = None, namespace: str | None = None) -> Connection:
    """Connect.

    Args:
        endpoint: address; None for that of the environment, see `ctan.cluster.endpoint`.
        namespace: profile to work in where Kubeflow serves several users; None for that of kfp's own settings.

    Raises:
        ClusterError: when there is no endpoint or nothing answers there.
    """
    found = find_endpoint(endpoint)
    check_reachable(found)
    with kfp_errors("cannot connect"), quiet():
        from kfp import Client

        class PromptClient(Client):
            """kfp's client, which asks a server that refuses it once, not five times with 25 s and tracebacks."""

            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                return self.healthzs.healthz_service_get_healthz()

        client = PromptClient(found.url, existing_token=os.environ.get(_TOKEN))
        # kfp's word for: not of a user. Not all methods of its client look up the user's namespace themselves.
        profile = None if namespace == "kubeflow" else namespace or client.get_user_namespace() or None
    return Connection(client, profile, os.environ.get(_UI) or found.url or "/pipeline")


@dataclass(frozen=True)
class Package:
    """A pipeline that is ready to be sent: complete parameters, settings of the cluster written into it.

    Attributes:
        text: compiled pipeline, one or two YAML documents.
        pipeline: the same, read.
        parameters: typed values of its parameters; those not named keep their defaults.
        service_account: account its steps run as; None for the cluster's own.
    """

    text: str
    pipeline: CompiledPipeline
    parameters: dict[str, Any]
    service_account: str | None

    @contextlib.contextmanager
    def file(self) -> Iterator[str]:
        """Write it where kfp's client can read it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(self.text, encoding="utf-8")
            yield str(path)


def packaged(
    pipeline_yaml: str,
    parameters: Mapping[str, Any],
    values: Values | None = None,
    source: str = "pipeline",
    cache: bool = True,
) -> Package:
    """Return a pipeline that is ready to be sent.

    Args:
        pipeline_yaml: compiled pipeline.
        parameters: typed values of its parameters.
        values: settings of the cluster to write into it; None to leave it as it is.
        source: where the pipeline was read, for messages.
        cache: whether KFP may reuse outputs of earlier runs where the pipeline allows it.

    Raises:
        ConfigError: when values or parameters do not fit the pipeline, or ask for more trainings than a run carries.
    """
    from ctan.intake.planning import check_number

    text = pipeline_yaml
    if values is not None or not cache:
        text = render(pipeline_yaml, values or Values(), source, cache)
    pipeline = CompiledPipeline.parse(text, source)
    checked = check_parameters(pipeline, parameters)
    check_complete(pipeline, checked)
    if config := settings_of(pipeline, checked):
        check_number(config)
    return Package(text, pipeline, checked, values.service_account if values else None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep links of kfp's client, which know no `--output`, and its warning about old servers from the output."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def kfp_errors(action: str) -> Iterator[None]:
    """Say what the server said, instead of its headers and a traceback."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        raise ClusterError(f"{action}: {_answer(error)}") from error
    except (urllib3.exceptions.HTTPError, TimeoutError) as error:
        raise ClusterError(f"{action}: Kubeflow Pipelines does not answer ({error})") from error
    except ValueError as error:  # of kfp's client, such as two experiments of one name
        raise ClusterError(f"{action}: {error}") from error


def _answer(error: Any) -> str:
    """Return the message inside an answer of the API, and what to do about those that are known."""
    if error.status in (401, 403):
        return (
            f"access refused ({error.status} {error.reason}); a token in {_TOKEN} opens the server, "
            "and --namespace names your profile where it serves several users"
        )
    try:
        body = json.loads(error.body or "")
        message = body.get("message") or body.get("error") or error.reason
    except (ValueError, AttributeError):
        message = error.reason
    return f"the server answered {error.status}: {message}"
