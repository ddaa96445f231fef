"""What an answer of Kubeflow Pipelines says about a run: which steps there are, and how far each is.

KFP's list of tasks holds Argo's nodes (see `ctan.cluster.nodes`), records of its cache and its own drivers: 77 entries
for 9 steps. Steps are the entries with exactly the name of a task of the submitted pipeline. `error` is empty whatever
happened; a canceled run ends as FAILED; a step that was never reached has no state once the run has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ctan.cluster.compiled import CompiledPipeline, PlacedStep
from ctan.cluster.nodes import Nodes, Place, is_container, places

SUCCEEDED = ("SUCCEEDED", "SKIPPED")
FINISHED = (*SUCCEEDED, "FAILED", "CANCELED")
CANCELED = "CANCELED"
_CANCELING = ("CANCELING", CANCELED)
_DEADLINE_SLACK_SECONDS = 5  # by which Argo may stop a run before its deadline has passed by the server's clock


@dataclass(frozen=True)
class Step:
    """One step of a run, in a loop one iteration of it.

    Attributes:
        place: where it is in the pipeline.
        label: its name, in a loop with the iteration: `train 3/12`.
        state: KFP's word; WAITING before it began, SKIPPED where a condition left it out.
        cached: whether KFP took an earlier run's outputs instead of running it.
    """

    place: Place
    label: str
    state: str
    cached: bool = False

    @property
    def in_words(self) -> str:
        """State as it is told."""
        return "SUCCEEDED (cached)" if self.cached else self.state


class Progress:
    """One answer about a run, understood by the pipeline that was submitted.

    Args:
        run: the answer, kfp-server-api's `V2beta1Run`.
        pipeline: what was submitted.
        expected_iterations: of its loop, where that is known beforehand; 0 otherwise.
    """

    def __init__(self, run: Any, pipeline: CompiledPipeline, expected_iterations: int = 0) -> None:
        self._run, self._pipeline, self._expected = run, pipeline, expected_iterations
        self._began: dict[Place, datetime] = {}
        self._tasks: list[Any] = (run.run_details.task_details if run.run_details else None) or []
        self.nodes = Nodes(self._tasks)

    @property
    def state(self) -> str:
        """State of the run; CANCELED also where KFP ends with FAILED after it was canceled."""
        state = self._run.state or "PENDING"
        if state in FINISHED and any(past.state in _CANCELING for past in self._run.state_history or []):
            return CANCELED
        return str(state)

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self.state in FINISHED

    @property
    def message(self) -> str:
        """What KFP itself says of the run's end; mostly nothing."""
        return str((self._run.error and self._run.error.message) or "")

    @cached_property
    def steps(self) -> list[Step]:
        """Steps in the order they began, then those to come."""
        placed = self._pipeline.placed_steps()
        num = self._num_iterations(placed)
        everywhere = list(places(placed, num))
        found = self._matched(everywhere)
        self._began = {place: task.start_time for place, task in found.items() if task.start_time}
        began = sorted((place for place in everywhere if place in self._began), key=self._began.__getitem__)
        to_come = [place for place in everywhere if place not in self._began]
        return [self._step(place, found.get(place), num) for place in (*began, *to_come)]

    @property
    def count(self) -> tuple[int, int]:
        """How many steps are done, and how many there are without those left out."""
        wanted = [step for step in self.steps if step.state != "SKIPPED"]
        return sum(step.state == "SUCCEEDED" for step in wanted), len(wanted)

    @property
    def waiting(self) -> frozenset[str]:
        """Labels of steps whose container does not start.

        A step that is RUNNING while its container is PENDING is all that KFP shows of an image that cannot be pulled or
        a pod that fits no node. A container's node begins with the step's, a later try of it after that.
        """
        pending = [
            task.start_time
            for task in self._tasks
            if is_container(task.display_name) and task.state == "PENDING" and task.start_time
        ]
        steps = [step for step in self.steps if step.place in self._began]
        going = [(self._began[step.place], step.label) for step in steps if step.state in ("RUNNING", "PENDING")]
        found = (max((one for one in going if one[0] <= start), default=None) for start in pending)
        return frozenset(one[1] for one in found if one)

    @property
    def deadline_seconds(self) -> int:
        """Time the whole run may take; 0 for no limit."""
        config = self._pipeline.platform.get("platforms", {}).get("kubernetes", {}).get("pipelineConfig", {})
        return int(config.get("activeDeadlineSeconds", 0))

    @property
    def passed_its_deadline(self) -> bool:
        """Whether the run was ended because its time was over; KFP says FAILED and no more."""
        start, end = self._run.created_at, self._run.finished_at
        if not (self.state == "FAILED" and self.deadline_seconds and start and end):
            return False
        return bool((end - start).total_seconds() >= self.deadline_seconds - _DEADLINE_SLACK_SECONDS)

    def _num_iterations(self, placed: list[PlacedStep]) -> int:
        looping = [step for step in placed if step.loop]
        seen = [self.nodes.num_iterations(step) for step in looping] + [len(self._named(step.name)) for step in looping]
        return max([self._expected, 1, *seen])

    def _named(self, name: str) -> list[Any]:
        found = [task for task in self._tasks if task.display_name == name]
        return sorted(found, key=lambda task: str(task.start_time or task.create_time))

    def _matched(self, everywhere: list[Place]) -> dict[Place, Any]:
        """Return the task of each place: by its node where that has children yet, else by the order of beginning."""
        found: dict[Place, Any] = {}
        for name in dict.fromkeys(place.step.name for place in everywhere):
            free = [place for place in everywhere if place.step.name == name]
            owners = {child: place for place in free for child in self.nodes.children(place)}
            left = []
            for task in self._named(name):
                own = [owners[child.pod_name] for child in task.child_tasks or [] if child.pod_name in owners]
                if own and own[0] not in found:
                    found[own[0]] = task
                else:
                    left.append(task)
            found |= dict(zip((place for place in free if place not in found), left, strict=False))
        return found

    def _step(self, place: Place, task: Any, num_iterations: int) -> Step:
        step = place.step
        label = f"{step.name} {place.iteration + 1}/{num_iterations}" if step.loop else step.name
        state = (task and task.state) or "WAITING"
        if state == "WAITING" and self._left_out(step):
            state = "SKIPPED"
        return Step(place, label, state, state == "SUCCEEDED" and step.cached and self._was_cached(task))

    def _left_out(self, step: PlacedStep) -> bool:
        """Whether a condition around a step was false."""
        return any(task.state == "SKIPPED" for name in step.path[:-1] for task in self._named(name))

    def _was_cached(self, task: Any) -> bool:
        """Whether KFP took earlier outputs: then it skips the container, and makes no record for its cache."""
        inside = [one for one in self._tasks if one.start_time and task.start_time <= one.start_time <= task.end_time]
        skipped = any(is_container(one.display_name) and one.state == "SKIPPED" for one in inside)
        return skipped and not any(one.display_name is None and one.execution_id for one in inside)
