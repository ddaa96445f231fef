"""The pods that Kubeflow makes of the compiled pipelines keep Pod Security `restricted`, with and without values."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.render import render
from ctan.cluster.values import Values, load_values
from tests.helpers.compiled import COMPILED, RETRAIN
from tests.helpers.kubernetes import MANIFESTS, PodTemplate, kustomize, of_kind, pod_templates, violations_of_restricted

INFRA = Path(__file__).parents[2] / "infra" / "values"
VALUES = {"none": None} | {path.stem: path for path in sorted(INFRA.glob("*.yaml"))}
# What KFP 2.17 gives every container of a step whatever the pipeline says.
OF_KFP = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
STEPS_USER = 1000


def pods_of(pipeline: CompiledPipeline) -> list[PodTemplate]:
    """Return the pod of each step: KFP's own security context, with what the pipeline says of it."""
    kubernetes = pipeline.platform.get("platforms", {}).get("kubernetes", {})
    configs = kubernetes.get("deploymentSpec", {}).get("executors", {})
    return [_pod(step, configs.get(pipeline.executor(step), {})) for step in pipeline.containers]


def _pod(step: str, config: dict[str, Any]) -> PodTemplate:
    main = {"name": "main", "securityContext": OF_KFP | _numbers(config.get("securityContext", {}))}
    volumes = [{"name": mount["constant"], "persistentVolumeClaim": {}} for mount in config.get("pvcMount", [])]
    volumes += [{"name": mount["volumeName"], "emptyDir": {}} for mount in config.get("emptyDirMounts", [])]
    return PodTemplate(f"step {step}", "Pod", {}, {"containers": [main], "volumes": volumes})


def _numbers(context: dict[str, Any]) -> dict[str, Any]:
    return {name: int(value) if isinstance(value, str) else value for name, value in context.items()}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("path", [COMPILED, RETRAIN], ids=lambda path: path.stem)
def test_every_step_may_run_where_restricted_is_enforced(path: Path, values: str) -> None:
    chosen = load_values(VALUES[values]) if VALUES[values] else Values()
    pods = pods_of(CompiledPipeline.parse(render(path.read_text(encoding="utf-8"), chosen)))
    assert len(pods) >= 9
    assert {pod.name: violations_of_restricted(pod) for pod in pods} == {pod.name: [] for pod in pods}
    users = {pod.containers[0]["securityContext"]["runAsUser"] for pod in pods}
    assert users == {STEPS_USER}, "the image has no other user"


def test_the_check_finds_a_step_that_says_nothing() -> None:
    pipeline = CompiledPipeline.read(COMPILED)
    del pipeline.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["securityContext"]
    found = {pod.name: violations_of_restricted(pod) for pod in pods_of(pipeline)}
    assert {name: problems for name, problems in found.items() if problems} == {"step train": ["main: runAsNonRoot"]}


# ---- claims


def test_the_job_for_claims_is_root_and_may_give_files_away_and_nothing_else() -> None:
    manifests = kustomize(MANIFESTS / "claims")
    (pod,) = pod_templates(manifests)
    assert violations_of_restricted(pod) == [
        "claims: capabilities added",
        "claims: runAsNonRoot",
        "claims: runs as root",
    ]
    assert pod.containers[0]["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert pod.containers[0]["securityContext"]["readOnlyRootFilesystem"] is True
    claimed = {
        volume["persistentVolumeClaim"]["claimName"] for volume in pod.spec["volumes"] if "configMap" not in volume
    }
    assert claimed == set(of_kind(kustomize(MANIFESTS / "base"), "PersistentVolumeClaim"))
    (script,) = of_kind(manifests, "ConfigMap").values()
    assert "writable.py" in script["data"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make folders of another user")
def test_a_new_claim_is_refused_in_a_sentence_and_usable_after_the_job() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which no other user may enter
        Path(folder).chmod(0o755)
        claim = Path(folder) / "store"
        claim.mkdir(mode=0o755)
        said = _written_as_a_step(claim / "ctan").stderr.strip().splitlines()[-1]
        assert (
            f"{claim}/ctan: user 1000 cannot write there (Permission denied; {claim} belongs to 0:0, mode 0755)" in said
        )
        assert "docs/kubernetes.md, claims" in said
        for found in ("0:0", "1000:1000"):
            job = [sys.executable, str(MANIFESTS / "claims" / "writable.py"), str(claim)]
            done = subprocess.run(job, capture_output=True, text=True, check=True)
            assert done.stdout == f"{claim}: belongs to 1000:1000 (found {found})\n"
        assert _written_as_a_step(claim / "ctan").returncode == 0


def _written_as_a_step(folder: Path) -> subprocess.CompletedProcess[str]:
    become = f"os.setgroups([]); os.setgid({STEPS_USER}); os.setuid({STEPS_USER})"
    program = f"import os; from ctan.sources.buckets import check_writable; {become}; check_writable({str(folder)!r})"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_the_job_says_which_folder_cannot_be_given_away(tmp_path: Path) -> None:
    job = [sys.executable, str(MANIFESTS / "claims" / "writable.py"), str(tmp_path / "nowhere")]
    done = subprocess.run(job, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"{tmp_path}/nowhere: cannot be given to 1000:1000 (No such file or directory); on NFS"
    )
