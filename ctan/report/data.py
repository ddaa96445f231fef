"""What the report is made of: a comparison and the evaluations behind it, read and checked against each other."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ctan.cases import DataSpec
from ctan.drawing import structure_colours
from ctan.errors import DataError
from ctan.evaluation.cases import CASES_FILE, EVALUATION, TUNING, read_cases
from ctan.evaluation.improvement import relative_improvement
from ctan.evaluation.shown import case_errors, place_of
from ctan.files import read_table
from ctan.records import (
    DVH_FILE,
    FIGURES_FILE,
    HISTORY_FILE,
    MIN_CASES,
    MODEL_FILE,
    ArchitectureEntry,
    ComparisonRecord,
    EvaluationRecord,
    Interval,
    ModelEntry,
    ModelRecord,
)
from ctan.tasks import MetricSpec, Task

ROLES = (EVALUATION, TUNING)
Arrays = dict[str, npt.NDArray[Any]]
_ADVICE = "evaluate the model again"
_NOTHING = Interval()


@dataclass(frozen=True)
class Evaluated:
    """One trained and evaluated model.

    Attributes:
        facts: its entry in the comparison.
        record: how it was made.
        cases: its per-case rows.
        history: a row an epoch and task; empty when there is none.
        folder: its evaluation, for curves and figures.
    """

    facts: ModelEntry
    record: ModelRecord
    cases: pa.Table
    history: pd.DataFrame
    folder: Path

    @property
    def arch(self) -> str:
        """Architecture."""
        return self.facts.arch

    def dvh(self) -> pd.DataFrame:
        """Read the DVH curves of the figure cases; empty when there are none."""
        columns = ("case_id", "structure", "level_gy", "dose_gy", "planned", "predicted")
        return _table(EvaluationRecord.vouched(self.folder, DVH_FILE), columns)

    def figures(self) -> dict[str, dict[str, Arrays]]:
        """Read the slices: case -> view -> what -> array, see `figures.npz` in docs/formats.md."""
        return read_figures(self.folder)


def read_figures(folder: Path) -> dict[str, dict[str, Arrays]]:
    """Read what an evaluation shows: case -> view -> what -> array; empty where there is nothing.

    Raises:
        DataError: when the file is damaged.
    """
    path = EvaluationRecord.vouched(folder, FIGURES_FILE)
    found: dict[str, dict[str, Arrays]] = {}
    if not path.exists():
        return found
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                case_id, view, what = key.rsplit("/", 2)
                found.setdefault(case_id, {}).setdefault(view, {})[what] = stored[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_ADVICE}") from error
    return found


@dataclass(frozen=True)
class ReportData:
    """A comparison and its models, in the same order.

    Attributes:
        content: `comparison.json`.
        models: what was compared.
        tasks: what the models predict.
    """

    content: ComparisonRecord
    models: list[Evaluated]
    tasks: tuple[Task, ...]
    _improvements: dict[str, dict[str, Interval]] = field(default_factory=dict, repr=False)

    @property
    def archs(self) -> list[str]:
        """Architectures in the comparison's order."""
        return [entry.arch for entry in self.content.architectures]

    @property
    def reference(self) -> str:
        """The architecture that improvements are relative to."""
        return self.content.reference_arch

    @property
    def best_arch(self) -> str:
        """The architecture that was chosen on the tuning cases."""
        return self.content.best.arch

    @property
    def best(self) -> Evaluated:
        """The model that was chosen on the tuning cases."""
        return self.models[self.content.best.model_index]

    @property
    def has_enough_cases(self) -> bool:
        """Whether there are evaluation cases enough for words about other patients."""
        return self.content.num_evaluation_cases >= MIN_CASES

    @property
    def confidence(self) -> str:
        """Coverage of the intervals as it is printed, `95 %`."""
        return f"{100 * self.content.confidence:g} %"

    def of(self, arch: str) -> list[Evaluated]:
        """Return the trainings of an architecture."""
        return [model for model in self.models if model.arch == arch]

    def entry(self, arch: str) -> ArchitectureEntry:
        """Return an architecture's entry in the comparison."""
        return self.content.architecture(arch)

    def scored(self, arch: str, role: str, task: Task, metric: MetricSpec) -> Interval:
        """Return a score and its interval; without a value when the architecture has no such score."""
        return self._found(arch, role, task, metric) or _NOTHING

    def _found(self, arch: str, role: str, task: Task, metric: MetricSpec) -> Interval | None:
        return self.entry(arch).scores.get(role, {}).get(task.name, {}).get(metric.name)

    def columns(self, role: str) -> list[tuple[Task, MetricSpec]]:
        """Return the tasks and metrics that any architecture has a score of."""
        return [
            (task, metric)
            for task in self.tasks
            for metric in task.metrics
            if any(self._found(arch, role, task, metric) for arch in self.archs)
        ]

    def gains(self, arch: str, role: str) -> Mapping[str, Interval]:
        """Return an architecture's relative improvement over the reference; empty for the reference."""
        return self.entry(arch).relative_improvement.get(role, {})

    def best_against(self, arch: str) -> dict[str, Interval]:
        """Return the relative improvement of the best architecture over another on the evaluation cases, in percent.

        The same definition and intervals as in `comparison.json`, which only knows the reference.
        """
        if arch not in self._improvements:
            tables = [[_role_rows(model, EVALUATION) for model in self.of(name)] for name in (self.best_arch, arch)]
            gains = relative_improvement(self.tasks, tables[0], tables[1], self.content.confidence)
            self._improvements[arch] = {name: Interval.model_validate(gain) for name, gain in gains.items()}
        return self._improvements[arch]

    @cached_property
    def errors(self) -> dict[str, float]:
        """Evaluation case -> how wrong the chosen model is, worst first, see `ctan.evaluation.shown`."""
        return case_errors(self.best.cases, self.tasks)

    def place(self, case_id: str) -> str:
        """Return where a case stands among all by that error, such as `"worst of 33 cases"`."""
        return place_of(self.errors, case_id)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """All per-case rows."""
        return pa.concat_tables([model.cases for model in self.models]).to_pandas()

    @cached_property
    def spec(self) -> DataSpec:
        """The description of the data that were learned."""
        return self.best.record.spec

    @cached_property
    def targets(self) -> dict[str, float]:
        """Target structure -> default of its prescription in Gy; a case has its own."""
        return dict(self.spec.targets)

    @cached_property
    def colours(self) -> dict[str, str]:
        """Structure -> colour: of the targets red for what has the highest level in the cases that are drawn."""
        drawn = self.best.dvh().dropna(subset=["level_gy"]).groupby("structure")["level_gy"].median()
        levels_gy = self.targets | {str(name): float(gy) for name, gy in drawn.items() if name in self.targets}
        return structure_colours(self.spec.structures, levels_gy, self.spec.mirrored_pairs)


def read_report_data(content: ComparisonRecord, evaluation_dirs: Sequence[Path]) -> ReportData:
    """Read the evaluations of a comparison.

    Args:
        content: `comparison.json`.
        evaluation_dirs: the evaluations in the order of `content.models`.

    Raises:
        DataError: when a file is missing or damaged, or a folder is not the evaluation that was compared.
    """
    if len(content.models) != len(evaluation_dirs):
        raise DataError(
            f"the comparison is of {len(content.models)} models, but {len(evaluation_dirs)} evaluations are given; "
            f"give the folders that were compared, in their order"
        )
    models = [_read(facts, folder) for facts, folder in zip(content.models, evaluation_dirs, strict=True)]
    return ReportData(content, models, models[content.best.model_index].record.tasks)


def _read(facts: ModelEntry, folder: Path) -> Evaluated:
    record = ModelRecord.load(folder)
    for name, there in (("name", "arch"), ("fold", "fold"), ("seed", "seed"), ("run_id", "run_id")):
        found, compared = getattr(record, name), getattr(facts, there)
        if found != compared:
            raise DataError(
                f"{folder / MODEL_FILE}: {there} is {found!r}, the comparison has {compared!r} at this place; "
                f"give the folders that were compared, in their order"
            )
    history = _table(record.check_file(folder, HISTORY_FILE), ("epoch", "task", "loss", "weight", "learning_rate"))
    return Evaluated(facts, record, read_cases(EvaluationRecord.vouched(folder, CASES_FILE)), history, folder)


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a Parquet file that may be absent (an empty table then) but must be whole."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    return read_table(path, columns, _ADVICE).to_pandas()


def _role_rows(model: Evaluated, role: str) -> pa.Table:
    import pyarrow.compute as pc

    return model.cases.filter(pc.field("role") == role)
