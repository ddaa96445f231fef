"""How often one-sided bounds of a mean lie above the truth: bootstrap percentiles, BCa, and the gate's own.

    python benchmarks/coverage.py [--samples N]

A 97.5 % lower bound should be wrong in 2.5 % of the samples. Differences between two models are drawn from five
distributions of mean 0; the gate's bound is that of `ctan.metrics.jackknife`, of a mean the t interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy import stats

from ctan.metrics import jackknife

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


def main() -> None:
    """Print the table."""
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


if __name__ == "__main__":
    main()
