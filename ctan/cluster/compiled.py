"""A compiled pipeline as data: its name, parameters, steps and tasks, read from the YAML that kfp wrote.

The first document is KFP's `PipelineSpec`, the second, where there is one, its `PlatformSpec` (what Kubernetes alone
knows). A step is an executor: one container. Tasks of the pipeline, its loops and conditions refer to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ctan.errors import DataError

PIPELINES = ("ctan", "retrain", "tune")  # compiled and installed with ctan
_EXECUTOR = "exec-"
_FUNCTION = "--function_to_execute"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C reads a pipeline in a tenth of the time


def compiled_pipeline(name: str = "ctan") -> Path:
    """Return the path of a compiled pipeline that is installed with ctan.

    Args:
        name: `ctan` (train, compare, promote) or `retrain` (the same, when something changed).
    """
    return Path(str(resources.files("pipelines").joinpath(f"{name}.yaml")))


@dataclass(frozen=True)
class PlacedStep:
    """A step at its place in the pipeline.

    Attributes:
        path: names of the tasks from the pipeline down to it, its own last: loops, conditions, pipelines inside it.
        container: name of the step whose container it runs, see `CompiledPipeline.containers`.
        loop: name of the loop on the path; empty where there is none.
        cached: whether KFP may reuse an earlier run's outputs.
        retried: whether the pipeline asks for retries, which decides about the name of its pod.
    """

    path: tuple[str, ...]
    container: str
    loop: str = ""
    cached: bool = False
    retried: bool = False

    @property
    def name(self) -> str:
        """Name of its task."""
        return self.path[-1]


@dataclass(frozen=True)
class CompiledPipeline:
    """The documents of a compiled pipeline.

    Attributes:
        source: where it was read, for messages.
        spec: first document, a `PipelineSpec`.
        platform: second document, a `PlatformSpec`; empty where there is none.
    """

    source: str
    spec: dict[str, Any]
    platform: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> CompiledPipeline:
        """Read a compiled pipeline.

        Raises:
            DataError: when the file is missing, is not YAML or not a compiled pipeline.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise DataError(
                f"{path}: cannot be read ({reason}); expected a compiled pipeline, such as pipelines/ctan.yaml"
            ) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str = "pipeline") -> CompiledPipeline:
        """Read a compiled pipeline from text; see `read`."""
        try:
            documents = list(yaml.load_all(text, Loader=_LOADER))
        except yaml.YAMLError as error:
            raise DataError(f"{source}: not valid YAML: {error}") from error
        if not 1 <= len(documents) <= 2 or not all(isinstance(document, dict) for document in documents):
            raise DataError(f"{source}: expected a compiled pipeline of one or two documents, found {len(documents)}")
        spec = documents[0]
        if missing := [key for key in ("pipelineInfo", "root", "deploymentSpec") if key not in spec]:
            raise DataError(
                f"{source}: not a compiled pipeline, {', '.join(missing)} is missing; `kfp dsl compile` makes one"
            )
        return cls(source, spec, documents[1] if len(documents) == 2 else {})

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Definition of each parameter of the pipeline: `parameterType`, `defaultValue`, `isOptional`."""
        return self.spec["root"].get("inputDefinitions", {}).get("parameters", {})

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        """Container of each step, by the step's name; importers and the like have none."""
        executors = self.spec["deploymentSpec"].get("executors", {})
        return {
            label.removeprefix(_EXECUTOR): executor["container"]
            for label, executor in executors.items()
            if "container" in executor
        }

    def component_of(self, step: str) -> str:
        """Name of the component that a step's container runs: kfp calls the second use of `resolve` `resolve-2`."""
        arguments = self.containers[step].get("args", [])
        named = arguments[arguments.index(_FUNCTION) + 1] if _FUNCTION in arguments[:-1] else step
        return str(named).replace("_", "-")

    @staticmethod
    def executor(step: str) -> str:
        """Name of a step's executor."""
        return f"{_EXECUTOR}{step}"

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Every task: of the pipeline, its loops, its conditions and pipelines inside it."""
        for component in (self.spec["root"], *self.spec.get("components", {}).values()):
            yield from component.get("dag", {}).get("tasks", {}).values()

    def placed_steps(self) -> list[PlacedStep]:
        """Every step at every place where it runs; one in a loop once."""
        return list(self._below(self.spec["root"], (), ""))

    def _below(self, component: dict[str, Any], path: tuple[str, ...], loop: str) -> Iterator[PlacedStep]:
        components = self.spec.get("components", {})
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            called = components.get(task["componentRef"]["name"], {})
            if "dag" in called:
                looping = "parameterIterator" in task or "artifactIterator" in task
                yield from self._below(called, (*path, name), name if looping else loop)
            else:
                cached = task.get("cachingOptions", {}).get("enableCache", False)
                container = called.get("executorLabel", "").removeprefix(_EXECUTOR)
                yield PlacedStep((*path, name), container, loop, cached, "retryPolicy" in task)

    def tasks_of(self, step: str) -> Iterator[dict[str, Any]]:
        """Every task that runs a step's container."""
        components = self.spec.get("components", {})
        for task in self.tasks():
            component = components.get(task["componentRef"]["name"], {})
            if component.get("executorLabel") == self.executor(step):
                yield task
