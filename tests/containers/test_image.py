"""The image: who it runs as, what is in it, what is not, and that it needs nothing but /tmp to write to."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ctan
from tests.helpers.containers import writable_by_all
from tests.helpers.kubernetes import MANIFESTS, of_kind, render
from tests.helpers.s3 import free_ports
from tests.helpers.workloads import http_status, wait_until

ROOT = Path(ctan.__file__).parents[1]
CLOSED = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"]


def in_image(image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in a container that can write to /tmp alone and reach nothing."""
    return subprocess.run([*CLOSED, *options, image, *command], capture_output=True, text=True, check=False)


def test_it_runs_as_an_ordinary_user_on_a_read_only_root(image: str) -> None:
    found = in_image(image, "sh", "-c", "id -u; id -g; echo $HOME; ctan --version; touch /opt/ctan/x")
    assert found.stdout.split("\n")[:4] == ["1000", "1000", "/tmp", f"ctan {ctan.__version__}"]
    assert "Read-only file system" in found.stderr


def test_any_other_user_can_run_it_too(image: str) -> None:
    found = in_image(image, "ctan", "config", "--profile", "cpu", options=("--user", "4321:4321"))
    assert "epochs:" in found.stdout, found.stderr


def test_it_holds_no_compiler_and_nothing_that_installs(image: str) -> None:
    tools = "cc gcc g++ clang make pip pip3 uv easy_install wheel git pytest ruff mypy weed kubectl"
    found = in_image(image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true")
    assert found.stdout == ""
    for module in ("pip", "ensurepip", "pytest", "monai"):
        assert in_image(image, "python", "-c", f"import {module}").returncode == 1, module


def test_no_module_lies_uncompiled(image: str) -> None:
    """Nothing can be written beside the sources, so that every step would compile all it imports."""
    script = (
        "import importlib.util as u, pathlib, ctan, kfp, mlflow\n"
        "for package in (ctan, kfp, mlflow):\n"
        "    for source in pathlib.Path(package.__file__).parent.rglob('*.py'):\n"
        "        if not pathlib.Path(u.cache_from_source(source)).exists(): print(source)\n"
    )
    found = in_image(image, "python", "-c", script)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


def test_labels_and_environment_name_commit_lock_and_version(image: str) -> None:
    (described,) = json.loads(subprocess.check_output(["docker", "image", "inspect", image], text=True))
    labels = described["Config"]["Labels"]
    lock = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    commit = labels["org.opencontainers.image.revision"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    assert labels["ctan.lock.sha256"] == lock
    assert labels["org.opencontainers.image.version"] == ctan.__version__
    environment = dict(entry.split("=", 1) for entry in described["Config"]["Env"])
    assert environment["CTAN_GIT_COMMIT"] == commit
    assert environment["CTAN_LOCK_SHA256"] == lock


def test_nothing_of_the_machine_that_built_it_is_left(image: str) -> None:
    """Neither its mirrors, certificates and wheels nor its folders; the cache of Docker's builder may name them."""
    history = subprocess.check_output(["docker", "history", "--no-trunc", image], text=True)
    described = subprocess.check_output(["docker", "image", "inspect", image], text=True)
    for word in ("PIP_", "ca.pem", "/build/wheels", str(ROOT)):
        assert word not in history + described, word
    assert in_image(image, "ls", "/build").returncode != 0


def test_it_holds_the_locked_versions(image: str) -> None:
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M))
    script = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(in_image(image, "python", "-c", script).stdout)
    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    differing = {
        name: (installed.get(name), version)
        for name, version in locked.items()
        if name in installed and installed[name] != version and name not in _of_several_pythons()
    }
    assert not differing
    assert installed["torch"].endswith("+cpu")
    assert set(installed) - set(locked) == {"ctan", "torch"}


def _of_several_pythons() -> set[str]:
    """Return the packages that the lock holds in two versions, for two versions of Python."""
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    return {name for name in names if names.count(name) > 1}


def test_its_kfp_command_is_ours_and_says_what_to_set(image: str, tmp_path: Path) -> None:
    pipeline = ROOT / "pipelines/ctan.yaml"
    mounted = ("--volume", f"{pipeline}:/mnt/ctan.yaml:ro")
    found = in_image(image, "kfp", "run", "submit", "/mnt/ctan.yaml", options=mounted)
    assert found.returncode == 2
    assert "KFP_ENDPOINT" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 2, found.stderr


@pytest.fixture
def databases(tmp_path: Path) -> tuple[str, ...]:
    """Docker options that stand for the secrets and volumes of MLflow's pods, with SQLite for PostgreSQL."""
    data = writable_by_all(tmp_path / "data")
    auth = tmp_path / "auth"
    auth.mkdir()
    (auth / "basic_auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:////mnt/data/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    volumes = {data: "/mnt/data", auth: "/etc/mlflow:ro", MANIFESTS / "base/mlflow": "/opt/mlflow:ro"}
    environment = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite:////mnt/data/mlflow.db",
        "MLFLOW_AUTH_CONFIG_PATH": "/etc/mlflow/basic_auth.ini",
        "MLFLOW_AUTH_ADMIN_USERNAME": "the-admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-password-of-the-tests",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
        "MLFLOW_ARTIFACTS_DESTINATION": "/mnt/data/artifacts",
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    options = [f"--volume={source}:{target}" for source, target in volumes.items()]
    return (*options, *(f"--env={name}={value}" for name, value in environment.items()))


@pytest.fixture
def migrated(image: str, databases: tuple[str, ...]) -> tuple[str, ...]:
    """The same after the migration Job's container has run."""
    (container,) = of_kind(render("base"), "Job")["mlflow-migrate"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    done = in_image(image, *container["command"], options=databases)
    assert "both databases are current" in done.stdout, done.stderr
    return databases


@pytest.fixture
def server(image: str, migrated: tuple[str, ...]) -> Iterator[str]:
    """The address of the Deployment's server, in a container on loopback."""
    (container,) = of_kind(render("base"), "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    (port,) = free_ports(1)
    command = [*container["command"]]
    command[command.index("--port") + 1], command[command.index("--host") + 1] = str(port), "127.0.0.1"
    name = f"ctan-test-mlflow-{port}"
    started = [*CLOSED[:-1], "host", "--name", name, *migrated, image, *command]
    process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: http_status(f"{address}/health", "127.0.0.1") == 200, process)
        yield address
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
        process.wait(60)


def test_mlflow_migrates_and_serves_from_it_as_the_manifests_say(server: str) -> None:
    import requests

    experiments = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(experiments, timeout=30).status_code == 401
    login = ("the-admin", "a-password-of-the-tests")
    assert requests.get(experiments, auth=login, timeout=30).json()["experiments"][0]["name"] == "Default"


def test_it_serves_a_model_that_answers_as_predict_does(image: str, tmp_path: Path) -> None:
    """With the command of the manifests, read-only, as its ordinary user; a folder stands for the registry."""
    from base64 import b64encode

    import requests

    from ctan.inference.form import example
    from ctan.prediction.models import Model
    from ctan.prediction.served import ServedModel
    from tests.helpers.prediction import untrained_model

    folder = untrained_model(tmp_path / "model", "ham10000", [32, 32], None)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o555)  # the container's user is another one
    served = ServedModel.open([Model.of("model", folder)])
    (container,) = of_kind(render("serving"), "Deployment")["ctan-serve"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    (port,) = free_ports(1)
    values = {"$(MODEL)": "/mnt/model", "8080": str(port), "0.0.0.0": "127.0.0.1", "$(MAX_REQUEST_MB)": "64"}
    command = [values.get(word, word) for word in container["command"]]
    name = f"ctan-test-serve-{port}"
    options = [*CLOSED[:-1], "host", "--name", name, "--volume", f"{folder}:/mnt/model:ro"]
    process = subprocess.Popen([*options, image, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: http_status(f"{address}/ping", "127.0.0.1") == 200, process)
        row = {"image": b64encode(example(served.record)["image"]).decode()}
        answer = requests.post(f"{address}/invocations", json={"dataframe_records": [row]}, timeout=60).json()
        expected = served.answer(row)
        assert answer["predictions"][0]["diagnosis_mel"] == pytest.approx(expected["diagnosis_mel"], abs=1e-5)
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)
        process.wait(60)


def test_the_check_looks_into_functions_too(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("import json\n\ndef later():\n    from no_such.package import x\n")
    check = runpy.run_path(str(ROOT / "infra/docker/check.py"))
    assert check["imported_modules"](tmp_path) == {"json", "no_such.package"}
