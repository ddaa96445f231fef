"""What a cluster is like: images, resources, storage, secrets and placement of the steps, read from a values file.

`ctan.cluster.render` writes them into a compiled pipeline. A step's own setting replaces the one of `defaults`; a
setting that is left out leaves the compiled pipeline as it is. Quantities are Kubernetes': CPU in cores (`2`, `500m`),
memory in bytes with a suffix (`8Gi`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from ctan.config import Settings
from ctan.config_errors import unknown_setting
from ctan.errors import ConfigError

_UNITS = {"": 1} | {
    f"{letter}{binary}": (1024 if binary else 1000) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for binary in ("", "i")
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_POD_SECONDS = 600  # until a pod has a node and its image
# Environment is written into the pipeline in the clear; what is named like this belongs into a secret.
_SECRET = re.compile(r"PASSW|SECRET|TOKEN|CREDENTIAL|ACCESS_KEY|API_KEY|DEID_KEY", re.IGNORECASE)
_REFERENCE = r"^[a-z0-9]+[a-zA-Z0-9._/:-]*(:[A-Za-z0-9_][\w.-]{0,127}|@sha256:[0-9a-f]{64})$"


def _text(value: Any) -> Any:
    """Let `cpu_request: 2` be a quantity, although YAML reads it as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Cpu = Annotated[str, BeforeValidator(_text), StringConstraints(pattern=r"^(\d+|\d*\.\d+|\d+m)$")]
Memory = Annotated[str, BeforeValidator(_text), StringConstraints(pattern=r"^\d+([EPTGMK]i?)?$")]
Duration = Annotated[str, StringConstraints(pattern=r"^\d+[smhd]$")]
Image = Annotated[str, StringConstraints(pattern=_REFERENCE)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*$")]
Folder = Annotated[str, StringConstraints(pattern=r"^/.+")]


class EnvironmentSource(Settings):
    """A Secret or ConfigMap of the namespace whose entries become environment variables of a step."""

    name: Name = Field(description="name of the Secret or ConfigMap")
    keys: dict[str, Variable] = Field(min_length=1, description="key in it -> environment variable")
    optional: bool = Field(True, description="start the step also when it does not exist")


class Claim(Settings):
    """A PersistentVolumeClaim that a step mounts. Steps on several nodes need access mode ReadWriteMany."""

    name: Name = Field(description="name of the PersistentVolumeClaim")
    mount_path: Folder = Field(description="folder at which the step sees it")
    sub_path: str = Field("", description="folder inside the volume; empty: its root")


class Toleration(Settings):
    """A taint of nodes that a step's pod puts up with; fields as Kubernetes defines them."""

    key: str = Field("", description="key of the taint; empty with operator Exists: every taint")
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("", description="empty: every effect")
    toleration_seconds: int | None = Field(None, description="with NoExecute: seconds until the pod is evicted")


class SecurityContext(Settings):
    """Who the step's process is. A read-only root file system cannot be set through KFP."""

    run_as_user: int | None = Field(None, ge=0)
    run_as_group: int | None = Field(None, ge=0)
    run_as_non_root: bool | None = None


class Retry(Settings):
    """Trying a step again. KFP cannot look at exit codes; which tries it makes is the cluster's: docs/cluster.md."""

    count: int = Field(ge=0, description="times to try again; 0 for what fails for good")
    backoff_duration: Duration = Field("0s", description="wait before the first retry, such as 60s or 5m")
    backoff_factor: int = Field(
        2, gt=0, description="by which each further wait is longer; Argo takes whole numbers and fails at others"
    )
    backoff_max_duration: Duration | None = Field(
        None,
        description="time for all tries together, from the first start: the pod is stopped then, whatever its timeout. "
        "null: tries x timeout and the waits between them",
    )


class Scratch(Settings):
    """A folder for the step's temporary files (`TMPDIR`), such as copies of stores and raw data; gone with the pod."""

    size: Memory = Field(description="the pod is evicted above it, or the volume is so large")
    storage_class: Name | None = Field(
        None,
        description="a volume of its own of this class, which must make volumes that everybody may write to: Kubeflow "
        "cannot hand one over to the step's user; null: the node's disk",
    )


class StepValues(Settings):
    """Settings of one step, or of all. None or empty: as compiled."""

    cpu_request: Cpu | None = Field(None, description="cores the node must have free")
    cpu_limit: Cpu | None = Field(None, description="cores at most")
    memory_request: Memory | None = Field(None, description="memory the node must have free")
    memory_limit: Memory | None = Field(None, description="memory at most; the step is killed above it")
    gpus: int | None = Field(None, ge=0, description="GPUs of one node; 0 takes a compiled limit away")
    gpu_type: str = Field("nvidia.com/gpu", min_length=1, description="resource that a node offers its GPUs as")
    shared_memory: Memory | None = Field(
        None, description="size of /dev/shm, a volume in memory that counts into the memory limit"
    )
    scratch: Scratch | None = None
    retry: Retry | None = None
    timeout_seconds: int | None = Field(None, gt=0, description="a try's pod is stopped after so many seconds")
    cache: bool | None = Field(
        None, description="false: never reuse an earlier run's outputs; true is refused where the pipeline says false"
    )
    env: dict[Variable, str] = Field({}, description="environment variables in the clear, never a secret")
    secrets: tuple[EnvironmentSource, ...] = Field((), description="Secrets to read environment variables from")
    config_maps: tuple[EnvironmentSource, ...] = Field((), description="ConfigMaps to read them from")
    claims: tuple[Claim, ...] = Field((), description="volumes that outlive the step")
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = Field({}, description="labels a node must carry")
    security_context: SecurityContext | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StepValues:
        for name in self.env:
            if _SECRET.search(name):
                raise ValueError(f"env.{name}: would stand in the pipeline for all to read; put it under secrets")
        if self.cpu_request and self.cpu_limit and num_cores(self.cpu_request) > num_cores(self.cpu_limit):
            raise ValueError(f"cpu_request {self.cpu_request} is above cpu_limit {self.cpu_limit}")
        self._check_retry()
        for field in ("memory_request", "shared_memory"):
            wanted: str | None = getattr(self, field)
            if wanted and self.memory_limit and num_bytes(wanted) > num_bytes(self.memory_limit):
                raise ValueError(f"{field} {wanted} is above memory_limit {self.memory_limit}")
        return self

    def _check_retry(self) -> None:
        if not (self.retry and self.retry.count):
            return
        if self.timeout_seconds is None:
            raise ValueError(
                "retry: needs timeout_seconds: Kubeflow takes backoff_max_duration for the time of all tries together, "
                "which must be longer than they may take"
            )
        longest = self.retry.backoff_max_duration
        if longest and num_seconds(longest) < self.least_retry_seconds:
            raise ValueError(
                f"retry.backoff_max_duration {longest}: is counted from the first start and would stop a later try; "
                f"expected at least {self.least_retry_seconds}s: {self.retry.count + 1} tries of "
                f"{self.timeout_seconds} s and {_POD_SECONDS} s until a pod is there, and the waits between them; "
                "or leave it out"
            )

    @property
    def least_retry_seconds(self) -> int:
        """Time that all tries, the start of their pods and the waits between them may take; 0 without tries."""
        if self.retry is None or self.timeout_seconds is None:
            return 0
        wait, factor = num_seconds(self.retry.backoff_duration), self.retry.backoff_factor
        waits = sum(wait * factor**number for number in range(self.retry.count))
        return (self.retry.count + 1) * (self.timeout_seconds + _POD_SECONDS) + waits


class Values(Settings):
    """A values file: one cluster, or one way of using it."""

    image: Image | None = Field(None, description="image of every step, name:tag or name@sha256:digest")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: tuple[Name, ...] = Field((), description="Secrets that open the image's registry")
    service_account: Name | None = Field(None, description="account the steps run as; null: KFP's own. Not in YAML")
    parallelism: int | None = Field(None, ge=1, description="iterations of a loop that run at a time")
    deadline_seconds: int | None = Field(
        None, gt=0, le=2**31 - 1, description="the whole run is ended after so many seconds; null: as compiled, a week"
    )
    parameters: dict[str, Any] = Field({}, description="new defaults of the pipeline's parameters, such as store_root")
    defaults: StepValues = StepValues()
    steps: dict[str, StepValues] = Field({}, description="settings of single steps; they replace those of defaults")

    @model_validator(mode="after")
    def _steps_are_consistent(self) -> Values:
        for step in self.steps:
            try:
                self.for_step(step)
            except ValidationError as error:
                raise ValueError(f"steps.{step}, with defaults: {_message(error.errors()[0])}") from error
        longest = max((self.for_step(step).timeout_seconds or 0 for step in ("", *self.steps)), default=0)
        if self.deadline_seconds and self.deadline_seconds < longest:
            raise ValueError(
                f"deadline_seconds {self.deadline_seconds}: is below timeout_seconds {longest} of a single step"
            )
        return self

    def for_step(self, step: str) -> StepValues:
        """Return a step's settings: its own, else those of all steps."""
        given = self.steps.get(step, StepValues())
        own = {name: getattr(given, name) for name in given.model_fields_set}
        shared = {name: getattr(self.defaults, name) for name in self.defaults.model_fields_set}
        return StepValues(**(shared | own))


def load_values(path: Path) -> Values:
    """Read a values file.

    Raises:
        ConfigError: when it is missing, is not YAML or names a setting or value that is not allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected a values file, such as infra/values/cpu.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    try:
        return Values.model_validate(content or {})
    except ValidationError as error:
        raise ConfigError("; ".join(f"{path}: {_explain(problem)}" for problem in error.errors())) from error


def num_cores(quantity: str) -> float:
    """Return a CPU quantity in cores."""
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


def num_bytes(quantity: str) -> int:
    """Return a memory quantity in bytes."""
    number = quantity.rstrip("EPTGMKi")
    return int(number) * _UNITS[quantity[len(number) :]]


def num_seconds(duration: str) -> int:
    """Return a duration in seconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


_EXPECTED = {
    Cpu: "cores, such as 2 or 500m",
    Memory: "bytes, such as 8Gi",
    Duration: "a whole number and s, m, h or d, such as 60s",
    Image: "name:tag or name@sha256:<64 hexadecimal digits>",
    Name: "a Kubernetes name: lower-case letters, digits, - and .",
    Variable: "an environment variable's name",
    Folder: "an absolute path",
}
_BY_PATTERN = {
    constraint.pattern: expected
    for alias, expected in _EXPECTED.items()
    for constraint in get_args(alias)[1:]
    if isinstance(constraint, StringConstraints)
}


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_setting(field, _fields_beside(problem["loc"]))
    if problem["type"] == "string_pattern_mismatch":
        return f"{field}: expected {_BY_PATTERN[problem['ctx']['pattern']]} (found {problem['input']!r})"
    return f"{field}: {_message(problem)}" if field else _message(problem)


def _message(problem: Any) -> str:
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{problem['msg'].replace('Input should be', 'expected')} (found {problem['input']!r})"


def _fields_beside(location: tuple[Any, ...]) -> list[str]:
    """Return the fields of the model that the last part of a location was looked for in."""
    model: Any = Values
    for part in location[:-1]:
        if part in getattr(model, "model_fields", {}):
            annotation = model.model_fields[part].annotation
            inside = [annotation, *get_args(annotation)]
            model = next((kind for kind in inside if isinstance(kind, type) and issubclass(kind, Settings)), model)
    return list(model.model_fields)
