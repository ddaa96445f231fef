"""A run as Kubeflow Pipelines 2.17 tells of it while it goes on: answers one after the other, and logs by pod.

Modelled on the answers in `tests/data/kfp-server`: Argo's nodes instead of tasks, each a second time for its try,
drivers, children by the hash of their path, records of the cache without name and state, no `error`, a run that is
canceled or overruns its deadline ending as FAILED, steps that were never reached listed without a state.

Not shown: the order in which Argo gives the tasks (here by path), successors as children of their predecessors (here
of the pipeline's node), tries after the first, several steps at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from pathlib import Path
from typing import Any

from ctan.cluster.compiled import CompiledPipeline

RECORDED = Path(__file__).parents[1] / "data" / "kfp-server"
WORKFLOW = "ctan-x7k2p"
_TICK = timedelta(seconds=10)


def recorded(name: str) -> dict[str, Any]:
    """Return a recorded answer, such as `run-failed-gate`."""
    answer: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return answer


def pod_of(path: str) -> str:
    """Return the name of the pod of a node."""
    return f"{WORKFLOW}-system-container-impl-{_fnv1a(path)}"


@cache
def _fnv1a(text: str) -> int:
    return reduce(lambda value, byte: (value ^ byte) * 0x01000193 % 2**32, text.encode(), 0x811C9DC5)


class _Ended(Exception):
    """A step ended the run, or waits for ever."""


@dataclass
class SimulatedRun:
    """A run of a compiled pipeline.

    Attributes:
        pipeline: what is run.
        iterations: of its loop.
        outcomes: by a step's name, `name` or `name[iteration]`: `cached`, `failed`, `canceled`, `overrun` (the run's
            deadline comes while it runs), `stuck` (its container never starts); else it succeeds.
        conditions: names of tasks whose condition is false.
        deadline_seconds: of the run.
        logs: text by pod, filled while the run goes on from `said`.
        said: what a step's container prints, by the name of its task.
    """

    pipeline: CompiledPipeline
    iterations: int = 1
    outcomes: dict[str, str] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    deadline_seconds: int = 0
    said: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._now = self._created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self._nodes: dict[str, dict[str, Any]] = {}
        self._records: list[dict[str, Any]] = []
        self._history = [self._status("PENDING")]

    def answers(self, only_the_last: bool = False) -> list[dict[str, Any]]:
        """Return what the server answers, from the first look to the last."""
        found = [self._answer("PENDING")]
        self._history.append(self._status("RUNNING"))
        ended = "SUCCEEDED"
        tree = self._dag(self.pipeline.spec["root"], f"{WORKFLOW}(0).root(0)", "")
        whole = (WORKFLOW, f"{WORKFLOW}(0)", f"{WORKFLOW}(0).root", f"{WORKFLOW}(0).root(0)")
        for path in whole:
            self._begin(path)
        try:
            for _ in tree:
                found += [] if only_the_last else [self._answer("RUNNING")]
        except _Ended as reason:
            if str(reason) == "stuck":
                return found
            ended = "FAILED"
            if str(reason) == "canceled":
                self._history.append(self._status("CANCELING"))
                found.append(self._answer("CANCELING"))
            self._never_reached(self.pipeline.spec["root"], f"{WORKFLOW}(0).root(0)")
            for path, node in self._nodes.items():
                if node["state"] == "RUNNING" and path not in whole:
                    self._nodes[path] = node | {"state": ended, "end_time": _written(self._now)}
            for _ in self._dag(self.pipeline.spec["root"], f"{WORKFLOW}(0).root(0)", "", after_the_end=True):
                now = "CANCELING" if self._history[-1]["state"] == "CANCELING" else "RUNNING"
                found += [] if only_the_last else [self._answer(now)]
        for node in self._nodes.values():
            if node["state"] == "RUNNING":
                node |= {"state": ended, "end_time": _written(self._now)}
        self._history.append(self._status(ended))
        return [*found, self._answer(ended) | {"finished_at": _written(self._now)}]

    def _dag(self, component: dict[str, Any], parent: str, number: str, after_the_end: bool = False) -> Iterator[None]:
        """Run the tasks of a DAG, or those alone that run after it failed; yield whenever something changed."""
        components = self.pipeline.spec["components"]
        for name, task in _in_order(component["dag"]["tasks"]):
            if after_the_end and not _always(task):
                continue
            called = components[task["componentRef"]["name"]]
            path = f"{parent}.{name}"
            self._end(f"{path}-driver", self._begin(f"{path}-driver"))
            self._end(f"{path}-driver(0)", self._begin(f"{path}-driver(0)"))
            self._now += _TICK
            if name in self.conditions:
                self._end(path, self._begin(path), "SKIPPED")
                continue
            self._begin(path), self._begin(f"{path}(0)")
            if "dag" not in called:
                yield from self._step(name, task, path, number)
            elif "parameterIterator" in task:
                for index in range(self.iterations):
                    inner = f"{path}(0).iteration-iterations({index}:{index})"
                    item = f"{inner}(0).iteration-item"
                    for node in (inner, f"{inner}(0)", item, f"{item}(0)"):
                        self._begin(node)
                    yield from self._dag(called, f"{item}(0)", f"[{index}]")
                    for node in (item, f"{item}(0)", inner, f"{inner}(0)"):
                        self._end(node, self._nodes[node])
            else:
                yield from self._dag(called, f"{path}(0)", number)
            for node in (f"{path}(0)", path):
                self._end(node, self._nodes[node])
            yield

    def _step(self, name: str, task: dict[str, Any], path: str, number: str) -> Iterator[None]:
        outcome = self.outcomes.get(f"{name}{number}", self.outcomes.get(name, ""))
        executor = f"{path}(0).executor"
        if outcome == "cached":
            self._end(executor, self._begin(executor), "SKIPPED")
            return
        self._begin(executor)
        container = self._begin(f"{executor}(0)") | {}
        self._nodes[f"{executor}(0)"]["state"] = "PENDING"
        yield
        if outcome == "stuck":
            raise _Ended(outcome)
        self._nodes[f"{executor}(0)"]["state"] = "RUNNING"
        self.logs[pod_of(f"{executor}(0)")] = self.said.get(name, f"ctan step: {name}\nctan step: done, 1.0 s work")
        self._now += _TICK
        yield
        if outcome == "overrun":
            self._now = self._created + timedelta(seconds=self.deadline_seconds)
        if outcome in ("failed", "canceled", "overrun"):
            self._nodes[f"{executor}(0)"] |= {"state": "FAILED", "end_time": _written(self._now)}
            raise _Ended(outcome)
        if task.get("cachingOptions", {}).get("enableCache"):
            begun = {"create_time": container["start_time"], "start_time": container["start_time"]}
            self._records.append(begun | {"end_time": _written(self._now), "execution_id": "98"})
        for node in (f"{executor}(0)", executor):
            self._end(node, self._nodes[node])

    def _never_reached(self, component: dict[str, Any], parent: str) -> None:
        """List what a failure left out; of what is inside a loop or condition that did not begin KFP knows nothing."""
        for name, task in component["dag"]["tasks"].items():
            called = self.pipeline.spec["components"][task["componentRef"]["name"]]
            if f"{parent}.{name}" not in self._nodes and not _always(task):
                for node in (f"{parent}.{name}-driver", f"{parent}.{name}"):
                    self._end(node, self._begin(node), "")
            elif "dag" in called and "parameterIterator" not in task and f"{parent}.{name}(0)" in self._nodes:
                self._never_reached(called, f"{parent}.{name}(0)")

    def _begin(self, path: str) -> dict[str, Any]:
        now = _written(self._now)
        self._nodes[path] = {"display_name": _last(path), "state": "RUNNING", "create_time": now, "start_time": now}
        return self._nodes[path]

    def _end(self, path: str, node: dict[str, Any], state: str = "SUCCEEDED") -> None:
        self._nodes[path] = node | {"end_time": _written(self._now), "state": state}

    def _status(self, state: str) -> dict[str, str]:
        return {"update_time": _written(self._now), "state": state}

    def _answer(self, state: str) -> dict[str, Any]:
        children: dict[str, list[dict[str, str]]] = {}
        for path in self._nodes:
            children.setdefault(_parent(path), []).append({"pod_name": f"{WORKFLOW}-{_fnv1a(path)}"})
        tasks = [
            {"task_id": f"{_fnv1a('task' + path):08x}"} | self._told(path, children) for path in sorted(self._nodes)
        ]
        tasks += [{"task_id": f"record-{number}"} | record for number, record in enumerate(self._records)]
        return {
            "state": state,
            "created_at": _written(self._created),
            "state_history": list(self._history),
            "run_details": {"task_details": tasks},
        }

    def _told(self, path: str, children: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
        node = {key: value for key, value in self._nodes[path].items() if value}
        return node | ({"child_tasks": children[path]} if path in children else {})


def _parent(path: str) -> str:
    """Return the path of the node that names a node as its child; a try's is the node that is tried."""
    return path.removesuffix("(0)") if path.endswith("(0)") else path.rpartition(".")[0]


def _always(task: dict[str, Any]) -> bool:
    """Whether a task runs also after a failure: the exit task of a `dsl.ExitHandler`."""
    return "strategy" in task.get("triggerPolicy", {})


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _in_order(tasks: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield tasks after those they depend on."""
    done: set[str] = set()
    while len(done) < len(tasks):
        for name, task in tasks.items():
            if name not in done and set(task.get("dependentTasks", [])) <= done:
                done.add(name)
                yield name, task
