"""A training step beside busy neighbours: threads that spin at barriers, libgomp's default, or hardly (GOMP_SPINCOUNT).

    python benchmarks/busy_cores.py [--neighbours N] [--rounds N]

One process a core is a neighbour that only computes; both ways are measured in turn, each in a new process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
layers = [torch.nn.Conv3d(a, b, 3, padding=1) for a, b in ((8, 16), (16, 16), (16, 4))]
network = torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))
images, seconds = torch.randn(2, 8, 32, 32, 32), []
for _ in range(12):
    start = time.perf_counter()
    network(images).sum().backward()
    seconds.append(time.perf_counter() - start)
print(sorted(seconds[2:])[5])
"""
WAYS = {"threads spin (default)": {}, "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"}}


def measure(rounds: int) -> dict[str, float]:
    """Return the median time of a step in s for each way of waiting."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    for _ in range(rounds):
        for way, variables in WAYS.items():
            said = subprocess.check_output([sys.executable, "-c", STEP], env=plain | variables, text=True)
            seconds[way].append(float(said))
    return {way: statistics.median(times) for way, times in seconds.items()}


def main() -> None:
    """Print both ways, alone and beside neighbours, as ratios against the default of the same run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neighbours", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for number in (0, chosen.neighbours):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
        try:
            found = measure(chosen.rounds)
        finally:
            for process in busy:
                process.kill()
        default = next(iter(found.values()))
        for way, seconds in found.items():
            print(f"{number} busy neighbours | {way:22} | {seconds * 1e3:7.0f} ms | {seconds / default:.2f}")


if __name__ == "__main__":
    main()
