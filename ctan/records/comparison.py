"""`comparison.json`: architectures side by side, and the choice of the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ctan.cases.spec import Description
from ctan.records.base import Number, Record, SavedTask, Scores
from ctan.records.model import ModelRecord
from ctan.records.names import CASES_FILE, COMPARISON_FILE, ENSEMBLE

MIN_CASES = 10  # with fewer no number carries a verdict


class Interval(Description):
    """A number and its interval; null where there is none.

    Attributes:
        patients: how many it rests on; release 0.1 did not say.
    """

    value: Number = None
    low: Number = None
    high: Number = None
    patients: int | None = None


class ModelEntry(Description):
    """One training: what it cost and its scores by role, task and metric.

    Attributes:
        arch: its architecture and what differs, see `ModelRecord.name`.
    """

    arch: str
    fold: int
    seed: int
    run_id: str
    num_parameters: int
    macs_per_case: int
    step_seconds: float
    epochs: int
    device: str
    precision: str
    scores: dict[str, Scores]

    @classmethod
    def of(cls, record: ModelRecord, scores: dict[str, dict[str, dict[str, float]]]) -> ModelEntry:
        """Return the entry of a model."""
        facts = {name: getattr(record, name) for name in cls.model_fields if name not in ("arch", "scores")}
        return cls(arch=record.name, **facts, scores=scores)


class ArchitectureEntry(Description):
    """One architecture, the mean over its folds and seeds.

    Attributes:
        scores: by role, task and metric.
        structures: structure -> mean Dice on the evaluation cases.
        relative_improvement: over the reference in percent, by role and task or `"average"`; empty for the reference.
    """

    arch: str
    scores: dict[str, dict[str, dict[str, Interval]]]
    structures: Mapping[str, Number] = {}
    relative_improvement: Mapping[str, Mapping[str, Interval]] = {}


class BaselineEntry(Description):
    """What does without a network, and its scores by role, task and metric."""

    arch: str
    label: str
    scores: dict[str, Scores]


class SubgroupEntry(Description):
    """How the chosen architecture does in a group of the evaluation cases.

    Attributes:
        name: such as `"sex = F"`.
        patients: how many there are.
        scores: primary metrics by task; small groups have no interval.
    """

    name: str
    patients: int
    scores: Mapping[str, Mapping[str, Interval]]


class Choice(Description):
    """The model with the lowest error on its tuning cases.

    Attributes:
        model_index: into `models`, and the evaluations that were compared.
        reason: why, as a sentence.
    """

    arch: str
    fold: int
    seed: int
    model_index: int
    reason: str

    @property
    def title(self) -> str:
        """Which training; of an ensemble only whose, for it is of several folds or seeds."""
        return self.arch if ENSEMBLE in self.arch else f"{self.arch}, fold {self.fold}, seed {self.seed}"


class ComparisonRecord(Record):
    """A comparison.

    Attributes:
        dataset, store_key, data_hash: what was compared on.
        evaluation_hash: of ids and bytes of the evaluation cases.
        confidence: coverage of the intervals.
        num_bootstrap: of how many resamples they are percentiles, in release 0.1; None: jackknife and Student's t.
        num_tuning_cases, num_evaluation_cases: how many cases were scored.
        reference_arch: what improvements are relative to.
        excludes_training_variance: there are too few seeds for intervals over trainings.
        tasks: what was scored; release 0.1 did not say.
        models: one a training.
        architectures: one an architecture.
        baselines: what does without a network.
        grid_floor: what the truth scores after the way to the working grid and back, by task and metric.
        best: the choice.
        subgroups: of the evaluation cases; empty before there were any.
    """

    file = COMPARISON_FILE
    what = "a comparison"
    advice = "expected what `ctan compare` writes"
    beside = (CASES_FILE,)

    format_version: Literal[1] = 1
    dataset: str
    store_key: str
    data_hash: str
    evaluation_hash: str
    confidence: float
    num_bootstrap: int | None = None
    num_tuning_cases: int
    num_evaluation_cases: int
    reference_arch: str
    excludes_training_variance: bool
    tasks: tuple[SavedTask, ...] = ()
    models: tuple[ModelEntry, ...]
    architectures: tuple[ArchitectureEntry, ...]
    baselines: tuple[BaselineEntry, ...]
    grid_floor: Scores
    best: Choice
    subgroups: tuple[SubgroupEntry, ...] = ()

    @property
    def best_model(self) -> ModelEntry:
        """The chosen training."""
        return self.models[self.best.model_index]

    def architecture(self, arch: str) -> ArchitectureEntry:
        """Return the entry of an architecture."""
        return next(entry for entry in self.architectures if entry.arch == arch)
