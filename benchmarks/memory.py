"""Peak memory and speed of ingesting a folder with two workers, for a part of the cases and for all of them.

    python benchmarks/memory.py RAW_DIR [--cases 50 200]

RAW_DIR holds raw OpenKBP patients. Each number of cases is ingested by a process of its own; the peak is that of the
process and its workers together (proportional set size, so that shared pages count once), looked at every 50 ms. The
baseline is the smallest number: memory that grew with the number of cases would show in the last column.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

_POLL_SECONDS = 0.05
_INGEST = """
import sys
from pathlib import Path
from ctan.settings import load_config
from ctan.intake.ingest import ingest
num_train = int(sys.argv[2])
config = load_config("cpu", {"data.max_train_cases": num_train, "data.max_evaluation_cases": max(1, num_train // 4)})
print(ingest(sys.argv[1], Path(sys.argv[3]), config, num_workers=2).num_cases)
"""


def measure(raw: Path, num_cases: int) -> tuple[int, float, float]:
    """Return the number of ingested cases, the seconds it took, and the peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _INGEST, str(raw), str(round(num_cases * 0.8)), folder]
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"ingesting {num_cases} cases failed")
    return int(output), seconds, peak / 2**30


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and its children in bytes."""
    total = 0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            memory = member.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.Error:
            continue
    return total


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder with train-pats/pt_<n>/*.csv")
    parser.add_argument("--cases", type=int, nargs="+", default=[50, 200], help="numbers of cases")
    arguments = parser.parse_args()
    table = Table(title="ingestion with two workers")
    for title in ("cases", "patients a second", "peak memory (GiB)", "peak against the first"):
        table.add_column(title, justify="right")
    first = 0.0
    for wanted in arguments.cases:
        num_cases, seconds, peak = measure(arguments.raw, wanted)
        first = first or peak
        table.add_row(str(num_cases), f"{num_cases / seconds:.1f}", f"{peak:.2f}", f"{peak / first:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
