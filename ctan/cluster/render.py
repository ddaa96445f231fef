"""Write a values file into a compiled pipeline, without compiling it again.

What comes out equals what kfp's compiler and kfp-kubernetes write for the same settings; a test compares them.
Containers, retries and caching are in the first document, all that only Kubernetes knows in the second.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml

from ctan.cluster.compiled import PIPELINES, CompiledPipeline, compiled_pipeline
from ctan.cluster.parameters import check_parameters
from ctan.cluster.values import EnvironmentSource, Retry, StepValues, Values, num_bytes, num_cores, num_seconds
from ctan.errors import ConfigError
from ctan.provenance import IMAGE_VARIABLE

SCRATCH = "/scratch"  # mounted where the values ask for scratch space


def render(pipeline_yaml: str, values: Values, source: str = "pipeline", cache: bool = True) -> str:
    """Return a compiled pipeline with the settings of a values file.

    Settings that the values leave out stay as they were compiled. Rendering twice gives the same as rendering once.

    Args:
        pipeline_yaml: compiled pipeline, one or two YAML documents.
        values: settings.
        source: where the pipeline was read, for messages.
        cache: False has every step run, whatever pipeline and values say; kfp's own override misses inner pipelines.

    Raises:
        ConfigError: when the values name a step or a parameter that the pipeline does not have.
        DataError: when the text is not a compiled pipeline.
    """
    read = CompiledPipeline.parse(pipeline_yaml, source)
    pipeline = CompiledPipeline(source, copy.deepcopy(read.spec), copy.deepcopy(read.platform))
    _check_steps(pipeline, values)
    for step, container in pipeline.containers.items():
        settings = values.for_step(step if step in values.steps else pipeline.component_of(step))
        _set_container(container, settings, values.image)
        _check_resources(step, container.get("resources", {}))
        for task in pipeline.tasks_of(step):
            _set_task(step, task, settings)
        _set_platform(pipeline, step, _pull(values) | _kubernetes(settings))
    for name, value in check_parameters(pipeline, values.parameters).items():
        pipeline.parameters[name]["defaultValue"] = value
    for task in pipeline.tasks():
        if values.parallelism and "parameterIterator" in task:
            task["iteratorPolicy"] = {"parallelismLimit": values.parallelism}
        if not cache:
            task["cachingOptions"] = {}
    if values.deadline_seconds:
        _part(pipeline, "pipelineConfig")["activeDeadlineSeconds"] = values.deadline_seconds
    return _to_yaml(pipeline)


def _check_steps(pipeline: CompiledPipeline, values: Values) -> None:
    """Refuse settings of a step that neither this pipeline nor one of ours has: one values file serves all of ours."""
    components = {pipeline.component_of(step) for step in pipeline.containers}
    unknown = values.steps.keys() - components - pipeline.containers.keys()
    if unknown:
        unknown -= {step for name in PIPELINES for step in CompiledPipeline.read(compiled_pipeline(name)).containers}
    if unknown:
        raise ConfigError(
            f"steps.{min(unknown)}: {pipeline.source} has no such step; its steps are: {', '.join(sorted(components))}"
        )


def _set_container(container: dict[str, Any], settings: StepValues, image: str | None) -> None:
    env = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    if image:
        container["image"] = image
        if IMAGE_VARIABLE in env:
            env[IMAGE_VARIABLE] = image
    if settings.scratch:
        env["TMPDIR"] = SCRATCH
    if env | settings.env:
        container["env"] = [{"name": name, "value": value} for name, value in (env | settings.env).items()]
    resources = container.setdefault("resources", {})
    for bound in ("Request", "Limit"):  # each twice: KFP's backends before 2.4 read the numbers, later ones the text
        if cpu := getattr(settings, f"cpu_{bound.lower()}"):
            resources |= {f"cpu{bound}": num_cores(cpu), f"resourceCpu{bound}": cpu}
        if memory := getattr(settings, f"memory_{bound.lower()}"):
            resources |= {f"memory{bound}": num_bytes(memory) / 1e9, f"resourceMemory{bound}": memory}
    if settings.gpus:
        count, kind = str(settings.gpus), settings.gpu_type
        resources["accelerator"] = {"count": count, "resourceCount": count, "type": kind, "resourceType": kind}
    elif settings.gpus == 0:
        resources.pop("accelerator", None)
    if not resources:
        del container["resources"]


def _check_resources(step: str, resources: dict[str, Any]) -> None:
    """Refuse a limit below what is requested, which Kubernetes would refuse once the run has begun."""
    for kind in ("cpu", "memory"):
        request, limit = resources.get(f"{kind}Request"), resources.get(f"{kind}Limit")
        if request and limit and request > limit:
            name = f"resource{kind.capitalize()}"
            found, allowed = resources[f"{name}Request"], resources[f"{name}Limit"]
            raise ConfigError(
                f"step {step}: {kind}_limit {allowed} is below its request of {found}; set {kind}_request as well"
            )


def _set_task(step: str, task: dict[str, Any], settings: StepValues) -> None:
    cached = task.get("cachingOptions", {}).get("enableCache", False)
    if settings.cache and not cached:
        raise ConfigError(
            f"step {step}: cache: true, but the pipeline wants its results fresh: KFP's cache does not see that a "
            "store, a checkpoint or the registry has changed; leave it out"
        )
    if settings.cache is False:
        task["cachingOptions"] = {}
    if settings.retry is not None:
        task.pop("retryPolicy", None)
        if settings.retry.count:
            task["retryPolicy"] = _retry_policy(settings.retry, settings.least_retry_seconds)


def _retry_policy(retry: Retry, least_seconds: int) -> dict[str, Any]:
    longest = num_seconds(retry.backoff_max_duration) if retry.backoff_max_duration else least_seconds
    return {
        "maxRetryCount": retry.count,
        "backoffDuration": f"{num_seconds(retry.backoff_duration)}s",
        "backoffFactor": retry.backoff_factor,
        "backoffMaxDuration": f"{longest}s",
    }


def _set_platform(pipeline: CompiledPipeline, step: str, config: dict[str, Any]) -> None:
    """Add Kubernetes' settings of a step to the second document; those of the same kind are replaced."""
    if not config:
        return
    part = _part(pipeline, "deploymentSpec", "executors", pipeline.executor(step))
    part |= _as_compiled(config)


def _part(pipeline: CompiledPipeline, *keys: str) -> dict[str, Any]:
    """Return a part of the second document, made where it is not there."""
    part: dict[str, Any] = pipeline.platform
    for key in ("platforms", "kubernetes", *keys):
        part = part.setdefault(key, {})
    return part


def _as_compiled(config: dict[str, Any]) -> dict[str, Any]:
    """Return the form that kfp-kubernetes writes: fields checked, empty ones left out, 64-bit numbers as text."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2 as executor

    message = json_format.ParseDict(config, executor.KubernetesExecutorConfig())
    return json_format.MessageToDict(message)


def _pull(values: Values) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if values.image_pull_policy:
        config["imagePullPolicy"] = values.image_pull_policy
    if values.image_pull_secrets:
        config["imagePullSecret"] = [_named("secretName", name) for name in values.image_pull_secrets]
    return config


def _kubernetes(settings: StepValues) -> dict[str, Any]:
    """Return the settings of a step that only Kubernetes knows, as a `KubernetesExecutorConfig`."""
    config: dict[str, Any] = {
        "secretAsEnv": [_environment("secret", source) for source in settings.secrets],
        "configMapAsEnv": [_environment("configMap", source) for source in settings.config_maps],
        "pvcMount": [
            {
                "constant": claim.name,
                "pvcNameParameter": _constant(claim.name),
                "mountPath": claim.mount_path,
                "subPath": claim.sub_path,
            }
            for claim in settings.claims
        ],
        "tolerations": [
            {
                "key": toleration.key,
                "operator": toleration.operator,
                "value": toleration.value,
                "effect": toleration.effect,
                "tolerationSeconds": toleration.toleration_seconds,
            }
            for toleration in settings.tolerations
        ],
    }
    config |= _temporary_volumes(settings)
    if settings.node_selector:
        config["nodeSelector"] = {"labels": settings.node_selector}
    if settings.timeout_seconds:
        config["activeDeadlineSeconds"] = settings.timeout_seconds
    if (context := settings.security_context) is not None:
        config["securityContext"] = {
            "runAsUser": context.run_as_user,
            "runAsGroup": context.run_as_group,
            "runAsNonRoot": context.run_as_non_root,
        }
    return {name: value for name, value in config.items() if value}


def _temporary_volumes(settings: StepValues) -> dict[str, Any]:
    """Return the volumes that are gone with the pod."""
    memory, scratch = settings.shared_memory, settings.scratch
    mounts: list[dict[str, Any]] = []
    if memory:
        shm = "/dev/shm"  # noqa: S108
        mounts.append({"volumeName": "shm", "mountPath": shm, "medium": "Memory", "sizeLimit": memory})
    if scratch and not scratch.storage_class:
        mounts.append({"volumeName": "scratch", "mountPath": SCRATCH, "sizeLimit": scratch.size})
    config: dict[str, Any] = {"emptyDirMounts": mounts}
    if scratch and scratch.storage_class:
        config["genericEphemeralVolume"] = [
            {
                "volumeName": "scratch",
                "mountPath": SCRATCH,
                "accessModes": ["ReadWriteOnce"],
                "size": scratch.size,
                "storageClassName": scratch.storage_class,
            }
        ]
    return config


def _environment(kind: str, source: EnvironmentSource) -> dict[str, Any]:
    return {
        **_named(f"{kind}Name", source.name),
        "keyToEnv": [{f"{kind}Key": key, "envVar": variable} for key, variable in source.keys.items()],
        "optional": source.optional,
    }


def _named(field: str, name: str) -> dict[str, Any]:
    """Return a name in both forms that kfp-kubernetes writes: the older one, and the one that may be a parameter."""
    return {field: name, f"{field}Parameter": _constant(name)}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


def _to_yaml(pipeline: CompiledPipeline) -> str:
    """Write both documents as kfp's compiler does, its table of inputs on top."""
    from google.protobuf import json_format
    from kfp.compiler.pipeline_spec_builder import extract_comments_from_pipeline_spec
    from kfp.pipeline_spec import pipeline_spec_pb2

    # Through the message: an unknown field is an error here rather than on the cluster, and numbers get their form.
    spec = json_format.MessageToDict(json_format.ParseDict(pipeline.spec, pipeline_spec_pb2.PipelineSpec()))
    documents = [spec]
    if pipeline.platform:
        message = json_format.ParseDict(pipeline.platform, pipeline_spec_pb2.PlatformSpec())
        documents.append(json_format.MessageToDict(message))
    comments = extract_comments_from_pipeline_spec(spec, spec["pipelineInfo"].get("description", ""))
    return comments + yaml.dump_all(documents, sort_keys=True)
