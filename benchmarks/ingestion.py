"""Reading raw patients: the strict reader of ingestion, SHA-256 included, against pandas as the challenge's loader.

    python benchmarks/ingestion.py RAW_DIR [--cases N]

RAW_DIR holds raw OpenKBP patients (`train-pats/pt_<n>/*.csv`). Both read the same files on one core in the same run,
with the files in the page cache; the table shows seconds per patient of the best of several rounds over all patients.
Pandas goes first; then the process keeps freed memory, as the workers of ingestion do, and our reader goes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ctan.cases import Case, RawCase
from ctan.datasets import get_dataset
from ctan.memory import keep_freed_memory

ROUNDS = 3
Arrays = dict[str, np.ndarray]


def read_with_pandas(raw: RawCase) -> Arrays:
    """Read a patient with `pandas.read_csv` and `numpy.put` into float64 arrays, without any check."""
    arrays = {}
    for path in sorted(raw.path.glob("*.csv")):
        if path.stem == "voxel_dimensions":
            arrays[path.stem] = np.loadtxt(path)
            continue
        table = pd.read_csv(path, index_col=0)
        arrays[path.stem] = np.zeros((128, 128, 128))
        np.put(arrays[path.stem], table.index, 1 if table["data"].isna().all() else table["data"])
    return arrays


def check_equal(case: Case, arrays: Arrays) -> None:
    """Stop unless both ways of reading gave the same patient."""
    assert np.array_equal(case.images["ct"], arrays["ct"].clip(0, 4095)), case.case_id
    assert np.array_equal(case.doses["dose"], arrays["dose"].astype(np.float32)), case.case_id
    for name, mask in case.masks.items():
        assert np.array_equal(mask, arrays[name] == 1), (case.case_id, name)


def seconds_per_patient(read: Callable[[RawCase], object], raws: list[RawCase]) -> list[float]:
    """Return the seconds per patient of every round, after a patient that is not counted."""
    read(raws[0])
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for raw in raws:
            read(raw)
        rounds.append((time.perf_counter() - start) / len(raws))
    return rounds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw_dir", type=Path)
    parser.add_argument("--cases", type=int, default=16)
    arguments = parser.parse_args()
    dataset = get_dataset("openkbp")
    raws = dataset.find(arguments.raw_dir)[: arguments.cases]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    check_equal(dataset.read(raws[0]), read_with_pandas(raws[0]))
    rounds = {"pandas + numpy.put": seconds_per_patient(read_with_pandas, raws)}
    keep_freed_memory()
    rounds["ctan (with SHA-256)"] = seconds_per_patient(dataset.read, raws)
    megabytes = sum(path.stat().st_size for raw in raws for path in raw.path.glob("*.csv")) / len(raws) / 1e6
    pandas_seconds, our_seconds = (min(values) for values in rounds.values())
    table = Table(
        "reader",
        "s per patient",
        "rounds",
        "MB/s",
        "pandas / this",
        title=f"{len(raws)} patients, {megabytes:.2f} MB of CSV each, one core",
    )
    for reader, values in rounds.items():
        every = " ".join(f"{value:.4f}" for value in values)
        table.add_row(
            reader, f"{min(values):.4f}", every, f"{megabytes / min(values):.0f}", f"{pandas_seconds / min(values):.1f}"
        )
    console = Console()
    console.print(table)
    console.print(f"pandas takes {pandas_seconds / our_seconds:.1f} times as long")


if __name__ == "__main__":
    main()
