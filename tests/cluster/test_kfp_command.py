"""The `kfp` command: `kfp run submit pipelines/ctan.yaml` as people type it, and upstream's command for all else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctan.cluster import image
from ctan.cluster.kfp_command import upstream_arguments
from ctan.errors import ConfigError, DataError
from tests.helpers.compiled import COMPILED, RETRAIN

if TYPE_CHECKING:
    from tests.helpers.kfp import KfpServer

pytest_plugins = ["tests.helpers.kfp"]

FILE = str(COMPILED)
OURS = "ctan.cluster.kfp_command:main"


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for name in list(os.environ):
        if name.startswith(("KFP_", "KF_PIPELINES_", "KUBERNETES_SERVICE", "CTAN_IMAGE")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(image, "RELEASE", tmp_path / "no-release.json")


def kfp(*arguments: str, endpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"KFP_ENDPOINT": endpoint} if endpoint else {})
    program = "import sys; sys.argv[0] = 'kfp'; from ctan.cluster.kfp_command import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_the_line_people_type_creates_a_run(kfp_server: KfpServer) -> None:
    done = kfp(
        "run", "submit", FILE, "dataset=openkbp", "epochs=50", "model_name=007", "folds=[0,1]", endpoint=kfp_server.url
    )
    assert done.returncode == 0, done.stderr
    (run,) = kfp_server.runs
    assert kfp_server.experiments == {"experiment-0": "ctan"}
    assert run.runtime_config.parameters == {
        "dataset": "openkbp",
        "epochs": 50,
        "model_name": "007",  # text, and stays text
        "folds": [0, 1],
    }
    assert f"{kfp_server.url}/#/runs/details/run-0" in done.stdout
    assert "deprecated" not in done.stderr
    assert "Warning" not in done.stderr


def test_without_an_endpoint_two_lines_say_what_to_set() -> None:
    done = kfp("run", "submit", FILE)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert "KFP_ENDPOINT" in done.stderr
    assert "--endpoint" in done.stderr


def test_help_needs_no_server() -> None:
    done = kfp("run", "submit", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kfp run submit FILE [KEY=VALUE]...")
    assert "Usage: kfp run create [OPTIONS] [ARGS]..." in done.stdout
    assert "--experiment-name" in done.stdout


def test_the_rest_of_the_command_is_upstreams(tmp_path: Path) -> None:
    source = tmp_path / "tiny.py"
    source.write_text(
        "from kfp import dsl\n\n@dsl.component(base_image='python:3.11')\ndef step() -> str:\n    return 'a'\n\n"
        "@dsl.pipeline(name='tiny')\ndef tiny():\n    step()\n",
        encoding="utf-8",
    )
    done = kfp("dsl", "compile", "--py", str(source), "--output", str(tmp_path / "tiny.yaml"))
    assert done.returncode == 0, done.stderr
    assert "name: tiny" in (tmp_path / "tiny.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["dsl", "compile", "--help"],
        ["component", "build", "x"],
        ["--output", "json", "nothing"],
    ],
)
def test_what_needs_no_server_is_passed_on_unchanged(arguments: list[str]) -> None:
    assert upstream_arguments(arguments) == arguments


def test_what_needs_a_server_is_passed_on_unchanged(kfp_server: KfpServer) -> None:
    for command in (["run", "list", "-m", "3"], ["pipelines", "list"], ["recurring-run", "get", "x"]):
        arguments = ["--endpoint", kfp_server.url, "--output", "json", *command]
        assert upstream_arguments(arguments) == arguments


@pytest.mark.parametrize("place", ["before", "after", "after, joined", "environment"])
def test_the_endpoint_may_stand_anywhere(kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    before = ["--endpoint", kfp_server.url] if place == "before" else []
    after = {
        "after": ["--endpoint", kfp_server.url],
        "after, joined": [f"--endpoint={kfp_server.url}"],
    }.get(place, [])
    if place == "environment":
        monkeypatch.setenv("KFP_ENDPOINT", kfp_server.url)
    expected = ["run", "create", "-e", "ctan", "-f", FILE, "epochs=5"]
    assert upstream_arguments([*before, "run", "submit", FILE, "epochs=5", *after]) == [*before, *after, *expected]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([FILE, "-e", "mine"], ["-e", "mine", "-f", FILE]),
        ([FILE, "--experiment-name=mine", "-w"], ["--experiment-name=mine", "-w", "-f", FILE]),
        (["-r", "a name", "epochs=5", FILE], ["-e", "ctan", "-r", "a name", "-f", FILE, "epochs=5"]),
        (["-f", FILE, "epochs=5"], ["-e", "ctan", "-f", FILE, "epochs=5"]),
        (["-e", "mine", "-p", "id", "-v", "id", "x=1"], ["-e", "mine", "-p", "id", "-v", "id", "x=1"]),
        ([FILE, "model_name=007"], ["-e", "ctan", "-f", FILE, 'model_name="007"']),
        ([FILE, 'model_name="007"'], ["-e", "ctan", "-f", FILE, 'model_name="007"']),
        ([FILE, "epochs=007"], ["-e", "ctan", "-f", FILE, "epochs=7"]),
        ([FILE, "promote=False"], ["-e", "ctan", "-f", FILE, "promote=false"]),
    ],
)
def test_a_file_names_package_and_experiment(kfp_server: KfpServer, given: list[str], expected: list[str]) -> None:
    arguments = ["--endpoint", kfp_server.url, "run", "submit", *given]
    assert upstream_arguments(arguments) == ["--endpoint", kfp_server.url, "run", "create", *expected]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([FILE, "epoch=5"], "epoch: the pipeline ctan has no such parameter; did you mean 'epochs'"),
        ([FILE, "epochs=1.5"], "epochs: expected a whole number, found '1.5'"),
        ([str(RETRAIN)], r"give source=\.\.\.; there is no default"),
    ],
)
def test_parameters_are_checked_before_any_request(kfp_server: KfpServer, given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        upstream_arguments(["--endpoint", kfp_server.url, "run", "submit", *given])
    assert kfp_server.tokens == []


def test_without_the_cache_every_step_runs(kfp_server: KfpServer) -> None:
    done = kfp("run", "submit", FILE, "--no-cache", "epochs=2", endpoint=kfp_server.url)
    assert done.returncode == 0, done.stderr
    (run,) = kfp_server.runs
    assert COMPILED.read_text(encoding="utf-8").count("enableCache: true") >= 2, "ingest and validate"
    assert "'enableCache': True" not in str(run.pipeline_spec)
    assert run.runtime_config.parameters == {"epochs": 2}


def test_the_image_of_the_environment_is_what_is_submitted(
    kfp_server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTAN_IMAGE", "registry.example.org/ctan:1.2")
    done = kfp("run", "submit", FILE, endpoint=kfp_server.url)
    assert done.returncode == 0, done.stderr
    assert "kfp: image registry.example.org/ctan:1.2 (CTAN_IMAGE)" in done.stderr
    (run,) = kfp_server.runs
    executors = run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {"registry.example.org/ctan:1.2"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.yaml"], r"nowhere\.yaml: cannot be read"),
        (["epochs=5"], "expected one compiled pipeline, such as pipelines/ctan.yaml; found none"),
        ([FILE, "other.yaml"], r"expected one compiled pipeline.*other\.yaml"),
    ],
)
def test_a_file_that_is_missing_is_told_before_any_request(given: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        upstream_arguments(["run", "submit", *given])


def test_the_kfp_of_the_environment_is_ours() -> None:
    """Whichever of kfp and ctan was installed last owns the script: ctan must come last, in Makefile and image."""
    entry_points = metadata.distribution("ctan").entry_points
    if not any(point.name == "kfp" and point.value == OURS for point in entry_points):
        pytest.skip(
            "this environment's ctan was installed before its entry point kfp existed; `make setup` installs it"
        )
    script = Path(sys.executable).parent / "kfp"
    module = OURS.partition(":")[0]
    assert f"from {module} import main" in script.read_text(encoding="utf-8"), (
        "kfp was installed over ctan's script: uv pip install --no-deps --reinstall-package ctan -e ."
    )


@pytest.mark.parametrize("committed", [COMPILED, RETRAIN], ids=lambda path: path.stem)
def test_the_pipelines_compile_as_kfp_s_documentation_types_it(committed: Path, tmp_path: Path) -> None:
    root = committed.parents[1]
    command = [str(Path(sys.executable).with_name("kfp")), "dsl", "compile", "--py", f"pipelines/{committed.stem}.py"]
    ran = subprocess.run(
        [*command, "--output", str(tmp_path / "x.yaml")], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert (tmp_path / "x.yaml").read_bytes() == committed.read_bytes()


def test_a_file_outside_a_package_is_compiled_by_upstream_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from kfp import dsl\n")
    arguments = ["dsl", "compile", "--py", str(tmp_path / "mine.py"), "--output", "x.yaml"]
    assert upstream_arguments(arguments) == arguments
