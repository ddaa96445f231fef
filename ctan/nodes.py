"""One training on several machines: a TrainJob of Kubeflow Trainer v2, started and watched by the step that wants it.

What the nodes need, and what they make, lies in a folder below the root of the checkpoints, which all of them see:
`<checkpoint_root>/jobs/<name>/`. The job's name follows from the checkpoint's, so that a launcher that starts again
attaches to the job that runs. On the nodes `torchrun` starts `python -m ctan.nodes FOLDER` for every process.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctan import in_cluster
from ctan.errors import ConfigError, CtanError, DataError, KilledError
from ctan.files import write_json
from ctan.sources import buckets

if TYPE_CHECKING:
    from ctan.config import RunConfig, TrainingConfig

RUNTIME = "ctan-torch"  # infra/kubernetes/base/training-runtime.yaml
_NODE = "node"  # its replicated job and container
_GPU = "nvidia.com/gpu"
_REQUEST, _STORE, _MANIFEST, _MODEL = "request.json", "store.json", "manifest", "model"
_RESULT, _ERROR = "result.json", "error.json"
_JOBSET = "jobset.sigs.k8s.io/jobset-name"
_INDEX = "batch.kubernetes.io/job-completion-index"
_RIGHT = (
    "trainjobs: create, get and delete, trainingruntimes: get, pods: list, pods/log: get, as ctan-launcher has them"
)
POLL_SECONDS = 5.0
_DEADLINE_SECONDS = 7 * 86400
# Of the launcher's settings those that name no secret; secrets come from the runtime.
_HANDED_ON = (
    "CTAN_IMAGE",
    "CTAN_S3_ENDPOINT_URL",
    "CTAN_S3_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_EXPERIMENT_NAME",
    "KF_PIPELINES_UI_ENDPOINT",
)

Say = Callable[[str], None]


def train_on_nodes(
    given: Mapping[str, Any], config: RunConfig, name: str, say: Say = print
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the step `train` on several nodes; end their job however this ends.

    Args:
        given: arguments of `ctan.steps.train` as plain values, `pointer`, `manifest_dir` and `model_dir` being paths.
        config: all settings.
        name: of the checkpoint, `CheckpointKey.folder`.
        say: told what the nodes print and why pods wait.

    Returns:
        What `ctan.steps.train` returns on the first node, and the metadata that it fills in.

    Raises:
        ConfigError: outside of a cluster, without a root that all nodes see, or with more processes than cases a step.
        CtanError: that a node raised.
        KilledError: when the job failed without such a word, or was not done in time.
        KubernetesError: when the Kubernetes API refuses.
    """
    settings = config.training
    _check(config, str(given.get("checkpoint_root") or ""))
    job, above = job_name(name), str(given["checkpoint_root"])
    remote = buckets.is_remote(above)
    root = buckets.join(above, "jobs", job) if remote else str(Path(above).expanduser() / "jobs" / job)
    with _killed_is_an_exit(), tempfile.TemporaryDirectory(prefix="ctan-") as own:
        found = _results(root, Path(own))  # of a launcher that died before it took them
        if found is None or found[0] == _ERROR:
            try:
                _start_or_attach(job, root, given, settings, Path(own), say)
                _follow(job, say)
            finally:
                _delete(job)
            found = _results(root, Path(own))
        if found is None:
            raise KilledError(f"TrainJob {job}: ended without a word; the same command goes on from the checkpoint")
        kind, folder = found
        told = json.loads((folder / kind).read_text(encoding="utf-8"))
        if kind == _ERROR:
            raise DataError(f"TrainJob {job}: {told['error']}")
        shutil.copytree(folder / _MODEL, given["model_dir"], dirs_exist_ok=True)
        _forget(root)
        return told["metrics"], told["metadata"]


def job_name(checkpoint: str) -> str:
    """Return the name of a TrainJob, at most 63 letters: the same for the same training."""
    return f"ctan-{checkpoint.lower().replace('_', '-')}"[-63:].lstrip("-")


def train_job(
    name: str, root: str, num_nodes: int, gpus_per_node: int, resources: Callable[[int], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the manifest of a TrainJob.

    Args:
        name: of the job.
        root: folder that nodes and launcher share.
        num_nodes: pods.
        gpus_per_node: processes a pod, one for each GPU; 0: one process, on the CPU.
        resources: gives a node's resources with so many GPUs.
    """
    trainer: dict[str, Any] = {
        "numNodes": num_nodes,
        "numProcPerNode": max(1, gpus_per_node),
        "command": ["torchrun", "-m", "ctan.nodes", root],
        "env": [{"name": variable, "value": os.environ[variable]} for variable in _HANDED_ON if variable in os.environ],
    }
    if image := os.environ.get("CTAN_IMAGE"):
        trainer["image"] = image
    if gpus_per_node:
        trainer["resourcesPerNode"] = dict(resources(gpus_per_node))
    owner = os.environ.get("KFP_RUN_ID", "")
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {in_cluster.OWNER_LABEL: owner} if owner else {}},
        "spec": {
            "runtimeRef": {"name": RUNTIME, "kind": "TrainingRuntime", "apiGroup": "trainer.kubeflow.org"},
            "activeDeadlineSeconds": _DEADLINE_SECONDS,  # a launcher that died cannot delete it
            "trainer": trainer,
        },
    }


def _check(config: RunConfig, checkpoint_root: str) -> None:
    settings = config.training
    wanted = f"training.num_nodes={settings.num_nodes}"
    if not in_cluster.in_pod():
        raise ConfigError(
            f"{wanted}: nodes are started on Kubernetes alone, by a step in a pod; on this machine use "
            f"training.num_processes, or torchrun by hand"
        )
    if not checkpoint_root:
        raise ConfigError(f"{wanted}: set checkpoint_root to a claim or s3://bucket/prefix that all nodes see")
    number = settings.num_nodes * max(1, settings.gpus_per_node)
    if number > settings.batch_size:
        raise ConfigError(
            f"{wanted}, training.gpus_per_node={settings.gpus_per_node}: {number} processes for a training.batch_size "
            f"of {settings.batch_size}, the cases a step of all of them; use fewer, or raise it"
        )


def _node_resources(num_gpus: int) -> Mapping[str, Any]:
    """Return the resources of a node in the runtime, with another number of GPUs: a TrainJob replaces them whole."""
    from kubernetes.client import CustomObjectsApi

    with in_cluster.api_errors("reading the TrainingRuntime", _RIGHT):
        place = in_cluster.train_jobs() | {"plural": "trainingruntimes"}
        runtime = CustomObjectsApi(in_cluster.cluster()).get_namespaced_custom_object(**place, name=RUNTIME)
    jobs = {job["name"]: job for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]}
    containers = jobs[_NODE]["template"]["spec"]["template"]["spec"]["containers"]
    (resources,) = (one.get("resources", {}) for one in containers if one["name"] == _NODE)
    return {kind: {**resources.get(kind, {}), _GPU: str(num_gpus)} for kind in ("requests", "limits")}


def _start_or_attach(
    name: str, root: str, given: Mapping[str, Any], settings: TrainingConfig, own: Path, say: Say
) -> None:
    """Start the job; where one of its name runs, that is the one. One that has ended is replaced."""
    from kubernetes.client import CustomObjectsApi

    with in_cluster.api_errors("starting a TrainJob", _RIGHT):
        if (state := _state(name)) == "":
            say(f"TrainJob {name}: runs already, attached to it")
            return
        while state is not None:
            _delete(name)
            time.sleep(POLL_SECONDS)
            state = _state(name)
        _ask(root, given, own)
        manifest = train_job(name, root, settings.num_nodes, settings.gpus_per_node, _node_resources)
        CustomObjectsApi(in_cluster.cluster()).create_namespaced_custom_object(**in_cluster.train_jobs(), body=manifest)
        say(f"TrainJob {name}: started on {settings.num_nodes} nodes")


def _state(name: str) -> str | None:
    """Return `Complete`, `Failed`, or empty while it runs; None when there is no such job."""
    from kubernetes.client import ApiException, CustomObjectsApi

    try:
        job = CustomObjectsApi(in_cluster.cluster()).get_namespaced_custom_object(**in_cluster.train_jobs(), name=name)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
    if job["metadata"].get("deletionTimestamp"):
        return "Failed"
    conditions = (job.get("status") or {}).get("conditions") or []
    true = {one["type"] for one in conditions if one.get("status") == "True"}
    return next((kind for kind in ("Failed", "Complete") if kind in true), "")


def _follow(name: str, say: Say) -> None:
    """Wait for the end of a job; print what its first node prints, and why pods wait."""
    said: set[str] = set()
    ended = threading.Event()
    printing = threading.Thread(target=_print_log, args=(name, say, ended), daemon=True)
    printing.start()
    try:
        with in_cluster.api_errors("watching a TrainJob", _RIGHT):
            while (state := _state(name)) == "":
                for reason in _why_pending(name):
                    if reason not in said:
                        said.add(reason)
                        say(f"TrainJob {name}: {reason}")
                time.sleep(POLL_SECONDS)
    finally:
        ended.set()
    printing.join(in_cluster.SECONDS)
    if state is None:
        raise KilledError(f"TrainJob {name}: somebody deleted it; the same command goes on from the checkpoint")


def _why_pending(name: str) -> Iterator[str]:
    """Yield why pods of a job do not run, a sentence each."""
    for pod in _pods(name):
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False" and condition.message:
                yield f"a pod waits for a node: {condition.message}"
        for container in pod.status.container_statuses or []:
            waiting = container.state and container.state.waiting
            if waiting and waiting.reason not in ("ContainerCreating", "PodInitializing"):
                yield f"a pod waits: {waiting.reason} {waiting.message or ''}".rstrip()


def _pods(name: str) -> list[Any]:
    from kubernetes.client import CoreV1Api

    found = CoreV1Api(in_cluster.cluster()).list_namespaced_pod(
        in_cluster.namespace(), label_selector=f"{_JOBSET}={name}", _request_timeout=in_cluster.SECONDS
    )
    return list(found.items)


def _print_log(name: str, say: Say, ended: threading.Event) -> None:
    """Print the log of the first node while it runs; a connection that breaks is opened again where it was."""
    import urllib3
    from kubernetes.client import ApiException, CoreV1Api

    num_lines = 0
    while True:
        last = ended.is_set()
        try:
            first = [pod for pod in _pods(name) if (pod.metadata.labels or {}).get(_INDEX, "0") == "0"]
            if first and first[0].status.phase != "Pending":
                text = CoreV1Api(in_cluster.cluster()).read_namespaced_pod_log(
                    first[0].metadata.name, in_cluster.namespace(), container=_NODE, _request_timeout=in_cluster.SECONDS
                )
                lines = str(text).splitlines()
                for line in lines[num_lines:]:
                    say(line)
                num_lines = max(num_lines, len(lines))
        except (ApiException, urllib3.exceptions.HTTPError):
            pass  # a log that cannot be had costs no training
        if last:
            return
        ended.wait(POLL_SECONDS)


def _delete(name: str) -> None:
    from kubernetes.client import ApiException, CustomObjectsApi

    with in_cluster.api_errors("ending a TrainJob", _RIGHT):
        try:
            CustomObjectsApi(in_cluster.cluster()).delete_namespaced_custom_object(
                **in_cluster.train_jobs(), name=name, propagation_policy="Foreground"
            )
        except ApiException as error:
            if error.status != 404:
                raise


@contextmanager
def _killed_is_an_exit() -> Iterator[None]:
    """Let SIGTERM end this process as an exception, so that the job is deleted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- the folder that launcher and nodes share


def _ask(root: str, given: Mapping[str, Any], own: Path) -> None:
    """Lay down what the nodes need, the request last."""
    _forget(root)
    folder = own / "request" if buckets.is_remote(root) else Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(given["manifest_dir"], folder / _MANIFEST, dirs_exist_ok=True)
    shutil.copyfile(given["pointer"], folder / _STORE)
    plain = {name: value for name, value in given.items() if name not in ("pointer", "manifest_dir", "model_dir")}
    write_json(folder / _REQUEST, plain)
    if buckets.is_remote(root):
        buckets.publish(folder, root, last=_REQUEST)


def _results(root: str, own: Path) -> tuple[str, Path] | None:
    """Return how the nodes' work ended, `result.json` or `error.json`, and a folder that holds it; None before."""
    if not buckets.is_remote(root):
        folder = Path(root)
        return next(((kind, folder) for kind in (_RESULT, _ERROR) if (folder / kind).exists()), None)
    names = buckets.list_objects(root)
    for kind in (_RESULT, _ERROR):
        if kind in names:
            buckets.mirror(root, own / "results", partial(_must_hold, kind))
            return kind, own / "results"
    return None


def _must_hold(name: str, folder: Path) -> None:
    if not (folder / name).exists():
        raise DataError(f"{folder}: {name} is missing")


def _forget(root: str) -> None:
    if buckets.is_remote(root):
        buckets.remove(root, first=_RESULT)
    else:
        shutil.rmtree(root, ignore_errors=True)


def work(root: str) -> None:
    """Do the work of one process of a job, which `torchrun` started."""
    from ctan.ranks import Ranks
    from ctan.step_environment import prepare_step

    prepare_step()
    ranks = Ranks.here()
    local = buckets.cache_folder("jobs", root) if buckets.is_remote(root) else Path(root)
    if buckets.is_remote(root):
        with ranks.one_a_machine_first():
            buckets.mirror(root, local, partial(_must_hold, _REQUEST))
    request = json.loads((local / _REQUEST).read_text(encoding="utf-8"))
    metadata: dict[str, Any] = {}
    try:
        metrics = importlib.import_module("ctan.steps").train(
            **request,
            pointer=str(local / _STORE),
            manifest_dir=str(local / _MANIFEST),
            model_dir=str(local / _MODEL),
            metadata=metadata,
        )
    except CtanError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _leave(root, local, _ERROR, {"error": str(error)})
        os._exit(1)  # the interpreter's end would wait for the other processes, which wait for this one
    if ranks.is_main:
        _leave(root, local, _RESULT, {"metrics": metrics, "metadata": metadata})


def _leave(root: str, local: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write how the work ended, for the launcher."""
    write_json(local / name, dict(content))
    if buckets.is_remote(root):
        buckets.publish(local, root, last=name)


if __name__ == "__main__":
    work(sys.argv[1])
