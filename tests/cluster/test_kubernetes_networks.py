"""Network policies: every pod is denied what no rule allows, and the rules allow what is needed and no more."""

from __future__ import annotations

import pytest

from tests.helpers.kubernetes import FLAVOURS, may_connect, of_kind, pod_templates, policies_of, render, walk

STEP = {"pipelines.kubeflow.org/v2_component": "true"}
TRAINER = {"app.kubernetes.io/component": "trainer"}

each_flavour = pytest.mark.parametrize("flavour", FLAVOURS)


@each_flavour
def test_every_pod_is_denied_what_no_rule_allows(flavour: str) -> None:
    """A policy that selects a pod and holds no rule for a direction denies it; others only add to that."""
    manifests = render(flavour)
    everyone = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy").values()]
    for direction, rules in (("Ingress", "ingress"), ("Egress", "egress")):
        denying = [spec for spec in everyone if spec["podSelector"] == {} and rules not in spec]
        assert any(direction in spec["policyTypes"] for spec in denying)
    for policy in everyone:
        for direction, rules, side in (("Ingress", "ingress", "from"), ("Egress", "egress", "to")):
            for rule in policy.get(rules, []):
                assert rule.get(side), f"a rule without peers allows all {direction}"


@each_flavour
def test_steps_and_trainers_reach_mlflow_and_the_world_does_not(flavour: str) -> None:
    manifests = render(flavour)
    mlflow = of_kind(manifests, "Deployment")["mlflow"]["spec"]["template"]["metadata"]["labels"]
    assert may_connect(manifests, STEP, mlflow, 5000)
    assert may_connect(manifests, TRAINER, mlflow, 5000)
    assert may_connect(manifests, TRAINER, TRAINER, 29400)
    assert not may_connect(manifests, {"app": "anything"}, mlflow, 5000)
    assert not may_connect(manifests, STEP, mlflow, 22)
    peers = [
        peer
        for spec in policies_of(manifests, mlflow, "Ingress")
        for rule in spec.get("ingress", [])
        for peer in rule["from"]
    ]
    assert not [peer for peer in peers if "ipBlock" in peer]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}} in peers


def test_the_local_services_are_reached_by_those_who_use_them_alone() -> None:
    manifests = render("local")
    labels = {pod.name: pod.labels for pod in pod_templates(manifests)}
    postgres, seaweedfs = labels["StatefulSet postgres"], labels["StatefulSet seaweedfs"]
    mlflow, migrate = labels["Deployment mlflow"], labels["Job mlflow-migrate"]
    buckets, trainer = labels["Job buckets"], labels["TrainingRuntime ctan-torch"]
    clients = {"mlflow": mlflow, "migrate": migrate, "buckets": buckets, "trainer": trainer, "step": STEP}
    assert {name for name, one in clients.items() if may_connect(manifests, one, postgres, 5432)} == {
        "mlflow",
        "migrate",
    }
    reach_s3 = {name for name, one in clients.items() if may_connect(manifests, one, seaweedfs, 8333)}
    assert reach_s3 == {"mlflow", "buckets", "trainer", "step"}
    assert not may_connect(manifests, STEP, seaweedfs, 9333), "SeaweedFS' master asks for no password"
    outside = [
        spec for spec in policies_of(manifests, mlflow, "Egress") for _, value in walk(spec) if value == "0.0.0.0/0"
    ]
    assert not outside


def test_a_served_model_is_reached_by_those_who_ask_it_and_reaches_mlflow_alone() -> None:
    manifests = render("serving")
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"] for name, one in of_kind(manifests, "Deployment").items()
    }
    serve, mlflow, asks = labels["ctan-serve"], labels["mlflow"], {"ctan/asks-model": "true"}
    assert may_connect(manifests, asks, serve, 8080)
    assert not may_connect(manifests, asks, serve, 8081)
    assert not may_connect(manifests, STEP, serve, 8080)
    assert may_connect(manifests, serve, mlflow, 5000)
    assert not may_connect(manifests, asks, mlflow, 5000)
    assert not [
        value for spec in policies_of(manifests, serve, "Egress") for path, value in walk(spec) if "cidr" in path
    ]


@each_flavour
def test_no_policy_opens_the_credentials_of_the_node(flavour: str) -> None:
    for policy in of_kind(render(flavour), "NetworkPolicy").values():
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert "169.254.0.0/16" in peer["ipBlock"]["except"]
