"""Argo's nodes behind a run of Kubeflow Pipelines: where each task of an answer belongs, and the names of its pods.

What KFP 2.17 calls the tasks of a run are nodes of an Argo workflow, without parent and without pod: each once by its
name and, with the stock retry settings, once more for each try (`train`, `train(0)`). They name the *ids* of their
children, `<workflow>-<hash of the child's path>`, and a path consists of names of the submitted pipeline. So the paths
are found by trying the names that there can be; in every recorded answer this explains every id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ctan.cluster.compiled import PlacedStep

EXECUTOR = "executor"  # the node of a step's container; its pod is this node, or the last try of it
_FNV_OFFSET, _FNV_PRIME = 2166136261, 16777619  # FNV-1a of 32 bits
_TEMPLATE = "system-container-impl"  # KFP's template of a step's pod


@dataclass(frozen=True)
class Place:
    """A step and, in a loop, which iteration of it."""

    step: PlacedStep
    iteration: int = 0


class Nodes:
    """The nodes of one answer."""

    def __init__(self, tasks: list[Any]) -> None:
        self._ids = {child.pod_name for task in tasks for child in task.child_tasks or []}
        self._workflow = next(iter(self._ids), "").rpartition("-")[0]

    def children(self, place: Place) -> set[str]:
        """Return the ids that the node of a step names as children, and no other node: its try, or its container."""
        paths = self._paths(place)
        below = {self._id(child) for path in paths for child in (f"{path}(0)", f"{path}.{EXECUTOR}")}
        return below & self._ids

    def num_iterations(self, step: PlacedStep) -> int:
        """Return how many iterations of a step's loop have a node."""
        above = step.path[: step.path.index(step.loop) + 1]
        loops = self._descend([self._workflow], ("root", *above))
        count = 0
        while self._descend(loops, (_iteration(count),)):
            count += 1
        return count

    def pods(self, place: Place) -> list[str]:
        """Return the names of the pods that a step had so far, one a try."""
        template = f"retry-{_TEMPLATE}" if place.step.retried else _TEMPLATE
        nodes = [try_ for node in self._descend(self._paths(place), (EXECUTOR,)) for try_ in self._tries(node)]
        return [f"{self._workflow}-{template}-{_hash(node)}" for node in nodes]

    def _paths(self, place: Place) -> list[str]:
        """Return the path of a step's node; with and without the node of a try at each level."""
        names: list[str] = ["root"]
        for name in place.step.path:
            names += [name, _iteration(place.iteration), "iteration-item"] if name == place.step.loop else [name]
        return self._descend([self._workflow], tuple(names))

    def _descend(self, paths: list[str], names: tuple[str, ...]) -> list[str]:
        for name in names:
            below = [f"{try_}.{name}" for path in paths for try_ in self._tries(path)]
            paths = [path for path in below if self._id(path) in self._ids]
        return paths

    def _tries(self, path: str) -> list[str]:
        """Return the nodes of the tries of a node that is retried; the node itself where none is."""
        tries: list[str] = []
        while self._id(f"{path}({len(tries)})") in self._ids:
            tries.append(f"{path}({len(tries)})")
        return tries or [path]

    def _id(self, path: str) -> str:
        return f"{self._workflow}-{_hash(path)}"


def is_container(name: str | None) -> bool:
    """Whether a node is a container of some step, or a try of one."""
    return name is not None and name.partition("(")[0] == EXECUTOR


def places(steps: list[PlacedStep], iterations: int) -> Iterator[Place]:
    """Yield every step, those in a loop once for each of so many iterations."""
    for step in steps:
        yield from (Place(step, number) for number in range(iterations if step.loop else 1))


def _iteration(number: int) -> str:
    return f"iteration-iterations({number}:{number})"


@lru_cache(maxsize=2**16)  # the same paths at every look at a run
def _hash(text: str) -> int:
    value = _FNV_OFFSET
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value
