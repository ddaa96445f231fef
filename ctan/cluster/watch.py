"""Tell of a run what is new while it goes on, and at its end what came out or why it failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.logs import Logs
from ctan.cluster.progress import CANCELED, SUCCEEDED, Progress, Step
from ctan.run_log import said, user_error

Show = Callable[[str], None]

_HEARTBEAT_SECONDS = 60.0
START_SECONDS = 120.0  # after which a container that does not start is worth a word
_TAIL_LINES = 15
_NOTHING = ""  # stands for the whole run among the steps that were warned of
_TOLD_AT_THE_END = ("check", "compare", "promote")  # steps whose words are the result
_CAUSES = (
    "its image cannot be pulled (does your registry hold it? `image:` and `image_pull_secrets:` of the values file), "
    "no node has the CPU, memory or GPUs it asks for or the labels of `node_selector:`, a claim, Secret or ConfigMap "
    "that it needs is missing, or a quota is used up"
)


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        state: KFP's word: SUCCEEDED, SKIPPED, FAILED or CANCELED (whose last state is FAILED to KFP).
        failures: why it failed: a text a failed step, with the last lines of its log.
        results: what the steps that decide said, a line each.
    """

    state: str
    failures: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state in SUCCEEDED


class Watch:
    """Tells of a run what is new.

    Args:
        pipeline: what was submitted.
        logs: where its steps' logs are asked for.
        show: receives each line.
        follow: also say when the state of a step changes.
        expected_iterations: of its loop, where that is known; 0 otherwise.
    """

    def __init__(
        self,
        pipeline: CompiledPipeline,
        logs: Logs,
        show: Show,
        follow: bool = False,
        expected_iterations: int = 0,
    ) -> None:
        self._pipeline, self._logs, self._show, self._follow = pipeline, logs, show, follow
        self._expected = expected_iterations
        self._started = self._told = time.monotonic()
        self._state, self._steps = "", dict[str, str]()
        self._waiting_since: dict[str, float] = {}
        self._warned: set[str] = set()

    def update(self, run: Any) -> RunEnd | None:
        """Take an answer; return how the run ended once it has."""
        progress = Progress(run, self._pipeline, self._expected)
        if self._follow:
            self._tell_steps(progress)
        now = time.monotonic()
        if progress.state != self._state or now - self._told >= _HEARTBEAT_SECONDS:
            self._tell_run(progress, now)
        self._state = progress.state
        if progress.finished:
            return self._end(progress)
        self._tell_waiting(progress, now)
        return None

    def _tell_steps(self, progress: Progress) -> None:
        for step in progress.steps:
            key = f"{'/'.join(step.place.step.path)} {step.place.iteration}"
            if self._steps.get(key, "WAITING") != step.in_words:
                self._show(f"{clock()}   {step.label}: {step.in_words}")
            self._steps[key] = step.in_words

    def _tell_run(self, progress: Progress, now: float) -> None:
        done, total = progress.count
        words = f"{progress.state}, {done} of {total} steps done"
        if cached := sum(step.cached for step in progress.steps):
            words += f" ({cached} cached)"
        if left_out := sum(step.state == "SKIPPED" for step in progress.steps):
            words += f", {left_out} left out"
        if going := [step.label for step in progress.steps if step.state == "RUNNING"]:
            words += f", now {', '.join(going)}"
        self._show(f"{clock()} {words}, {now - self._started:.0f} s")
        self._told = now

    def _tell_waiting(self, progress: Progress, now: float) -> None:
        """Say once of each step that its container does not start, and what may be the cause."""
        waiting = progress.waiting
        self._waiting_since = {label: self._waiting_since.get(label, now) for label in waiting}
        late = {label for label, since in self._waiting_since.items() if now - since >= START_SECONDS} - self._warned
        for step in progress.steps:
            if step.label in late:
                self._warn(progress, step)
        self._warned |= late
        nothing = not waiting and all(step.state == "WAITING" for step in progress.steps)
        if nothing and now - self._started >= START_SECONDS and _NOTHING not in self._warned:
            self._warned.add(_NOTHING)
            self._show(
                f"{clock()} no step has started for {START_SECONDS:.0f} s, and no container is waiting: Argo's "
                "workflow controller or KFP's drivers do not run, or a quota is used up. Look at: "
                f"kubectl get workflows,pods,events --namespace {self._logs.namespace}"
            )

    def _warn(self, progress: Progress, step: Step) -> None:
        nothing = "no step has started yet; " if progress.count[0] == 0 else ""
        image = self._pipeline.containers[step.place.step.container]["image"]
        self._show(
            f"{clock()} {nothing}{step.label}: its container has not started for {START_SECONDS:.0f} s. Kubeflow does "
            f"not say why, and waits until the run's deadline. Look at: {_CAUSES}. Its image is {image}"
        )
        for pod in progress.nodes.pods(step.place)[-1:]:
            self._show(f"{clock()}   kubectl describe pod --namespace {self._logs.namespace} {pod}")

    def _end(self, progress: Progress) -> RunEnd:
        if progress.state in SUCCEEDED:
            return RunEnd(progress.state, results=tuple(self._results(progress)))
        if progress.state == CANCELED:
            under_way = [step.label for step in progress.steps if step.state not in ("SUCCEEDED", "SKIPPED", "WAITING")]
            return RunEnd(CANCELED, (f"canceled; under way: {', '.join(under_way) or 'no step'}",))
        return RunEnd(progress.state, tuple(self._failures(progress)))

    def _results(self, progress: Progress) -> Iterator[str]:
        for step in progress.steps:
            if step.place.step.name not in _TOLD_AT_THE_END or step.state != "SUCCEEDED":
                continue
            log = self._logs.of(step.place, progress.nodes)
            spoken = said(log.lines)
            if spoken:
                yield from (f"{step.label}: {line}" for line in spoken)
            else:
                yield f"{step.label}: what it said cannot be read here; {log.source or 'see the page of the run'}"

    def _failures(self, progress: Progress) -> Iterator[str]:
        if progress.passed_its_deadline:
            hours = progress.deadline_seconds / 3600
            yield (
                f"its time is over: the run was ended after {hours:.3g} h, its deadline; a longer one: "
                "`deadline_seconds:` of the values file. Trainings go on from their checkpoints"
            )
        failed = [step for step in progress.steps if step.state == "FAILED"]
        for step in failed:
            yield self._failure(step, progress)
        if progress.message or not failed:
            yield progress.message or "Kubeflow names no step that failed and no reason; see the page of the run"

    def _failure(self, step: Step, progress: Progress) -> str:
        log = self._logs.of(step.place, progress.nodes)
        if not log.lines:
            how = f"; nobody here has its log, ask: {log.source}" if log.source else "; see the page of the run"
            return f"{step.label}: failed{how}"
        known = user_error(log.lines)
        reason = known[1].splitlines()[0] if known else "failed"
        tail = "\n".join(f"    {line}" for line in log.lines[-_TAIL_LINES:])
        return f"{step.label}: {reason}\n  last lines of its log ({log.source}):\n{tail}"


def clock() -> str:
    """Return the time of day."""
    return time.strftime("%H:%M:%S")
