"""Rendering: a values file written into compiled YAML gives what kfp's own compiler writes for the same settings."""

# No `from __future__ import annotations`: kfp reads the annotations of the components below.

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import compiler, components, dsl, kubernetes

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.progress import Progress
from ctan.cluster.render import render
from ctan.cluster.values import Values, load_values
from ctan.errors import ConfigError, DataError
from tests.helpers.compiled import COMPILED, RETRAIN

INFRA = Path(__file__).parents[2] / "infra" / "values"
DIGEST = "registry.example.org/python-steps@sha256:" + "0a" * 32
Change = Callable[[dsl.PipelineTask], Any]


def compiled(
    tmp_path: Path,
    change: Change = lambda task: None,
    image: str = "python:3.11",
    parallelism: int = 1,
    rate: float = 0.1,
) -> str:
    """Compile a pipeline of a step and a loop over another one; `change` sets up the loop's step."""

    @dsl.component(base_image=image, install_kfp_package=False)
    def first(text: str) -> list[str]:
        return [text]

    @dsl.component(base_image=image, install_kfp_package=False)
    def second(text: str, rate: float) -> str:
        return text

    @dsl.pipeline(name="two-steps")
    def two_steps(text: str = "a", rate: float = rate, number: int = 3, names: list[str] = ["x"]):  # noqa: B006
        """Two steps."""
        one = first(text=text).set_cpu_request("1").set_memory_request("1G")
        with dsl.ParallelFor(one.output, parallelism=parallelism) as item:
            change(second(text=item, rate=rate))

    path = tmp_path / "two-steps.yaml"
    compiler.Compiler().compile(two_steps, str(path))
    return path.read_text(encoding="utf-8")


def all_resources(task: dsl.PipelineTask) -> None:
    task.set_cpu_request("500m").set_cpu_limit("4").set_memory_request("1500M").set_memory_limit("8Gi")
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)


def on_the_cluster(task: dsl.PipelineTask) -> None:
    kubernetes.use_secret_as_env(task, "ctan-s3", {"access-key-id": "AWS_ACCESS_KEY_ID"}, optional=True)
    kubernetes.use_secret_as_env(task, "needed", {"a": "A", "b": "B"}, optional=False)
    kubernetes.use_config_map_as_env(task, "services", {"uri": "MLFLOW_TRACKING_URI"}, optional=True)
    kubernetes.mount_pvc(task, "ctan-store", "/mnt/store")
    kubernetes.mount_pvc(task, "ctan-store", "/mnt/checkpoints", sub_path="checkpoints")
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="8Gi")
    kubernetes.empty_dir_mount(task, "scratch", "/scratch", size_limit="200Gi")
    task.set_env_variable("TMPDIR", "/scratch")
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    kubernetes.add_toleration(
        task, key="spot", operator="Equal", value="yes", effect="NoExecute", toleration_seconds=60
    )
    kubernetes.add_node_selector(task, "zone", "a")
    kubernetes.add_node_selector(task, "gpu", "a100")
    kubernetes.set_security_context(task, run_as_user=10001, run_as_group=0, run_as_non_root=True)
    kubernetes.set_timeout(task, 3600)


CASES: dict[str, tuple[Change, dict[str, Any]]] = {
    "resources": (
        all_resources,
        {"cpu_request": "500m", "cpu_limit": 4, "memory_request": "1500M", "memory_limit": "8Gi", "gpus": 2},
    ),
    "retry": (
        lambda task: kubernetes.set_timeout(
            task.set_retry(3, backoff_duration="2m", backoff_factor=3, backoff_max_duration="6h"), 3600
        ),
        {
            "retry": {"count": 3, "backoff_duration": "2m", "backoff_factor": 3, "backoff_max_duration": "6h"},
            "timeout_seconds": 3600,
        },
    ),
    "time for all tries": (  # 3 tries of 1000 s, 600 s for the pod of each, and waits of 60 s and 120 s
        lambda task: kubernetes.set_timeout(
            task.set_retry(2, backoff_duration="60s", backoff_factor=2, backoff_max_duration="4980s"), 1000
        ),
        {"retry": {"count": 2, "backoff_duration": "1m"}, "timeout_seconds": 1000},
    ),
    "scratch of a storage class": (
        lambda task: kubernetes.add_ephemeral_volume(
            task.set_env_variable("TMPDIR", "/scratch"), "scratch", "/scratch", ["ReadWriteOnce"], "1Ti", "fast"
        ),
        {"scratch": {"size": "1Ti", "storage_class": "fast"}},
    ),
    "no retry": (lambda task: task, {"retry": {"count": 0}}),
    "no caching": (lambda task: task.set_caching_options(False), {"cache": False}),
    "environment": (
        lambda task: task.set_env_variable("A", "1").set_env_variable("B", "2"),
        {"env": {"A": "1", "B": "2"}},
    ),
    "kubernetes": (
        on_the_cluster,
        {
            "secrets": [
                {"name": "ctan-s3", "keys": {"access-key-id": "AWS_ACCESS_KEY_ID"}},
                {"name": "needed", "keys": {"a": "A", "b": "B"}, "optional": False},
            ],
            "config_maps": [{"name": "services", "keys": {"uri": "MLFLOW_TRACKING_URI"}}],
            "claims": [
                {"name": "ctan-store", "mount_path": "/mnt/store"},
                {"name": "ctan-store", "mount_path": "/mnt/checkpoints", "sub_path": "checkpoints"},
            ],
            "shared_memory": "8Gi",
            "scratch": {"size": "200Gi"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "spot", "value": "yes", "effect": "NoExecute", "toleration_seconds": 60},
            ],
            "node_selector": {"zone": "a", "gpu": "a100"},
            "security_context": {"run_as_user": 10001, "run_as_group": 0, "run_as_non_root": True},
            "timeout_seconds": 3600,
        },
    ),
}


@pytest.mark.parametrize(("change", "wanted"), CASES.values(), ids=CASES)
def test_rendering_gives_what_the_compiler_writes(tmp_path: Path, change: Change, wanted: dict[str, Any]) -> None:
    values = Values.model_validate({"steps": {"second": wanted}})
    assert render(compiled(tmp_path), values) == compiled(tmp_path, change)


def test_a_step_whose_results_must_be_fresh_cannot_be_cached(tmp_path: Path) -> None:
    values = Values.model_validate({"steps": {"second": {"cache": True}}})
    assert render(compiled(tmp_path), values) == compiled(tmp_path)
    uncached = compiled(tmp_path, lambda task: task.set_caching_options(False))
    with pytest.raises(ConfigError, match="step second: cache: true, but the pipeline wants its results fresh"):
        render(uncached, values)


def test_a_compiled_retry_can_be_taken_away(tmp_path: Path) -> None:
    retried = compiled(tmp_path, lambda task: task.set_retry(2))
    assert render(retried, Values.model_validate({"defaults": {"retry": {"count": 0}}})) == compiled(tmp_path)


def test_settings_of_a_component_reach_every_use_of_it() -> None:
    values = Values.model_validate({"steps": {"resolve": {"cpu_request": 3}, "train": {"cpu_request": 5}}})
    spec = next(yaml.safe_load_all(render(RETRAIN.read_text(encoding="utf-8"), values)))
    cpus = {
        name: executor["container"]["resources"]["resourceCpuRequest"]
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    assert {name: cpu for name, cpu in cpus.items() if cpu != "1"} == {
        "exec-resolve": "3",
        "exec-resolve-2": "3",
        "exec-train": "5",
    }


def test_settings_of_a_step_of_another_pipeline_of_ours_are_left_alone() -> None:
    """One values file serves ctan.yaml and retrain.yaml, which alone has `check`."""
    text = COMPILED.read_text(encoding="utf-8")
    assert render(text, Values.model_validate({"steps": {"check": {"cpu_request": 2}}})) == text


def test_a_compiled_gpu_limit_can_be_taken_away(tmp_path: Path) -> None:
    with_gpu = compiled(tmp_path, lambda task: task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1))
    assert render(with_gpu, Values.model_validate({"defaults": {"gpus": 0}})) == compiled(tmp_path)


def test_a_step_is_told_the_image_it_runs_in() -> None:
    text = render(COMPILED.read_text(encoding="utf-8"), Values(image=DIGEST))
    for executor in next(yaml.safe_load_all(text))["deploymentSpec"]["executors"].values():
        assert {"name": "CTAN_IMAGE", "value": DIGEST} in executor["container"]["env"]


def test_images_defaults_and_parallelism_are_those_of_a_pipeline_compiled_so(tmp_path: Path) -> None:
    values = Values.model_validate({"image": DIGEST, "parallelism": 4, "parameters": {"rate": 2}})
    assert render(compiled(tmp_path), values) == compiled(tmp_path, image=DIGEST, parallelism=4, rate=2.0)


def test_the_deadline_of_the_run_is_the_compilers(tmp_path: Path) -> None:
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def step() -> str:
        return ""

    def limited(seconds: int) -> str:
        @dsl.pipeline(name="limited", pipeline_config=dsl.PipelineConfig(active_deadline_seconds=seconds))
        def pipeline():
            step()

        compiler.Compiler().compile(pipeline, str(tmp_path / "limited.yaml"))
        return (tmp_path / "limited.yaml").read_text(encoding="utf-8")

    assert render(limited(60), Values(deadline_seconds=3600)) == limited(3600)
    assert render(limited(60), Values()) == limited(60)


@pytest.mark.parametrize("path", [COMPILED, RETRAIN], ids=lambda path: path.stem)
def test_no_run_of_ours_goes_on_for_ever(path: Path) -> None:
    assert 0 < Progress(SimpleNamespace(run_details=None), CompiledPipeline.read(path)).deadline_seconds <= 7 * 86400


def test_pulling_is_set_for_every_step(tmp_path: Path) -> None:
    def pulled(task: dsl.PipelineTask) -> None:
        kubernetes.set_image_pull_policy(task, "Always")
        kubernetes.set_image_pull_secrets(task, ["registry"])

    values = Values.model_validate({"image_pull_policy": "Always", "image_pull_secrets": ["registry"]})
    _, rendered = yaml.safe_load_all(render(compiled(tmp_path), values))
    _, expected = yaml.safe_load_all(compiled(tmp_path, pulled))
    executors = rendered["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (config,) = expected["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert executors == {"exec-first": config, "exec-second": config}


def test_what_the_values_leave_out_stays_as_compiled(tmp_path: Path) -> None:
    everything = compiled(tmp_path, on_the_cluster)
    assert render(everything, Values()) == everything
    values = Values.model_validate({"steps": {"second": {"timeout_seconds": 60}}})
    changed = render(everything, values)
    assert changed == everything.replace("activeDeadlineSeconds: '3600'", "activeDeadlineSeconds: '60'")


def test_rendering_the_committed_pipeline_with_no_values_gives_its_very_bytes() -> None:
    text = COMPILED.read_text(encoding="utf-8")
    assert render(text, Values()) == text


@pytest.mark.parametrize("name", ["cpu", "gpu", "multi-node"])
def test_the_packaged_values_fit_the_pipeline_and_it_still_loads(name: str) -> None:
    values = load_values(INFRA / f"{name}.yaml")
    text = render(COMPILED.read_text(encoding="utf-8"), values)
    assert render(text, values) == text, "rendering twice differs from rendering once"
    spec, platform = yaml.safe_load_all(text)
    loaded = components.load_component_from_text(text)
    assert loaded.name == "ctan"
    assert set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == set(
        spec["deploymentSpec"]["executors"]
    )
    gpus = {
        step
        for step, executor in spec["deploymentSpec"]["executors"].items()
        if "accelerator" in executor["container"]["resources"]
    }
    assert gpus == (set() if name == "cpu" else {"exec-train", "exec-evaluate"})
    assert "CTAN_S3_SECRET_ACCESS_KEY" in str(platform)  # by reference
    assert loaded.platform_spec.platforms["kubernetes"]


def test_an_unknown_step_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps\.third: pipeline has no such step; its steps are: first, second"):
        render(compiled(tmp_path), Values.model_validate({"steps": {"third": {"gpus": 1}}}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rates": 1.0}, "rates: the pipeline two-steps has no such parameter; did you mean 'rate'"),
        ({"number": 1.5}, "parameters.number: expected a whole number, found 1.5"),
        ({"number": True}, "parameters.number: expected a whole number, found True"),
    ],
)
def test_a_default_must_fit_its_parameter(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        render(compiled(tmp_path), Values.model_validate({"parameters": parameters}))


def test_a_limit_below_what_was_compiled_as_request_is_refused(tmp_path: Path) -> None:
    """Kubernetes would refuse the pod, after the run has begun."""
    with pytest.raises(ConfigError, match="step first: cpu_limit 500m is below its request of 1; set cpu_request"):
        render(compiled(tmp_path), Values.model_validate({"defaults": {"cpu_limit": "500m"}}))


@pytest.mark.parametrize("text", ["", "a: 1", "a: [", "[]", "a: 1\n---\nb: 2\n---\nc: 3"])
def test_what_is_not_a_compiled_pipeline_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"some\.yaml: "):
        render(text, Values(), "some.yaml")


@settings(max_examples=20, deadline=None)
@given(
    amount=st.integers(1, 900),
    unit=st.sampled_from(["", "K", "Ki", "M", "Mi", "G", "Gi", "T", "Ti", "P", "Pi"]),
    cores=st.one_of(st.integers(1, 64).map(str), st.integers(1, 64000).map("{}m".format), st.just("0.5")),
)
def test_quantities_become_the_numbers_that_the_compiler_computes(amount: int, unit: str, cores: str) -> None:
    from kfp.compiler import compiler_utils

    from ctan.cluster.values import num_bytes, num_cores

    assert num_bytes(f"{amount}{unit}") / 1e9 == pytest.approx(
        compiler_utils._memory_to_float(f"{amount}{unit}"), rel=1e-15
    )
    assert num_cores(cores) == compiler_utils._cpu_to_float(cores)
