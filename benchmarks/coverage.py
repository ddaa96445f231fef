"""How often bounds of a mean lie above the truth, and how often intervals of scores miss it.

    python benchmarks/coverage.py [--samples N]

First table: a 97.5 % lower bound should be wrong in 2.5 % of the samples. Differences between two models are drawn from
five distributions of mean 0; bootstrap percentiles and BCa stand beside `ctan.metrics.jackknife`, of a mean the t
interval. Second table: 95 % intervals of what the report shows, which should miss the truth in 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from ctan.metrics import AUC, BalancedAccuracy, Estimate, MetricSums, improvement, jackknife

Floats = npt.NDArray[np.float64]
ERROR, RESAMPLES = 0.025, 1000
CASES = (3, 4, 6, 10, 20, 33, 100)
METHODS = ("percentile", "BCa", "jackknife t")


def _missed(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return small differences; in one case of ten either model misses a structure."""
    missed = (rng.random(size) < 0.1).astype(float) - (rng.random(size) < 0.1)
    return rng.normal(0, 0.02, size) + 0.6 * missed


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails (t3)": lambda rng, size: rng.standard_t(3, size),
    "a structure missed": _missed,
    "rarely much better": lambda rng, size: rng.exponential(size=size) - 1,
    "rarely much worse": lambda rng, size: 1 - rng.exponential(size=size),
}


def bootstrap_bounds(samples: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return percentile and BCa (Efron, 1987) lower bounds of the mean of each row."""
    count = samples.shape[1]
    means = samples.mean(axis=1)
    drawn = np.sort(samples @ (rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count).T, axis=1)
    below = ((drawn < means[:, None]).mean(axis=1) + (drawn <= means[:, None]).mean(axis=1)) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    influence = samples - means[:, None]
    skew = (influence**3).sum(axis=1) / (6 * (influence**2).sum(axis=1) ** 1.5)
    shifted = bias + stats.norm.ppf(ERROR)
    place = stats.norm.cdf(bias + shifted / (1 - skew * shifted))
    rows = np.arange(len(samples))
    return drawn[:, int(ERROR * RESAMPLES)], drawn[rows, np.clip((place * RESAMPLES).astype(int), 0, RESAMPLES - 1)]


def errors(name: str, count: int, num_samples: int) -> list[float]:
    """Return how often each method's bound lies above the true mean, in percent."""
    rng = np.random.default_rng(count)
    samples = DISTRIBUTIONS[name](rng, (num_samples, count))
    percentile, bca = bootstrap_bounds(samples, rng)
    own = np.array([jackknife(lambda w, row=row: w @ row / w.sum(axis=1), count).lower(ERROR) for row in samples])
    return [100 * float((bound > 0).mean()) for bound in (percentile, bca, own)]


RATIO, FREE = (0.0, 1.0), (-np.inf, np.inf)


def _dice(rng: np.random.Generator, count: int) -> tuple[Estimate, float]:
    return jackknife(MetricSums(rng.beta(8, 2, count), np.ones(count)).of, count), 0.8


def _relative(rng: np.random.Generator, count: int) -> tuple[Estimate, float]:
    """Improve a dose score of 3 Gy by a tenth, with a spread between patients that both models share."""
    shared = rng.gamma(9, 1 / 3, count)
    reference = MetricSums(shared * rng.gamma(25, 1 / 25, count), np.ones(count))
    new = MetricSums(0.9 * shared * rng.gamma(25, 1 / 25, count), np.ones(count))
    return jackknife(lambda w: improvement(new.of(w), reference.of(w), higher_is_better=False), count), 10.0


def _labels(rng: np.random.Generator, count: int) -> npt.NDArray[np.intp]:
    """Return classes, a third of the cases positive and two of either kind at least."""
    return rng.permutation((np.arange(count) < max(2, count // 3)).astype(np.intp))


def _area(rng: np.random.Generator, count: int) -> tuple[Estimate, float]:
    """Take normal scores that lie 1.19 standard deviations apart: an area of 0.8."""
    labels = _labels(rng, count)
    metric = AUC(rng.normal(size=count) + 1.19 * labels, labels == 1, np.arange(count))
    return jackknife(metric.of, count, labels.tolist(), metric.own_deviation), float(stats.norm.cdf(1.19 / np.sqrt(2)))


def _accuracy(rng: np.random.Generator, count: int) -> tuple[Estimate, float]:
    """Be right in 85 of 100 cases of either class."""
    labels = _labels(rng, count)
    found = np.where(rng.random(count) < 0.85, labels, 1 - labels)
    metric = BalancedAccuracy(np.eye(2)[found], labels, np.arange(count), count)
    return jackknife(metric.of, count, labels.tolist(), metric.own_deviation), 0.85


SHOWN = {
    "mean Dice": (_dice, RATIO),
    "relative improvement, %": (_relative, FREE),
    "AUC, a third positive": (_area, RATIO),
    "balanced accuracy": (_accuracy, RATIO),
}


def missed(name: str, count: int, num_samples: int) -> float:
    """Return how often a 95 % interval of the report misses the truth, in percent; one that is undefined misses."""
    rng, wrong = np.random.default_rng(count), 0
    draw, bounds = SHOWN[name]
    for _ in range(num_samples):
        estimate, truth = draw(rng, count)
        found = estimate.interval(0.95, bounds)
        wrong += not found["low"] <= truth <= found["high"]
    return 100 * wrong / num_samples


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    num_samples = parser.parse_args().samples
    table = Table(title=f"97.5 % lower bounds above the truth, % of {num_samples} samples (2.5 is right)")
    table.add_column("differences")
    for count in CASES:
        table.add_column(f"{count} cases", justify="right")
    for name in DISTRIBUTIONS:
        found = np.array([errors(name, count, num_samples) for count in CASES]).T
        for method, row in zip(METHODS, found, strict=True):
            table.add_row(f"{name}: {method}", *(f"{value:.1f}" for value in row))
        table.add_section()
    Console(width=120).print(table)
    table = Table(title=f"95 % intervals that miss the truth, % of {num_samples} samples (5 is right)")
    table.add_column("score")
    for count in CASES:
        table.add_column(f"{count} cases", justify="right")
    for name in SHOWN:
        table.add_row(name, *(f"{missed(name, count, num_samples):.1f}" for count in CASES))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
