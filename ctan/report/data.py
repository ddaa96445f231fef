"""What the report is made of: a comparison and the evaluations behind it, read and checked against each other."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ctan.cases import DataSpec
from ctan.config import EvaluationConfig
from ctan.drawing import structure_colours
from ctan.errors import DataError
from ctan.evaluation.cases import CASES_FILE, EVALUATION, TUNING, read_cases
from ctan.evaluation.improvement import Intervals, relative_improvement
from ctan.tasks import MetricSpec, Task, task_from_json

ROLES = (EVALUATION, TUNING)
Arrays = dict[str, npt.NDArray[Any]]
_ADVICE = "evaluate the model again"


@dataclass(frozen=True)
class Evaluated:
    """One trained and evaluated model.

    Attributes:
        facts: its entry in `comparison.json`.
        model_json: how it was made.
        cases: its per-case rows.
        history: a row an epoch and task; empty when there is none.
        folder: its evaluation, for curves and figures.
    """

    facts: dict[str, Any]
    model_json: dict[str, Any]
    cases: pa.Table
    history: pd.DataFrame
    folder: Path

    @property
    def arch(self) -> str:
        """Architecture."""
        return cast(str, self.facts["arch"])

    def dvh(self) -> pd.DataFrame:
        """Read the DVH curves of the figure cases; empty when there are none."""
        return _table(self.folder / "dvh.parquet", ("case_id", "structure", "dose_gy", "planned", "predicted"))

    def figures(self) -> dict[str, dict[str, Arrays]]:
        """Read the slices: case -> view -> what -> array, see `figures.npz` in the architecture page."""
        path = self.folder / "figures.npz"
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

    content: dict[str, Any]
    models: list[Evaluated]
    tasks: tuple[Task, ...]
    _improvements: dict[str, Intervals] = field(default_factory=dict, repr=False)

    @property
    def archs(self) -> list[str]:
        """Architectures in the comparison's order."""
        return [entry["arch"] for entry in self.content["architectures"]]

    @property
    def reference(self) -> str:
        """The architecture that improvements are relative to."""
        return cast(str, self.content["reference_arch"])

    @property
    def best_arch(self) -> str:
        """The architecture that was chosen on the tuning cases."""
        return cast(str, self.content["best"]["arch"])

    @property
    def best(self) -> Evaluated:
        """The model that was chosen on the tuning cases."""
        return self.models[self.content["best"]["model_index"]]

    @property
    def confidence(self) -> str:
        """Coverage of the intervals as it is printed, `95 %`."""
        return f"{100 * self.content['confidence']:g} %"

    def of(self, arch: str) -> list[Evaluated]:
        """Return the trainings of an architecture."""
        return [model for model in self.models if model.arch == arch]

    def entry(self, arch: str) -> dict[str, Any]:
        """Return an architecture's entry in `comparison.json`."""
        return next(entry for entry in self.content["architectures"] if entry["arch"] == arch)

    def scored(self, arch: str, role: str, task: Task, metric: MetricSpec) -> dict[str, Any]:
        """Return `{value, low, high}`; empty when the architecture has no such score."""
        return cast(dict[str, Any], self.entry(arch)["scores"].get(role, {}).get(task.name, {}).get(metric.name) or {})

    def columns(self, role: str) -> list[tuple[Task, MetricSpec]]:
        """Return the tasks and metrics that any architecture has a score of."""
        return [
            (task, metric)
            for task in self.tasks
            for metric in task.metrics
            if any(self.scored(arch, role, task, metric) for arch in self.archs)
        ]

    def gains(self, arch: str, role: str) -> Intervals:
        """Return an architecture's relative improvement over the reference; empty for the reference."""
        return cast(Intervals, self.entry(arch)["relative_improvement"].get(role, {}))

    def best_against(self, arch: str) -> Intervals:
        """Return the relative improvement of the best architecture over another on the evaluation cases, in percent.

        The same definition and resamples as in `comparison.json`, which only knows the reference.
        """
        if arch not in self._improvements:
            tables = [[_role_rows(model, EVALUATION) for model in self.of(name)] for name in (self.best_arch, arch)]
            settings = EvaluationConfig(
                num_bootstrap=self.content["num_bootstrap"], confidence=self.content["confidence"]
            )
            self._improvements[arch] = relative_improvement(self.tasks, tables[0], tables[1], settings)
        return self._improvements[arch]

    @cached_property
    def cases(self) -> pd.DataFrame:
        """All per-case rows."""
        return pa.concat_tables([model.cases for model in self.models]).to_pandas()

    @cached_property
    def spec(self) -> DataSpec:
        """The description of the data that were learned."""
        return DataSpec.from_json(self.best.model_json["spec"], str(self.best.folder / "model.json"), _ADVICE)

    @cached_property
    def targets(self) -> dict[str, float]:
        """Target structure -> prescription in Gy."""
        return dict(self.spec.targets)

    @cached_property
    def colours(self) -> dict[str, str]:
        """Structure -> colour."""
        return structure_colours(self.spec.structures, self.targets, self.spec.mirrored_pairs)


def read_report_data(content: dict[str, Any], evaluation_dirs: Sequence[Path]) -> ReportData:
    """Read the evaluations of a comparison.

    Args:
        content: `comparison.json`.
        evaluation_dirs: the evaluations in the order of `content["models"]`.

    Raises:
        DataError: when a file is missing or damaged, or a folder is not the evaluation that was compared.
    """
    if len(content["models"]) != len(evaluation_dirs):
        raise DataError(
            f"the comparison is of {len(content['models'])} models, but {len(evaluation_dirs)} evaluations are given; "
            f"give the folders that were compared, in their order"
        )
    models = [_read(facts, folder) for facts, folder in zip(content["models"], evaluation_dirs, strict=True)]
    tasks = tuple(task_from_json(task) for task in models[content["best"]["model_index"]].model_json["tasks"])
    return ReportData(content, models, tasks)


def _read(facts: dict[str, Any], folder: Path) -> Evaluated:
    path = folder / "model.json"
    try:
        model_json = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_ADVICE}") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); {_ADVICE}") from error
    for name in ("arch", "fold", "seed", "run_id"):
        if model_json.get(name) != facts[name]:
            raise DataError(
                f"{path}: {name} is {model_json.get(name)!r}, the comparison has {facts[name]!r} at this place; "
                f"give the folders that were compared, in their order"
            )
    history = _table(folder / "history.parquet", ("epoch", "task", "loss", "weight", "learning_rate"))
    return Evaluated(facts, model_json, read_cases(folder / CASES_FILE), history, folder)


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a Parquet file that may be absent (an empty table then) but must be whole."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); {_ADVICE}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; {_ADVICE}")
    return table.to_pandas()


def _role_rows(model: Evaluated, role: str) -> pa.Table:
    import pyarrow.compute as pc

    return model.cases.filter(pc.field("role") == role)
