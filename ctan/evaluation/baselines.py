"""Simple predictions that know no network, and the floor that the working grid imposes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ctan.cases import Case
from ctan.config import EvaluationConfig
from ctan.evaluation.cases import EVALUATION
from ctan.evaluation.scoring import score_case
from ctan.progress import track
from ctan.store import Store
from ctan.tasks import Baselines, Row, Task

GRID_FLOOR = "grid-floor"


class Simple:
    """The baselines of every task, and the grid's floor, on the cases of a store.

    Args:
        store: holds the cases.
        tasks: that bring baselines.
        config: which optional scores to compute.
    """

    def __init__(self, store: Store, tasks: Sequence[Task], config: EvaluationConfig) -> None:
        self._store, self._config = store, config
        self._dense = tuple(task for task in tasks if task.head == "dense")
        self._baselines = [(task, made) for task in tasks if (made := task.baselines(store.spec)) is not None]
        self._with_arrays = any(baselines.reads_arrays for _, baselines in self._baselines)

    @property
    def labels(self) -> dict[str, str]:
        """Baselines in the order of the tasks, name in tables -> name for people."""
        return {arch: label for _, baselines in self._baselines for arch, label in baselines.labels.items()}

    def rows(self, train_ids: Sequence[str], case_ids: Sequence[str]) -> list[Row]:
        """Return the rows of `cases.parquet`, fold and seed -1.

        Args:
            train_ids: cases that the baselines learn from.
            case_ids: evaluation cases.
        """
        learned_from = train_ids if self._baselines else []
        steps = self._steps(learned_from, case_ids)
        return [row for rows in track(steps, len(learned_from) + len(case_ids), "baselines") for row in rows]

    def _steps(self, train_ids: Sequence[str], case_ids: Sequence[str]) -> Iterator[list[Row]]:
        for case_id in train_ids:
            case = self._store.load(case_id, arrays=self._with_arrays)
            for _, baselines in self._baselines:
                baselines.learn(case)
            yield []
        for case_id in case_ids:
            reference = self._store.reference(case_id, arrays=self._with_arrays or bool(self._dense))
            rows = [row for task, baselines in self._baselines for row in self._scored(task, baselines, reference)]
            yield rows + (self._floor(reference) if self._dense else [])

    def _scored(self, task: Task, baselines: Baselines, reference: Case) -> list[Row]:
        """Score the baselines of one task on one evaluation case."""
        predicted = baselines.predict(reference, partial(self._store.to_native, reference.case_id))
        return [
            _identity(arch, reference) | {"task": task.name} | row
            for arch, native in predicted.items()
            for row in task.rows(native, reference, self._store.spec, self._config)
        ]

    def _floor(self, reference: Case) -> list[Row]:
        """Score the truth after the way to the working grid and back: no network can be better on this grid."""
        case, structures = self._store.load(reference.case_id), self._store.spec.structures
        truth = {task.name: found for task in self._dense if (found := task.truth(case, structures)) is not None}
        tasks = tuple(task for task in self._dense if task.name in truth)
        scored = score_case(self._store, reference, tasks, truth, self._config)
        return [_identity(GRID_FLOOR, reference) | row for row in scored.rows]


def _identity(arch: str, reference: Case) -> Row:
    ids = {"case_id": reference.case_id, "group_id": reference.group_id}
    return {"arch": arch, "fold": -1, "seed": -1, "role": EVALUATION, **ids}
