"""Dose score and DVH criteria of a patient against the plain code: `numpy.percentile` for every metric on full arrays.

    python benchmarks/metrics.py [--raw DIR] [--cases N]

The plain code is what the challenge's own evaluation does: full float64 arrays, `dose[mask]` for every structure and
dose, one `numpy.percentile` a criterion. Both score the same doses in turn; the table shows medians of the processor
time over rounds and patients. Without `--raw` the patients are synthetic: 128^3 voxels, ten structures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from ctan.datasets import get_dataset
from ctan.metrics import score_dose

ROUNDS = 15
SHAPE = (128, 128, 128)
DATASET = get_dataset("openkbp")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Patient:
    """What both ways of scoring get; doses are float32, as files and networks give them."""

    planned: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.float32]
    possible: npt.NDArray[np.bool_]
    structures: dict[str, npt.NDArray[np.bool_]]
    spacing_mm: tuple[float, ...]


def plain_scores(
    planned: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64], patient: Patient
) -> tuple[float, dict[tuple[str, str], tuple[float, float]]]:
    """Return dose score and (structure, criterion) -> (planned, predicted), computed in the plain way."""
    score = float(np.sum(np.abs(planned - predicted)) / np.sum(patient.possible))
    criteria: dict[tuple[str, str], list[float]] = {}
    num_hottest = np.maximum(1, np.round(100 / np.prod(patient.spacing_mm)))
    for dose in (planned, predicted):
        for name, mask in patient.structures.items():
            inside = dose[mask]
            if name in DATASET.spec.targets:
                found = {
                    "D_99": np.percentile(inside, 1),
                    "D_95": np.percentile(inside, 5),
                    "D_1": np.percentile(inside, 99),
                }
            else:
                found = {
                    "D_0.1_cc": np.percentile(inside, 100 - num_hottest / len(inside) * 100),
                    "mean": inside.mean(),
                }
            for criterion, value in found.items():
                criteria.setdefault((name, criterion), []).append(float(value))
    return score, {key: (first, second) for key, (first, second) in criteria.items()}


def ctan_scores(
    planned: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating], patient: Patient
) -> tuple[float, dict[tuple[str, str], tuple[float, float]]]:
    """Return the same, computed by `ctan.metrics`."""
    score, values = score_dose(
        planned, predicted, patient.possible, patient.structures, DATASET.spec.targets, patient.spacing_mm
    )
    return score, {(v.structure, v.criterion): (v.planned, v.predicted) for v in values}


def synthetic_patients(count: int) -> Iterator[Patient]:
    """Yield patients with a ball of dose and ten ellipsoids in it."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in SHAPE), indexing="ij", sparse=True)

    def ellipsoid(centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))

    for _ in range(count):
        distance = ellipsoid(np.full(3, 64.0), np.array([26.0, 30.0, 30.0]))
        possible = distance < 1
        planned = np.where(possible, 70 * np.exp(-distance), 0)
        structures = {
            name: ellipsoid(rng.uniform(48, 80, 3), rng.uniform(3, 12, 3)) < 1 for name in DATASET.spec.structures
        }
        yield _patient(planned, possible, structures, (3.9, 3.9, 2.5), rng)


def real_patients(raw_dir: Path, count: int) -> Iterator[Patient]:
    """Yield patients of a raw folder, with a prediction that is the dose and noise."""
    rng = np.random.default_rng(0)
    for raw in DATASET.find(raw_dir)[-count:]:
        case = DATASET.read(raw)
        structures = {name: case.masks[name] for name in DATASET.spec.structures if name in case.masks}
        yield _patient(case.doses["dose"], case.masks["possible_dose_mask"], structures, case.spacing_mm, rng)


def _patient(
    planned: npt.NDArray[np.floating],
    possible: npt.NDArray[np.bool_],
    structures: dict[str, npt.NDArray[np.bool_]],
    spacing_mm: tuple[float, ...],
    rng: np.random.Generator,
) -> Patient:
    predicted = np.where(possible, np.maximum(planned + rng.normal(0, 3, planned.shape), 0), 0)
    return Patient(planned.astype(np.float32), predicted.astype(np.float32), possible, structures, spacing_mm)


def timed(work: Callable[[], Result], seconds: list[float]) -> Result:
    """Do some work and note its processor time: it runs in one thread, and the machine may have other work."""
    start = time.process_time()
    result = work()
    seconds.append(time.process_time() - start)
    return result


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder of raw OpenKBP patients")
    parser.add_argument("--cases", type=int, default=6)
    arguments = parser.parse_args()
    patients = real_patients(arguments.raw, arguments.cases) if arguments.raw else synthetic_patients(arguments.cases)
    plain_seconds: list[float] = []
    double_seconds: list[float] = []
    single_seconds: list[float] = []
    largest = 0.0
    for patient in patients:
        doses = patient.planned.astype(np.float64), patient.predicted.astype(np.float64)
        for _ in range(ROUNDS):
            expected = timed(lambda: plain_scores(*doses, patient), plain_seconds)  # noqa: B023  called at once
            double = timed(lambda: ctan_scores(*doses, patient), double_seconds)  # noqa: B023
            single = timed(lambda: ctan_scores(patient.planned, patient.predicted, patient), single_seconds)  # noqa: B023
        largest = max(largest, *(_difference(expected, found) for found in (double, single)))
    rows = {
        "plain, float64": plain_seconds,
        "ctan.metrics, float64": double_seconds,
        "ctan.metrics, float32 as stored": single_seconds,
    }
    _print({what: 1000 * statistics.median(seconds) for what, seconds in rows.items()}, largest, arguments.cases)


def _difference(
    expected: tuple[float, dict[tuple[str, str], tuple[float, float]]],
    found: tuple[float, dict[tuple[str, str], tuple[float, float]]],
) -> float:
    """Return the largest absolute difference between two results, in Gy."""
    if expected[1].keys() != found[1].keys():
        raise SystemExit(f"criteria differ: {sorted(expected[1].keys() ^ found[1].keys())}")
    pairs = [(expected[0], found[0])]
    for key, values in expected[1].items():
        pairs += zip(values, found[1][key], strict=True)
    return max(abs(a - b) for a, b in pairs)


def _print(times: dict[str, float], largest: float, num_cases: int) -> None:
    table = Table("dose score and DVH criteria of a patient", "ms", "plain / this", title=f"{num_cases} patients")
    plain = next(iter(times.values()))
    for what, value in times.items():
        table.add_row(what, f"{value:.1f}", f"{plain / value:.1f}")
    console = Console()
    console.print(table)
    console.print(f"largest absolute difference: {largest:.1e} Gy")


if __name__ == "__main__":
    main()
