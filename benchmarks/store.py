"""Reading a case from the store against parsing its CSV files, and the size of the store against that of the raw files.

    python benchmarks/store.py RAW_DIR [--cases N]

RAW_DIR holds raw OpenKBP patients (`train-pats/pt_<n>/*.csv`). The store is written to a temporary folder. Every way of
reading is timed on the same cases in turn, with files in the page cache; the table shows the median of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ctan.cases import RawCase
from ctan.datasets import get_dataset
from ctan.intake.build import preprocess
from ctan.intake.ingest import ingest
from ctan.settings import load_config
from ctan.store import open_store

ROUNDS = 3


def parse_with_pandas(folder: Path) -> dict[str, np.ndarray]:
    """Parse a patient as most OpenKBP code does: `pandas.read_csv` and `numpy.put` into float64 arrays."""
    arrays = {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem == "voxel_dimensions":
            arrays[path.stem] = np.loadtxt(path)
            continue
        table = pd.read_csv(path, index_col=0)
        arrays[path.stem] = np.zeros((128, 128, 128))
        np.put(arrays[path.stem], table.index, table["data"] if table["data"].notna().any() else 1)
    return arrays


def median_ms(read: Callable[[RawCase], object], raws: list[RawCase]) -> float:
    """Return the median time to read one of the cases, after a first reading that is not counted."""
    read(raws[0])
    times = []
    for raw in raws * ROUNDS:
        start = time.perf_counter()
        read(raw)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw_dir", type=Path)
    parser.add_argument("--cases", type=int, default=16)
    arguments = parser.parse_args()
    dataset, config = get_dataset("openkbp"), load_config("cpu")
    raws = dataset.find(arguments.raw_dir)[: arguments.cases]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ingest(str(arguments.raw_dir), folder, config)
        start = time.perf_counter()
        pointer = preprocess(str(arguments.raw_dir), folder, str(folder), config)
        seconds = time.perf_counter() - start
        store = open_store(pointer)
        times = {
            "raw: pandas.read_csv + numpy.put": median_ms(lambda raw: parse_with_pandas(raw.path), raws),
            "raw: ctan.datasets (checks, sha256)": median_ms(dataset.read, raws),
            "store: load (working grid)": median_ms(lambda raw: store.load(raw.case_id), raws),
            "store: reference (native grid)": median_ms(lambda raw: store.reference(raw.case_id), raws),
        }
        sizes = {
            "raw CSV files": sum(bytes_of(raw.path) for raw in raws),
            "store: both grids": bytes_of(folder / "shards") + bytes_of(pointer.folder),
            "store: working grid": bytes_of(folder / "shards" / "working"),
            "store: native grid": bytes_of(folder / "shards" / "native"),
        }
    _print(times, {what: size / len(raws) for what, size in sizes.items()}, len(raws), seconds)


def _print(times: dict[str, float], sizes: dict[str, float], num_cases: int, seconds: float) -> None:
    console = Console()
    pandas_ms, reader_ms = list(times.values())[:2]
    table = Table("reading one case", "ms", "pandas / this", "our reader / this", title=f"{num_cases} patients")
    for what, value in times.items():
        table.add_row(what, f"{value:.1f}", f"{pandas_ms / value:.1f}", f"{reader_ms / value:.1f}")
    console.print(table)
    raw_bytes = sizes["raw CSV files"]
    table = Table("size of one case", "kB", "raw / this")
    for what, value in sizes.items():
        table.add_row(what, f"{value / 1000:.0f}", f"{raw_bytes / value:.2f}")
    console.print(table)
    console.print(f"preprocess: {seconds:.1f} s for {num_cases} patients, {seconds / num_cases:.2f} s each")


if __name__ == "__main__":
    main()
