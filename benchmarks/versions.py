"""The version of a folder: the second look at 100,000 small files against a walk that asks each file for its status.

    python benchmarks/versions.py [--files N]

Both look at the same files in one run, in turns, with the folder in the system's cache; the table shows the best of
several rounds. The first look, which reads every file, is shown beside them. Seconds are those of the processor: on a
machine that others use too, those of the clock tell little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ctan.datasets import contents, get_dataset

ROUNDS = 5
_FILES_PER_CASE = 25


def write_cases(folder: Path, num_files: int) -> None:
    """Write small files where OpenKBP's reader looks for them."""
    for number in range(num_files // _FILES_PER_CASE):
        case = folder / "train-pats" / f"pt_{number}"
        case.mkdir(parents=True)
        for index in range(_FILES_PER_CASE):
            (case / f"s{index}.csv").write_bytes(b"%d,%d\n" % (number, index))


def walk(folder: Path) -> int:
    """Ask every file for its status, as plainly as Python can."""
    waiting, count = [os.fspath(folder)], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    entry.stat()
                    count += 1
    return count


def seconds(look: Callable[[], object]) -> float:
    """Return what one call costs."""
    start = time.process_time()
    look()
    return time.process_time() - start


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "raw"
        os.environ["CTAN_WORKSPACE"] = f"{name}/workspace"
        write_cases(folder, arguments.files)
        contents._SETTLED_NS = 0  # the files are new; their digests are to be kept all the same
        dataset = get_dataset("openkbp")
        first = seconds(lambda: contents.version_of(dataset, folder))
        rounds = [
            (seconds(lambda: walk(folder)), seconds(lambda: contents.version_of(dataset, folder)))
            for _ in range(ROUNDS)
        ]
        count = walk(folder)
    plain, again = (min(values) for values in zip(*rounds, strict=True))
    table = Table("look", "seconds", "microseconds a file", "of a walk", title=f"{count:,} files")
    for what, value in (("walk with DirEntry.stat()", plain), ("first look", first), ("second look", again)):
        table.add_row(what, f"{value:.3f}", f"{value / count * 1e6:.1f}", f"{value / plain:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
