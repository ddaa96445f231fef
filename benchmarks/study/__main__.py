"""Run a study: `python -m benchmarks.study TABLE.yaml --source DATA=FOLDER --work FOLDER`.

Killed and started again it goes on where it was: finished trainings are in the results, the one that was stopped goes
on from its checkpoint. Without `--source` the tables and figures are made of the results there are.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ctan.errors import ConfigError, CtanError

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="trainings, such as benchmarks/study/tables/first.yaml")
    parser.add_argument("--source", action="append", default=[], metavar="DATA=FOLDER", help="raw files of a data set")
    parser.add_argument(
        "--work", type=Path, default=Path("workspace/study"), help="stores, checkpoints, models, MLflow"
    )
    parser.add_argument("--results", type=Path, help="folder of the results; default: results/NAME beside this file")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    asked = parser.parse_args()
    os.environ["CTAN_WORKSPACE"] = str(asked.work.resolve())  # before MLflow looks for it
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    try:
        run(asked.table, dict(part.split("=", 1) for part in asked.source), asked.work.resolve(), asked.results)
    except CtanError as error:
        parser.exit(1, f"{error}\n")


def run(path: Path, sources: dict[str, str], work: Path, folder: Path | None = None) -> Path:
    """Do what is not done of a table and write its page.

    Args:
        path: of the table.
        sources: data -> folder of raw files; data without one are left out.
        work: everything that is no result.
        folder: of the results.

    Raises:
        ConfigError: for a source of data that the table does not name.
    """
    from benchmarks.study.data import prepare
    from benchmarks.study.pages import write_pages
    from benchmarks.study.results import Results
    from benchmarks.study.table import Table
    from benchmarks.study.trainings import Study

    table, results = Table.read(path), Results(folder or RESULTS / path.stem)
    if unknown := sorted(set(sources) - set(table.data)):
        raise ConfigError(f"--source: {', '.join(unknown)}: not in {path}, which has {', '.join(table.data)}")
    prepared = {
        name: prepare(name, sources[name], table.profile, settings, work)
        for name, settings in table.data.items()
        if name in sources
    }
    for _ in Study(table, prepared, results, work).run_all():
        write_pages(results, table.reference)
    return write_pages(results, table.reference)


if __name__ == "__main__":
    main()
