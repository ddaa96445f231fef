"""What the manifests' containers run, as processes of this machine: commands, environment, secrets.

All of it is taken from the rendered overlay `local`; addresses, ports and the values of secrets are the tests' own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.helpers.kubernetes import MANIFESTS, Manifest, of_kind, render

ADMIN, ADMIN_PASSWORD = "the-admin", "a-password-of-the-admin"
STEP_USER, STEP_PASSWORD = "steps", "a-password-of-the-steps"
FLAVOUR = "local"
SECONDS_TO_START = 600  # a bound on hanging; importing MLflow takes minutes on a busy machine

Secrets = dict[str, dict[str, str]]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, log: Path | None = None) -> None:
    """Wait until something is so; fail when the process ends before."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        said = log.read_text()[-3000:] if log else ""
        assert process.poll() is None, f"the process ended: {said}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"hangs: {said}")
        time.sleep(0.1)


def container_of(one: Manifest, kind: str = "containers") -> Manifest:
    """Return the one container, or the one of `initContainers`, of a workload."""
    (container,) = one["spec"]["template"]["spec"][kind]
    return container


def command_of(container: Manifest) -> list[str]:
    """Return a container's command with this Python and the scripts where they lie here."""
    scripts = {"/opt/mlflow/": MANIFESTS / "base/mlflow", "/opt/local/": MANIFESTS / "overlays/local"}
    command = [str(one) for one in container["command"]]
    for mounted, folder in scripts.items():
        command = [one.replace(mounted, f"{folder}/") for one in command]
    programs = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"]}
    return programs[command[0]] + command[1:]


def secrets_of_the_tests(database_url: Callable[[str], str], database: str = "mlflow") -> Secrets:
    """Return secrets.example.yaml filled in: values by name and key.

    Args:
        database_url: gives the address of a database by its name.
        database: of runs and models; that of users has `_auth` added.
    """
    from tests.helpers.s3 import ACCESS_KEY, SECRET_KEY

    values = {
        r"<name of the first user.*>": ADMIN,
        r"<at least 12 characters>": ADMIN_PASSWORD,
        r"<any random string.*>": "a-key-of-the-tests",
        r"<postgresql\+psycopg2://USER:PASSWORD@HOST:5432/mlflow>": database_url(database),
        r"<postgresql\+psycopg2://USER:PASSWORD@HOST:5432/mlflow_auth>": database_url(f"{database}_auth"),
        r"<user>": STEP_USER,
        r"<its password>": STEP_PASSWORD,
        r"<access key>": ACCESS_KEY,
        r"<secret key>": SECRET_KEY,
    }
    text = (MANIFESTS / "secrets.example.yaml").read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text, count = re.subn(placeholder, value, text)
        assert count, f"secrets.example.yaml has no {placeholder}"
    return {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}


def environment_of(container: Manifest, secrets: Secrets, folder: Path) -> dict[str, str]:
    """Return the environment that Kubernetes gives a container, and nothing of this machine but PATH.

    Args:
        container: of overlay `local`.
        secrets: values by name and key.
        folder: stands for the container's home and mounted secrets.
    """
    environment = {"PATH": os.environ["PATH"]}
    maps = of_kind(render(FLAVOUR), "ConfigMap")
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        environment[variable["name"]] = secrets[reference["name"]][reference["key"]] if reference else variable["value"]
    if environment.get("MLFLOW_AUTH_CONFIG_PATH"):
        mounted = folder / "basic_auth.ini"
        mounted.touch(0o600)
        mounted.write_text(secrets["mlflow-auth"]["basic_auth.ini"])
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(mounted)
    return environment | {"HOME": str(folder)}


def http_status(url: str, host: str, login: str = "") -> int:
    """Return the HTTP status of a request with this Host header; 0 when nothing answers."""
    headers = {"Host": host}
    if login:
        headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
