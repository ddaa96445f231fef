"""What the first step looks at before anything long begins: can results be kept, does the tracking server answer.

`python -m ctan.steps.preflight store_root=s3://... checkpoint_root=...` prints one line a problem, for `ctan doctor`,
which runs it in a pod of the cluster.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ctan.errors import CtanError, DataError
from ctan.sources import buckets
from ctan.step_environment import prepare_step
from ctan.tracking.server import is_server, tracking_uri, without_password

_SECONDS = 10.0
_QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"
_ADVICE = {
    401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (secret mlflow-client) to those of a user of it",
    403: "its user may not read experiments, or it does not know itself by this name (MLFLOW_SERVER_ALLOWED_HOSTS)",
    404: "nothing of MLflow is there: correct MLFLOW_TRACKING_URI",
}


def preflight(roots: Mapping[str, str]) -> list[str]:
    """Return what would stop a run later, a sentence each that says what to do; empty when nothing would.

    Args:
        roots: name of the parameter -> folder or `s3://bucket/prefix`; empty ones are the workspace's.
    """
    found = []
    for name, root in roots.items():
        try:
            if root:
                buckets.check_root(root, name)
                buckets.check_writable(root)
        except CtanError as error:
            found.append(f"{name}: {error}")
    if problem := _tracking():
        found.append(problem)
    return found


def look_around(roots: Mapping[str, str]) -> None:
    """Do the same, and stop where something was found.

    Raises:
        DataError: with all that was found.
    """
    if found := preflight(roots):
        raise DataError("this run would fail later: " + "\n  ".join(found))


def _tracking() -> str:
    """Ask the tracking server one thing that needs a login, without MLflow's client, which takes seconds to load."""
    uri = tracking_uri()
    if not is_server(uri):
        return ""
    import requests

    variable = os.environ.get
    place, user, token = without_password(uri), variable("MLFLOW_TRACKING_USERNAME"), variable("MLFLOW_TRACKING_TOKEN")
    insecure = variable("MLFLOW_TRACKING_INSECURE_TLS", "false").lower() in ("true", "1")
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}{_QUESTION}",
            headers={"Authorization": f"Bearer {token}"} if token and not user else {},
            auth=(user, variable("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            timeout=_SECONDS,
            verify=variable("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure,
            allow_redirects=False,
        )
    except OSError as error:
        return (
            f"MLflow: {place} does not answer ({type(error).__name__}); start it, correct MLFLOW_TRACKING_URI, or let "
            "the network policy of this namespace reach it"
        )
    if answer.ok:
        return ""
    advice = _ADVICE.get(answer.status_code, "look at its log")
    return f"MLflow: {place} answers {answer.status_code}; {advice}"


if __name__ == "__main__":
    prepare_step()
    problems = preflight(dict(argument.split("=", 1) for argument in sys.argv[1:]))
    print("\n".join(f"problem: {problem}" for problem in problems) or "fine")
