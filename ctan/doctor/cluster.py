"""A cluster: what makes runs wait for ever, fail late, or not be tried again.

Kubeflow is asked through its API, Kubernetes through the kubeconfig (or a pod's account). Only names and keys of
secrets are looked at. One pod is run and deleted: it shows whether the image can be pulled, and what a pod alone sees.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ctan.cluster.client import packaged
from ctan.cluster.compiled import CompiledPipeline, compiled_pipeline
from ctan.cluster.endpoint import check_reachable, find_endpoint
from ctan.cluster.image import choose_image, with_image
from ctan.cluster.values import Values, num_bytes, num_cores
from ctan.doctor.finding import Check, Finding, examined
from ctan.errors import CtanError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Result = TypeVar("Result")
_VERSION = "2.17"  # of Kubeflow Pipelines: what ctan was tried with
_CONTROLLER, _CONTROLLER_NAMESPACE = "workflow-controller-configmap", "kubeflow"
_FIRST_STEP = "resolve"
_ENFORCE = "pod-security.kubernetes.io/enforce"
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_SECONDS = 20
POD_SECONDS, POLL_SECONDS = 120.0, 2.0  # for the pod that is run


@dataclass
class ClusterDoctor:
    """Looks at one cluster.

    Attributes:
        values: settings of the cluster.
        namespace: that steps run in.
        endpoint: of Kubeflow Pipelines; None for the environment's.
        runs_pod: whether a pod may be run.
    """

    values: Values
    namespace: str
    endpoint: str | None = None
    runs_pod: bool = True

    def findings(self) -> list[Finding]:
        """Look at everything."""
        checks: dict[str, Check] = {
            "Kubeflow Pipelines": self._kubeflow,
            "image": self._image,
            "pod security": self._pod_security,
            "secrets": self._secrets,
            "claims": self._claims,
            "retries": self._retries,
            "quota": self._quota,
            "a pod": self._pod,
        }
        return [finding for about, check in checks.items() for finding in examined(about, check)]

    @cached_property
    def _pipeline(self) -> CompiledPipeline:
        """The pipeline as it would be submitted."""
        path = compiled_pipeline()
        read = CompiledPipeline.read(path)
        values = with_image(self.values, choose_image(read, find_endpoint(self.endpoint), self.values))
        return packaged(path.read_text(encoding="utf-8"), {}, values, str(path)).pipeline

    @cached_property
    def _api(self) -> ApiClient:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

        configuration = Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST"):
                load_incluster_config(client_configuration=configuration)
            else:  # the library looks at the variable once, when it is imported
                load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        except ConfigException as error:
            raise _NotLookedAt(f"no access to Kubernetes ({error}); set KUBECONFIG") from error
        return ApiClient(configuration)

    @cached_property
    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._api)

    # ---- what Kubeflow says

    def _kubeflow(self) -> Iterator[Finding]:
        about = "Kubeflow Pipelines"
        try:
            endpoint = find_endpoint(self.endpoint)
            check_reachable(endpoint)
        except CtanError as error:
            yield Finding(about, "problem", str(error).replace("\n", " "))
            return
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{endpoint.probe}/apis/v2beta1/healthz", timeout=_SECONDS) as answer:
                said = json.load(answer)
        except (OSError, ValueError):  # a page that asks for a login
            yield Finding(
                about, "note", f"{endpoint.probe} asks for a login first", "KFP_EXISTING_TOKEN; docs/multi-user.md"
            )
            return
        version = str(said.get("tag_name") or "unknown")
        many = ", for several users: give --namespace" if said.get("multi_user") else ""
        if version.startswith(_VERSION):
            yield Finding(about, "fine", f"{endpoint.probe}, version {version}{many}")
        else:
            yield Finding(
                about, "note", f"{endpoint.probe}, version {version}{many}", f"ctan was tried with {_VERSION}"
            )

    def _image(self) -> Iterator[Finding]:
        try:
            images = sorted({str(container["image"]) for container in self._pipeline.containers.values()})
        except CtanError as error:
            yield Finding("image", "problem", str(error))
            return
        in_a_registry = all("/" in image for image in images)
        advice = "" if in_a_registry else "`image:` in the values file, or CTAN_IMAGE: no registry holds this one"
        yield Finding("image", "fine" if in_a_registry else "note", ", ".join(images), advice)

    # ---- what Kubernetes says

    def _ask(self, right: str, what: Callable[[], Result]) -> Result | None:
        """Ask Kubernetes; None for what does not exist."""
        import urllib3
        from kubernetes.client import ApiException

        try:
            return what()
        except ApiException as error:
            if error.status == 404:
                return None
            if error.status in (401, 403):
                raise _NotLookedAt(f"this account may not look; it needs the right to {right}") from error
            raise _NotLookedAt(f"Kubernetes answered {error.status} {error.reason}") from error
        except urllib3.exceptions.HTTPError as error:
            raise _NotLookedAt(f"Kubernetes does not answer ({type(error).__name__})") from error

    def _pod_security(self) -> Iterator[Finding]:
        about = "pod security"
        found = self._ask("get namespaces", lambda: self._core.read_namespace(self.namespace))
        if found is None:
            yield Finding(
                about, "problem", f"there is no namespace {self.namespace}", "docs/kubernetes.md, or --namespace"
            )
            return
        level = (found.metadata.labels or {}).get(_ENFORCE, "privileged")
        executors = self._pipeline.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        roots = [step for step in self._pipeline.containers if not _is_restricted(executors.get(f"exec-{step}", {}))]
        if level == "restricted" and roots:
            text = f"{self.namespace} enforces restricted, which refuses the pods of: {', '.join(roots)}"
            yield Finding(about, "problem", text, "security_context of the values file: run_as_non_root, run_as_user")
        else:
            yield Finding(about, "fine", f"{self.namespace} enforces {level}, which the rendered pods keep")

    def _secrets(self) -> Iterator[Finding]:
        steps = ("", *self.values.steps)
        for kind, read in (
            ("secrets", self._core.read_namespaced_secret),
            ("config_maps", self._core.read_namespaced_config_map),
        ):
            wanted: dict[str, tuple[set[str], bool]] = {}
            for step in steps:
                for source in getattr(self.values.for_step(step), kind):
                    keys, optional = wanted.get(source.name, (set(), True))
                    wanted[source.name] = (keys | set(source.keys), optional and source.optional)
            for name, (keys, optional) in sorted(wanted.items()):
                yield from examined(f"{kind} {name}", lambda: self._entries(kind, read, name, keys, optional))  # noqa: B023

    def _entries(
        self, kind: str, read: Callable[..., Any], name: str, keys: set[str], optional: bool
    ) -> Iterator[Finding]:
        about, what = f"{kind} {name}", kind.replace("_", "")
        found = self._ask(f"get {what}", lambda: read(name, self.namespace))
        missing = keys - set((found.data or {}) if found is not None else {})
        if not missing:
            yield Finding(about, "fine", f"has {', '.join(sorted(keys))}")
            return
        text = "does not exist" if found is None else f"lacks {', '.join(sorted(missing))}"
        advice = "infra/kubernetes/secrets.example.yaml" if kind == "secrets" else "docs/cluster.md, section 2"
        text += "; steps start without it" if optional else "; steps wait for it for ever"
        yield Finding(about, "note" if optional else "problem", text, advice)

    def _claims(self) -> Iterator[Finding]:
        names = sorted({claim.name for step in ("", *self.values.steps) for claim in self.values.for_step(step).claims})
        for name in names:
            read = self._core.read_namespaced_persistent_volume_claim
            found = self._ask("get persistentvolumeclaims", lambda: read(name, self.namespace))  # noqa: B023
            if found is None:
                yield Finding(
                    f"claim {name}", "problem", "does not exist; steps wait for it for ever", "docs/kubernetes.md"
                )
            elif "ReadWriteMany" not in (found.spec.access_modes or []):
                text = f"{', '.join(found.spec.access_modes or [])}: steps on other nodes cannot mount it"
                yield Finding(f"claim {name}", "note", text, "a storage class with ReadWriteMany, or a bucket")
            else:
                yield Finding(f"claim {name}", "fine", "ReadWriteMany")

    def _retries(self) -> Iterator[Finding]:
        read = self._core.read_namespaced_config_map
        found = self._ask(
            f"get configmaps in {_CONTROLLER_NAMESPACE}", lambda: read(_CONTROLLER, _CONTROLLER_NAMESPACE)
        )
        if found is None:
            yield Finding("retries", "skipped", f"there is no {_CONTROLLER} in {_CONTROLLER_NAMESPACE}")
            return
        strategy = _retry_strategy(found.data or {})
        policy = strategy.get("retryPolicy", "OnFailure") if strategy else ""
        if policy == "Always":
            text = "retryPolicy Always multiplies over the levels of a pipeline: one failing step was run ten times"
            yield Finding("retries", "problem", text, f"take it out of {_CONTROLLER}")
        elif strategy:
            text = f"stock settings ({policy}): lost pods are tried again, steps that fail or run out of memory are not"
            yield Finding("retries", "fine", text)
        else:
            text = "no default: steps that fail are tried again as `retry:` says, lost pods are not"
            yield Finding("retries", "fine", text)

    def _quota(self) -> Iterator[Finding]:
        found = self._ask("list resourcequotas", lambda: self._core.list_namespaced_resource_quota(self.namespace))
        largest = _largest(self._pipeline)
        short = []
        for quota in found.items if found is not None else []:
            hard, used = quota.status.hard or {}, quota.status.used or {}
            for name, (amount, step) in largest.items():
                if name in hard and amount > (free := _amount(hard[name]) - _amount(used.get(name, "0"))):
                    short.append(f"{step} asks for {name} {amount:g}, {max(free, 0):g} of {hard[name]} are free")
        if short:
            yield Finding(
                "quota", "problem", "; ".join(short) + ": its pod is refused", "a larger quota, or smaller requests"
            )
        else:
            yield Finding("quota", "fine", "the largest step fits" if found and found.items else "none")

    # ---- what a pod sees

    def _pod(self) -> Iterator[Finding]:
        if not self.runs_pod:
            yield Finding("a pod", "skipped", "not run; image, roots, MLflow and bucket were not tried from inside")
            return
        pod = self._core.create_namespaced_pod
        right = f"create and delete pods, and get pods/log, in {self.namespace}"
        made = self._ask(right, lambda: pod(self.namespace, self._probe()))
        if made is None:
            yield Finding("a pod", "skipped", f"there is no namespace {self.namespace}")
            return
        name = made.metadata.name
        try:
            yield from self._watched(name)
        finally:
            self._ask(right, lambda: self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0))

    def _watched(self, name: str) -> Iterator[Finding]:
        deadline, seen = time.monotonic() + POD_SECONDS, "it has not been given a node"
        while time.monotonic() < deadline:
            pod = self._ask("get pods", lambda: self._core.read_namespaced_pod(name, self.namespace))
            for status in (pod.status.container_statuses or []) if pod is not None else []:
                if waiting := status.state and status.state.waiting:
                    seen = f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
                    if waiting.reason in _NO_IMAGE:
                        text = f"its image cannot be pulled ({seen}); runs would wait for ever"
                        yield Finding("a pod", "problem", text, "`image:` and `image_pull_secrets:` of the values file")
                        return
            if pod is not None and pod.status.phase in ("Succeeded", "Failed"):
                yield from self._said(name)
                return
            time.sleep(POLL_SECONDS)
        text = f"has not ended after {POD_SECONDS:.0f} s: {seen}"
        yield Finding("a pod", "problem", text, f"kubectl describe pod --namespace {self.namespace} {name}")

    def _said(self, name: str) -> Iterator[Finding]:
        read = self._core.read_namespaced_pod_log
        log = str(self._ask("get pods/log", lambda: read(name, self.namespace)) or "")
        problems = [line.removeprefix("problem: ") for line in log.splitlines() if line.startswith("problem: ")]
        for problem in problems:
            yield Finding("a pod", "problem", problem)
        if problems:
            return
        if log.strip().endswith("fine"):
            yield Finding("a pod", "fine", "its image was pulled; roots are writable and the tracking server answers")
        else:
            tail = " | ".join(log.strip().splitlines()[-3:]) or "without a word"
            yield Finding("a pod", "problem", f"ended with: {tail}", "is this an image of ctan, and of this version?")

    def _probe(self) -> dict[str, Any]:
        """Return a pod like that of the first step."""
        settings = self.values.for_step(_FIRST_STEP)
        container = self._pipeline.containers[_FIRST_STEP]
        defaults = {name: value.get("defaultValue") for name, value in self._pipeline.parameters.items()}
        roots = [f"{name}={defaults[name]}" for name in ("store_root", "checkpoint_root") if defaults.get(name)]
        env: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in settings.env.items()]
        for kind, sources in (("secretKeyRef", settings.secrets), ("configMapKeyRef", settings.config_maps)):
            for source in sources:
                for key, variable in source.keys.items():
                    reference = {"name": source.name, "key": key, "optional": source.optional}
                    env.append({"name": variable, "valueFrom": {kind: reference}})
        volumes = [{"name": c.name, "persistentVolumeClaim": {"claimName": c.name}} for c in settings.claims]
        mounts = [{"name": c.name, "mountPath": c.mount_path, "subPath": c.sub_path} for c in settings.claims]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "ctan-doctor-", "labels": {"app.kubernetes.io/name": "ctan-doctor"}},
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": int(POD_SECONDS),
                "serviceAccountName": self.values.service_account or "default",
                "automountServiceAccountToken": False,
                "imagePullSecrets": [{"name": name} for name in self.values.image_pull_secrets],
                "tolerations": [_toleration(one) for one in settings.tolerations],
                "nodeSelector": dict(settings.node_selector),
                "securityContext": {
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "volumes": volumes,
                "containers": [
                    {
                        "name": "main",
                        "image": container["image"],
                        "command": ["python", "-m", "ctan.steps.preflight", *roots],
                        "env": env,
                        "volumeMounts": mounts,
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "256Mi"},
                            "limits": {"cpu": "1", "memory": "1Gi"},
                        },
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        }


class _NotLookedAt(CtanError):
    """Something that cannot be seen from here."""


def _is_restricted(executor: Mapping[str, Any]) -> bool:
    context = executor.get("securityContext", {})
    return bool(context.get("runAsNonRoot")) and str(context.get("runAsUser", "0")) != "0"


def _toleration(one: Any) -> dict[str, Any]:
    found = {"key": one.key, "operator": one.operator, "value": one.value, "effect": one.effect}
    return {name: value for name, value in found.items() if value}


def _retry_strategy(data: Mapping[str, str]) -> dict[str, Any]:
    """Return the default of all templates; Argo reads it below `workflowDefaults`, which may be inside `config`."""
    import yaml

    whole = yaml.safe_load(data.get("config", "")) or {}
    defaults = yaml.safe_load(data.get("workflowDefaults", "")) or whole.get("workflowDefaults") or {}
    spec = defaults.get("spec") or {}
    return (spec.get("templateDefaults") or {}).get("retryStrategy") or spec.get("retryStrategy") or {}


def _largest(pipeline: CompiledPipeline) -> dict[str, tuple[float, str]]:
    """Return, by the name that a quota gives it, the most that a single step asks for, and which step."""
    names = {
        "requests.cpu": ("resourceCpuRequest", num_cores),
        "limits.cpu": ("resourceCpuLimit", num_cores),
        "requests.memory": ("resourceMemoryRequest", num_bytes),
        "limits.memory": ("resourceMemoryLimit", num_bytes),
    }
    found: dict[str, tuple[float, str]] = {}
    for step, container in pipeline.containers.items():
        resources = container.get("resources", {})
        asked = {name: float(read(resources[field])) for name, (field, read) in names.items() if field in resources}
        if gpus := resources.get("accelerator"):
            asked[f"requests.{gpus['resourceType']}"] = float(gpus["resourceCount"])
        for name, amount in asked.items():
            if amount > found.get(name, (0.0, ""))[0]:
                found[name] = (amount, step)
    return found


def _amount(quantity: str) -> float:
    """Return a quantity of Kubernetes as a number."""
    from kubernetes.utils import parse_quantity

    return float(parse_quantity(quantity))
