"""This machine: what a run needs and what decides how long it takes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ctan.cluster.endpoint import ClusterError, check_reachable, find_endpoint
from ctan.doctor.finding import Check, Finding, examined
from ctan.limits import cores, memory_bytes
from ctan.steps.preflight import preflight
from ctan.tracking.server import is_server, tracking_uri, without_password
from ctan.workspace import workspace

_GIB = 1024**3
_PYTHON = (3, 11)
_LEAST_FREE, _LEAST_MEMORY, _LEAST_SHARED = 10 * _GIB, 4 * _GIB, 1 * _GIB
_SECONDS = 20


def here() -> list[Finding]:
    """Look at this machine."""
    checks: dict[str, Check] = {
        "Python": _python,
        "cores": _cores,
        "memory": _memory,
        "PyTorch": _torch,
        "workspace": _workspace,
        "shared memory": _shared_memory,
        "Docker": _docker,
        "DVC": _dvc,
        "MLflow": _mlflow,
        "Kubeflow Pipelines": _kubeflow,
        "de-identification": _key,
    }
    return [finding for about, check in checks.items() for finding in examined(about, check)]


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if sys.version_info[:2] == _PYTHON:
        yield Finding("Python", "fine", found)
    else:
        wanted = ".".join(map(str, _PYTHON))
        yield Finding(
            "Python", "problem", f"{found}; the locked versions are for {wanted}", f"make setup with {wanted}"
        )


def _cores() -> Iterator[Finding]:
    usable, there = cores(), os.cpu_count() or 1
    of_which = "" if usable == there else f" of {there} (a quota or an affinity)"
    yield Finding("cores", "fine", f"{usable}{of_which}")


def _memory() -> Iterator[Finding]:
    size = memory_bytes()
    if size >= _LEAST_MEMORY:
        yield Finding("memory", "fine", f"{size / _GIB:.1f} GiB")
    else:
        text = f"{size / _GIB:.1f} GiB; ingestion of CTs and training of volumes want {_LEAST_MEMORY / _GIB:.0f}"
        yield Finding("memory", "note", text, "a larger machine, or the profile smoke")


def _torch() -> Iterator[Finding]:
    import torch

    from ctan.precision import resolve_precision

    threads = os.environ.get("OMP_NUM_THREADS", "")
    said = f"{torch.__version__}, {torch.get_num_threads()} threads" + (f" (OMP_NUM_THREADS={threads})" * bool(threads))
    yield Finding("PyTorch", "fine", said)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("GPU", "fine", ", ".join(names))
        return
    precision = resolve_precision("auto", torch.device("cpu"))
    means = "the processor has units for it" if precision == "bf16" else "without units for bf16 a step takes longer"
    yield Finding("precision", "fine", f"{precision} on the CPU: {means}")
    advice = "the profiles smoke and cpu are for that; gpu would take days"
    if _shell("nvidia-smi", "-L"):
        advice = "there is one that this PyTorch does not see: install its CUDA build (docs/images.md)"
    yield Finding("GPU", "note", "none: training runs on the CPU", advice)


def _workspace() -> Iterator[Finding]:
    folder = workspace()
    problems = [problem for problem in preflight({"workspace": str(folder)}) if problem.startswith("workspace")]
    if problems:
        yield Finding("workspace", "problem", problems[0].removeprefix("workspace: "), "set CTAN_WORKSPACE")
        return
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        text = f"{folder}: {free / _GIB:.1f} GiB are free; a store of a real data set takes more"
        yield Finding(
            "workspace", "note", text, "set CTAN_WORKSPACE to a larger disk; `ctan store gc` removes old stores"
        )
    else:
        yield Finding("workspace", "fine", f"{folder}, {free / _GIB:.0f} GiB free")


def _shared_memory() -> Iterator[Finding]:
    place = Path("/dev/shm")  # noqa: S108
    if not place.is_dir():
        yield Finding("shared memory", "skipped", "this system has none of the kind that PyTorch's workers use")
        return
    size = shutil.disk_usage(place).total
    if size < _LEAST_SHARED:
        text = f"{size / 2**20:.0f} MiB at /dev/shm, which training.num_workers above 0 overfills"
        yield Finding("shared memory", "note", text, "docker run --shm-size=2g; on a cluster shared_memory: 2Gi")
    else:
        yield Finding("shared memory", "fine", f"{size / _GIB:.1f} GiB")


def _docker() -> Iterator[Finding]:
    if version := _shell("docker", "version", "--format", "{{.Server.Version}}"):
        yield Finding("Docker", "fine", version)
    else:
        text = "no engine answers: needed only to build the image and to run steps in containers"
        yield Finding("Docker", "note", text, "docs/images.md")


def _dvc() -> Iterator[Finding]:
    command = [sys.executable, "-m", "dvc", "remote", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield Finding(
            "DVC", "note", "this folder is no DVC repository", "sources of the kind dvc:REPOSITORY@REV need none"
        )
    elif remotes := done.stdout.split():
        yield Finding("DVC", "fine", f"remote {remotes[0]}")
    else:
        yield Finding("DVC", "note", "no remote: data of others cannot be pulled here", "dvc remote add; docs/data.md")


def _mlflow() -> Iterator[Finding]:
    uri = tracking_uri()
    if not is_server(uri):
        yield Finding("MLflow", "fine", f"embedded, {uri.removeprefix('sqlite:///')}; `ctan ui` shows it")
        return
    problems = preflight({})
    if problems:
        yield Finding("MLflow", "problem", problems[0].removeprefix("MLflow: "))
    else:
        yield Finding("MLflow", "fine", f"{without_password(uri)} answers and takes the login")


def _kubeflow() -> Iterator[Finding]:
    try:
        endpoint = find_endpoint()
    except ClusterError:
        yield Finding("Kubeflow Pipelines", "note", "no endpoint: runs are made here", "KFP_ENDPOINT; docs/cluster.md")
        return
    try:
        check_reachable(endpoint)
        yield Finding("Kubeflow Pipelines", "fine", f"{endpoint.probe} answers; more: ctan doctor --cluster")
    except ClusterError as error:
        yield Finding("Kubeflow Pipelines", "problem", str(error).replace("\n", " "))


def _key() -> Iterator[Finding]:
    from ctan.dicom.deidentify import KEY_VARIABLE

    if os.environ.get(KEY_VARIABLE):
        yield Finding("de-identification", "fine", f"a key is in {KEY_VARIABLE}")
    else:
        text = f"no key in {KEY_VARIABLE}: needed only to de-identify DICOM"
        yield Finding("de-identification", "note", text, "docs/data.md")


def _shell(*command: str) -> str:
    """Return the first line that a program prints; empty where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""
