"""The manifests render, fit Kubernetes' schemas, and keep what they promise about rights, secrets and networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctan.cluster.values import load_values
from tests.helpers.kubernetes import (
    FLAVOURS,
    MANIFESTS,
    PodTemplate,
    granted,
    kustomize,
    number_of_bytes,
    of_kind,
    pod_templates,
    references,
    render,
    violations_of_restricted,
    walk,
)

KUBERNETES_VERSIONS = ("1.31", "1.37")  # oldest and newest that the manifests are for
BROUGHT_ALONG = {"Secret"}  # kinds that the manifests refer to and never hold
COMPILED_PIPELINE = MANIFESTS.parent.parent / "pipelines" / "ctan.yaml"

each_flavour = pytest.mark.parametrize("flavour", FLAVOURS)


# ---- valid


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_fits_the_schema_of_its_kind(version: str) -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="install kubernetes-validate from PyPI")
    distinct = {json.dumps(one, sort_keys=True): one for flavour in FLAVOURS for one in render(flavour)}
    for one in distinct.values():
        if one["apiVersion"].startswith("trainer.kubeflow.org/"):
            continue
        checker.validate(one, version, strict=True)


def test_the_check_of_schemas_finds_a_misspelt_field() -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="install kubernetes-validate from PyPI")
    deployment = json.loads(json.dumps(of_kind(render("base"), "Deployment")["mlflow"]))
    deployment["spec"]["replica"] = 2
    with pytest.raises(checker.ValidationError, match="replica"):
        checker.validate(deployment, KUBERNETES_VERSIONS[0], strict=True)


@each_flavour
def test_the_training_runtime_has_no_field_that_kubeflow_trainer_does_not_know(flavour: str) -> None:
    """Kubeflow's own models drop what they do not know: reading and writing must give the same object."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="install kubeflow-trainer-api from PyPI")
    (runtime,) = of_kind(render(flavour), "TrainingRuntime").values()
    assert runtime["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    known = models.TrainerV1alpha1TrainingRuntime.from_dict(runtime)
    assert known is not None
    assert _without_empty(json.loads(json.dumps(known.to_dict(), default=str))) == _without_empty(runtime)


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items() if inner not in (None, {}, [])}
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


@each_flavour
def test_the_training_runtime_is_what_the_trainer_and_its_client_look_for(flavour: str) -> None:
    """The client lists runtimes by the framework label; the controller patches job and container named `node`."""
    (runtime,) = of_kind(render(flavour), "TrainingRuntime").values()
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    assert "torch" in runtime["spec"]["mlPolicy"]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    assert job["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert [one["name"] for one in job["template"]["spec"]["template"]["spec"]["containers"]] == ["node"]
    assert job["template"]["spec"]["activeDeadlineSeconds"] > 0


@each_flavour
def test_everything_but_the_namespace_lies_in_the_namespace(flavour: str) -> None:
    manifests = render(flavour)
    (namespace,) = of_kind(manifests, "Namespace")
    for one in manifests:
        if one["kind"] != "Namespace":
            assert one["metadata"].get("namespace") == namespace, one["metadata"]["name"]


# ---- pods


@each_flavour
def test_the_namespace_enforces_pod_security_restricted_and_every_pod_passes_it(flavour: str) -> None:
    (namespace,) = of_kind(render(flavour), "Namespace").values()
    for mode in ("enforce", "audit", "warn"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
    pods = pod_templates(render(flavour))
    assert len(pods) >= 3
    assert {pod.name: violations_of_restricted(pod) for pod in pods} == {pod.name: [] for pod in pods}


@pytest.mark.parametrize(
    ("field", "value"),
    [("hostNetwork", True), ("volumes", [{"name": "x", "hostPath": {"path": "/"}}]), ("securityContext", {})],
)
def test_the_check_of_pod_security_finds_what_is_forbidden(field: str, value: Any) -> None:
    pod = pod_templates(render("base"))[0]
    assert violations_of_restricted(PodTemplate(pod.name, pod.kind, pod.labels, pod.spec | {field: value}))


@each_flavour
def test_containers_write_to_mounted_volumes_only(flavour: str) -> None:
    for pod in pod_templates(render(flavour)):
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, pod.name
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounts, f"{pod.name}: Python and its libraries need a temporary folder"
            claimed = {"data"} if pod.kind == "StatefulSet" else set()
            assert set(mounts.values()) <= volumes | claimed


@each_flavour
def test_containers_state_what_they_need_and_servers_whether_they_are_well(flavour: str) -> None:
    for pod in pod_templates(render(flavour)):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), f"{pod.name} {container['name']}"
        if pod.kind in ("Deployment", "StatefulSet"):
            for container in pod.spec["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), pod.name


def _is_pinned(image: str) -> bool:
    name, _, tag = image.rpartition(":")
    return bool(name) and "/" not in tag and tag != "latest"


@each_flavour
def test_images_carry_a_version(flavour: str) -> None:
    for pod in pod_templates(render(flavour)):
        for container in pod.containers:
            assert _is_pinned(container["image"]), container["image"]


def test_the_images_of_this_project_have_the_version_of_this_project() -> None:
    from components import IMAGE
    from ctan import __version__

    images = {c["image"] for name in FLAVOURS for pod in pod_templates(render(name)) for c in pod.containers}
    assert {image for image in images if image.startswith("ctan")} == {IMAGE, f"ctan-cuda:{__version__}"}


def test_an_overlay_can_rewrite_every_image_of_this_project_to_a_digest(tmp_path: Path) -> None:
    """As docs/kubernetes.md says; the image of a custom resource included."""
    digest = "sha256:" + "0123456789abcdef" * 4
    folder = tmp_path / "site"
    folder.mkdir()
    base = Path(*[".."] * len(folder.resolve().relative_to("/").parts)) / FLAVOURS["gpu"].relative_to("/")
    images = [{"name": name, "newName": f"registry.example/{name}", "digest": digest} for name in ("ctan", "ctan-cuda")]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [str(base)], "images": images}))
    found = {c["image"] for pod in pod_templates(kustomize(folder)) for c in pod.containers}
    assert found == {f"registry.example/{name}@{digest}" for name in ("ctan", "ctan-cuda")}


# ---- secrets


@each_flavour
def test_no_secret_is_rendered_and_no_variable_holds_one(flavour: str) -> None:
    manifests = render(flavour)
    assert not of_kind(manifests, "Secret")
    suspicious = re.compile(r"passw|secret|token|access_key|private|credential", re.IGNORECASE)
    for pod in pod_templates(manifests):
        for container in pod.containers:
            for variable in container.get("env", []):
                if suspicious.search(variable["name"]) and not variable["name"].endswith("_FILE"):
                    assert "value" not in variable, f"{pod.name}: {variable['name']}"
    for config in of_kind(manifests, "ConfigMap").values():
        assert not [key for key in config["data"] if suspicious.search(key)]
    for one in manifests:
        for path, value in walk(one):
            assert not re.search(r"://[^/\s@]+:[^/\s@]+@", str(value)), f"password in an address: {path}"


def test_the_example_names_every_secret_and_key_and_holds_only_placeholders() -> None:
    text = (MANIFESTS / "secrets.example.yaml").read_text(encoding="utf-8")
    example = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}
    wanted = {
        (name, key)
        for flavour in FLAVOURS
        for pod in pod_templates(render(flavour))
        for kind, name, key in references(pod)
        if kind == "Secret"
    }
    wanted |= {
        (tls["secretName"], key)
        for ingress in of_kind(render("base"), "Ingress").values()
        for tls in ingress["spec"]["tls"]
        for key in ("tls.crt", "tls.key")
    }
    for path in (MANIFESTS.parent / "values").glob("*.yaml"):
        values = load_values(path)
        sources = [source for step in ("", *values.steps) for source in values.for_step(step).secrets]
        wanted |= {(source.name, key) for source in sources for key in source.keys}
    assert {(name, key) for name, data in example.items() for key in data} == wanted
    for data in example.values():
        for key, value in data.items():
            assert re.search(r"<[^<>]+>", value), f"{key} is no placeholder"
    for kustomization in MANIFESTS.rglob("kustomization.yaml"):
        used = {str(value) for _, value in walk(yaml.safe_load(kustomization.read_text(encoding="utf-8")))}
        assert not [value for value in used if "secrets.example" in value]


# ---- rights


@each_flavour
def test_roles_grant_named_things_inside_the_namespace(flavour: str) -> None:
    manifests = render(flavour)
    assert not of_kind(manifests, "ClusterRole")
    assert not of_kind(manifests, "ClusterRoleBinding")
    roles = of_kind(manifests, "Role")
    for role in roles.values():
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"], "a step may read the secrets it is given, not all"
    accounts = of_kind(manifests, "ServiceAccount")
    for binding in of_kind(manifests, "RoleBinding").values():
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["roleRef"]["name"] in roles
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            assert subject["name"] in accounts
            assert subject["namespace"] == binding["metadata"]["namespace"]


def test_the_launcher_of_trainjobs_may_do_what_its_client_does_and_plain_steps_may_not() -> None:
    may = granted(render("base"), "ctan-launcher")
    trainer = {("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "get", "list", "watch", "delete")}
    trainer |= {("trainer.kubeflow.org", "trainingruntimes", verb) for verb in ("get", "list")}
    assert trainer <= may
    assert {("", "pods", "get"), ("", "pods", "list"), ("", "pods/log", "get"), ("", "events", "list")} <= may
    assert not {one for one in granted(render("base"), "ctan-step") if one[0] == "trainer.kubeflow.org"}


@each_flavour
def test_only_accounts_with_rights_get_a_token(flavour: str) -> None:
    manifests = render(flavour)
    for name, account in of_kind(manifests, "ServiceAccount").items():
        assert account["automountServiceAccountToken"] is bool(granted(manifests, name)), name
    for pod in pod_templates(manifests):
        assert pod.spec["automountServiceAccountToken"] is False, pod.name


# ---- what belongs together


@each_flavour
def test_what_pods_refer_to_exists(flavour: str) -> None:
    manifests = render(flavour)
    for pod in pod_templates(manifests):
        for kind, name, key in references(pod):
            if kind in BROUGHT_ALONG:
                continue
            found = of_kind(manifests, kind)
            assert name in found, f"{pod.name}: {kind} {name}"
            assert not key or key in found[name]["data"], f"{pod.name}: {kind} {name} {key}"


@each_flavour
def test_services_and_budgets_select_pods_and_the_ingress_leads_to_them(flavour: str) -> None:
    manifests = render(flavour)
    pods = pod_templates(manifests)
    selected: dict[str, PodTemplate] = {}
    for name, service in of_kind(manifests, "Service").items():
        (selected[name],) = [pod for pod in pods if service["spec"]["selector"].items() <= pod.labels.items()]
        ports = {port["name"] for one in selected[name].spec["containers"] for port in one.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert [pod.kind for pod in pods if wanted <= pod.labels.items()] == ["Deployment"]
    for ingress in of_kind(manifests, "Ingress").values():
        (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
        assert tls["hosts"] == [rule["host"]]
        (backend,) = [path["backend"]["service"] for path in rule["http"]["paths"]]
        ports = of_kind(manifests, "Service")[backend["name"]]["spec"]["ports"]
        assert backend["port"]["name"] in [port["name"] for port in ports]


@each_flavour
def test_mlflow_accepts_the_names_it_is_reached_by(flavour: str) -> None:
    manifests = render(flavour)
    (settings,) = [one["data"] for name, one in of_kind(manifests, "ConfigMap").items() if name.startswith("mlflow-se")]
    (ingress,) = of_kind(manifests, "Ingress").values()
    service = of_kind(manifests, "Service")["mlflow"]
    port, namespace = service["spec"]["ports"][0]["port"], service["metadata"]["namespace"]
    host = ingress["spec"]["rules"][0]["host"]
    names = ("mlflow", f"mlflow.{namespace}", f"mlflow.{namespace}.svc", f"mlflow.{namespace}.svc.cluster.local")
    allowed = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {host, *(f"{name}:{port}" for name in names)} <= set(allowed)
    assert not [one for one in allowed if "*" in one]
    assert settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"https://{host}"


def test_servers_wait_for_the_migration_and_do_not_migrate() -> None:
    manifests = render("base")
    migrate = of_kind(manifests, "Job")["mlflow-migrate"]["spec"]["template"]["spec"]["containers"][0]
    (wait,) = of_kind(manifests, "Deployment")["mlflow"]["spec"]["template"]["spec"]["initContainers"]
    assert migrate["command"][:-1] == wait["command"][:-1]
    assert (migrate["command"][-1], wait["command"][-1]) == ("migrate", "wait")
    assert migrate["env"] == wait["env"], "both must look at the same databases"


# ---- limits


def test_a_step_of_the_compiled_pipeline_fits_the_limits() -> None:
    """A step that only requests memory gets the default limit; Kubernetes refuses a request above the limit."""
    (limits,) = of_kind(render("base"), "LimitRange").values()
    (container,) = limits["spec"]["limits"]
    (quota,) = of_kind(render("base"), "ResourceQuota").values()
    spec = next(yaml.safe_load_all(COMPILED_PIPELINE.read_text(encoding="utf-8")))
    executors = spec["deploymentSpec"]["executors"].values()
    requests = [one["container"]["resources"]["resourceMemoryRequest"] for one in executors]
    assert len(requests) == 11
    largest = max(number_of_bytes(one) for one in requests)
    assert largest <= number_of_bytes(container["default"]["memory"])
    assert number_of_bytes(container["defaultRequest"]["memory"]) <= number_of_bytes(container["default"]["memory"])
    assert largest <= number_of_bytes(quota["spec"]["hard"]["requests.memory"])


def test_gpus_aregranted_by_the_gpu_overlay_alone() -> None:
    for flavour in FLAVOURS:
        (quota,) = of_kind(render(flavour), "ResourceQuota").values()
        (trainer,) = [pod for pod in pod_templates(render(flavour)) if pod.kind == "TrainingRuntime"]
        gpus = trainer.containers[0]["resources"]["limits"].get("nvidia.com/gpu")
        if flavour == "gpu":
            assert int(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) >= int(gpus) == 1
            assert trainer.containers[0]["resources"]["requests"]["nvidia.com/gpu"] == gpus
            assert trainer.spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
            assert trainer.spec["tolerations"] == [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
            ]
        else:
            assert quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "0"
            assert gpus is None
            assert "tolerations" not in trainer.spec


# ---- serving


def test_a_served_model_is_started_by_options_that_the_command_has_and_probed_where_it_answers() -> None:
    from typer.main import get_command
    from typer.testing import CliRunner

    from ctan.cli import app

    manifests = render("serving")
    (container,) = of_kind(manifests, "Deployment")["ctan-serve"]["spec"]["template"]["spec"]["containers"]
    (settings,) = [
        one["data"] for name, one in of_kind(manifests, "ConfigMap").items() if name.startswith("ctan-serve")
    ]
    command = [re.sub(r"\$\((\w+)\)", lambda match: settings[match[1]], word) for word in container["command"]]
    assert CliRunner().invoke(app, [*command[1:], "--help"]).exit_code == 0
    context = get_command(app).commands["serve"].make_context("serve", command[2:])
    assert context.params["model"] == "models:/ctan-openkbp@champion"
    assert context.params["port"] == container["ports"][0]["containerPort"]
    paths = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/health", "/ping"}
