"""By how much a run is better than another, and how sure that is with few seeds and few patients.

Two things vary: patients and trainings. The improvement is the mean over the seeds that both runs have, each run paired
with the other's training of the same seed. Its variance is the jackknife's over patients (of that mean) plus that of
the seeds' own values over their number; Student's t has the degrees of freedom of Satterthwaite (1946). What a patient
and a seed have together is counted in both, which errs towards wide intervals. `coverage` shows how often they are
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from ctan.evaluation.summary import label_strata, patients_of
from ctan.metrics import Estimate, improvement, jackknife
from ctan.metrics.resampling import Floats
from ctan.tasks import Task

AVERAGE = "average"
Tables = Mapping[int, pa.Table]  # seed -> per-case rows of one role
PerSeed = Sequence[Callable[[Floats], Floats]]  # statistic of (resamples, patients) weights, of each seed


@dataclass(frozen=True)
class Gain:
    """An improvement in percent.

    Attributes:
        value: mean over the seeds.
        low, high: 95 % interval; NaN with one seed or one patient.
        seeds: value of each seed.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]


def combined(statistics: PerSeed, num_patients: int, strata: Sequence[Hashable] | None = None) -> Estimate:
    """Return the mean over seeds with a standard error over patients and seeds.

    Args:
        statistics: of each seed.
        num_patients: that they are of.
        strata: (patients,) such as labels, see `jackknife`.
    """
    of_patients = jackknife(lambda w: np.mean([of_one(w) for of_one in statistics], axis=0), num_patients, strata)
    everyone = np.ones((1, num_patients))
    values = np.array([float(of_one(everyone)[0]) for of_one in statistics])
    if len(values) < 2:
        return Estimate(of_patients.value, math.nan, math.nan, num_patients)
    parts = np.array([of_patients.deviation**2, values.var(ddof=1) / len(values)])
    spread = parts**2 / np.array([of_patients.degrees, len(values) - 1])
    degrees = float(parts.sum() ** 2 / spread.sum()) if spread.sum() else math.inf
    return Estimate(of_patients.value, float(np.sqrt(parts.sum())), degrees, num_patients)


def gains(tasks: Sequence[Task], new: Tables, reference: Tables) -> dict[str, Gain]:
    """Return the relative improvement of each task's primary metric, and their average, over common seeds.

    Args:
        tasks: that both learned.
        new: of the run.
        reference: of the other.
    """
    seeds = sorted(set(new) & set(reference))
    if not seeds:
        return {}
    tables = [table[seed] for seed in seeds for table in (new, reference)]
    patients = patients_of(pa.concat_tables(tables))
    strata = label_strata(tables, patients)
    by_task: dict[str, list[Callable[[Floats], Floats]]] = {task.name: [] for task in tasks}
    for task in tasks:
        for seed in seeds:
            ours, theirs = (task.patient_metric(t[seed], task.primary_metric, patients) for t in (new, reference))
            if ours is None or theirs is None:
                raise ValueError(f"{task.name}: no {task.primary_metric.name} of seed {seed}")
            better = task.primary_metric.higher_is_better
            by_task[task.name].append(
                lambda w, ours=ours, theirs=theirs, better=better: improvement(ours.of(w), theirs.of(w), better)
            )
    by_task[AVERAGE] = [
        lambda w, i=i: np.mean([by_task[task.name][i](w) for task in tasks], axis=0) for i in range(len(seeds))
    ]
    return {name: _gain(found, len(patients), strata) for name, found in by_task.items()}


def _gain(statistics: PerSeed, num_patients: int, strata: Sequence[Hashable] | None) -> Gain:
    estimate, everyone = combined(statistics, num_patients, strata), np.ones((1, num_patients))
    low, high = interval(estimate)
    return Gain(estimate.value, low, high, tuple(float(of_one(everyone)[0]) for of_one in statistics))


def interval(estimate: Estimate, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of a two-sided interval."""
    if not estimate.is_finite:
        return math.nan, math.nan
    reach = float(stats.t.ppf((1 + confidence) / 2, estimate.degrees)) * estimate.deviation
    return estimate.value - reach, estimate.value + reach


def coverage(num_seeds: int, num_patients: int, seed_deviation: float, samples: int = 500) -> float:
    """Return how often the 95 % interval of a mean holds the truth, in percent.

    Differences of patients have deviation 1, those of trainings `seed_deviation`, what both have together 0.5.
    """
    rng, inside = np.random.default_rng(0), 0
    for _ in range(samples):
        drawn = rng.normal(size=num_patients) + rng.normal(size=(num_seeds, 1)) * seed_deviation
        drawn = drawn + rng.normal(scale=0.5, size=drawn.shape)
        low, high = interval(combined([lambda w, r=row: w @ r / w.sum(axis=1) for row in drawn], num_patients))
        inside += low <= 0 <= high
    return 100 * inside / samples
