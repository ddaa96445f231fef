"""What `ctan predict` takes: cases a minute, share of reading, network and writing, memory; windows against one grid.

    python benchmarks/predict.py [--cases 4]

Phantoms of every data set of its own, through a network of random weights on the grid of the packaged profile `smoke`;
one process, no reading ahead, so that the shares add up. The last rows predict one long volume of the data set
`prostate` twice: on a grid that holds it whole, and by windows of half that length.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

DATASETS = {
    "ham10000": ([64, 96], None),
    "openkbp": ([48, 64, 48], [4.0, 4.0, 4.0]),
    "prostate": ([40, 64, 48], [5.0, 5.0, 5.0]),
    "stoic": ([32, 32, 32], [10.0, 10.0, 10.0]),
}


def measure(dataset: str, cases: int) -> tuple[float, dict[str, float], float]:
    """Return cases a minute, the share of each part in percent, and the peak memory in GiB, in this process."""
    from ctan.datasets import get_dataset
    from ctan.inference import LoadedModel
    from ctan.prediction import predict as run
    from tests.helpers.prediction import untrained_model

    spent: dict[str, float] = {"reading": 0.0, "network": 0.0, "writing": 0.0}
    grid, spacing = DATASETS[dataset]
    with tempfile.TemporaryDirectory() as folder:
        model = untrained_model(Path(folder) / "model", dataset, grid, spacing, overrides={"network.base_width": 16})
        raw = Path(folder) / "raw"
        get_dataset(dataset).write_phantoms(raw, cases, 0, seed=0)
        import ctan.prediction.page as page

        steps = sys.modules["ctan.prediction.predict"]  # the package gives the function by that name
        reader = type(get_dataset(dataset))
        with (
            _timed(steps, "read_case", spent, "reading"),
            _timed(LoadedModel, "members", spent, "network"),
            _timed(reader, "write", spent, "writing"),
            _timed(page, "write_case_page", spent, "writing"),
        ):
            started = time.perf_counter()
            run(str(model), str(raw), Path(folder) / "out", read_ahead=False)
            seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return 60 * cases / seconds, {name: 100 * value / seconds for name, value in spent.items()}, peak


@contextmanager
def _timed(owner: object, name: str, spent: dict[str, float], part: str) -> Iterator[None]:
    """Add up the seconds of every call of a function."""
    original: Callable = getattr(owner, name)

    def timed(*arguments: object, **options: object) -> object:
        started = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent[part] += time.perf_counter() - started

    with patch.object(owner, name, timed):
        yield


def windows_against_whole() -> tuple[float, float, float, int]:
    """Return the seconds on one grid and by windows, the mean difference of the dose in Gy, and how many windows."""
    from ctan.cases.working import to_working
    from ctan.config import DataConfig
    from ctan.datasets import get_dataset
    from ctan.inference import load_network
    from ctan.prediction.ask import ask, with_what_can_be_told
    from tests.helpers.prediction import untrained_model

    found, answers, number = [], [], 1
    with tempfile.TemporaryDirectory() as folder:
        get_dataset("prostate").write_phantoms(Path(folder) / "raw", 1, 0, seed=0)
        reader = get_dataset(DataConfig(dataset="prostate"))
        case = reader.read(reader.find(Path(folder) / "raw")[0])
        for depth in (48, 24):
            model = load_network(
                untrained_model(Path(folder) / f"m{depth}", "prostate", [40, 64, depth], [5.0, 5.0, 5.0])
            )
            told, _ = with_what_can_be_told(replace(case, doses={}), model)
            to_working(told, model.spec, model.record.grid.shape, model.record.grid.spacing_mm)
            started = time.perf_counter()
            answer = ask([model], told)
            found.append(time.perf_counter() - started)
            answers.append(answer.prediction.doses["dose"])
            number = max(number, answer.num_windows)
    return found[0], found[1], float(np.abs(answers[0] - answers[1]).mean()), number


def main() -> None:
    """Print a row a data set; each is measured in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--only", choices=DATASETS)
    asked = parser.parse_args()
    os.environ.setdefault("CTAN_DEID_KEY", "0123456789abcdef" * 4)
    if asked.only:
        rate, shares, peak = measure(asked.only, asked.cases)
        print("\t".join([f"{rate:.1f}", *(f"{share:.0f} %" for share in shares.values()), f"{peak:.2f}"]))
        return
    table = Table("data set", "cases a minute", "reading", "network", "writing", "peak memory, GiB")
    for name in DATASETS:
        command = [sys.executable, "-m", "benchmarks.predict", "--only", name, "--cases", str(asked.cases)]
        row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        table.add_row(name, *row.split("\t"))
        print(name, row, sep="\t", flush=True)
    Console().print(table)
    whole, windows, apart, number = windows_against_whole()
    print(
        f"one volume of prostate: {whole:.2f} s on one grid, {windows:.2f} s by {number} windows; {apart:.3f} Gy apart"
    )


if __name__ == "__main__":
    main()
